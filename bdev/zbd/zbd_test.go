package zbd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/devtest"
	"goftl/thread"
)

// smr is a disk with shingled tracks: conventional zones first, write units of
// 4 KiB, 64 KiB a zone here, the last one shorter.
const smr = `
attr zoned host-managed
attr max_open_zones 128
attr max_active_zones 0
attr logical_block_size 512
attr physical_block_size 4096
attr zone_write_granularity 4096
attr max_sectors_kb 32
attr max_segments 16
zonesz 128
nrzones 8
zone 0   128 0   1 0x0 128
zone 128 128 0   1 0x0 128
zone 256 128 256 2 0x1 128
zone 384 128 400 2 0x2 128
zone 512 128 640 2 0xE 128
zone 640 128 0   2 0xD 128
zone 768 128 0   2 0xF 128
zone 896 64  896 2 0x1 64
`

// zns is a namespace with zones that are not used up, in units of 8 KiB.
const zns = `
attr zoned host-managed
attr max_open_zones 2
attr max_active_zones 3
attr logical_block_size 4096
attr zone_write_granularity 8192
zonesz 128
nrzones 4
zone 0   128 0   2 0x1 96
zone 128 128 144 2 0x4 96
zone 256 128 256 2 0x3 80
zone 384 128 512 2 0xE 96
`

func TestDiscovery(t *testing.T) {
	g, err := discover(record(t, smr))
	if err != nil {
		t.Fatal(err)
	}
	want := []bdev.ZoneInfo{
		{LBA: 0, Capacity: 16, WP: 16, State: bdev.ZoneNotWP, Conventional: true},
		{LBA: 16, Capacity: 16, WP: 32, State: bdev.ZoneNotWP, Conventional: true},
		{LBA: 32, Capacity: 16, WP: 32, State: bdev.ZoneEmpty},
		{LBA: 48, Capacity: 16, WP: 50, State: bdev.ZoneImplicitOpen},
		{LBA: 64, Capacity: 16, WP: 80, State: bdev.ZoneFull},
		{LBA: 80, Capacity: 16, WP: 96, State: bdev.ZoneReadOnly},
		{LBA: 96, Capacity: 16, WP: 112, State: bdev.ZoneOffline},
	}
	if !slices.Equal(g.zones, want) || g.conv != 2 || g.capacity != 16 || g.writeUnit != 0 || g.maxOpen != 128 || g.maxTransfer != 8 {
		t.Fatalf("%+v", g)
	}
	if g, err = discover(record(t, zns)); err != nil {
		t.Fatal(err)
	}
	want = []bdev.ZoneInfo{
		{LBA: 0, Capacity: 12, WP: 0, State: bdev.ZoneEmpty},
		{LBA: 16, Capacity: 12, WP: 18, State: bdev.ZoneClosed},
		{LBA: 32, Capacity: 10, WP: 32, State: bdev.ZoneExplicitOpen},
		{LBA: 48, Capacity: 12, WP: 60, State: bdev.ZoneFull},
	}
	if !slices.Equal(g.zones, want) || g.conv != 0 || g.capacity != 12 || g.writeUnit != 2 || g.maxActive != 3 {
		t.Fatalf("%+v", g)
	}
	if g, err = discover(record(t, "nocap\n"+zns)); err != nil || g.zones[0].Capacity != 16 {
		t.Fatalf("%v %+v", err, g)
	}
}

func TestReportsInBatchesOf64(t *testing.T) {
	text := "attr zoned host-managed\nzonesz 8\nnrzones 150\n"
	for i := range 150 {
		text += fmt.Sprintf("zone %d 8 %d 2 1 8\n", i*8, i*8)
	}
	r := record(t, text)
	if g, err := discover(r); err != nil || len(g.zones) != 150 {
		t.Fatal(err)
	}
	if got := strings.Join(r.take(), ","); got != "report 0 64,report 512 64,report 1024 22" {
		t.Fatal(got)
	}
	r = record(t, "most 40\n"+text) // short reports
	if g, err := discover(r); err != nil || len(g.zones) != 150 {
		t.Fatal(err)
	}
	if got := strings.Join(r.take(), ","); got != "report 0 64,report 320 64,report 640 64,report 960 30" {
		t.Fatal(got)
	}
}

