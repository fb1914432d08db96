package volatile_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/malloc"
	"goftl/bdev/volatile"
	"goftl/bdev/zone"
)

// rig is a device in front of one in memory, which outlives it.
type rig struct {
	*devtest.Env
	m  *malloc.Driver
	v  *volatile.Driver
	d  *bdev.Desc
	ch *bdev.Channel
}

func newRig(t *testing.T, md uint32, o volatile.Options) *rig {
	t.Helper()
	r := &rig{Env: devtest.New(t)}
	r.m = r.Malloc("m", 256, md)
	o.Name, o.Base = "v", "m"
	r.on(o)
	return r
}

func (r *rig) on(o volatile.Options) {
	r.T.Helper()
	b, err := volatile.Create(r.M, r.Main, o)
	if err != nil {
		r.T.Fatal(err)
	}
	r.v = b.Driver().(*volatile.Driver)
	r.d, r.ch = r.Open("v", r.Main)
}

func (r *rig) mustWrite(lba, count uint64, fill byte) {
	r.T.Helper()
	if err := r.Write(r.ch, lba, count, fill); err != nil {
		r.T.Fatal(err)
	}
}

func (r *rig) flush() error {
	return r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.Flush(d, x) }).Err
}

// mustRead checks that each block reads as a block full of its byte.
func (r *rig) mustRead(lba uint64, want ...byte) {
	r.T.Helper()
	buf, err := r.Read(r.ch, lba, uint64(len(want)))
	if err != nil {
		r.T.Fatal(err)
	}
	for i, w := range want {
		if b := buf[i*4096 : (i+1)*4096]; !bytes.Equal(b, bytes.Repeat([]byte{w}, 4096)) {
			r.T.Fatalf("block %d is full of %d, not of %d", lba+uint64(i), b[0], w)
		}
	}
}

// below is what the base holds in a block, by its first byte.
func (r *rig) below(lba uint64) byte { return r.m.Data()[lba*4096] }

// crash ends the device; what it has not written back is gone.
func (r *rig) crash() {
	r.ch.Put()
	r.d.Close()
	r.End("v")
}

func TestWhatIsNotFlushedIsDropped(t *testing.T) {
	r := newRig(t, 0, volatile.Options{})
	r.mustWrite(10, 4, 1)
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	r.mustWrite(11, 2, 2)
	r.mustRead(9, 0, 1, 2, 2, 1, 0)
	r.crash()
	for i, w := range []byte{0, 1, 1, 1, 1, 0} {
		if b := r.below(9 + uint64(i)); b != w {
			t.Fatalf("block %d of the base is %d, not %d", 9+i, b, w)
		}
	}
	if i := r.M.Lookup("m").Info(); i.VolatileCache {
		t.Fatal("the base has a volatile cache itself")
	}
}

func TestInfo(t *testing.T) {
	r := newRig(t, 8, volatile.Options{Blocks: 64})
	i := r.ch.Bdev().Info()
	if !i.VolatileCache || !i.FUA || i.MaxTransfer != 16 || i.MDSize != 8 || i.Blocks != 256 || !i.Ops.Has(bdev.OpWriteZeroes) {
		t.Fatalf("%+v", i)
	}
	if kind, module := r.M.Lookup("m").Claimed(); kind != bdev.ClaimExclusiveWrite || module != "volatile" {
		t.Fatal(kind, module)
	}
}

func TestFUAGoesThrough(t *testing.T) {
	r := newRig(t, 8, volatile.Options{Early: 0})
	r.mustWrite(0, 3, 1)
	data, md := bytes.Repeat([]byte{2}, 2*4096), bytes.Repeat([]byte{3}, 2*8)
	err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.WritevFUA([][]byte{data}, md, 1, 2, d, x) }).Err
	if err != nil {
		t.Fatal(err)
	}
	if r.below(0) != 0 || r.below(1) != 2 || r.below(2) != 2 || r.m.MD()[8] != 3 || r.v.Stats().Flushes != 0 {
		t.Fatal(r.below(0), r.below(1), r.below(2), r.m.MD()[8])
	}
	r.mustRead(0, 1, 2, 2)
}

