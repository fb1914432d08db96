package bdev_test

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
)

func wantErrno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, which is not %v", err, want)
	}
}

func TestBadSubmissionsAreRefusedAtOnce(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64, MDSize: 8, WriteUnit: 2})
	e.register(s)
	_, ch := e.open("strict", e.th)
	ro, err := e.m.Open("strict", false, nil, nil, e.th)
	if err != nil {
		t.Fatal(err)
	}
	rch, _ := ro.Channel(e.th)
	buf, md := make([]byte, 1024), make([]byte, 16)
	no := func(*bdev.IO) { t.Error("called back") }
	big := ^uint64(0)
	cases := []struct {
		name string
		err  error
		want unix.Errno
	}{
		{"no blocks", ch.Read(nil, 0, 0, no, nil), unix.EINVAL},
		{"beyond the end", ch.Read(buf, 63, 2, no, nil), unix.EINVAL},
		{"overflow", ch.Read(buf, big, 2, no, nil), unix.EINVAL},
		{"overflow of count", ch.Read(buf, 2, big, no, nil), unix.EINVAL},
		{"short buffer", ch.Read(buf[:1000], 0, 2, no, nil), unix.EINVAL},
		{"short buffers", ch.Readv([][]byte{buf[:512]}, nil, 0, 2, no, nil), unix.EINVAL},
		{"short metadata", ch.Readv([][]byte{buf}, md[:8], 0, 2, no, nil), unix.EINVAL},
		{"write unit", ch.Write(buf, 1, 2, no, nil), unix.EINVAL},
		{"write unit of zeroes", ch.WriteZeroes(1, 1, no, nil), unix.EINVAL},
		{"read-only", rch.Write(buf, 0, 2, no, nil), unix.EBADF},
		{"read-only unmap", rch.WriteZeroes(0, 2, no, nil), unix.EBADF},
		{"no unmap", ch.Unmap(0, 2, no, nil), unix.ENOTSUP},
		{"no zones", ch.ZoneReset(0, no, nil), unix.ENOTSUP},
		{"no zone info", ch.ZoneInfo(0, make([]bdev.ZoneInfo, 1), no, nil), unix.ENOTSUP},
		{"no extents", ch.Extents(0, 1, make([]bdev.Extent, 1), no, nil), unix.ENOTSUP},
		{"copy onto itself", ch.Copy(0, 2, 4, no, nil), unix.EINVAL},
	}
	for _, c := range cases {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if ch.InFlight() != 0 {
		t.Error("refused IOs are in flight")
	}
}

