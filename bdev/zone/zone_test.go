package zone_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goftl/bdev"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/malloc"
	"goftl/bdev/zone"
)

type rig struct {
	*devtest.Env
	below *malloc.Driver
	d     *zone.Driver
	desc  *bdev.Desc
	ch    *bdev.Channel
}

func newRig(t testing.TB, o zone.Options) *rig {
	t.Helper()
	e := devtest.New(t)
	r := &rig{Env: e, below: e.Malloc("m", 128, 8)}
	r.start(o)
	return r
}

func (r *rig) start(o zone.Options) {
	r.T.Helper()
	o.Name = "z"
	if o.Base == "" {
		o.Base = "m"
	}
	b, err := zone.Create(r.M, r.Main, o)
	if err != nil {
		r.T.Fatal(err)
	}
	r.d = b.Driver().(*zone.Driver)
	r.desc, r.ch = r.Open("z", r.Main)
}

func (r *rig) stop() {
	r.ch.Put()
	r.desc.Close()
	r.End("z")
}

func (r *rig) op(f func(uint64, bdev.DoneFunc, any) error, lba uint64) error {
	return r.Do(func(d bdev.DoneFunc, x any) error { return f(lba, d, x) }).Err
}

func (r *rig) info(lba uint64) bdev.ZoneInfo {
	r.T.Helper()
	z := make([]bdev.ZoneInfo, 1)
	if err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(lba, z, d, x) }).Err; err != nil {
		r.T.Fatal(err)
	}
	return z[0]
}

func (r *rig) append(lba, count uint64, fill byte) (uint64, error) {
	buf := bytes.Repeat([]byte{fill}, int(count*4096))
	res := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneAppendv([][]byte{buf}, nil, lba, count, d, x) })
	return res.Value, res.Err
}

func want(t *testing.T, err error, errno unix.Errno) {
	t.Helper()
	if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
		t.Fatalf("%v instead of %v", err, errno)
	}
}

func TestAZonesLife(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, Capacity: 12, Units: 2})
	state := func(s bdev.ZoneState, wp uint64) {
		t.Helper()
		if z := r.info(16); z.State != s || z.WP != 16+wp || z.LBA != 16 || z.Capacity != 12 {
			t.Fatalf("%+v instead of %s at %d", z, s, wp)
		}
	}
	state(bdev.ZoneEmpty, 0)
	want(t, r.Write(r.ch, 17, 1, 1), unix.EINVAL)
	want(t, r.Write(r.ch, 16, 3, 1), 0)
	state(bdev.ZoneImplicitOpen, 3)
	want(t, r.op(r.ch.ZoneOpen, 16), 0)
	state(bdev.ZoneExplicitOpen, 3)
	at, err := r.append(16, 2, 2)
	want(t, err, 0)
	if at != 19 {
		t.Fatal(at)
	}
	want(t, r.op(r.ch.ZoneClose, 16), 0)
	state(bdev.ZoneClosed, 5)
	buf, err := r.Read(r.ch, 16, 12)
	want(t, err, 0)
	if !bytes.Equal(buf[:3*4096], bytes.Repeat([]byte{1}, 3*4096)) || !bytes.Equal(buf[3*4096:5*4096], bytes.Repeat([]byte{2}, 2*4096)) ||
		!bytes.Equal(buf[5*4096:], make([]byte, 7*4096)) {
		t.Fatal("read something else")
	}
	want(t, r.Write(r.ch, 21, 8, 3), unix.ENOSPC)
	want(t, r.Write(r.ch, 21, 7, 3), 0)
	state(bdev.ZoneFull, 12)
	_, err = r.append(16, 1, 1)
	want(t, err, unix.ENOSPC)
	want(t, r.op(r.ch.ZoneOpen, 16), unix.EINVAL)
	want(t, r.op(r.ch.ZoneReset, 16), 0)
	state(bdev.ZoneEmpty, 0)
	if buf, err = r.Read(r.ch, 16, 2); err != nil || buf[0] != 0 {
		t.Fatal(err, buf[0])
	}
	want(t, r.op(r.ch.ZoneOpen, 16), 0)
	want(t, r.op(r.ch.ZoneClose, 16), 0)
	state(bdev.ZoneEmpty, 0)
	want(t, r.op(r.ch.ZoneFinish, 16), 0)
	state(bdev.ZoneFull, 12)
	want(t, r.op(r.ch.ZoneOpen, 17), unix.EINVAL)
	want(t, r.Write(r.ch, 8, 10, 1), unix.EINVAL) // two zones
	want(t, r.op(r.ch.ZoneOffline, 32), 0)
	want(t, r.Write(r.ch, 32, 1, 1), unix.ENXIO)
	_, err = r.Read(r.ch, 32, 1)
	want(t, err, unix.ENXIO)
	if err := r.d.SetZoneState(3, bdev.ZoneReadOnly); err != nil {
		t.Fatal(err)
	}
	want(t, r.Write(r.ch, 48, 1, 1), unix.EROFS)
	want(t, r.op(r.ch.ZoneReset, 48), unix.EROFS)
	if i := r.M.Lookup("z").Info(); i.ZoneBlocks != 16 || i.ZoneCapacity != 12 || i.ParallelUnits != 2 || i.Blocks != 128 || !i.Zoned {
		t.Fatalf("%+v", i)
	}
}

