package job

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/gen"
	"goftl/apps/ftlperf/internal/verify"
	"goftl/thread"
)

// ram is a device in memory that answers in random order and records what it was asked.
type ram struct {
	t        *thread.Thread
	data     []byte
	room     int // IOs taken at once; 0: no limit
	held     []*IO
	rng      *rand.Rand
	counts   map[Op]int
	blocks   map[uint64]int
	failAt   int // the n-th IO fails
	submits  int
	rejected bool // Submit itself fails at failAt
	rot      func(io *IO, n int)
	await    func(arg any)
	awaitArg any
	overlaps int
	active   map[uint64]bool
	opened   int
	closed   int
}

func newRAM(size int) *ram {
	return &ram{
		data: make([]byte, size), rng: rand.New(rand.NewPCG(1, 2)),
		counts: map[Op]int{}, blocks: map[uint64]int{}, active: map[uint64]bool{},
	}
}

func (r *ram) Open(t *thread.Thread) (Channel, error) { r.t = t; r.opened++; return r, nil }

func (r *ram) Close() { r.closed++ }

func (r *ram) AwaitFree(fn func(arg any), arg any) { r.await, r.awaitArg = fn, arg }

func (r *ram) Submit(io *IO) error {
	if r.room > 0 && len(r.held) == r.room {
		return ErrAgain
	}
	r.submits++
	if r.rejected && r.submits == r.failAt {
		return unix.EINVAL
	}
	r.counts[io.Op]++
	if io.Op != OpFlush {
		r.blocks[io.Offset]++
		if r.active[io.Offset] {
			r.overlaps++
		}
		r.active[io.Offset] = true
	}
	r.held = append(r.held, io)
	return nil
}

var errBroken = errors.New("broken")

// serve answers about half of what is held, in random order.
func (r *ram) serve() {
	for n := len(r.held)/2 + 1; n > 0 && len(r.held) > 0; n-- {
		i := r.rng.IntN(len(r.held))
		io := r.held[i]
		r.held = slices.Delete(r.held, i, i+1)
		delete(r.active, io.Offset)
		var err error
		if r.failAt > 0 && r.submits >= r.failAt && !r.rejected {
			r.failAt, err = 0, errBroken
		} else {
			r.apply(io)
		}
		io.Complete(err)
	}
	if r.await != nil && len(r.held) < r.room {
		fn := r.await
		r.await = nil
		fn(r.awaitArg)
	}
}

func (r *ram) apply(io *IO) {
	place := r.data[io.Offset : io.Offset+io.Length]
	switch io.Op {
	case OpRead:
		copy(io.Buf, place)
	case OpWrite, OpWriteFUA:
		copy(place, io.Buf)
	case OpTrim:
		clear(place)
	case OpFlush:
	}
	if r.rot != nil {
		r.rot(io, r.submits)
	}
}

func spec(t *testing.T, rw string, size uint64) Spec {
	t.Helper()
	m, err := ParseMode(rw)
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Name: "t", Mode: m, BlockSize: [NumDirs]uint64{4096, 4096, 4096}, Depth: 8, MixRead: 50, Size: size, Seed: 1}
}

type clocked struct{ now int64 }

// run drives a job to its end on a virtual clock of 1 ms a turn.
func run(t *testing.T, s Spec, r *ram) *Stats {
	t.Helper()
	th, finished, c := thread.NewSystem().NewThread("t"), 0, clocked{now: 1}
	j, err := New(s, th, func(*Job) { finished++ })
	if err != nil {
		t.Fatal(err)
	}
	th.Send(func(any) { j.Start(r) }, nil)
	for range 200_000 {
		th.Poll(64, c.now)
		c.now += int64(time.Millisecond)
		if r.t != nil {
			r.serve()
		}
		if finished > 0 && len(r.held) == 0 {
			break
		}
	}
	if finished != 1 || r.opened != 1 || r.closed != 1 || j.inflight != 0 {
		t.Fatalf("finished %d times, opened %d, closed %d, %d in flight", finished, r.opened, r.closed, j.inflight)
	}
	return j.Stats()
}

const mib = 1 << 20

func TestSequentialTouchesEverythingOnce(t *testing.T) {
	for _, rw := range []string{"read", "write", "trim", "randread", "randwrite", "randtrim"} {
		s, r := spec(t, rw, mib), newRAM(2*mib)
		s.Offset, s.Once = mib, true
		st := run(t, s, r)
		total := uint64(0)
		for d := range NumDirs {
			total += st.Dir[d].IOs
		}
		if total != 256 || len(r.blocks) != 256 || st.Err != nil {
			t.Errorf("%s: %d IOs on %d blocks, %v", rw, total, len(r.blocks), st.Err)
		}
		for off := range r.blocks {
			if off < mib {
				t.Errorf("%s: offset %d is before the range", rw, off)
			}
		}
	}
}