func TestEmptyPoolGivesENOMEMAndWaitersAreCalledInOrder(t *testing.T) {
	e := newEnv(t, nil)
	if err := e.m.SetPool(4, 2); err != nil {
		t.Fatal(err)
	}
	s := newStrict(t, bdev.Info{Blocks: 64})
	e.register(s)
	_, ch := e.open("strict", e.th)
	buf := make([]byte, 512)
	r := &result{}
	for range 4 {
		if err := ch.Read(buf, 0, 1, finished, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.Read(buf, 0, 1, finished, r); !errors.Is(err, bdev.ErrNoMem) {
		t.Fatal(err)
	}
	var order []int
	waits := make([]bdev.IOWait, 6)
	for i := range waits {
		waits[i] = bdev.IOWait{Fn: func(any) {
			order = append(order, i)
			if err := ch.Read(buf, 0, 1, finished, r); err != nil {
				t.Error(err)
			}
		}}
		ch.QueueIOWait(&waits[i])
	}
	e.turns(3)
	if len(order) != 0 {
		t.Fatal("called with nothing free")
	}
	e.until("all done", func() bool { s.answer(); return r.n == 10 })
	if !slices.IsSorted(order) || len(order) != 6 {
		t.Fatal(order)
	}
}

// TestPoolOfADevice: a device may say itself how many IOs a thread can have in
// flight, exactly.
func TestPoolOfADevice(t *testing.T) {
	for _, most := range []int{1, 3, 4, 5} {
		e := newEnv(t, nil)
		if err := e.m.SetPool(4, 2); err != nil {
			t.Fatal(err)
		}
		s := newStrict(t, bdev.Info{Blocks: 64, PoolMax: uint32(most)})
		e.register(s)
		_, ch := e.open("strict", e.th)
		buf := make([]byte, 512)
		r := &result{}
		for range most {
			if err := ch.Read(buf, 0, 1, finished, r); err != nil {
				t.Fatal(most, err)
			}
		}
		if err := ch.Read(buf, 0, 1, finished, r); !errors.Is(err, bdev.ErrNoMem) {
			t.Fatal(most, err)
		}
		called := false
		w := bdev.IOWait{Fn: func(any) { called = true }}
		ch.QueueIOWait(&w)
		e.until("all done", func() bool { s.answer(); return r.n == most && called })
	}
}

func TestWaiterWithFreeIOsIsCalledSoon(t *testing.T) {
	e := newEnv(t, nil)
	e.null("n", 8)
	_, ch := e.open("n", e.th)
	called := false
	w := bdev.IOWait{Fn: func(any) { called = true }}
	ch.QueueIOWait(&w)
	if called {
		t.Fatal("called inside")
	}
	e.turns(2)
	if !called {
		t.Fatal("not called")
	}
}

func TestDriverOutOfMemoryIsTriedAgain(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64})
	s.noMem = 2
	e.register(s)
	_, ch := e.open("strict", e.th)
	buf := make([]byte, 512)
	r := &result{}
	for range 50 {
		if err := ch.Write(buf, 0, 1, finished, r); err != nil {
			t.Fatal(err)
		}
	}
	e.until("all done", func() bool { s.answer(); return r.n == 50 })
	if r.err != nil {
		t.Fatal(r.err)
	}
	s.noMem = 1 // always: nothing in flight, so time must drive it
	one := &result{}
	if err := ch.Write(buf, 0, 1, finished, one); err != nil {
		t.Fatal(err)
	}
	e.turns(500)
	if one.n != 0 || s.n > 200 {
		t.Fatalf("%d completions, %d tries", one.n, s.n)
	}
	s.noMem = 0
	e.until("done", func() bool { s.answer(); return one.n == 1 })
}

func TestAtMostEightChildrenOfARange(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 1000, MaxUnmap: 1, Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpUnmap)})
	e.register(s)
	_, ch := e.open("strict", e.th)
	if err := e.doStrict(s, func(d bdev.DoneFunc, c any) error { return ch.Unmap(0, 1000, d, c) }); err != nil {
		t.Fatal(err)
	}
	if s.most != 8 || s.seen[bdev.OpUnmap] != 1000 {
		t.Fatalf("%d at once, %d in all", s.most, s.seen[bdev.OpUnmap])
	}
}

func TestAChildsErrorIsTheParents(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64, MaxTransfer: 1, Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpAbort)})
	e.register(s)
	_, ch := e.open("strict", e.th)
	r := &result{}
	buf := make([]byte, 512*40)
	if err := ch.Write(buf, 0, 40, finished, r); err != nil {
		t.Fatal(err)
	}
	s.pending[3].Complete(unix.EIO)
	s.pending = slices.Delete(s.pending, 3, 4)
	e.until("done", func() bool { s.answer(); return r.n == 1 })
	wantErrno(t, r.err, unix.EIO)
	if s.seen[bdev.OpWrite] != 32 {
		t.Fatalf("%d children after the error", s.seen[bdev.OpWrite])
	}
}

