package reactor

import (
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/thread"
)

// States of Reactor.sleeping.
const (
	stateAwake  = 0
	stateAsleep = 1 // or about to: whoever has something for the reactor must wake it
	stateWoken  = 2 // somebody has taken it upon himself to write the eventfd
)

// Reactor is one event loop; see the package's documentation.
type Reactor struct {
	opts Options

	sleeping atomic.Uint32
	_        [60]byte
	controls atomic.Pointer[control]
	threads  atomic.Pointer[[]*thread.Thread]
	counters published
	started  atomic.Bool
	expected atomic.Int64  // threads on their way here
	arrived  atomic.Uint64 // threads that came, ever
	done     chan struct{} // closed when the loop has ended
	_        [64]byte

	// What follows belongs to the loop.
	poll      epoll
	seats     []*seat
	now       int64
	spinUntil int64
	shareAt   int64
	napAt     int64
	lastStart int64 // start of the last busy turn whose end is not known yet; 0: none
	nap       time.Duration
	places    int32 // as of the last look, at most ShareEvery ago
	idleTurns int
	sinceLook int // turns since the file descriptors were looked at
	stats     counts
	waking    int // wakers so far; each of them writes the eventfd, some perhaps not yet
	stopping  bool
	longest   time.Duration // bound of a sleep
	inline    bool          // driven by the caller's goroutine
}

type counts struct {
	turns, busyTurns, sleeps, naps, offers, events uint64
	began, busy                                    int64
}

type published struct {
	turns, busyTurns, sleeps, naps, offers, events atomic.Uint64
	began, busy, at                                atomic.Int64
}

// Stats are the counters of a reactor, as of its last sleep or at most a millisecond of work ago.
type Stats struct {
	Name  string
	CPU   int // -1: not pinned
	Mode  Mode
	Turns uint64
	// BusyTurns are those in which a thread had work.
	BusyTurns uint64
	Sleeps    uint64 // waits in the kernel for something to do
	Naps      uint64 // sleeps cut short because a poller had to be polled, or to share the core
	Offers    uint64 // times that the core was offered to others
	Events    uint64 // events of file descriptors
	Busy      time.Duration
	Idle      time.Duration
	Threads   []string
}

// control is a message to the loop itself, in a list, newest first.
type control struct {
	fn   func(r *Reactor)
	next *control
}

// New makes a reactor. It fails with unix.EINVAL for options that cannot be met, such as a CPU that does not exist.
func New(o Options) (*Reactor, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("reactor: %w", err)
	}
	r := &Reactor{opts: o, done: make(chan struct{}), nap: napFirst, longest: math.MaxInt64, places: places()}
	r.threads.Store(&[]*thread.Thread{})
	if err := r.poll.open(); err != nil {
		return nil, fmt.Errorf("reactor %q: %w", o.Name, err)
	}
	return r, nil
}

// Name returns the reactor's name.
func (r *Reactor) Name() string { return r.opts.Name }

// CPU returns the CPU the reactor runs on, -1 for any.
func (r *Reactor) CPU() int { return r.opts.CPU }

// Mode returns the reactor's mode.
func (r *Reactor) Mode() Mode { return r.opts.Mode }

// Threads returns the threads that the reactor polls. The slice must not be changed.
func (r *Reactor) Threads() []*thread.Thread { return *r.threads.Load() }

// Stats returns the reactor's counters.
func (r *Reactor) Stats() Stats {
	p := &r.counters
	s := Stats{
		Name: r.opts.Name, CPU: r.opts.CPU, Mode: r.opts.Mode,
		Turns: p.turns.Load(), BusyTurns: p.busyTurns.Load(), Sleeps: p.sleeps.Load(), Naps: p.naps.Load(),
		Offers: p.offers.Load(), Events: p.events.Load(), Busy: time.Duration(p.busy.Load()),
	}
	s.Idle = time.Duration(p.at.Load()-p.began.Load()) - s.Busy
	for _, t := range r.Threads() {
		s.Threads = append(s.Threads, t.Name())
	}
	return s
}

// Start begins the loop. A reactor is started once.
func (r *Reactor) Start() {
	assert.That(r.started.CompareAndSwap(false, true), "reactor: started twice")
	go r.run()
}

// Stop ends the loop after the current turn and waits for that. The threads stay as they are and may be added to
// another reactor. It must not be called by code that runs on the reactor.
func (r *Reactor) Stop() {
	if r.started.CompareAndSwap(false, true) {
		r.close()
		close(r.done)
		return
	}
	r.control(func(r *Reactor) { r.stopping = true })
	<-r.done
}

// Wake makes the loop look for work if it sleeps.
func (r *Reactor) Wake() {
	if r.sleeping.Load() == stateAsleep && r.sleeping.CompareAndSwap(stateAsleep, stateWoken) {
		r.poll.ring()
	}
}

// control has fn called by the loop.
func (r *Reactor) control(fn func(r *Reactor)) {
	c := &control{fn: fn}
	for {
		c.next = r.controls.Load()
		if r.controls.CompareAndSwap(c.next, c) {
			break
		}
	}
	r.Wake()
}

func (r *Reactor) runControls() {
	list := r.controls.Swap(nil)
	var inOrder *control
	for list != nil {
		list, list.next, inOrder = list.next, inOrder, list
	}
	for c := inOrder; c != nil; c = c.next {
		c.fn(r)
	}
}

// run is the loop. It returns without unlocking the OS thread, which therefore ends, and its affinity with it.
func (r *Reactor) run() {
	runtime.LockOSThread()
	defer close(r.done)
	r.pin()
	awake.Add(1)
	for !r.stopping {
		r.turn()
	}
	awake.Add(-1)
	r.publish()
	r.close()
}

// pin sets the affinity, makes short sleeps short, and asks for the CPU in short slices. The CPU was checked by New;
// should it have gone since then, running elsewhere is better than not running, and so it is with the rest.
func (r *Reactor) pin() {
	if r.opts.CPU >= 0 {
		var set unix.CPUSet
		set.Set(r.opts.CPU)
		_ = unix.SchedSetaffinity(0, &set)
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(time.Microsecond), 0, 0, 0)
	if a, err := unix.SchedGetAttr(0, 0); err == nil && a.Policy == unix.SCHED_NORMAL {
		a.Runtime = uint64(slice)
		_ = unix.SchedSetAttr(0, a, 0)
	}
}

// close gives the descriptors back once nobody can be in the middle of waking the reactor.
func (r *Reactor) close() {
	for r.waking > 0 {
		r.waking -= r.poll.unring()
		runtime.Gosched()
	}
	r.poll.close()
}