func TestDevicesThatCannotBeServed(t *testing.T) {
	cut := func(text, line string) string { return strings.Replace(text, line, "", 1) }
	swap := func(text, line, with string) string {
		if !strings.Contains(text, line) {
			t.Fatal(line)
		}
		return strings.Replace(text, line, with, 1)
	}
	for _, c := range []struct {
		name, text string
		errno      unix.Errno
		says       string
	}{
		{"kernel without zones", "attr zoned none\nzonesz ENOTTY", unix.ENOTSUP, "CONFIG_BLK_DEV_ZONED"},
		{"old kernel", "zonesz ENOTTY", unix.ENOTSUP, "CONFIG_BLK_DEV_ZONED"},
		{"not zoned", "attr zoned none\nzonesz 0", unix.EINVAL, "no zoned block device"},
		{"not zoned, said in sysfs", "attr zoned none\nzonesz 128", unix.EINVAL, "no zoned block device"},
		{"size fails", "attr zoned host-managed\nzonesz EIO", unix.EIO, "size of the zones"},
		{"odd zones", swap(zns, "zonesz 128", "zonesz 100"), unix.ENOTSUP, "whole blocks"},
		{"no number", swap(zns, "nrzones 4", "nrzones EINVAL"), unix.EINVAL, "number of zones"},
		{"no zones", swap(zns, "nrzones 4", "nrzones 0"), unix.ENOTSUP, "0 zones"},
		{"report fails", zns + "fail report EIO", unix.EIO, "report of zones from 0"},
		{"report fails in the target", zns + "fail report EREMOTEIO", unix.EREMOTEIO, "report of zones"},
		{"report ends early", swap(zns, "nrzones 4", "nrzones 5"), unix.EPROTO, "4 zones of 5"},
		{"gap", cut(zns, "zone 128 128 144 2 0x4 96\n"), unix.EPROTO, "not behind"},
		{"sizes differ", swap(zns, "zone 256 128", "zone 256 256"), unix.ENOTSUP, "others 128"},
		{"capacity above size", swap(zns, "0x3 80", "0x3 200"), unix.EPROTO, "capacity"},
		{"write pointer outside", swap(zns, "128 128 144", "128 128 300"), unix.EPROTO, "write pointer"},
		{"unknown condition", swap(zns, "0x4", "0x7"), unix.EPROTO, "condition"},
		{"unknown type", swap(zns, "144 2", "144 9"), unix.EPROTO, "type 9"},
		{"conventional and open", swap(zns, "144 2", "144 1"), unix.EPROTO, "type 1"},
		{"large blocks", swap(zns, "logical_block_size 4096", "logical_block_size 16384"), unix.ENOTSUP, "larger"},
		{"odd unit", swap(zns, "granularity 8192", "granularity 6144"), unix.ENOTSUP, "6144"},
		{"bad attribute", swap(zns, "max_open_zones 2", "max_open_zones many"), unix.EINVAL, "many"},
		{"only a piece of a zone", "attr zoned host-managed\nzonesz 128\nnrzones 1\nzone 0 64 0 2 1 64", unix.ENOTSUP, "no whole zone"},
	} {
		_, err := discover(record(t, c.text))
		if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// rig is a device over memory and a record. Workers are goroutines, so there
// is some waiting for real.
type rig struct {
	*devtest.Env
	rec  *recorded
	desc *bdev.Desc
	ch   *bdev.Channel
	told []bdev.MediaExtent
}

func newRig(t *testing.T, text string) *rig {
	t.Helper()
	r := &rig{Env: devtest.New(t), rec: record(t, text)}
	g, err := discover(r.rec)
	if err != nil {
		t.Fatal(err)
	}
	r.Malloc("data", 128, 0)
	if _, err := attach(r.M, r.Main, "data", r.rec, g, Options{Name: "z"}); err != nil {
		t.Fatal(err)
	}
	r.desc, err = r.M.Open("z", true, func(_ any, ev bdev.Event, _ *bdev.Bdev, x []bdev.MediaExtent) {
		if ev == bdev.ZoneChange {
			r.told = append(r.told, x...)
		}
	}, nil, r.Main)
	if err != nil {
		t.Fatal(err)
	}
	if r.ch, err = r.desc.Channel(r.Main); err != nil {
		t.Fatal(err)
	}
	r.rec.take()
	return r
}

func (r *rig) end() {
	r.T.Helper()
	r.ch.Put()
	r.desc.Close()
	r.End("z")
	if !r.rec.closed {
		r.T.Fatal("the device was not closed")
	}
}

// do runs one IO to its end.
func (r *rig) do(submit func(d bdev.DoneFunc, x any) error) error {
	r.T.Helper()
	res := &devtest.Result{}
	if err := submit(devtest.Done, res); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); res.N == 0; {
		if r.Turn(1); time.Now().After(end) {
			r.T.Fatal("the IO did not end")
		}
	}
	return res.Err
}

func (r *rig) op(f func(uint64, bdev.DoneFunc, any) error, lba uint64) error {
	r.T.Helper()
	return r.do(func(d bdev.DoneFunc, x any) error { return f(lba, d, x) })
}

func (r *rig) asked(want string) {
	r.T.Helper()
	if got := strings.Join(r.rec.take(), ","); got != want {
		r.T.Fatalf("%q, not %q", got, want)
	}
}

func TestZoneOperations(t *testing.T) {
	r := newRig(t, zns)
	if i := r.desc.Bdev().Info(); !i.Zoned || i.Blocks != 64 || i.ZoneCapacity != 12 || i.WriteUnit != 2 || i.MaxOpenZones != 2 ||
		i.MaxActiveZones != 3 || i.MaxAppend != 0 || i.Ops.Has(bdev.OpZoneAppend) || i.Ops.Has(bdev.OpZoneOffline) {
		t.Fatalf("%+v", i)
	}
	for _, c := range []struct {
		f    func(uint64, bdev.DoneFunc, any) error
		name string
	}{{r.ch.ZoneOpen, "open"}, {r.ch.ZoneClose, "close"}, {r.ch.ZoneFinish, "finish"}, {r.ch.ZoneReset, "reset"}} {
		if err := r.op(c.f, 16); err != nil {
			t.Fatal(c.name, err)
		}
		r.asked(c.name + " 128 128")
	}
	zones := make([]bdev.ZoneInfo, 3)
	if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(16, zones, d, x) }); err != nil {
		t.Fatal(err)
	}
	r.asked("report 128 3")
	if zones[0] != (bdev.ZoneInfo{LBA: 16, Capacity: 12, WP: 16}) || zones[2].State != bdev.ZoneFull {
		t.Fatal(zones)
	}
	if err := r.op(r.ch.ZoneOffline, 16); !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	r.end()
}