func TestFUAByFlushOnlyWhereItIsNeeded(t *testing.T) {
	for _, c := range []struct {
		volatile, fua bool
		flushes       int
	}{{true, false, 1}, {true, true, 0}, {false, false, 0}} {
		e := newEnv(t, nil)
		s := newStrict(t, bdev.Info{
			Blocks: 64, VolatileCache: c.volatile, FUA: c.fua, Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush),
		})
		e.register(s)
		_, ch := e.open("strict", e.th)
		bufs := [][]byte{make([]byte, 512)}
		if err := e.doStrict(s, func(d bdev.DoneFunc, x any) error { return ch.WritevFUA(bufs, nil, 0, 1, d, x) }); err != nil {
			t.Fatal(err)
		}
		if s.seen[bdev.OpFlush] != c.flushes {
			t.Fatalf("%+v: %d flushes", c, s.seen[bdev.OpFlush])
		}
	}
}

func TestResetFreezesAbortsAndGoesOn(t *testing.T) {
	for _, native := range []bool{true, false} {
		e := newEnv(t, nil)
		ops := bdev.Ops(bdev.OpRead, bdev.OpWrite)
		if native {
			ops = ops.With(bdev.OpReset)
		}
		s := newStrict(t, bdev.Info{Blocks: 64, Ops: ops})
		e.register(s)
		other := e.thread("other")
		_, ch := e.open("strict", e.th)
		_, ch2 := e.open("strict", other)
		buf := make([]byte, 512)
		var flying, reset, again, late result
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(ch2.Write(buf, 0, 1, finished, &flying))
		must(ch.Reset(finished, &reset))
		must(ch2.Reset(finished, &again))
		s.hold = true
		e.turns(200)
		must(ch2.Write(buf, 0, 1, finished, &late))
		e.turns(200)
		if s.seen[bdev.OpWrite] != 1 || reset.n != 0 {
			t.Fatalf("native %v: not frozen: %d writes, %d resets", native, s.seen[bdev.OpWrite], reset.n)
		}
		s.hold = false
		e.until("all done", func() bool { s.answer(); return flying.n+reset.n+again.n+late.n == 4 })
		for _, r := range []*result{&flying, &reset, &again, &late} {
			if r.err != nil || r.n != 1 {
				t.Fatalf("native %v: %+v", native, r)
			}
		}
	}
}

func TestAbort(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64, Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpAbort)})
	s.hold = true
	e.register(s)
	_, ch := e.open("strict", e.th)
	buf := make([]byte, 512)
	var a, b, ab, none result
	if ch.Read(buf, 0, 1, finished, &a) != nil || ch.Read(buf, 0, 1, finished, &b) != nil {
		t.Fatal("refused")
	}
	if ch.Abort(&a, finished, &ab) != nil || ch.Abort(&none, finished, &none) != nil {
		t.Fatal("refused")
	}
	e.turns(3)
	if a.n != 1 || b.n != 0 || ab.n != 1 || none.n != 1 {
		t.Fatal(a, b, ab, none)
	}
	wantErrno(t, a.err, unix.ECANCELED)
	wantErrno(t, none.err, unix.ENOENT)
	if ab.err != nil {
		t.Fatal(ab.err)
	}
	s.hold = false
	e.until("the other", func() bool { s.answer(); return b.n == 1 })
}

func TestHotRemoval(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64})
	s.hold = true
	b := e.register(s)
	var d *bdev.Desc
	var ch *bdev.Channel
	events := 0
	d, err := e.m.Open("strict", true, func(_ any, ev bdev.Event, _ *bdev.Bdev, _ []bdev.MediaExtent) {
		if ev == bdev.Remove {
			events++
			ch.Put()
			d.Close()
		}
	}, nil, e.th)
	if err != nil {
		t.Fatal(err)
	}
	if ch, err = d.Channel(e.th); err != nil {
		t.Fatal(err)
	}
	var flying, ended result
	buf := make([]byte, 512)
	if err := ch.Read(buf, 0, 1, finished, &flying); err != nil {
		t.Fatal(err)
	}
	b.Unregister(e.th, func(_ any, err error) { ended.n++; ended.err = err }, nil)
	var second error
	b.Unregister(e.th, func(_ any, err error) { second = err }, nil)
	e.turns(10)
	wantErrno(t, second, unix.EALREADY)
	if _, err := e.m.Open("strict", false, nil, nil, e.th); !errors.Is(err, unix.ENODEV) {
		t.Fatal(err)
	}
	wantErrno(t, ch.Read(buf, 0, 1, finished, &flying), unix.ENODEV)
	if events != 1 || ended.n != 0 || s.closed {
		t.Fatal(events, ended.n, s.closed)
	}
	s.hold = false
	s.answer()
	e.turns(10)
	if flying.n != 1 || ended.n != 1 || !s.closed || s.chans != 0 {
		t.Fatal(flying.n, ended.n, s.closed, s.chans)
	}
	wantErrno(t, flying.err, unix.ENODEV)
	if ended.err != nil {
		t.Fatal(ended.err)
	}
}

