package reactor

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

// Mode says when a reactor without work sleeps.
type Mode uint8

const (
	// Adaptive reactors look for work a little longer (Options.Spin) and then sleep. The default.
	Adaptive Mode = iota
	// Poll reactors never sleep while they have threads. Worth it only where a core is to spare.
	Poll
	// Interrupt reactors sleep as soon as there is nothing to do.
	Interrupt
)

// String returns the mode's name in a configuration.
func (m Mode) String() string {
	switch m {
	case Adaptive:
		return "adaptive"
	case Poll:
		return "poll"
	case Interrupt:
		return "interrupt"
	}
	return "unknown"
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, error) {
	for m := Adaptive; m <= Interrupt; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("reactor mode %q: must be adaptive, poll or interrupt: %w", s, unix.EINVAL)
}

const (
	// DefaultSpin is how long an adaptive reactor looks for work before it sleeps, where a core is spare: about what
	// going to sleep and waking up cost.
	DefaultSpin = 15 * time.Microsecond
	// ShareEvery and ShareNap: while reactors that do not sleep have every core or processor, each of them sleeps
	// ShareNap in every ShareEvery, so that the rest of the process gets on.
	ShareEvery = time.Millisecond
	// ShareNap is explained at ShareEvery.
	ShareNap = 50 * time.Microsecond

	// slice is what a reactor asks of Linux as the time that it may run at a stretch while others want its CPU; the
	// least that there is. It gets no less of the CPU by that, but sooner: a thread with a shorter slice takes the CPU
	// from one with a longer slice when it wakes up. Kernels before 6.12 ignore it. Linux looks whether a slice is over
	// at its tick only, every 4 ms at 250 Hz, so a reactor that has work offers the CPU itself. Who wants it may be
	// the goroutine that stops the world for a garbage collection.
	slice = 100 * time.Microsecond
	// offerEvery is how often. Whoever offers forfeits what is left of his slice, so it is best done at its end; just
	// after it the next slice has begun, and offering would cost a third of the share beside a busy process.
	offerEvery = slice * 9 / 10

	napFirst   = 50 * time.Microsecond // first nap beside pollers that must be polled
	napLongest = 2 * time.Millisecond  // longest such nap

	shareIdle    = 256 // idle turns of a reactor in poll mode after which it shares its core before it is time to
	collectEvery = 16  // turns between two looks at the file descriptors of a reactor that does not sleep
	clockEvery   = 16  // idle turns between two looks at the clock
)

// Options describe a reactor.
type Options struct {
	Name  string        // for people; default "reactor"
	CPU   int           // the CPU to run on, -1 for any. CPU 0 is a CPU: say -1 when it does not matter
	Mode  Mode          // default Adaptive
	Spin  time.Duration // of an adaptive reactor; 0: DefaultSpin, negative: none
	Batch int           // messages of each kind per thread and turn; default thread.DefaultBatch
}

func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = "reactor"
	}
	if o.Mode > Interrupt {
		return fmt.Errorf("reactor %q: mode %d does not exist: %w", o.Name, o.Mode, unix.EINVAL)
	}
	if o.Spin == 0 {
		o.Spin = DefaultSpin
	}
	if o.Mode == Interrupt || o.Spin < 0 {
		o.Spin = 0
	}
	if o.Batch <= 0 {
		o.Batch = thread.DefaultBatch
	}
	return checkCPU(o.CPU)
}

// allowed is what the process was allowed at its start, before anything was pinned: later the main thread may be a
// pinned one.
var allowed, errAllowed = affinity()

func affinity() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("affinity of the process: %w", err)
	}
	list := make([]int, 0, set.Count())
	for cpu := 0; len(list) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list, nil
}

// CPUs returns the CPUs that the process may run on, in ascending order.
func CPUs() ([]int, error) { return append([]int(nil), allowed...), errAllowed }

func checkCPU(cpu int) error {
	if cpu == -1 {
		return nil
	}
	list, err := CPUs()
	if err != nil {
		return err
	}
	for _, c := range list {
		if c == cpu {
			return nil
		}
	}
	return fmt.Errorf("cpu %d: does not exist or is not allowed to this process, which may use %v: %w",
		cpu, list, unix.EINVAL)
}

// Procs returns the GOMAXPROCS that n reactors need: one each and one for everything else, at least three. Group.Start
// sees to it.
func Procs(n int) int { return max(3, n+1) }

func raiseProcs(n int) {
	if want := Procs(n); runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
}

// awake counts the reactors of the process that are not asleep. It is the one global variable of the package, because
// cores are shared by all of the process.
var awake atomic.Int32

// places returns how many loops that never sleep the process has room for: cores, and processors of the Go scheduler.
func places() int32 { return int32(min(runtime.NumCPU(), runtime.GOMAXPROCS(0))) }

var epoch = time.Now()

// Now returns the time that reactors pass to threads: nanoseconds of the monotonic clock since the process started,
// never 0.
func Now() int64 { return int64(time.Since(epoch)) + 1 }
