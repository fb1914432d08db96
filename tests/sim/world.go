package sim

import (
	"errors"
	"fmt"

	"goftl/poller"
	"goftl/thread"
)

// Errors of World.Run.
var (
	ErrQuiet = errors.New("nothing is left that could run")
	ErrSteps = errors.New("too many steps")
)

// spinLimit is how many busy polls a thread gets between two events before the clock is moved on regardless.
const spinLimit = 50

// Forever is a limit that is never reached.
const Forever = ^uint64(0)

// WorldOptions shape the scheduler.
type WorldOptions struct {
	Start int64 // virtual time of the beginning, ns

	// A step of the scheduler costs this much virtual time.
	StepMin, StepMax int64

	Stall   float64 // chance, per step, that a thread is not scheduled for a while
	StallNs int64   // the longest such while
	Jump    float64 // chance, per step, that time leaps
	JumpNs  int64   // the farthest leap
}

// RandomWorldOptions draws a scheduler: from a calm machine to one that keeps descheduling threads.
func RandomWorldOptions(r *Rand) WorldOptions {
	o := WorldOptions{Start: 1e9, StepMin: 20, StepMax: r.Range(20, 5000)}
	if r.Chance(0.3) {
		o.Stall, o.StallNs = 0.01, r.Range(1e3, 1e6)
		if r.Chance(0.1) {
			o.StallNs = r.Range(1e6, 5e9)
		}
	}
	if r.Chance(0.1) {
		o.Jump, o.JumpNs = 1e-4, r.Range(1e6, 5e9)
	}
	return o
}

type timed struct {
	at  int64
	seq uint64
	fn  func(arg any)
	arg any
}

// World is one life of a process under a virtual clock.
type World struct {
	Rand  *Rand
	Trace *Trace

	opt      WorldOptions
	sys      *thread.System
	now      int64
	events   []timed // heap by (at, seq)
	seq      uint64
	steps    uint64
	progress uint64 // steps at the last Progress
	idle     int    // polls in a row that found nothing to do
	busy     int    // busy polls since an event fired or time was moved
	spins    uint64
	stalled  map[*thread.Thread]int64
	stallNs  int64 // how long some thread was stalled, to the end of the stall that ends last
	stallEnd int64
	ready    []*thread.Thread // scratch
	current  *thread.Thread
}

// NewWorld returns an empty World at opt.Start.
func NewWorld(r *Rand, tr *Trace, opt WorldOptions) *World {
	if opt.StepMax < opt.StepMin {
		opt.StepMax = opt.StepMin
	}
	return &World{
		Rand: r, Trace: tr, opt: opt, sys: thread.NewSystem(), now: opt.Start,
		stalled: make(map[*thread.Thread]int64),
	}
}

// System is the thread system of this life.
func (w *World) System() *thread.System { return w.sys }

// Now is the virtual time in ns.
func (w *World) Now() int64 { return w.now }

// Steps counts the scheduler's decisions so far.
func (w *World) Steps() uint64 { return w.steps }

// Spins counts how often the clock had to be moved on although threads were busy.
func (w *World) Spins() uint64 { return w.spins }

// Stalled is for how long, in ns, some thread was not scheduled so far.
func (w *World) Stalled() int64 { return w.stallNs - max(w.stallEnd-w.now, 0) }

// Note adds an entry to the trace at the present time.
func (w *World) Note(who, what string, id, lba, count uint64, err error) {
	w.Trace.Add(Entry{At: w.now, Who: who, What: what, ID: id, LBA: lba, Count: count, Err: err})
}

// After calls fn(arg) from the scheduler, on no thread, when delay ns of virtual time have passed.
func (w *World) After(delay int64, fn func(arg any), arg any) {
	w.seq++
	w.pushEvent(timed{at: w.now + max(delay, 0), seq: w.seq, fn: fn, arg: arg})
}

// Step makes one decision: it polls one thread, fires one due event, or moves the clock to the next thing that has a
// time. It returns false when there is none of these.
func (w *World) Step() bool {
	w.steps++
	w.now += w.Rand.Range(w.opt.StepMin, w.opt.StepMax)
	if w.Rand.Chance(w.opt.Jump) {
		w.now += w.Rand.Range(1, w.opt.JumpNs)
	}
	w.collect()
	due := len(w.events) > 0 && w.events[0].at <= w.now
	// Threads that only spin (active pollers with nothing to do) must not keep the clock from reaching what they wait for.
	// Nor must threads that find something to do again and again: that costs processor time, and time passes.
	spinning := w.busy > spinLimit*(len(w.ready)+1)
	if !due && (len(w.ready) == 0 || w.idle > 2*len(w.ready)+2 || spinning) {
		if w.leap() {
			if spinning {
				w.spins++
			}
			w.idle, w.busy = 0, 0
			return true
		}
		if len(w.ready) == 0 {
			return false
		}
	}
	n := len(w.ready)
	if due {
		n++
	}
	pick := w.Rand.IntN(n)
	if pick == len(w.ready) {
		e := w.popEvent()
		w.idle, w.busy = 0, 0
		e.fn(e.arg)
		return true
	}
	t := w.ready[pick]
	if w.Rand.Chance(w.opt.Stall) {
		w.stall(t, w.Rand.Range(1, w.opt.StallNs))
		return true
	}
	w.poll(t)
	return true
}