func TestCloseIsSafeWithAnEventPending(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 64)
	calls := 0
	d, err := e.m.Open("n", false, func(any, bdev.Event, *bdev.Bdev, []bdev.MediaExtent) { calls++ }, nil, e.th)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	if err := b.NotifyResize(128); err != nil {
		t.Fatal(err)
	}
	e.turns(2)
	if calls != 1 || b.Info().Blocks != 128 {
		t.Fatal("no resize")
	}
	b.NotifyMedia([]bdev.MediaExtent{{1, 2}})
	d.Close()
	b.Unregister(e.th, func(any, error) { ended = true }, nil)
	e.turns(10)
	if calls != 1 || !ended {
		t.Fatal(calls, ended)
	}
}

func TestClaims(t *testing.T) {
	e := newEnv(t, nil)
	e.null("n", 64)
	open := func(write bool) *bdev.Desc {
		d, err := e.m.Open("n", write, nil, nil, e.th)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.EPERM) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	claim := func(d *bdev.Desc, k bdev.ClaimKind, m string) {
		t.Helper()
		if err := d.Claim(k, m); err != nil {
			t.Fatal(err)
		}
	}
	a, b := open(false), open(false)
	for _, k := range []bdev.ClaimKind{bdev.ClaimExclusiveWrite, bdev.ClaimReadManyWriteOne} {
		claim(a, k, "ftl")
		if !a.Writable() {
			t.Fatal("not writable")
		}
		refused("second claim", b.Claim(k, "zone"))
		refused("claim twice", a.Claim(k, "ftl"))
		_, err := e.m.Open("n", true, nil, nil, e.th)
		refused("open for write", err)
		open(false).Close()
		a.Close()
		a = open(false)
	}
	claim(a, bdev.ClaimReadManyWriteNone, "x")
	claim(b, bdev.ClaimReadManyWriteNone, "y")
	_, err := e.m.Open("n", true, nil, nil, e.th)
	refused("open for write", err)
	a.Release()
	b.Release()
	w := open(true)
	refused("a writer is there", a.Claim(bdev.ClaimExclusiveWrite, "ftl"))
	refused("a writer is there", a.Claim(bdev.ClaimReadManyWriteNone, "ftl"))
	claim(w, bdev.ClaimExclusiveWrite, "ftl")
	w.Close()
	claim(a, bdev.ClaimReadManyWriteShared, "key")
	claim(b, bdev.ClaimReadManyWriteShared, "key")
	refused("another key", open(false).Claim(bdev.ClaimReadManyWriteShared, "other"))
	if kind, who := a.Bdev().Claimed(); kind != bdev.ClaimReadManyWriteShared || who != "key" {
		t.Fatal(kind, who)
	}
}