// TestBlocksLeaveOneByOne kills devices with early write back: what is on the base is some part of what was written,
// single blocks, in no order.
func TestBlocksLeaveOneByOne(t *testing.T) {
	torn, outOfOrder, all, none := 0, 0, 0, 0
	for seed := range uint64(200) {
		r := newRig(t, 0, volatile.Options{Early: 0.2, Seed: seed})
		for i := range uint64(4) {
			r.mustWrite(i*4, 4, byte(i+1))
		}
		n := int(r.v.Stats().Early)
		r.crash()
		whole := make([]int, 4)
		kept := 0
		for lba := range uint64(16) {
			switch r.below(lba) {
			case 0:
			case byte(lba/4 + 1):
				whole[lba/4]++
				kept++
			default:
				t.Fatalf("block %d holds what was not written there", lba)
			}
		}
		if kept != n {
			t.Fatalf("%d blocks are there, %d were written back", kept, n)
		}
		switch kept {
		case 0:
			none++
		case 16:
			all++
		}
		for i := range whole {
			if whole[i] > 0 && whole[i] < 4 {
				torn++
			}
			if i > 0 && whole[i] > 0 && whole[i-1] == 0 {
				outOfOrder++
			}
		}
	}
	if torn < 100 || outOfOrder < 20 || none == 0 || all > 100 {
		t.Fatalf("torn %d, out of order %d, nothing %d, all %d", torn, outOfOrder, none, all)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	r := newRig(t, 0, volatile.Options{Blocks: 32, Early: 0})
	for i := range uint64(256) {
		r.mustWrite(i, 1, byte(i%250+1))
		if s := r.v.Stats(); s.Dirty > 32 {
			t.Fatalf("%+v", s)
		}
	}
	s := r.v.Stats()
	if s.Room < 256-32 || s.Early != 0 || s.Flushes != 0 {
		t.Fatalf("%+v", s)
	}
	for i := range uint64(256) {
		r.mustRead(i, byte(i%250+1))
	}
	// A write larger than a quarter of the cache comes in parts.
	r.mustWrite(0, 256, 9)
	r.mustRead(255, 9)
	r.mustRead(0, 9)
}

func TestZeroesAndUnmap(t *testing.T) {
	r := newRig(t, 8, volatile.Options{Early: 0})
	data, md := bytes.Repeat([]byte{7}, 8*4096), bytes.Repeat([]byte{7}, 8*8)
	do := func(f func(bdev.DoneFunc, any) error) {
		t.Helper()
		if err := r.Do(f).Err; err != nil {
			t.Fatal(err)
		}
	}
	do(func(d bdev.DoneFunc, x any) error { return r.ch.Writev([][]byte{data}, md, 0, 8, d, x) })
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	do(func(d bdev.DoneFunc, x any) error { return r.ch.WriteZeroes(1, 2, d, x) })
	do(func(d bdev.DoneFunc, x any) error { return r.ch.Unmap(4, 3, d, x) })
	r.mustRead(0, 7, 0, 0, 7, 0, 0, 0, 7)
	if r.below(1) != 7 || r.below(4) != 7 {
		t.Fatal("went past the cache")
	}
	// Data without metadata over zeroes: the metadata is zeroes.
	do(func(d bdev.DoneFunc, x any) error { return r.ch.Write(data[:4096], 5, 1, d, x) })
	got, gotMD := make([]byte, 8*4096), make([]byte, 8*8)
	do(func(d bdev.DoneFunc, x any) error { return r.ch.Readv([][]byte{got}, gotMD, 0, 8, d, x) })
	for i, w := range []byte{7, 0, 0, 7, 0, 7, 0, 7} {
		wantMD := w
		if i == 5 {
			wantMD = 0
		}
		if got[i*4096] != w || gotMD[i*8] != wantMD {
			t.Fatalf("block %d: %d, metadata %d", i, got[i*4096], gotMD[i*8])
		}
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	r.crash()
	if !bytes.Equal(r.m.Data()[:8*4096], got) || !bytes.Equal(r.m.MD()[:8*8], gotMD) {
		t.Fatal("the base has something else")
	}
}

// TestMetadataOfTheBase reads blocks with metadata of which the cache has a newer version without.
func TestMetadataOfTheBase(t *testing.T) {
	r := newRig(t, 8, volatile.Options{Early: 0})
	copy(r.m.MD()[8:], bytes.Repeat([]byte{5}, 16))
	r.mustWrite(1, 1, 1)
	got, md := make([]byte, 3*4096), make([]byte, 3*8)
	err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.Readv([][]byte{got}, md, 0, 3, d, x) }).Err
	if err != nil || got[4096] != 1 || got[8192] != 0 || md[0] != 0 || md[8] != 5 || md[16] != 5 {
		t.Fatal(err, got[4096], md)
	}
}

