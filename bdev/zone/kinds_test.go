package zone_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/zone"
)

func TestConventionalZones(t *testing.T) {
	for _, persist := range []bool{false, true} {
		r := newRig(t, zone.Options{ZoneBlocks: 16, Capacity: 12, ConvZones: 2, InitFull: !persist, Persist: persist})
		if i := r.M.Lookup("z").Info(); i.ConvZones != 2 {
			t.Fatalf("%+v", i)
		}
		conv := bdev.ZoneInfo{LBA: 16, Capacity: 16, WP: 32, State: bdev.ZoneNotWP, Conventional: true}
		if z := r.info(16); z != conv {
			t.Fatalf("%+v", z)
		}
		if z := r.info(32); z.Conventional || z.Capacity != 12 || z.State == bdev.ZoneNotWP {
			t.Fatalf("%+v", z)
		}
		for _, lba := range []uint64{30, 17, 25, 17} { // anywhere, again and again, beyond the capacity of others
			want(t, r.Write(r.ch, lba, 2, byte(lba)), 0)
		}
		buf, err := r.Read(r.ch, 17, 15)
		want(t, err, 0)
		for i, fill := range map[int]byte{0: 17, 1: 17, 2: 0, 8: 25, 13: 30, 14: 30} {
			if buf[i*4096] != fill {
				t.Fatalf("block %d: %d", 17+i, buf[i*4096])
			}
		}
		want(t, r.Write(r.ch, 14, 4, 14), 0)          // from one to the next
		want(t, r.Write(r.ch, 30, 4, 1), unix.EINVAL) // but not into one that is written in order
		for _, f := range []func(uint64, bdev.DoneFunc, any) error{r.ch.ZoneReset, r.ch.ZoneOpen, r.ch.ZoneClose, r.ch.ZoneFinish} {
			want(t, r.op(f, 16), unix.EINVAL)
		}
		_, err = r.append(16, 1, 1)
		want(t, err, unix.EINVAL)
		if z := r.info(16); z != conv {
			t.Fatalf("%+v", z)
		}
		if persist {
			r.stop()
			r.start(zone.Options{ZoneBlocks: 16, Capacity: 12, ConvZones: 2, Persist: true})
			if buf, err = r.Read(r.ch, 25, 1); err != nil || buf[0] != 25 {
				t.Fatal(err, buf[0])
			}
		}
		want(t, r.op(r.ch.ZoneOffline, 16), 0)
		if z := r.info(16); z.State != bdev.ZoneOffline || !z.Conventional {
			t.Fatalf("%+v", z)
		}
		want(t, r.Write(r.ch, 16, 1, 1), unix.ENXIO)
	}
}

func TestWriteUnit(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, Capacity: 12, WriteUnit: 4, MaxAppend: 7})
	if i := r.M.Lookup("z").Info(); i.WriteUnit != 4 || i.MaxAppend != 4 {
		t.Fatalf("%+v", i)
	}
	want(t, r.Write(r.ch, 16, 3, 1), unix.EINVAL)
	want(t, r.Write(r.ch, 17, 4, 1), unix.EINVAL)
	want(t, r.Write(r.ch, 16, 4, 1), 0)
	_, err := r.append(16, 2, 1)
	want(t, err, unix.EINVAL)
	_, err = r.append(16, 8, 1)
	want(t, err, unix.EINVAL) // above MaxAppend
	at, err := r.append(16, 4, 2)
	want(t, err, 0)
	if at != 20 {
		t.Fatal(at)
	}
}

func TestAFinishedZoneReadsAsZeroesBehindWhatWasWritten(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16})
	for i := range r.below.Data() {
		r.below.Data()[i] = 0xA5 // left over from before
	}
	want(t, r.Write(r.ch, 0, 3, 1), 0)
	want(t, r.op(r.ch.ZoneFinish, 0), 0)
	if z := r.info(0); z.State != bdev.ZoneFull || z.WP != 16 {
		t.Fatalf("%+v", z)
	}
	buf, err := r.Read(r.ch, 2, 4)
	want(t, err, 0)
	if buf[0] != 1 || !bytes.Equal(buf[4096:], make([]byte, 3*4096)) {
		t.Fatal("old content")
	}
}

// watch opens the device once more and collects what it is told.
func (r *rig) watch(on func(ev bdev.Event, extents []bdev.MediaExtent)) *bdev.Desc {
	r.T.Helper()
	d, err := r.M.Open("z", false, func(_ any, ev bdev.Event, _ *bdev.Bdev, x []bdev.MediaExtent) { on(ev, x) }, nil, r.Main)
	if err != nil {
		r.T.Fatal(err)
	}
	return d
}