// TestCompareAndWriteIsAtomic has four threads that each increment a counter
// on the device, through a driver that reorders.
func TestCompareAndWriteIsAtomic(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 8, MaxTransfer: 1, BufAlign: 512})
	n := 0
	s.order = func(k int) int { n += 7; return n % k }
	e.register(s)
	const threads, each = 4, 25
	total := 0
	for i := range threads {
		_, ch := e.open("strict", e.thread(string(rune('a'+i))))
		inc := &increment{t: t, ch: ch, left: each, total: &total, have: make([]byte, 1024), want: make([]byte, 1024)}
		inc.try()
	}
	e.until("all done", func() bool { s.answer(); return total == threads*each })
	if got := int(s.data[1024]); got != threads*each {
		t.Fatalf("counted %d", got)
	}
	if got := int(s.data[1024+1023]); got != threads*each {
		t.Fatalf("counted %d in the second block", got)
	}
}

type increment struct {
	t          *testing.T
	ch         *bdev.Channel
	left       int
	total      *int
	have, want []byte
}

func (i *increment) try() {
	if i.left == 0 {
		return
	}
	for j := range i.want {
		i.want[j] = i.have[j] + 1
	}
	err := i.ch.CompareAndWrite([][]byte{i.have}, [][]byte{i.want}, 2, 2, func(io *bdev.IO) {
		switch err := io.Err(); {
		case err == nil:
			i.left--
			*i.total++
		case errors.Is(err, bdev.ErrMiscompare):
		default:
			i.t.Error(err)
		}
		if err := i.ch.Read(i.have, 2, 2, func(io *bdev.IO) {
			if io.Err() != nil {
				i.t.Error(io.Err())
			}
			i.try()
		}, nil); err != nil {
			i.t.Error(err)
		}
	}, nil)
	if err != nil {
		i.t.Error(err)
	}
}

func TestQoSLimitsIOsAndBytes(t *testing.T) {
	for _, c := range []struct {
		name  string
		q     bdev.QoS
		bytes uint64
		want  int // IOs of 4 KiB in 100 ms
	}{
		{"iops", bdev.QoS{IOPS: 10_000}, 4096, 1000},
		{"few iops", bdev.QoS{IOPS: 100}, 4096, 10},
		{"bytes", bdev.QoS{BytesPS: 40_960_000}, 4096, 1000},
		{"writes", bdev.QoS{WriteBytes: 4_096_000}, 4096, 100},
		{"reads do not matter", bdev.QoS{ReadBytes: 1000, WriteBytes: 4_096_000}, 4096, 100},
	} {
		e := newEnv(t, nil)
		b := e.malloc(malloc.Options{Name: "m", Blocks: 64})
		set := false
		_, ch := e.open("m", e.th)
		_, ch2 := e.open("m", e.thread("other"))
		b.SetQoS(c.q, e.th, func(_ any, err error) { set = err == nil }, nil)
		e.until("limits set", func() bool { return set })
		n := 0
		buf := make([]byte, 4096)
		for _, ch := range []*bdev.Channel{ch, ch2} {
			var again func(io *bdev.IO)
			again = func(*bdev.IO) {
				n++
				if err := ch.Write(buf, 0, 1, again, nil); err != nil {
					t.Error(err)
				}
			}
			for range 16 {
				again(nil)
			}
		}
		n = 0
		for end := e.now + 100e6; e.now < end; {
			e.turn()
		}
		if n < c.want*95/100-16 || n > c.want*105/100+32 {
			t.Errorf("%s: %d IOs, not %d", c.name, n, c.want)
		}
		set = false
		b.SetQoS(bdev.QoS{}, e.th, func(any, error) { set = true }, nil)
		e.until("limits gone", func() bool { return set })
		n = 0
		e.turns(100)
		if n < 1000 {
			t.Errorf("%s: %d IOs without limits", c.name, n)
		}
	}
}