func TestLie(t *testing.T) {
	r := newRig(t, 0, volatile.Options{Early: 0, Lie: true})
	r.mustWrite(0, 4, 1)
	data := bytes.Repeat([]byte{2}, 4096)
	if err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.WritevFUA([][]byte{data}, nil, 4, 1, d, x) }).Err; err != nil {
		t.Fatal(err)
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	r.mustRead(0, 1, 1, 1, 1, 2)
	r.crash()
	for lba := range uint64(5) {
		if r.below(lba) != 0 {
			t.Fatal("a liar kept its word")
		}
	}
}

// TestDie has devices that end the process in the middle of a flush: at that moment the base has some of the blocks.
func TestDie(t *testing.T) {
	some := 0
	for seed := range uint64(100) {
		var r *rig
		dead := -1
		kill := func() {
			if dead >= 0 {
				return
			}
			dead = 0
			for lba := range uint64(32) {
				if r.below(lba) == 1 {
					dead++
				}
			}
		}
		r = newRig(t, 0, volatile.Options{Die: 0.1, Seed: seed, Kill: kill})
		r.mustWrite(0, 32, 1)
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
		if dead == 0 {
			t.Fatal("dead before anything was written back")
		}
		if dead > 0 && dead < 32 {
			some++
		}
	}
	if some < 50 {
		t.Fatalf("%d of 100 died in the middle", some)
	}
}

// broken is a device over one that fails writes while the rule is on.
func broken(t *testing.T, o volatile.Options, rule errinj.Rule) (*rig, *errinj.Driver) {
	t.Helper()
	r := &rig{Env: devtest.New(t)}
	r.m = r.Malloc("m", 256, 0)
	b, err := errinj.Create(r.M, r.Main, errinj.Options{Name: "e", Base: "m", Rules: []errinj.Rule{rule}})
	if err != nil {
		t.Fatal(err)
	}
	o.Name, o.Base = "v", "e"
	r.on(o)
	return r, b.Driver().(*errinj.Driver)
}

func TestErrorsOfWriteBack(t *testing.T) {
	r, e := broken(t, volatile.Options{Early: 1, Blocks: 32}, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Fail, Err: unix.ENOSPC})
	for i := range uint64(32) {
		r.mustWrite(i, 1, byte(i+1))
	}
	r.Turn(100)
	if s := r.v.Stats(); s.Failed == 0 || s.Dirty != 32 {
		t.Fatalf("%+v", s)
	}
	if err := r.flush(); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := r.Write(r.ch, 100, 1, 1); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("a write that finds no room: %v", err)
	}
	data := make([]byte, 4096)
	err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.WritevFUA([][]byte{data}, nil, 3, 1, d, x) }).Err
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for i := range uint64(32) {
		if i != 3 {
			r.mustRead(i, byte(i+1))
		}
	}
	e.Clear()
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if s := r.v.Stats(); s.Dirty != 0 {
		t.Fatalf("%+v", s)
	}
	for i := range uint64(32) {
		if want := byte(i + 1); i != 3 && r.below(i) != want {
			t.Fatal(i)
		}
	}
}