func TestMixIsWhatWasAsked(t *testing.T) {
	for _, mix := range []int{0, 30, 70, 100} {
		s, r := spec(t, "randrw", mib), newRAM(mib)
		s.MixRead, s.Bytes = mix, 20000*4096
		st := run(t, s, r)
		share := float64(st.Dir[Read].IOs) / 200
		if share < float64(mix)-2 || share > float64(mix)+2 || st.Dir[Read].IOs+st.Dir[Write].IOs != 20000 {
			t.Errorf("%d%%: %.1f%% of %d", mix, share, st.Dir[Read].IOs+st.Dir[Write].IOs)
		}
		if mix%100 == 0 && share != float64(mix) {
			t.Errorf("%d%% is not exact", mix)
		}
	}
}

func TestTimeBasedAndRamp(t *testing.T) {
	s, r := spec(t, "randwrite", mib), newRAM(mib)
	s.Runtime, s.TimeBased, s.Ramp = 2*time.Second, true, time.Second
	st := run(t, s, r)
	if e := time.Duration(st.Elapsed); e < 1990*time.Millisecond || e > 2050*time.Millisecond {
		t.Errorf("measured for %v", e)
	}
	if n := int(st.Dir[Write].IOs); n < r.counts[OpWrite]/2 || n > r.counts[OpWrite]*3/4 {
		t.Errorf("%d of %d IOs counted, want two thirds", n, r.counts[OpWrite])
	}
	if st.Dir[Write].Rate.N < 3 || st.Dir[Write].Rate.Mean < 1000 {
		t.Errorf("rate samples %+v", st.Dir[Write].Rate)
	}
	if st.Dir[Write].Completion.Count() != st.Dir[Write].IOs || st.Dir[Write].Bytes != st.Dir[Write].IOs*4096 {
		t.Error("histogram, bytes and count disagree")
	}
}

func TestCountAndDepth(t *testing.T) {
	s, r := spec(t, "randread", mib), newRAM(mib)
	s.Count, s.Depth, s.Bytes = 1000, 16, 4000*4096
	st := run(t, s, r)
	full := st.Depth[5]
	if st.Dir[Read].IOs != 1000 || full < 900 {
		t.Errorf("%d IOs, %d at full depth: %v", st.Dir[Read].IOs, full, st.Depth)
	}
}

func TestFlushEvery(t *testing.T) {
	s, r := spec(t, "randwrite", mib), newRAM(mib)
	s.FlushEvery, s.Bytes, s.EndFlush = 10, 1000*4096, true
	st := run(t, s, r)
	if r.counts[OpFlush] < 100 || r.counts[OpFlush] > 102 || st.Flush.Count() != uint64(r.counts[OpFlush]) {
		t.Errorf("%d flushes, %d counted", r.counts[OpFlush], st.Flush.Count())
	}
}

func TestFUA(t *testing.T) {
	s, r := spec(t, "write", mib), newRAM(mib)
	s.FUA = true
	run(t, s, r)
	if r.counts[OpWriteFUA] != 256 || r.counts[OpWrite] != 0 {
		t.Errorf("%v", r.counts)
	}
}

func TestTrimWriteTrimsThenWritesEachBlock(t *testing.T) {
	for _, rw := range []string{"trimwrite", "randtrimwrite"} {
		s, r := spec(t, rw, mib), newRAM(mib)
		s.Once = true
		st := run(t, s, r)
		if r.counts[OpTrim] != 256 || r.counts[OpWrite] != 256 || len(r.blocks) != 256 || st.Dir[Write].IOs != 256 {
			t.Errorf("%s: %v on %d blocks", rw, r.counts, len(r.blocks))
		}
	}
}

func TestNoRoomIsWaitedFor(t *testing.T) {
	s, r := spec(t, "randwrite", mib), newRAM(mib)
	r.room, s.Depth = 3, 32
	st := run(t, s, r)
	if st.Dir[Write].IOs != 256 || st.Parked == 0 || st.Err != nil {
		t.Errorf("%d IOs, parked %d, %v", st.Dir[Write].IOs, st.Parked, st.Err)
	}
	s.Runtime, s.TimeBased = time.Second, true
	if st := run(t, s, func() *ram { r := newRAM(mib); r.room = 1; return r }()); st.Err != nil {
		t.Error(st.Err)
	}
}

