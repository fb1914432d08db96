package zone_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/zone"
)

func TestWritePointersAndContentAreKept(t *testing.T) {
	o := zone.Options{ZoneBlocks: 16, Capacity: 12, ConvZones: 1, WriteUnit: 2, Persist: true, InitFull: true}
	r := newRig(t, o)
	if z := r.info(32); z.State != bdev.ZoneFull {
		t.Fatalf("%+v", z)
	}
	for lba := uint64(16); lba < 112; lba += 16 {
		want(t, r.op(r.ch.ZoneReset, lba), 0)
	}
	want(t, r.Write(r.ch, 0, 4, 9), 0)
	want(t, r.Write(r.ch, 16, 4, 1), 0)
	for range 3 { // and again, on top of what a restart found
		_, err := r.append(32, 2, 2)
		want(t, err, 0)
		r.stop()
		r.start(o)
	}
	want(t, r.Write(r.ch, 48, 2, 3), 0)
	want(t, r.op(r.ch.ZoneFinish, 48), 0)
	want(t, r.op(r.ch.ZoneOpen, 64), 0)
	want(t, r.op(r.ch.ZoneOffline, 80), 0)
	want(t, r.d.SetZoneState(0, bdev.ZoneReadOnly), 0)
	want(t, r.Write(r.ch, 96, 12, 4), 0)
	r.stop()
	r.start(o)
	for lba, z := range map[uint64]bdev.ZoneInfo{
		0:  {Capacity: 16, WP: 16, State: bdev.ZoneReadOnly, Conventional: true},
		16: {LBA: 16, Capacity: 12, WP: 20, State: bdev.ZoneClosed},
		32: {LBA: 32, Capacity: 12, WP: 38, State: bdev.ZoneClosed},
		48: {LBA: 48, Capacity: 12, WP: 60, State: bdev.ZoneFull},
		64: {LBA: 64, Capacity: 12, WP: 64, State: bdev.ZoneEmpty},
		80: {LBA: 80, Capacity: 12, WP: 80, State: bdev.ZoneOffline},
		96: {LBA: 96, Capacity: 12, WP: 108, State: bdev.ZoneFull},
	} {
		if got := r.info(lba); got != z {
			t.Errorf("%+v, not %+v", got, z)
		}
	}
	buf, err := r.Read(r.ch, 48, 4)
	want(t, err, 0)
	if buf[2*4096-1] != 3 || buf[2*4096] != 0 {
		t.Fatal(buf[2*4096-1], buf[2*4096])
	}
	if buf, err = r.Read(r.ch, 0, 4); err != nil || buf[0] != 9 {
		t.Fatal(err, buf[0])
	}
	r.stop()
}

func TestActiveZonesCountAfterARestart(t *testing.T) {
	o := zone.Options{ZoneBlocks: 16, MaxOpen: 1, MaxActive: 2, Persist: true}
	r := newRig(t, o)
	want(t, r.Write(r.ch, 0, 1, 1), 0)
	want(t, r.Write(r.ch, 16, 1, 1), 0)
	r.stop()
	r.start(o)
	want(t, r.Write(r.ch, 32, 1, 1), unix.EOVERFLOW)
	want(t, r.Write(r.ch, 1, 1, 1), 0)
	want(t, r.Write(r.ch, 17, 1, 1), 0)
	want(t, r.op(r.ch.ZoneReset, 0), 0)
	want(t, r.Write(r.ch, 32, 1, 1), 0)
	r.stop()
}

// readOnly is the same memory under another name.
type readOnly struct{ bdev.Driver }

func (d readOnly) Info() bdev.Info {
	i := d.Driver.Info()
	i.Name, i.ReadOnly = "ro", true
	return i
}

func (readOnly) Close() error { return nil }