func TestErrorsOfTheKernel(t *testing.T) {
	r := newRig(t, zns)
	for have, want := range map[string]unix.Errno{
		"EIO": unix.EIO, "EREMOTEIO": unix.EIO, "ENOTTY": unix.ENOTSUP, "ENOTSUP": unix.ENOTSUP, "EINVAL": unix.EINVAL,
		"EBUSY": unix.EBUSY,
	} {
		r.rec.mu.Lock()
		r.rec.fails["reset"], r.rec.fails["report"] = errnoNamed(have), errnoNamed(have)
		r.rec.mu.Unlock()
		if err := r.op(r.ch.ZoneReset, 16); !errors.Is(err, want) {
			t.Errorf("reset, %s: %v", have, err)
		}
		zones := make([]bdev.ZoneInfo, 1)
		if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(16, zones, d, x) }); !errors.Is(err, want) {
			t.Errorf("report, %s: %v", have, err)
		}
	}
	r.end()
}

func TestZonesThatFailAreTold(t *testing.T) {
	r := newRig(t, zns)
	r.rec.spoil(1, condOffline)
	if err := r.op(r.ch.ZoneReset, 16); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	r.asked("reset 128 128,report 128 1")
	r.Turn(5)
	if len(r.told) != 1 || r.told[0] != (bdev.MediaExtent{LBA: 16, Blocks: 16}) {
		t.Fatal(r.told)
	}
	r.rec.spoil(0, condReadOnly)
	zones := make([]bdev.ZoneInfo, 4)
	for range 2 { // told once
		if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(0, zones, d, x) }); err != nil {
			t.Fatal(err)
		}
	}
	r.Turn(5)
	if len(r.told) != 2 || r.told[1] != (bdev.MediaExtent{LBA: 0, Blocks: 16}) || zones[1].State != bdev.ZoneOffline {
		t.Fatal(r.told, zones)
	}
	r.end()
}

// slow is a device whose IOs end when the test says so.
type slow struct {
	info bdev.Info
	ios  []*bdev.IO
}

func (s *slow) Info() bdev.Info                                       { return s.info }
func (s *slow) NewChannel(*thread.Thread) (bdev.DriverChannel, error) { return s, nil }
func (s *slow) Close()                                                {}
func (s *slow) Submit(io *bdev.IO)                                    { s.ios = append(s.ios, io) }

type slowDriver struct{ *slow }

func (slowDriver) Close() error { return nil }

