package zbd

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/file"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/uring"
)

// TestRealDevice needs a zoned block device whose content may go, named by
// GOFTL_ZONED_DEVICE; for example /dev/nullb0 after
//
//	modprobe null_blk nr_devices=1 zoned=1 memory_backed=1 gb=1 zone_size=4 zone_capacity=3 zone_nr_conv=2 zone_max_open=4 zone_max_active=6
func TestRealDevice(t *testing.T) {
	path := os.Getenv("GOFTL_ZONED_DEVICE")
	if path == "" {
		t.Skip("GOFTL_ZONED_DEVICE names no zoned block device")
	}
	_, err := file.New(path, file.Options{})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "zbd:"+path) {
		t.Errorf("as a file: %v", err)
	}
	for _, driver := range []string{"aio", "uring"} {
		t.Run(driver, func(t *testing.T) {
			if driver == "uring" && uring.Supported() != nil {
				t.Skip(uring.Supported())
			}
			r := &rig{Env: devtest.New(t)}
			if _, err := Create(r.M, r.Main, path, Options{Name: "z", Driver: driver}); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(r.M, r.Main, path, Options{Name: "second"}); !errors.Is(err, unix.EBUSY) {
				t.Errorf("a second time: %v", err)
			}
			r.desc, r.ch = r.Open("z", r.Main)
			r.real()
			r.ch.Put()
			r.desc.Close()
			r.End("z")
		})
	}
}

func (r *rig) real() {
	t := r.T
	i := r.desc.Bdev().Info()
	t.Logf("%+v", *i)
	zones := make([]bdev.ZoneInfo, i.Blocks/i.ZoneBlocks)
	report := func() {
		t.Helper()
		if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(0, zones, d, x) }); err != nil {
			t.Fatal(err)
		}
	}
	report()
	seq := []int{}
	for n, z := range zones {
		if !z.Conventional {
			seq = append(seq, n)
			if err := r.op(r.ch.ZoneReset, z.LBA); err != nil {
				t.Fatal(err)
			}
		}
	}
	report()
	for _, n := range seq {
		if z := zones[n]; z.State != bdev.ZoneEmpty || z.WP != z.LBA {
			t.Fatalf("after a reset: %+v", z)
		}
	}
	r.fillZones(zones[seq[0]], zones[seq[len(seq)-1]])
	report()
	if z := zones[seq[0]]; z.State != bdev.ZoneFull {
		t.Fatalf("after filling: %+v", z)
	}
	z := zones[seq[1]]
	for _, step := range []struct {
		f    func(uint64, bdev.DoneFunc, any) error
		want bdev.ZoneState
	}{{r.ch.ZoneOpen, bdev.ZoneExplicitOpen}, {r.ch.ZoneClose, bdev.ZoneEmpty}, {r.ch.ZoneFinish, bdev.ZoneFull}, {r.ch.ZoneReset, bdev.ZoneEmpty}} {
		if err := r.op(step.f, z.LBA); err != nil {
			t.Fatal(step.want, err)
		}
		if report(); zones[seq[1]].State != step.want {
			t.Fatalf("%+v, not %s", zones[seq[1]], step.want)
		}
	}
	block := bytes.Repeat([]byte{1}, 4096*int(max(i.WriteUnit, 1)))
	write := func(lba uint64) error {
		return r.do(func(d bdev.DoneFunc, x any) error { return r.ch.Write(block, lba, uint64(max(i.WriteUnit, 1)), d, x) })
	}
	if err := write(z.LBA + 8); !errors.Is(err, unix.EIO) {
		t.Fatal("a write beyond the write pointer:", err)
	}
	if i.MaxActiveZones != 0 {
		var err error
		for n := 1; n < len(seq) && err == nil; n++ {
			err = write(zones[seq[n]].LBA)
		}
		t.Log("too many active zones:", err)
		if err == nil {
			t.Fatal("there is no limit")
		}
	}
	if i.ConvZones > 0 {
		if err := write(16); err != nil {
			t.Fatal(err)
		}
		if err := r.op(r.ch.ZoneReset, 0); err == nil {
			t.Log("a conventional zone could be reset")
		}
	}
}

// fillZones writes two zones with many writes under way, and reads them back.
func (r *rig) fillZones(list ...bdev.ZoneInfo) {
	t := r.T
	unit := uint64(max(r.desc.Bdev().Info().WriteUnit, 1))
	var failed error
	open := 0
	wait := func(most int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); open > most; {
			if r.Turn(1); time.Now().After(end) {
				t.Fatal("the IOs do not end")
			}
		}
	}
	done := func(io *bdev.IO) {
		open--
		if io.Err() != nil && failed == nil {
			failed = io.Err()
		}
	}
	for _, z := range list {
		for at, n := uint64(0), uint64(1); at < z.Capacity; n = n*3%37 + 1 {
			count := min(n*unit, z.Capacity-at)
			if n == 7 {
				count = min(300*unit, z.Capacity-at)
			}
			buf := make([]byte, count*4096)
			for b := range count {
				copy(buf[b*4096:], bytes.Repeat([]byte{byte(at + b), byte((at + b) >> 8), byte(z.LBA >> 4), 7}, 1024))
			}
			wait(32)
			if err := r.ch.Write(buf, z.LBA+at, count, done, nil); err != nil {
				t.Fatal(err)
			}
			open++
			at += count
		}
	}
	wait(0)
	if failed != nil {
		t.Fatal(failed)
	}
	if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.Flush(d, x) }); err != nil {
		t.Fatal(err)
	}
	for _, z := range list {
		buf := make([]byte, z.Capacity*4096)
		if err := r.do(func(d bdev.DoneFunc, x any) error { return r.ch.Read(buf, z.LBA, z.Capacity, d, x) }); err != nil {
			t.Fatal(err)
		}
		for b := range z.Capacity {
			want := []byte{byte(b), byte(b >> 8), byte(z.LBA >> 4), 7}
			if !bytes.Equal(buf[b*4096:b*4096+4], want) || !bytes.Equal(buf[b*4096+4092:(b+1)*4096], want) {
				t.Fatalf("block %d of the zone at %d", b, z.LBA)
			}
		}
	}
}