// TestReadOnlyBase finds out where zones end and writes nothing.
func TestReadOnlyBase(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, Persist: true})
	want(t, r.Write(r.ch, 0, 5, 7), 0)
	r.stop()
	was := bytes.Clone(r.below.Data())
	for range 2 {
		if _, err := r.M.Register(readOnly{r.below}); err != nil {
			t.Fatal(err)
		}
		b, err := zone.Create(r.M, r.Main, zone.Options{Name: "zro", Base: "ro", Own: true, ZoneBlocks: 16, Persist: true})
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.M.Open("zro", false, nil, nil, r.Main)
		if err != nil {
			t.Fatal(err)
		}
		if r.ch, err = d.Channel(r.Main); err != nil {
			t.Fatal(err)
		}
		if z := r.info(0); z.WP != 5 || z.State != bdev.ZoneClosed {
			t.Fatalf("%+v", z)
		}
		buf, err := r.Read(r.ch, 0, 6)
		want(t, err, 0)
		if buf[5*4096-1] != 7 || buf[5*4096] != 0 {
			t.Fatal("content")
		}
		want(t, r.Write(r.ch, 5, 1, 1), unix.EBADF)
		want(t, b.Driver().(*zone.Driver).SetZoneState(3, bdev.ZoneOffline), 0)
		want(t, r.op(func(_ uint64, f bdev.DoneFunc, x any) error { return r.ch.Flush(f, x) }, 0), 0)
		r.ch.Put()
		d.Close()
		r.End("zro")
		r.Until("the base is gone", func() bool { return r.M.Lookup("ro") == nil })
	}
	if !bytes.Equal(was, r.below.Data()) {
		t.Fatal("the base was written to")
	}
}

// TestReadErrorsWhileLoading has the base fail reads while the ends of zones are looked for: nothing that was answered
// may be lost by it, least of all for good. On the base the sums of zone 1, which begins at block 16, are blocks 114 and
// 115.
func TestReadErrorsWhileLoading(t *testing.T) {
	for _, c := range []struct {
		name string
		rule errinj.Rule
		wp   uint64 // of zone 1, of which 3 blocks were written
		bad  bool   // the last of them cannot be read
	}{
		{"sums, now and then", errinj.Rule{From: 114, To: 116, Count: 2}, 19, false},
		{"sums, always", errinj.Rule{From: 114, To: 116}, 32, false},
		{"the last block, now and then", errinj.Rule{From: 18, To: 19, Count: 3}, 19, false},
		{"the last block, always", errinj.Rule{From: 18, To: 19}, 19, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := zone.Options{Base: "e", ZoneBlocks: 16, Persist: true}
			env := devtest.New(t)
			r := &rig{Env: env, below: env.Malloc("m", 128, 8)}
			below, err := errinj.Create(r.M, r.Main, errinj.Options{Name: "e", Base: "m", Own: true})
			want(t, err, 0)
			r.start(o)
			want(t, r.Write(r.ch, 16, 3, 7), 0)
			r.stop()

			c.rule.Action, c.rule.Ops = errinj.Fail, bdev.Ops(bdev.OpRead)
			rule, err := below.Driver().(*errinj.Driver).Add(c.rule)
			want(t, err, 0)
			for range 2 { // what the first load made durable is what the second finds
				r.start(o)
				if z := r.info(16); z.WP != c.wp {
					t.Fatalf("%+v", z)
				}
				n := uint64(3)
				if c.bad {
					n--
					_, err := r.Read(r.ch, 18, 1)
					want(t, err, unix.EIO)
				}
				buf, err := r.Read(r.ch, 16, n)
				want(t, err, 0)
				if buf[0] != 7 || buf[n*4096-1] != 7 {
					t.Fatal("lost")
				}
				r.stop()
				rule.Remove()
				c.bad = false
			}
			r.start(o)
			want(t, r.op(r.ch.ZoneReset, 16), 0)
			want(t, r.Write(r.ch, 16, 1, 9), 0)
			r.stop()
			r.End("e")
		})
	}
}

// TestWritesAllocateNothing covers the sums and the table too.
func TestWritesAllocateNothing(t *testing.T) {
	for _, persist := range []bool{false, true} {
		r := newRig(t, zone.Options{ZoneBlocks: 16, Persist: persist})
		buf := make([]byte, 2*4096)
		left := 0
		done := func(io *bdev.IO) {
			if io.Err() != nil {
				t.Error(io.Err())
			}
			left--
		}
		wait := func() {
			for left > 0 {
				r.Turn(1)
			}
		}
		cycle := func() { // a zone's life
			for at := range uint64(8) {
				left++
				if err := r.ch.Write(buf, 16+2*at, 2, done, nil); err != nil {
					t.Fatal(err)
				}
			}
			wait()
			left++
			if err := r.ch.Flush(done, nil); err != nil {
				t.Fatal(err)
			}
			wait()
			left++
			if err := r.ch.ZoneReset(16, done, nil); err != nil {
				t.Fatal(err)
			}
			wait()
		}
		for range 100 {
			cycle()
		}
		if n := testing.AllocsPerRun(100, cycle); n != 0 {
			t.Errorf("persist %v: %.1f allocations in ten IOs", persist, n)
		}
	}
}