func TestStatistics(t *testing.T) {
	e := newEnv(t, nil)
	b := e.malloc(malloc.Options{Name: "m", Blocks: 64})
	d, ch := e.open("m", e.th)
	_, ch2 := e.open("m", e.thread("other"))
	buf := make([]byte, 8192)
	for _, c := range []*bdev.Channel{ch, ch2} {
		if err := e.do(func(done bdev.DoneFunc, x any) error { return c.Write(buf, 0, 2, done, x) }); err != nil {
			t.Fatal(err)
		}
	}
	if s := ch.Stats().Ops[bdev.OpWrite]; s.IOs != 1 || s.Bytes != 8192 {
		t.Fatal(s)
	}
	ch.Put()
	d.Close()
	e.turns(5)
	var got bdev.Stats
	b.CollectStats(e.th, true, func(_ any, s *bdev.Stats) { got = *s }, nil)
	e.turns(5)
	if s := got.Ops[bdev.OpWrite]; s.IOs != 2 || s.Bytes != 16384 || got.Latency[bdev.ClassWrite].Count() != 2 {
		t.Fatal(s)
	}
	b.CollectStats(e.th, false, func(_ any, s *bdev.Stats) { got = *s }, nil)
	e.turns(5)
	if s := got.Ops[bdev.OpWrite]; s.IOs != 0 {
		t.Fatal(s)
	}
}

func TestHistogram(t *testing.T) {
	var h bdev.Histogram
	for _, ns := range []int64{-1, 0, 1, 31, 32, 63, 64, 1000, 1 << 20, 1<<40 - 1, 1 << 40, 1<<63 - 1} {
		h.Record(ns)
	}
	last := int64(-1)
	n := uint64(0)
	h.Each(func(from, to int64, count uint64) {
		if from <= last || to <= from {
			t.Fatal(from, to)
		}
		last = from
		n += count
	})
	if n != 12 || h.Count() != 12 {
		t.Fatal(n)
	}
	h = bdev.Histogram{}
	for i := range int64(100_000) {
		h.Record(i)
	}
	for _, q := range []float64{0.01, 0.5, 0.99, 0.9999} {
		got, want := float64(h.Quantile(q)), q*100_000
		if got < want*0.97 || got > want*1.03 {
			t.Errorf("quantile %v: %v", q, got)
		}
	}
}

func TestPutWithIOsInFlight(t *testing.T) {
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: 64})
	e.register(s)
	d, ch := e.open("strict", e.th)
	r := &result{}
	if err := ch.Read(make([]byte, 512), 0, 1, finished, r); err != nil {
		t.Fatal(err)
	}
	ch.Put()
	d.Close()
	e.turns(5)
	if s.chans != 1 {
		t.Fatal("closed too early")
	}
	s.answer()
	e.turns(5)
	if s.chans != 0 || r.n != 1 {
		t.Fatal(s.chans, r.n)
	}
}

func TestRegister(t *testing.T) {
	e := newEnv(t, nil)
	b := e.null("n", 64)
	_, err := e.m.Register(newStrict(t, bdev.Info{Name: "n", Blocks: 1}))
	wantErrno(t, err, unix.EEXIST)
	for _, i := range []bdev.Info{
		{Blocks: 0},
		{Blocks: 1 << 60},
		{Blocks: 1, BlockSize: 500},
		{Blocks: 1, BufAlign: 3},
		{Blocks: 9, WriteUnit: 2},
		{Blocks: 8, WriteUnit: 2, MaxTransfer: 3},
		{Blocks: 8, Zoned: true, ZoneBlocks: 3, ZoneCapacity: 3},
	} {
		d := newStrict(t, bdev.Info{Blocks: 8})
		d.info = i
		d.info.Name, d.info.Ops = "x", bdev.Ops(bdev.OpRead, bdev.OpWrite)
		if d.info.BlockSize == 0 {
			d.info.BlockSize = 512
		}
		if _, err := e.m.Register(d); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", i, err)
		}
	}
	if e.m.Lookup("n") != b || e.m.Lookup(b.Info().UUID.String()) != b || len(e.m.All()) != 1 {
		t.Fatal("not found")
	}
	if _, err := e.m.Open("m", false, nil, nil, e.th); !errors.Is(err, unix.ENODEV) {
		t.Fatal(err)
	}
}
