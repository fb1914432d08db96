package passthru_test

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/passthru"
	"goftl/bdev/spec"
)

func TestEveryOperationGetsThrough(t *testing.T) {
	e := devtest.New(t)
	if _, err := spec.Create(e.M, e.Main, "passthru:passthru:malloc:1MiB,md=8", spec.Options{Name: "p"}); err != nil {
		t.Fatal(err)
	}
	d, ch := e.Open("p", e.Main)
	buf, md := make([]byte, 8192), make([]byte, 16)
	buf[5000], md[9] = 1, 2
	other := make([]byte, 8192)
	steps := []struct {
		name string
		f    func(bdev.DoneFunc, any) error
	}{
		{"write", func(d bdev.DoneFunc, x any) error { return ch.Writev([][]byte{buf}, md, 2, 2, d, x) }},
		{"fua", func(d bdev.DoneFunc, x any) error { return ch.WritevFUA([][]byte{buf}, md, 2, 2, d, x) }},
		{"flush", func(d bdev.DoneFunc, x any) error { return ch.Flush(d, x) }},
		{"compare", func(d bdev.DoneFunc, x any) error { return ch.Compare([][]byte{buf}, md, 2, 2, d, x) }},
		{"copy", func(d bdev.DoneFunc, x any) error { return ch.Copy(10, 2, 2, d, x) }},
		{"compare the copy", func(d bdev.DoneFunc, x any) error { return ch.Compare([][]byte{buf}, md, 10, 2, d, x) }},
		{"swap", func(d bdev.DoneFunc, x any) error {
			return ch.CompareAndWrite([][]byte{buf}, [][]byte{other}, 10, 2, d, x)
		}},
		{"zeroes", func(d bdev.DoneFunc, x any) error { return ch.WriteZeroes(2, 1, d, x) }},
		{"unmap", func(d bdev.DoneFunc, x any) error { return ch.Unmap(3, 1, d, x) }},
		{"reset", func(d bdev.DoneFunc, x any) error { return ch.Reset(d, x) }},
		{"read", func(d bdev.DoneFunc, x any) error { return ch.Readv([][]byte{buf}, md, 2, 2, d, x) }},
	}
	for _, s := range steps {
		if err := e.Do(s.f).Err; err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	if buf[5000] != 0 || md[9] != 0 {
		t.Fatal("not zeroed")
	}
	ch.Put()
	d.Close()
	e.End("p")
	if len(e.M.All()) != 0 {
		t.Fatal("something is left")
	}
}

// TestFewIOsBelow has more in flight than the channel of the base has IOs.
func TestFewIOsBelow(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 64, 0)
	if _, err := passthru.Create(e.M, e.Main, passthru.Options{Name: "a", Base: "m"}); err != nil {
		t.Fatal(err)
	}
	if err := e.M.SetPool(8, 8); err != nil {
		t.Fatal(err)
	}
	if _, err := passthru.Create(e.M, e.Main, passthru.Options{Name: "b", Base: "a"}); err != nil {
		t.Fatal(err)
	}
	_, ch := e.Open("b", e.Main)
	_, second := e.Open("b", e.Main)
	buf := make([]byte, 4096)
	var r devtest.Result
	for i := range 8 {
		c := ch
		if i%2 == 1 {
			c = second
		}
		if err := c.Read(buf, 0, 1, devtest.Done, &r); err != nil {
			t.Fatal(err)
		}
	}
	e.Until("all", func() bool { return r.N == 8 })
}

// TestTheBaseGoesAway removes the lowest device under an open one.
func TestTheBaseGoesAway(t *testing.T) {
	e := devtest.New(t)
	base := e.Malloc("m", 64, 0)
	if _, err := passthru.Create(e.M, e.Main, passthru.Options{Name: "p", Base: "m"}); err != nil {
		t.Fatal(err)
	}
	var d *bdev.Desc
	var ch *bdev.Channel
	d, err := e.M.Open("p", true, func(_ any, ev bdev.Event, _ *bdev.Bdev, _ []bdev.MediaExtent) {
		if ev == bdev.Remove {
			ch.Put()
			d.Close()
		}
	}, nil, e.Main)
	if err != nil {
		t.Fatal(err)
	}
	if ch, err = d.Channel(e.Main); err != nil {
		t.Fatal(err)
	}
	e.End("m")
	if len(e.M.All()) != 0 || base.Data() != nil {
		t.Fatal("not gone")
	}
}

func TestZonesGetThrough(t *testing.T) {
	e := devtest.New(t)
	if _, err := spec.Create(e.M, e.Main, "passthru:errinj:fail=EIO,op=zone_append,nth=2:zone:64KiB,units=2:malloc:1MiB",
		spec.Options{Name: "p"}); err != nil {
		t.Fatal(err)
	}
	_, ch := e.Open("p", e.Main)
	if i := ch.Bdev().Info(); !i.Zoned || i.ZoneBlocks != 16 || i.ParallelUnits != 2 {
		t.Fatalf("%+v", i)
	}
	bufs := [][]byte{make([]byte, 8192)}
	add := func() *devtest.Result {
		return e.Do(func(d bdev.DoneFunc, x any) error { return ch.ZoneAppendv(bufs, nil, 16, 2, d, x) })
	}
	if r := add(); r.Err != nil || r.Value != 16 {
		t.Fatal(r)
	}
	if r := add(); r.Err == nil {
		t.Fatal("not injected")
	}
	if r := add(); r.Err != nil || r.Value != 18 {
		t.Fatal(r)
	}
	z := make([]bdev.ZoneInfo, 2)
	if err := e.Do(func(d bdev.DoneFunc, x any) error { return ch.ZoneInfo(0, z, d, x) }).Err; err != nil {
		t.Fatal(err)
	}
	if z[1].WP != 20 || z[1].State != bdev.ZoneImplicitOpen || z[0].State != bdev.ZoneEmpty {
		t.Fatal(z)
	}
	for _, f := range []func(uint64, bdev.DoneFunc, any) error{ch.ZoneOpen, ch.ZoneClose, ch.ZoneFinish, ch.ZoneReset, ch.ZoneOffline} {
		if err := e.Do(func(d bdev.DoneFunc, x any) error { return f(16, d, x) }).Err; err != nil {
			t.Fatal(err)
		}
	}
}