func TestZonesThatFailWhileRunning(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, MaxOpen: 1, MaxActive: 2})
	var changed []uint64
	d := r.watch(func(ev bdev.Event, extents []bdev.MediaExtent) {
		if ev != bdev.ZoneChange || len(extents) != 1 || extents[0].Blocks != 16 {
			t.Errorf("%s %v", ev, extents)
		}
		changed = append(changed, extents[0].LBA)
	})
	defer d.Close()
	want(t, r.Write(r.ch, 16, 3, 7), 0)
	want(t, r.Write(r.ch, 32, 3, 8), 0)
	for i, s := range map[uint64]bdev.ZoneState{1: bdev.ZoneReadOnly, 2: bdev.ZoneOffline} {
		want(t, r.d.SetZoneState(i, s), 0)
	}
	r.Until("both told", func() bool { return len(changed) == 2 })
	if z := r.info(16); z.State != bdev.ZoneReadOnly || z.WP != 19 {
		t.Fatalf("%+v", z)
	}
	buf, err := r.Read(r.ch, 16, 3)
	want(t, err, 0)
	if buf[0] != 7 {
		t.Fatal(buf[0])
	}
	want(t, r.Write(r.ch, 19, 1, 1), unix.EROFS)
	want(t, r.Write(r.ch, 35, 1, 1), unix.ENXIO)
	_, err = r.Read(r.ch, 32, 1)
	want(t, err, unix.ENXIO)
	want(t, r.op(r.ch.ZoneReset, 32), unix.ENXIO)
	// They are not active any more: there is room for two others.
	want(t, r.Write(r.ch, 48, 1, 1), 0)
	want(t, r.Write(r.ch, 64, 1, 1), 0)
	// Once offline it stays so, and nobody is told again.
	want(t, r.d.SetZoneState(2, bdev.ZoneReadOnly), 0)
	r.Turn(10)
	if z := r.info(32); z.State != bdev.ZoneOffline || len(changed) != 2 {
		t.Fatal(z.State, changed)
	}
	want(t, r.d.SetZoneState(1, bdev.ZoneEmpty), unix.EINVAL)
	want(t, r.d.SetZoneState(8, bdev.ZoneOffline), unix.EINVAL)
}

func TestAResetThatFails(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16, ConvZones: 1, ReadOnly: []uint64{3}, Offline: []uint64{0, 4}, FailReset: 2})
	changed := 0
	d := r.watch(func(ev bdev.Event, x []bdev.MediaExtent) {
		if ev != bdev.ZoneChange || x[0].LBA != 32 && x[0].LBA != 80 {
			t.Errorf("%s %v", ev, x)
		}
		changed++
	})
	defer d.Close()
	for lba, s := range map[uint64]bdev.ZoneState{0: bdev.ZoneOffline, 16: bdev.ZoneEmpty, 48: bdev.ZoneReadOnly, 64: bdev.ZoneOffline} {
		if z := r.info(lba); z.State != s {
			t.Fatalf("%+v", z)
		}
	}
	want(t, r.Write(r.ch, 16, 1, 1), 0)
	want(t, r.Write(r.ch, 32, 1, 1), 0)
	want(t, r.op(r.ch.ZoneReset, 48), unix.EROFS) // does not count
	want(t, r.op(r.ch.ZoneReset, 16), 0)
	want(t, r.op(r.ch.ZoneReset, 32), unix.EIO)
	r.Until("told", func() bool { return changed == 1 })
	if z := r.info(32); z.State != bdev.ZoneOffline {
		t.Fatalf("%+v", z)
	}
	want(t, r.op(r.ch.ZoneReset, 16), 0)
	r.d.FailReset(1)
	want(t, r.op(r.ch.ZoneReset, 80), unix.EIO)
	want(t, r.op(r.ch.ZoneReset, 16), 0)
	r.Until("told", func() bool { return changed == 2 })
}

func TestPushedMediaEventsReachTheOpener(t *testing.T) {
	r := newRig(t, zone.Options{ZoneBlocks: 16})
	var got []bdev.MediaExtent
	var d *bdev.Desc
	d = r.watch(func(ev bdev.Event, _ []bdev.MediaExtent) {
		buf := make([]bdev.MediaExtent, bdev.MediaBatch)
		for n := d.MediaEvents(buf); n > 0; n = d.MediaEvents(buf) {
			got = append(got, buf[:n]...)
		}
	})
	defer d.Close()
	out := make([]bdev.MediaExtent, 300)
	for i := range out {
		out[i] = bdev.MediaExtent{LBA: uint64(i % 128), Blocks: 1}
	}
	if n := r.d.PushMedia(out); n != 300 {
		t.Fatal(n)
	}
	r.Until("all", func() bool { return len(got) == 300 })
	for i := range out {
		if got[i] != out[i] {
			t.Fatal(i, got[i])
		}
	}
}