func TestErrorsEndTheJobOrNot(t *testing.T) {
	for _, rejected := range []bool{false, true} {
		for _, goOn := range []bool{false, true} {
			s, r := spec(t, "randwrite", mib), newRAM(mib)
			r.failAt, r.rejected, s.ContinueOnError = 100, rejected, goOn
			st := run(t, s, r)
			want := errBroken
			if rejected {
				want = unix.EINVAL
			}
			if !errors.Is(st.Err, want) || st.Dir[Write].Errors != 1 {
				t.Errorf("rejected %v: error %v, %d errors", rejected, st.Err, st.Dir[Write].Errors)
			}
			if all := st.Dir[Write].IOs == 255; all != goOn {
				t.Errorf("rejected %v, continue %v: %d IOs", rejected, goOn, st.Dir[Write].IOs)
			}
		}
	}
}

func verified(t *testing.T, rw string, size uint64) Spec {
	t.Helper()
	s := spec(t, rw, size)
	tab, err := verify.NewTable(size/4096, 4096, 77)
	if err != nil {
		t.Fatal(err)
	}
	tab.TrimZeroes = true
	t.Cleanup(func() { _ = tab.Close() })
	s.Table = tab
	return s
}

// finalPass reads back everything.
func finalPass(t *testing.T, s Spec, r *ram) *Stats {
	t.Helper()
	s.Mode, s.BlockSize[Read] = VerifyMode, 65536
	r.opened, r.closed, r.failAt = 0, 0, 0
	return run(t, s, r)
}