func TestLimitsOfOpenAndActiveZones(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, MaxOpen: 2, MaxActive: 3})
	want(t, r.op(r.ch.ZoneOpen, 0), 0)
	want(t, r.Write(r.ch, 16, 1, 1), 0)
	want(t, r.Write(r.ch, 32, 1, 1), 0) // closes the zone at 16
	if z := r.info(16); z.State != bdev.ZoneClosed {
		t.Fatal(z)
	}
	want(t, r.Write(r.ch, 48, 1, 1), unix.EOVERFLOW)
	want(t, r.op(r.ch.ZoneOpen, 32), 0)
	want(t, r.Write(r.ch, 17, 1, 1), unix.ETOOMANYREFS)
	want(t, r.op(r.ch.ZoneFinish, 0), 0)
	want(t, r.Write(r.ch, 17, 1, 1), 0)
	want(t, r.op(r.ch.ZoneReset, 32), 0)
	want(t, r.Write(r.ch, 48, 16, 1), 0)
	want(t, r.Write(r.ch, 64, 1, 1), 0)
}

func TestAppendsFromTwoThreadsDoNotOverlap(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 64})
	_, other := r.Open("z", r.Thread("other"))
	seen := map[uint64]bool{}
	n := 0
	for i := range 32 {
		for _, ch := range []*bdev.Channel{r.ch, other} {
			buf := bytes.Repeat([]byte{byte(i)}, 4096)
			err := ch.ZoneAppendv([][]byte{buf}, nil, 64, 1, func(io *bdev.IO) {
				if io.Err() != nil || seen[io.Result] {
					t.Error(io.Err(), io.Result)
				}
				seen[io.Result] = true
				n++
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	r.Until("all", func() bool { return n == 64 })
	if z := r.info(64); z.State != bdev.ZoneFull {
		t.Fatal(z)
	}
}

func TestWhatIsKeptOverARestart(t *testing.T) {
	o := zone.Options{ZoneBlocks: 16, Persist: true}
	r := newRig(t, o)
	if b := r.M.Lookup("z").Info().Blocks; b != 112 {
		t.Fatalf("%d blocks beside the table", b)
	}
	want(t, r.Write(r.ch, 16, 3, 7), 0)
	want(t, r.Write(r.ch, 32, 16, 8), 0)
	want(t, r.op(r.ch.ZoneReset, 32), 0)
	want(t, r.op(r.ch.ZoneFinish, 48), 0)
	r.stop()
	r.start(o)
	for lba, s := range map[uint64]bdev.ZoneState{
		0: bdev.ZoneEmpty, 16: bdev.ZoneClosed, 32: bdev.ZoneEmpty, 48: bdev.ZoneFull, 64: bdev.ZoneEmpty,
	} {
		if z := r.info(lba); z.State != s {
			t.Fatalf("%d: %s", lba, z.State)
		}
	}
	buf, err := r.Read(r.ch, 16, 3)
	want(t, err, 0)
	if buf[0] != 7 || buf[3*4096-1] != 7 {
		t.Fatal("lost")
	}
	want(t, r.op(r.ch.ZoneReset, 16), 0)
	want(t, r.Write(r.ch, 16, 1, 9), 0)
	r.stop()

	r.below.Data()[126*4096+100] ^= 1 // both slots of the table: every zone counts as written
	r.below.Data()[127*4096+100] ^= 1
	r.start(o)
	if z := r.info(64); z.State != bdev.ZoneFull {
		t.Fatal(z)
	}
	if buf, err = r.Read(r.ch, 16, 1); err != nil || buf[0] != 9 {
		t.Fatal(err, buf[0])
	}
	want(t, r.op(r.ch.ZoneReset, 64), 0)
	r.stop()
	r.start(o)
	if z := r.info(64); z.State != bdev.ZoneEmpty {
		t.Fatal(z.State)
	}
	r.stop()

	r.start(zone.Options{ZoneBlocks: 8, Persist: true})
	want(t, r.Write(r.ch, 0, 1, 9), unix.EINVAL) // zones of another size
	r.stop()
}

func TestBadOptions(t *testing.T) {
	for _, o := range []zone.Options{
		{}, {ZoneBlocks: 16, Capacity: 17}, {ZoneBlocks: 129}, {ZoneBlocks: 64, Units: 3}, {ZoneBlocks: 16, MaxOpen: 3, MaxActive: 2},
	} {
		e := devtest.New(t)
		e.Malloc("m", 128, 0)
		o.Name, o.Base = "z", "m"
		if _, err := zone.Create(e.M, e.Main, o); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", o, err)
		}
		e.Turn(5)
		if kind, _ := e.M.Lookup("m").Claimed(); kind != bdev.ClaimNone {
			t.Errorf("%+v: the base is still claimed", o)
		}
	}
}

// TestRandomOperationsAgainstAModel compares states and content with a simple
// model of zones, with limits, over restarts.
func TestRandomOperationsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := zone.Options{
			ZoneBlocks: 16, Capacity: uint64(rapid.SampledFrom([]int{16, 10}).Draw(rt, "cap")), Persist: rapid.Bool().Draw(rt, "persist"),
		}
		r := newRig(t, o)
		type mz struct {
			state bdev.ZoneState
			data  []byte // one byte a block
		}
		zones := make([]mz, 7)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(zones)-1).Draw(rt, "zone")
			z, lba := &zones[i], uint64(i)*16
			wp := uint64(len(z.data))
			switch rapid.SampledFrom([]string{"write", "write", "append", "reset", "open", "close", "finish", "restart"}).Draw(rt, "op") {
			case "write", "append":
				n := uint64(rapid.IntRange(1, 5).Draw(rt, "n"))
				fill := byte(rapid.IntRange(1, 255).Draw(rt, "fill"))
				var err error
				switch {
				case rapid.Bool().Draw(rt, "append"):
					_, err = r.append(lba, n, fill)
				case wp < 16 && wp+n <= 16:
					err = r.Write(r.ch, lba+wp, n, fill)
				default:
					continue
				}
				if wp+n > o.Capacity || z.state == bdev.ZoneFull {
					if !errors.Is(err, unix.ENOSPC) {
						rt.Fatal(err)
					}
					continue
				}
				if err != nil {
					rt.Fatal(err)
				}
				z.data = append(z.data, bytes.Repeat([]byte{fill}, int(n))...)
				if z.state != bdev.ZoneExplicitOpen {
					z.state = bdev.ZoneImplicitOpen
				}
				if uint64(len(z.data)) == o.Capacity {
					z.state = bdev.ZoneFull
				}
			case "reset":
				want(t, r.op(r.ch.ZoneReset, lba), 0)
				*z = mz{}
			case "open":
				if z.state != bdev.ZoneFull {
					want(t, r.op(r.ch.ZoneOpen, lba), 0)
					z.state = bdev.ZoneExplicitOpen
				}
			case "close":
				if z.state == bdev.ZoneImplicitOpen || z.state == bdev.ZoneExplicitOpen {
					want(t, r.op(r.ch.ZoneClose, lba), 0)
					if z.state = bdev.ZoneClosed; wp == 0 {
						z.state = bdev.ZoneEmpty
					}
				}
			case "finish":
				want(t, r.op(r.ch.ZoneFinish, lba), 0)
				z.state = bdev.ZoneFull
			case "restart":
				if !o.Persist {
					continue
				}
				r.stop()
				r.start(o)
				for j := range zones {
					switch {
					case zones[j].state == bdev.ZoneFull:
					case len(zones[j].data) > 0:
						zones[j].state = bdev.ZoneClosed
					default:
						zones[j].state = bdev.ZoneEmpty
					}
				}
			}
			for j := range zones {
				if got := r.info(uint64(j) * 16); got.State != zones[j].state {
					rt.Fatalf("zone %d is %s, not %s", j, got.State, zones[j].state)
				}
			}
			got, err := r.Read(r.ch, lba, o.Capacity)
			if err != nil {
				rt.Fatal(err)
			}
			for b, v := range z.data {
				if got[b*4096] != v || got[b*4096+4095] != v {
					rt.Fatalf("block %d of zone %d", b, i)
				}
			}
		}
		r.stop()
	})
}
