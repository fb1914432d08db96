package bdev_test

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/passthru"
)

func extents(from, n int) []bdev.MediaExtent {
	list := make([]bdev.MediaExtent, n)
	for i := range list {
		list[i] = bdev.MediaExtent{LBA: uint64(from + i), Blocks: 1}
	}
	return list
}

// opener takes media events when it is told to.
type opener struct {
	t    *testing.T
	d    *bdev.Desc
	told int
	got  []bdev.MediaExtent
}

func (e *env) opener(name string) *opener {
	e.t.Helper()
	o := &opener{t: e.t.(*testing.T)}
	d, err := e.m.Open(name, false, func(_ any, ev bdev.Event, _ *bdev.Bdev, x []bdev.MediaExtent) {
		if ev != bdev.MediaManagement || x != nil {
			o.t.Errorf("%s with %v", ev, x)
		}
		o.told++
	}, nil, e.th)
	if err != nil {
		e.t.Fatal(err)
	}
	o.d = d
	return o
}

// take takes one batch.
func (o *opener) take() int {
	buf := make([]bdev.MediaExtent, bdev.MediaBatch)
	n := o.d.MediaEvents(buf)
	o.got = append(o.got, buf[:n]...)
	return n
}

func (o *opener) inOrder(n int) {
	o.t.Helper()
	if len(o.got) != n {
		o.t.Fatalf("%d extents, not %d", len(o.got), n)
	}
	for i, x := range o.got {
		if x != (bdev.MediaExtent{LBA: uint64(i), Blocks: 1}) {
			o.t.Fatalf("%d: %+v", i, x)
		}
	}
}

func TestMediaEventsAreTakenInBatches(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 1<<20)
	o := e.opener("n")
	if n := b.NotifyMedia(extents(0, 300)); n != 300 || o.told != 0 {
		t.Fatal(n, o.told)
	}
	e.turns(2)
	for i, want := range []int{128, 128, 44, 0} {
		if n := o.take(); n != want {
			t.Fatal(i, n)
		}
	}
	if o.told != 1 {
		t.Fatal(o.told)
	}
	o.inOrder(300)
}

func TestMediaEventsBeyondTheQueueStayWithTheDevice(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 1<<20)
	fast, slow := e.opener("n"), e.opener("n")
	if _, err := e.m.Open("n", false, nil, nil, e.th); err != nil { // asks for no events and holds none
		t.Fatal(err)
	}
	if n := b.NotifyMedia(extents(0, 1000)); n != 1000 {
		t.Fatal(n)
	}
	e.turns(2)
	for fast.take() > 0 {
	}
	if n := b.NotifyMedia(extents(1000, 100)); n != bdev.MediaQueue-1000 {
		t.Fatal(n)
	}
	if n := b.NotifyMedia(extents(1024, 76)); n != 0 {
		t.Fatal(n)
	}
	e.turns(2)
	slow.take()
	if n := b.NotifyMedia(extents(1024, 76)); n != 76 {
		t.Fatal(n)
	}
	e.turns(2)
	for fast.take()+slow.take() > 0 {
	}
	fast.inOrder(1100)
	slow.inOrder(1100)
}

// TestMediaEventsPassWrappers has more events than two devices in front of
// each other hold: nothing is lost on the way.
func TestMediaEventsPassWrappers(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 1<<20)
	for _, o := range []passthru.Options{{Name: "p", Base: "n"}, {Name: "q", Base: "p"}} {
		if _, err := passthru.Create(e.m, e.th, o); err != nil {
			t.Fatal(err)
		}
	}
	o := e.opener("q")
	for at := 0; at < 5000; {
		n := b.NotifyMedia(extents(at, min(300, 5000-at)))
		at += n
		e.turns(5)
		if n == 0 {
			if at-len(o.got) != 3*bdev.MediaQueue {
				t.Fatalf("%d are held", at-len(o.got))
			}
			o.take()
			e.turns(5)
		}
	}
	for o.take() > 0 {
		e.turns(5)
	}
	o.inOrder(5000)
}

func TestZoneChangesPassWrappers(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 64)
	if _, err := passthru.Create(e.m, e.th, passthru.Options{Name: "p", Base: "n"}); err != nil {
		t.Fatal(err)
	}
	var got []bdev.MediaExtent
	_, err := e.m.Open("p", false, func(_ any, ev bdev.Event, d *bdev.Bdev, x []bdev.MediaExtent) {
		if ev != bdev.ZoneChange || d.Name() != "p" {
			t.Error(ev, d.Name())
		}
		got = append(got, x...)
	}, nil, e.th)
	if err != nil {
		t.Fatal(err)
	}
	b.NotifyZones([]bdev.MediaExtent{{16, 16}, {48, 16}})
	e.turns(5)
	if len(got) != 2 || got[1] != (bdev.MediaExtent{48, 16}) {
		t.Fatal(got)
	}
}