func TestFailedFlushOfTheBase(t *testing.T) {
	r, e := broken(t, volatile.Options{}, errinj.Rule{Ops: bdev.Ops(bdev.OpFlush), Action: errinj.Fail})
	r.mustWrite(1, 1, 1)
	if err := r.flush(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	e.Clear()
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
}

// TestFlushCoversWhatCameBefore has a version on its way, a newer one in the cache, and writes that come while the
// flush runs.
func TestFlushCoversWhatCameBefore(t *testing.T) {
	r, e := broken(t, volatile.Options{Early: 1}, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Hang, Count: 1})
	r.mustWrite(5, 1, 1) // is written back, and hangs
	r.mustWrite(5, 1, 2)
	var fl devtest.Result
	if err := r.ch.Flush(devtest.Done, &fl); err != nil {
		t.Fatal(err)
	}
	r.Turn(50)
	r.mustWrite(6, 1, 3)
	r.mustRead(5, 2, 3)
	if fl.N != 0 {
		t.Fatal("flushed while a write back hung")
	}
	e.ReleaseHung(nil) // as if it had been written
	r.Until("flushed", func() bool { return fl.N == 1 })
	if fl.Err != nil || r.below(5) != 2 {
		t.Fatal(fl.Err, r.below(5))
	}
}

func TestAbortAndReset(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		testAbortAndReset(t, elsewhere)
	}
}

// testAbortAndReset has the channel on the thread that owns the cache, or on another one.
func testAbortAndReset(t *testing.T, elsewhere bool) {
	t.Helper()
	r, e := broken(t, volatile.Options{Blocks: 16}, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite, bdev.OpRead), Action: errinj.Hang})
	if elsewhere {
		r.ch.Put()
		r.d.Close()
		r.d, r.ch = r.Open("v", r.Thread("other"))
	}
	for i := range uint64(16) {
		r.mustWrite(i, 1, byte(i+1))
	}
	buf := make([]byte, 4*4096)
	var write, read, fl, fl2 devtest.Result
	submit := []error{
		r.ch.Write(buf[:4096], 40, 1, devtest.Done, &write), // no room
		r.ch.Read(buf, 14, 4, devtest.Done, &read),          // two blocks from the base
		r.ch.Flush(devtest.Done, &fl),
	}
	for _, err := range submit {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.Turn(20)
	if write.N+read.N+fl.N != 0 {
		t.Fatal("nothing hangs")
	}
	for _, target := range []*devtest.Result{&write, &read, &fl} {
		a := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.Abort(target, d, x) })
		r.Until("the target ended", func() bool { return target.N > 0 })
		r.Turn(10)
		if a.Err != nil || target.N != 1 || !errors.Is(target.Err, unix.ECANCELED) {
			t.Fatal(a.Err, target)
		}
	}
	if err := r.ch.Flush(devtest.Done, &fl2); err != nil {
		t.Fatal(err)
	}
	r.Turn(10)
	e.Clear()
	reset := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.Reset(d, x) })
	if reset.Err != nil || fl2.N != 1 {
		t.Fatal(reset.Err, fl2)
	}
	e.ReleaseHung(unix.EIO)
	r.Turn(20)
	// Nothing is lost by all that.
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(16) {
		r.mustRead(i, byte(i+1))
	}
}

func TestHotRemovalOfTheBase(t *testing.T) {
	r := &rig{Env: devtest.New(t)}
	r.m = r.Malloc("m", 64, 0)
	r.on(volatile.Options{Name: "v", Base: "m", Early: 1})
	r.ch.Put()
	r.d.Close()
	removed := false
	var err error
	r.d, err = r.M.Open("v", true, func(_ any, ev bdev.Event, _ *bdev.Bdev, _ []bdev.MediaExtent) {
		if ev == bdev.Remove {
			removed = true
			r.ch.Put()
			r.d.Close()
		}
	}, nil, r.Main)
	if err != nil {
		t.Fatal(err)
	}
	if r.ch, err = r.d.Channel(r.Main); err != nil {
		t.Fatal(err)
	}
	var res devtest.Result
	buf := make([]byte, 8*4096)
	for i := range uint64(4) {
		if err := r.ch.Write(buf, i*8, 8, devtest.Done, &res); err != nil {
			t.Fatal(err)
		}
	}
	r.End("m")
	if !removed || res.N != 4 || len(r.M.All()) != 0 || r.m.Data() != nil {
		t.Fatal(removed, res, len(r.M.All()))
	}
}