// newSlow is a rig over a slow device with a largest transfer of 4 blocks.
func newSlow(t *testing.T, text string) (*rig, *slow) {
	t.Helper()
	r := &rig{Env: devtest.New(t), rec: record(t, text)}
	g, err := discover(r.rec)
	if err != nil {
		t.Fatal(err)
	}
	s := &slow{info: bdev.Info{
		Name: "slow", BlockSize: 4096, Blocks: 128, MaxTransfer: 4, VolatileCache: true, FUA: true,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush),
	}}
	if _, err := r.M.Register(slowDriver{s}); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(r.M, r.Main, "slow", r.rec, g, Options{Name: "z"}); err != nil {
		t.Fatal(err)
	}
	r.desc, r.ch = r.Open("z", r.Main)
	return r, s
}

// under returns what the device has, and ends it.
func (s *slow) under(r *rig, err error) string {
	r.Turn(5)
	var list []string
	for _, io := range s.ios {
		list = append(list, fmt.Sprintf("%d+%d", io.LBA, io.Count))
	}
	ios := s.ios
	s.ios = nil
	for _, io := range ios {
		io.Complete(err)
	}
	r.Turn(5)
	return strings.Join(list, ",")
}

func TestWritesOfAZoneGoOneByOne(t *testing.T) {
	r, s := newSlow(t, smr)
	done := 0
	write := func(lba, count uint64) {
		t.Helper()
		if err := r.ch.Write(make([]byte, count*4096), lba, count, func(io *bdev.IO) {
			if io.Err() != nil {
				t.Error(io.Err())
			}
			done++
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(32, 10) // split in three
	write(42, 2)
	write(50, 1) // another zone
	write(8, 2)  // conventional: any number side by side
	write(3, 1)
	write(12, 2)
	for _, want := range []string{"32+4,50+1,8+2,3+1,12+2", "36+4", "40+2", "42+2", ""} {
		if got := s.under(r, nil); got != want {
			t.Fatalf("%q, not %q", got, want)
		}
	}
	if done != 6 {
		t.Fatal(done)
	}
	r.end()
}

func TestAFailedWriteLooksAtItsZone(t *testing.T) {
	r, s := newSlow(t, smr)
	told := 0
	d, err := r.M.Open("z", false, func(_ any, ev bdev.Event, _ *bdev.Bdev, x []bdev.MediaExtent) {
		if ev != bdev.ZoneChange || x[0].LBA != 32 {
			t.Error(ev, x)
		}
		told++
	}, nil, r.Main)
	if err != nil {
		t.Fatal(err)
	}
	r.rec.spoil(2, condReadOnly)
	res := [3]devtest.Result{}
	for i := range res {
		if err := r.ch.Write(make([]byte, 4096), 32+uint64(i), 1, devtest.Done, &res[i]); err != nil {
			t.Fatal(err)
		}
	}
	var aborted devtest.Result
	if err := r.ch.Abort(&res[2], devtest.Done, &aborted); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := s.under(r, unix.EIO); strings.Contains(got, ",") || strings.Contains(got, "34") {
			t.Fatal(got)
		}
	}
	for end := time.Now().Add(time.Minute); res[0].N+res[1].N < 2; {
		if r.Turn(1); time.Now().After(end) {
			t.Fatal("not ended")
		}
	}
	r.Turn(5)
	if !errors.Is(res[0].Err, unix.EIO) || !errors.Is(res[1].Err, unix.EIO) || !errors.Is(res[2].Err, unix.ECANCELED) || aborted.Err != nil || told != 1 {
		t.Fatal(res, aborted, told)
	}
	d.Close()
	r.end()
}

// TestManyReports has more zone operations under way than workers take.
func TestManyReports(t *testing.T) {
	r := newRig(t, zns)
	done := 0
	const n = 500
	zones := make([][]bdev.ZoneInfo, n)
	for i := range n {
		zones[i] = make([]bdev.ZoneInfo, 4)
		if err := r.ch.ZoneInfo(0, zones[i], func(io *bdev.IO) {
			if io.Err() != nil || zones[i][3].State != bdev.ZoneFull {
				t.Error(io.Err(), zones[i])
			}
			done++
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); done < n; {
		if r.Turn(1); time.Now().After(end) {
			t.Fatal(done)
		}
	}
	r.end()
}

func TestPathsThatAreNoZonedDevice(t *testing.T) {
	e := devtest.New(t)
	dir := t.TempDir()
	for path, errno := range map[string]unix.Errno{
		dir + "/none": unix.ENOENT, dir: unix.ENOTBLK, "/dev/null": unix.ENOTBLK, "": unix.ENOENT,
	} {
		_, err := Create(e.M, e.Main, path, Options{})
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), fmt.Sprintf("zbd %q", path)) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(e.M.All()) != 0 {
		t.Error("devices were left behind")
	}
}
