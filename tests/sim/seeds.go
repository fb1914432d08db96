package sim

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

var (
	flagSeeds = flag.Int("seeds", 0, "how many seeds each simulated test runs (0: its default)")
	flagTotal = flag.Int("total", 0, "how many seeds the tests of all worlds play together, each its share (0: see -seeds)")
	flagSeed  = flag.Uint64("seed", 0, "the first seed (0: a fixed one, or with -seeds a fresh one)")
	flagFails = flag.Int("failures", 3, "how many failing seeds are reported before a test gives up")
	flagTrace = flag.Bool("simtrace", false, "write the trace of every seed to standard output; use with -seed")
)

// Weights is the sum of the shares of all tests of worlds, in eighths: a test of scale s has a share of 8/s.
const Weights = 50

const tailLines = 60 // of trace in a report

// Case is one seed of a test.
type Case struct {
	Seed  uint64
	Rand  *Rand
	Trace *Trace

	Counters map[string]uint64 // what the run reached; summed up over all seeds
	Alone    bool              // nothing else runs in this process
}

// Share is the share of a test of this scale in all seeds, in eighths.
func Share(scale int) int { return 8 / scale }

// Stream returns a source of randomness of its own for one part of the run, so that what one part draws does not change
// what the others do. It depends on the seed, the name and n.
func Stream(seed uint64, name string, n uint64) *Rand {
	h := xxh3.HashString(name) ^ seed*0x9e3779b97f4a7c15 ^ n*0xc2b2ae3d27d4eb4f
	return NewRand(h ^ h>>29)
}

// Count adds to a counter.
func (c *Case) Count(name string, n uint64) { c.Counters[name] += n }

// NewCase returns the beginning of the run of a seed. The trace is also written to live, unless that is nil.
func NewCase(seed uint64, live io.Writer) *Case {
	return &Case{Seed: seed, Rand: NewRand(seed), Trace: NewTrace(live), Counters: make(map[string]uint64)}
}

// plan says which seeds to run: the flags', divided by scale, or the default.
func plan(count, scale int) (first uint64, n int) {
	first, n = *flagSeed, *flagSeeds
	switch {
	case *flagTotal > 0:
		n = max(1, (*flagTotal*8+Weights*scale/2)/(Weights*scale))
	case n > 1:
		n = max(1, n/scale)
	}
	switch {
	case n > 0 && first == 0:
		first = uint64(time.Now().UnixNano()) & (1<<48 - 1)
	case first != 0 && n == 0:
		n = 1
	case n == 0:
		first, n = 1, count
	}
	return first, n
}

// ForEachSeed runs fn for every seed that the flags ask for, or for seeds 1 to count, on every core. A seed fails when
// fn returns an error or panics; the report has the end of its trace and the command that replays it. scale divides
// the number of seeds that -seeds asks for, for tests whose seeds are long. It returns the sums of the counters.
func ForEachSeed(t *testing.T, count, scale int, fn func(c *Case) error) map[string]uint64 {
	t.Helper()
	first, n := plan(count, scale)
	workers := min(runtime.GOMAXPROCS(0), n)
	if *flagTrace || InChild() {
		workers = 1
	}
	s := &sweep{t: t, first: first, n: int64(n), fn: fn, alone: workers == 1, counters: make(map[string]uint64)}
	start := time.Now()
	defer s.progress(start)()
	for range workers {
		s.wg.Add(1)
		go s.work()
	}
	s.wg.Wait()
	s.report(start)
	return s.counters
}

// FirstSeed is the first seed that the flags ask for, or 1.
func FirstSeed() uint64 { return max(1, *flagSeed) }

// OneCase runs fn once, as ForEachSeed does for a seed. replay is the command that does the same.
func OneCase(t *testing.T, seed uint64, replay string, fn func(c *Case) error) {
	t.Helper()
	s := &sweep{t: t, first: seed, n: 1, fn: fn, alone: true, replay: replay}
	s.runSeed(seed)
}

// sweep is one call of ForEachSeed.
type sweep struct {
	t        *testing.T
	first    uint64
	n        int64
	fn       func(c *Case) error
	alone    bool
	replay   string // command; "": made of test and seed
	next     atomic.Int64
	done     atomic.Int64
	cpu      atomic.Int64 // ns that the children took
	failures atomic.Int64
	wg       sync.WaitGroup
	mu       sync.Mutex
	counters map[string]uint64
}

func (s *sweep) work() {
	defer s.wg.Done()
	for s.failures.Load() < int64(*flagFails) {
		i := s.next.Add(1) - 1
		if i >= s.n {
			return
		}
		c, ok := s.runSeed(s.first + uint64(i))
		if !ok {
			s.failures.Add(1)
		}
		s.done.Add(1)
		s.add(c.Counters)
	}
}

func (s *sweep) add(counters map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range counters {
		s.counters[k] += v
	}
}

const progressEvery = 10 * time.Second

// progress says every now and then how far the seeds are, until the function that it returns is called.
func (s *sweep) progress(start time.Time) (end func()) {
	if InChild() || *flagTrace {
		return func() {}
	}
	tick, stop := time.NewTicker(progressEvery), make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			done, took := min(s.done.Load(), s.n), time.Since(start)
			if done == 0 {
				continue
			}
			left := time.Duration(float64(took) / float64(done) * float64(s.n-done))
			fmt.Printf("%s: %d of %d seeds, %.0f a minute, %v left, %d failures\n", s.t.Name(), done, s.n,
				float64(done)/took.Minutes(), left.Round(time.Second), s.failures.Load())
		}
	}()
	return func() { tick.Stop(); close(stop) }
}

func (s *sweep) report(start time.Time) {
	n, took := s.done.Load(), time.Since(start)
	cpu := ""
	if ns := s.cpu.Load(); ns > 0 && n > 0 {
		cpu = fmt.Sprintf(", %.0f ms of CPU each", float64(ns)/float64(n)/1e6)
	}
	s.t.Logf("%d seeds from %d in %v (%.0f a minute%s)", n, s.first, took.Round(time.Millisecond), float64(n)/took.Minutes(), cpu)
}

// runSeed runs one seed and reports whether it passed.
func (s *sweep) runSeed(seed uint64) (*Case, bool) {
	t := s.t
	var live io.Writer
	if *flagTrace {
		live = os.Stdout
	}
	c := NewCase(seed, live)
	c.Alone = s.alone
	err := guarded(c, s.fn)
	if err == nil {
		return c, true
	}
	var b bytes.Buffer
	c.Trace.Tail(&b, tailLines)
	replay := s.replay
	if replay == "" {
		replay = fmt.Sprintf("go test %s -run '^%s$' -seed %d", callerPackage(), strings.ReplaceAll(t.Name(), "/", "$/^"), seed)
	}
	t.Errorf("seed %d: %v\ntrace:\n%s\nreplay: %s", seed, err, b.String(), replay)
	return c, false
}

// guarded runs fn and turns a panic, such as that of an assertion, into an error.
func guarded(c *Case, fn func(c *Case) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return fn(c)
}

// callerPackage is the folder of the test that is running: go test runs a package's tests in its folder.
func callerPackage() string {
	wd, err := os.Getwd()
	if err != nil {
		return "./tests/sim/..."
	}
	if i := strings.LastIndex(wd, "/tests/"); i >= 0 {
		return "." + wd[i:]
	}
	return wd
}
