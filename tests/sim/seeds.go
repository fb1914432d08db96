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
)

var (
	flagSeeds = flag.Int("seeds", 0, "how many seeds each simulated test runs (0: its default)")
	flagSeed  = flag.Uint64("seed", 0, "the first seed (0: a fixed one, or with -seeds a fresh one)")
	flagTrace = flag.Bool("simtrace", false, "write the trace of every seed to standard output; use with -seed")
)

const (
	maxFailures = 3   // seeds reported before a test gives up
	tailLines   = 120 // lines of trace in a report
)

// Case is one seed of a test.
type Case struct {
	Seed  uint64
	Rand  *Rand
	Trace *Trace
}

// NewCase returns the beginning of the run of a seed. The trace is also written to live, unless that is nil.
func NewCase(seed uint64, live io.Writer) *Case {
	return &Case{Seed: seed, Rand: NewRand(seed), Trace: NewTrace(live)}
}

// plan says which seeds to run: the flags' or the default.
func plan(count int) (first uint64, n int) {
	first, n = *flagSeed, *flagSeeds
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
// the number of seeds that -seeds asks for, for tests whose seeds are long.
func ForEachSeed(t *testing.T, count, scale int, fn func(c *Case) error) {
	t.Helper()
	first, n := plan(count)
	if *flagSeeds > 1 {
		n = max(1, n/scale)
	}
	var next, failures atomic.Int64
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), n)
	if *flagTrace {
		workers = 1
	}
	start := time.Now()
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for failures.Load() < maxFailures {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				if !runSeed(t, first+uint64(i), fn) {
					failures.Add(1)
				}
			}
		}()
	}
	wg.Wait()
	took := time.Since(start)
	t.Logf("%d seeds from %d in %v (%.0f a second)", min(next.Load(), int64(n)), first, took.Round(time.Millisecond),
		float64(min(next.Load(), int64(n)))/took.Seconds())
}

// runSeed runs one seed and reports whether it passed.
func runSeed(t *testing.T, seed uint64, fn func(c *Case) error) bool {
	var live io.Writer
	if *flagTrace {
		live = os.Stdout
	}
	c := NewCase(seed, live)
	err := guarded(c, fn)
	if err == nil {
		return true
	}
	var b bytes.Buffer
	c.Trace.Tail(&b, tailLines)
	t.Errorf("seed %d: %v\ntrace:\n%s\nreplay: go test %s -run '^%s$' -seed %d",
		seed, err, b.String(), callerPackage(), strings.ReplaceAll(t.Name(), "/", "$/^"), seed)
	return false
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