// stall has a thread not be scheduled for a while.
func (w *World) stall(t *thread.Thread, ns int64) {
	end := w.now + ns
	w.stalled[t] = end
	if end > w.stallEnd {
		w.stallNs += end - max(w.now, w.stallEnd)
		w.stallEnd = end
	}
}

func (w *World) poll(t *thread.Thread) {
	w.current = t
	defer func() { w.current = nil }() // also when a crash ends the poll
	if t.Poll(int(w.Rand.Skewed(64)), w.now) == poller.Busy {
		w.idle = 0
		w.busy++
	} else {
		w.idle++
	}
}

// Current is the thread that is being polled; nil in an event and between steps.
func (w *World) Current() *thread.Thread { return w.current }

// collect gathers the threads that have something to do now.
func (w *World) collect() {
	w.ready = w.ready[:0]
	for _, t := range w.sys.Threads() {
		if until, ok := w.stalled[t]; ok {
			if until > w.now {
				continue
			}
			delete(w.stalled, t)
		}
		if t.HasWork() || w.timerDue(t) || w.Rand.IntN(256) == 0 { // a host may poll without a reason
			w.ready = append(w.ready, t)
		}
	}
}

func (w *World) timerDue(t *thread.Thread) bool {
	at, ok := t.NextTimer()
	return ok && at <= w.now
}

// leap moves the clock to the next event, timer or end of a stall.
func (w *World) leap() bool {
	next, found := int64(0), false
	consider := func(at int64) {
		if !found || at < next {
			next, found = at, true
		}
	}
	if len(w.events) > 0 {
		consider(w.events[0].at)
	}
	for _, t := range w.sys.Threads() {
		if until, ok := w.stalled[t]; ok {
			consider(until)
			continue
		}
		if at, ok := t.NextTimer(); ok {
			consider(at)
		}
	}
	if !found || next <= w.now {
		return false
	}
	w.now = next
	return true
}

// Progress says that part of what Run waits for has come about: its limit begins anew.
func (w *World) Progress() { w.progress = w.steps }

// Run steps until cond holds. It fails with ErrQuiet when nothing is left to run and with ErrSteps after limit steps
// without Progress.
func (w *World) Run(limit uint64, cond func() bool) error {
	w.Progress()
	for !cond() {
		if w.steps-w.progress >= limit {
			return fmt.Errorf("%w: %d, at %d ns", ErrSteps, limit, w.now)
		}
		if !w.Step() {
			return fmt.Errorf("%w, at %d ns", ErrQuiet, w.now)
		}
	}
	return nil
}

// RunFor steps until ns of virtual time have passed or nothing is left to run.
func (w *World) RunFor(ns int64) {
	for end := w.now + ns; w.now < end; {
		if !w.Step() {
			w.now = end
		}
	}
}

// Call runs fn as a message on t and steps until it has run.
func (w *World) Call(t *thread.Thread, fn func()) error {
	ran := false
	t.Send(func(any) { fn(); ran = true }, nil)
	return w.Run(1e6, func() bool { return ran })
}

func (w *World) eventLess(i, j int) bool {
	a, b := &w.events[i], &w.events[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (w *World) pushEvent(e timed) {
	w.events = append(w.events, e)
	for i := len(w.events) - 1; i > 0; {
		p := (i - 1) / 2
		if !w.eventLess(i, p) {
			return
		}
		w.events[i], w.events[p] = w.events[p], w.events[i]
		i = p
	}
}

func (w *World) popEvent() timed {
	e := w.events[0]
	last := len(w.events) - 1
	w.events[0] = w.events[last]
	w.events[last] = timed{}
	w.events = w.events[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			return e
		}
		if c+1 < last && w.eventLess(c+1, c) {
			c++
		}
		if !w.eventLess(c, i) {
			return e
		}
		w.events[i], w.events[c] = w.events[c], w.events[i]
		i = c
	}
}