func TestVerifyPassesOnAGoodDevice(t *testing.T) {
	dist, _ := gen.ParseDistribution("zipf:1.2")
	for _, rw := range []string{"write", "randwrite", "randrw", "rw", "trimwrite", "randtrimwrite"} {
		for _, bs := range []uint64{4096, 16384} {
			s, r := verified(t, rw, mib), newRAM(mib)
			s.BlockSize, s.Depth, s.Bytes = [NumDirs]uint64{bs, bs, bs}, 32, 4000*bs
			s.Distribution = dist
			st := run(t, s, r)
			final := finalPass(t, s, r)
			if st.Mismatches+final.Mismatches != 0 || st.Err != nil || final.Err != nil {
				t.Fatalf("%s bs=%d: %v %v", rw, bs, st.FirstMismatches, final.FirstMismatches)
			}
			if final.Verified != s.Table.KnownUnits() || final.Verified == 0 {
				t.Errorf("%s bs=%d: %d verified of %d known", rw, bs, final.Verified, s.Table.KnownUnits())
			}
			if s.Mode.Dirs[Read] && st.Verified == 0 {
				t.Errorf("%s: reads are not verified", rw)
			}
			if r.overlaps > 0 {
				t.Errorf("%s bs=%d: %d overlapping IOs", rw, bs, r.overlaps)
			}
		}
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	damages := map[string]func(r *ram) func(io *IO, n int){
		"bit": func(r *ram) func(*IO, int) {
			return func(io *IO, n int) {
				if io.Op == OpWrite && n%500 == 0 {
					r.data[io.Offset+1000] ^= 4
				}
			}
		},
		"lost": func(r *ram) func(*IO, int) {
			return func(io *IO, n int) {
				if io.Op == OpWrite && n%500 == 0 {
					clear(r.data[io.Offset : io.Offset+4096])
				}
			}
		},
		"misdirected": func(r *ram) func(*IO, int) {
			return func(io *IO, n int) {
				if io.Op == OpWrite && n%500 == 0 {
					copy(r.data[(io.Offset+8192)%mib:], io.Buf)
				}
			}
		},
	}
	for name, damage := range damages {
		s, r := verified(t, "randrw", mib), newRAM(mib)
		r.rot = damage(r)
		s.Bytes = 5000 * 4096
		st := run(t, s, r)
		final := finalPass(t, s, r)
		if st.Mismatches+final.Mismatches == 0 {
			t.Errorf("%s: not found", name)
		}
		if len(st.FirstMismatches) > 0 && st.FirstMismatches[0].String() == "" {
			t.Error("no text")
		}
	}
}

// A write that failed may or may not be there: not a mismatch.
func TestVerifyAllowsEitherAfterAnError(t *testing.T) {
	s, r := verified(t, "randwrite", mib), newRAM(mib)
	s.Bytes, s.ContinueOnError, r.failAt = 2000*4096, true, 700
	st := run(t, s, r)
	final := finalPass(t, s, r)
	if st.Dir[Write].Errors != 1 || final.Mismatches != 0 {
		t.Errorf("%d errors, %v", st.Dir[Write].Errors, final.FirstMismatches)
	}
}

func TestStopAndAbandon(t *testing.T) {
	for _, crash := range []bool{false, true} {
		s, r := verified(t, "randwrite", mib), newRAM(mib)
		s.Runtime, s.TimeBased = time.Hour, true
		th, finished, now := thread.NewSystem().NewThread("t"), 0, int64(1)
		j, err := New(s, th, func(*Job) { finished++ })
		if err != nil {
			t.Fatal(err)
		}
		th.Send(func(any) { j.Start(r) }, nil)
		for turn := range 1000 {
			th.Poll(64, now)
			now += 1000
			if turn == 500 {
				if crash {
					j.Abandon()
					th.Poll(64, now)
					r.held = nil
				} else {
					j.Stop()
				}
			}
			r.serve()
		}
		if finished != 1 || j.Stats().Dir[Write].IOs == 0 || j.Stats().Interrupted == crash {
			t.Errorf("crash %v: finished %d, interrupted %v", crash, finished, j.Stats().Interrupted)
		}
		s.Table.Interrupted()
		if final := finalPass(t, s, r); final.Mismatches != 0 || final.Verified == 0 {
			t.Errorf("crash %v: %v", crash, final.FirstMismatches)
		}
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	for name, change := range map[string]func(s *Spec){
		"depth":      func(s *Spec) { s.Depth = 0 },
		"block size": func(s *Spec) { s.BlockSize[Write] = 0 },
		"range":      func(s *Spec) { s.Size = 100 },
		"trimwrite":  func(s *Spec) { s.Mode, _ = ParseMode("trimwrite"); s.BlockSize[Trim] = 8192 },
	} {
		s := spec(t, "write", mib)
		change(&s)
		if _, err := New(s, th, nil); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseMode("sideways"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// loop is the cheapest possible device: it answers from the thread's own queue.
type loop struct{ t *thread.Thread }

func (l *loop) Open(t *thread.Thread) (Channel, error) { l.t = t; return l, nil }
func (l *loop) Close()                                 {}
func (l *loop) AwaitFree(func(any), any)               {}
func (l *loop) Submit(io *IO) error                    { l.t.Post(answer, io); return nil }
func answer(arg any)                                   { arg.(*IO).Complete(nil) }

func benchJob(tb testing.TB, s Spec) (th *thread.Thread, j *Job) {
	tb.Helper()
	th = thread.NewSystem().NewThread("t")
	s.TimeBased, s.Runtime, s.Depth = true, time.Hour, 128
	j, err := New(s, th, func(*Job) {})
	if err != nil {
		tb.Fatal(err)
	}
	j.Start(&loop{})
	return th, j
}

func TestNothingIsAllocatedPerIO(t *testing.T) {
	for _, s := range []Spec{spec(t, "randrw", 64*mib), verified(t, "randrw", mib), spec(t, "trimwrite", mib)} {
		th, _ := benchJob(t, s)
		now := int64(0)
		if a := testing.AllocsPerRun(200, func() { now += 1000; th.Poll(64, now) }); a != 0 {
			t.Errorf("%s: %v allocations in 64 IOs", s.Mode.Name, a)
		}
	}
}

// The cost of the generator with a device that costs one posted message.
func BenchmarkPerIO(b *testing.B) {
	for _, name := range []string{"randwrite", "randwrite/once", "randwrite/zipf", "read", "randrw", "randread/precise"} {
		b.Run(name, func(b *testing.B) {
			m := name
			if i := slices.Index([]byte(name), '/'); i > 0 {
				m = name[:i]
			}
			mode, _ := ParseMode(m)
			s := Spec{Name: "b", Mode: mode, BlockSize: [NumDirs]uint64{4096, 4096, 4096}, MixRead: 70, Size: 400 << 30}
			switch name[len(m):] {
			case "/once":
				s.Once = true
			case "/zipf":
				s.Distribution, _ = gen.ParseDistribution("zipf:1.2")
			case "/precise":
				s.Precise = true
			}
			th, j := benchJob(b, s)
			now, count := int64(0), func() uint64 {
				return j.stats.Dir[Read].IOs + j.stats.Dir[Write].IOs
			}
			b.ResetTimer()
			for count() < uint64(b.N) {
				now += 5000
				th.Poll(64, now)
			}
		})
	}
}