func TestWriteUnits(t *testing.T) {
	e := devtest.New(t)
	s := &unitDevice{data: make([]byte, 64*4096)}
	if _, err := e.M.Register(s); err != nil {
		t.Fatal(err)
	}
	r := &rig{Env: e}
	r.on(volatile.Options{Name: "v", Base: "unit", Blocks: 64})
	r.mustWrite(4, 8, 1)
	r.mustWrite(8, 4, 2)
	r.mustRead(3, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0)
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if err := r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.WriteZeroes(4, 4, d, x) }).Err; err != nil {
		t.Fatal(err)
	}
	if err := r.Write(r.ch, 1, 1, 1); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	r.crash()
	if s.data[4*4096] != 1 || s.data[8*4096] != 2 {
		t.Fatal(s.data[4*4096], s.data[8*4096])
	}
}

// TestFewIOsBelow has more to write back, and more reads, than the base has IOs.
func TestFewIOsBelow(t *testing.T) {
	r := &rig{Env: devtest.New(t)}
	if err := r.M.SetPool(4, 4); err != nil {
		t.Fatal(err)
	}
	r.m = r.Malloc("m", 256, 0)
	b, err := errinj.Create(r.M, r.Main, errinj.Options{Name: "e", Base: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.M.SetPool(64, 64); err != nil {
		t.Fatal(err)
	}
	r.on(volatile.Options{Name: "v", Base: "e", Early: 0})
	for i := range uint64(64) {
		r.mustWrite(2*i, 1, byte(i+1))
	}
	rule, err := b.Driver().(*errinj.Driver).Add(errinj.Rule{Action: errinj.Hang, Ops: bdev.Ops(bdev.OpWrite, bdev.OpRead)})
	if err != nil {
		t.Fatal(err)
	}
	var fl, read devtest.Result
	buf := make([]byte, 16*4096)
	if err := r.ch.Flush(devtest.Done, &fl); err != nil {
		t.Fatal(err)
	}
	r.Turn(5)
	if err := r.ch.Read(buf, 100, 16, devtest.Done, &read); err != nil {
		t.Fatal(err)
	}
	r.Turn(5)
	if fl.N+read.N != 0 {
		t.Fatal("nothing hangs")
	}
	rule.Remove()
	b.Driver().(*errinj.Driver).ReleaseHung(unix.EAGAIN)
	r.Until("all ended", func() bool { return fl.N == 1 && read.N == 1 })
	if !errors.Is(fl.Err, unix.EAGAIN) || read.Err != nil {
		t.Fatal(fl.Err, read.Err)
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(64) {
		if r.below(2*i) != byte(i+1) {
			t.Fatal(i)
		}
	}
}

func TestBadOptions(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 256, 0)
	if _, err := zone.Create(e.M, e.Main, zone.Options{Name: "z", Base: "m", ZoneBlocks: 16}); err != nil {
		t.Fatal(err)
	}
	e.Malloc("n", 256, 0)
	for _, c := range []struct {
		o    volatile.Options
		says string
	}{
		{volatile.Options{Name: "v", Base: "z"}, "conventional"},
		{volatile.Options{Name: "v", Base: "n", Blocks: 15}, "at least 16"},
		{volatile.Options{Name: "v", Base: "n", Blocks: 1 << 40}, "at most 1 TiB"},
		{volatile.Options{Name: "v", Base: "n", Early: 1.1}, "from 0 to 1"},
		{volatile.Options{Name: "v", Base: "n", Die: -1}, "from 0 to 1"},
		{volatile.Options{Name: "n", Base: "n"}, "n"},
		{volatile.Options{Name: "v", Base: "nothing"}, "nothing"},
	} {
		if _, err := volatile.Create(e.M, e.Main, c.o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, without %q", c.o, err, c.says)
		}
		e.Turn(10)
	}
	if kind, _ := e.M.Lookup("n").Claimed(); kind != bdev.ClaimNone || len(e.M.All()) != 3 {
		t.Fatal("something is left", kind)
	}
}

// TestRemovalWhileWriteBacksHang unregisters the device with memory in use by the base; both end.
func TestRemovalWhileWriteBacksHang(t *testing.T) {
	r, e := broken(t, volatile.Options{Early: 1}, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Hang})
	r.mustWrite(0, 8, 1)
	r.Turn(10)
	r.crash()
	e.ReleaseHung(nil)
	r.Turn(10)
	r.End("e")
}
