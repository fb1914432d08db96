package poller

import "time"

// Result says whether a callback, or a whole turn of a loop, found work.
type Result uint8

const (
	// Idle means that there was nothing to do.
	Idle Result = iota
	// Busy means that work was done, so it is worth polling again at once.
	Busy
)

// String returns "idle" or "busy".
func (r Result) String() string {
	if r == Busy {
		return "busy"
	}
	return "idle"
}

// Func is a poller's callback. It must not block. arg is what was given to Register.
type Func func(arg any) Result

// State is what a poller is doing.
type State uint8

const (
	// Waiting pollers run in the next Poll, or when their time has come.
	Waiting State = iota
	// Running is the state of a timed poller inside its own callback.
	Running
	// Paused pollers are registered but do not run.
	Paused
	// Unregistered pollers never run again.
	Unregistered
)

// String returns the state in the words that SPDK uses for it.
func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Running:
		return "running"
	case Paused:
		return "paused"
	case Unregistered:
		return "unregistered"
	}
	return "unknown"
}

// Stats are the counters of one poller.
type Stats struct {
	ID     uint64
	Name   string
	Period time.Duration // 0 for an active poller
	State  State
	Runs   uint64 // calls of the callback
	Busy   uint64 // calls that returned Busy
	// EventBacked is what SetEventBacked said last.
	EventBacked bool
}

// Poller is one registered callback. Its methods may be called only on the thread that polls its set.
type Poller struct {
	set    *Set
	name   string
	fn     Func
	arg    any
	id     uint64
	period int64

	slot     int // index in set.active of an active poller, in set.timed of a timed one; -1: in neither
	deadline int64
	order    uint64 // of arming: decides between equal deadlines

	runs   uint64 // of an active poller: those of earlier stays in set.active
	busy   uint64
	state  State
	backed bool
}

// Name returns the name given to Register.
func (p *Poller) Name() string { return p.name }

// ID returns the poller's number, unique in its set.
func (p *Poller) ID() uint64 { return p.id }

// Period returns the period given to Register, 0 for an active poller.
func (p *Poller) Period() time.Duration { return time.Duration(p.period) }

// Stats returns the poller's counters.
func (p *Poller) Stats() Stats {
	runs := p.runs
	if p.period == 0 && p.slot >= 0 {
		runs += p.set.active[p.slot].runs
	}
	return Stats{
		ID: p.id, Name: p.name, Period: p.Period(), State: p.state,
		Runs: runs, Busy: p.busy, EventBacked: p.backed,
	}
}

// Pause stops the poller until Resume. Pausing twice, or after Unregister, does nothing.
func (p *Poller) Pause() {
	if p.state != Waiting && p.state != Running {
		return
	}
	p.leave()
	p.state = Paused
}

// Resume lets a paused poller run again: an active one from the next Poll, a timed one a whole period from now.
// Resuming a poller that is not paused does nothing.
func (p *Poller) Resume() {
	if p.state != Paused {
		return
	}
	if p.period != 0 && p.set.current == p {
		p.state = Running // the end of its callback arms it
		return
	}
	p.state = Waiting
	p.join()
}

// Unregister ends the poller for good. The callback does not run again, but when it is the callback that calls
// Unregister, it goes on to its end: what arg refers to must live that long. Doing it twice does nothing.
func (p *Poller) Unregister() {
	if p.state == Unregistered {
		return
	}
	p.leave()
	p.state = Unregistered
	p.set.forget(p)
}

// SetEventBacked says that a file descriptor that the loop watches becomes ready whenever this active poller has
// work, so that the loop may sleep although the poller is active. It does nothing to a timed poller.
func (p *Poller) SetEventBacked(backed bool) {
	if p.backed == backed {
		return
	}
	p.backed = backed
	if p.period != 0 || p.slot < 0 {
		return
	}
	if backed {
		p.set.unbacked--
	} else {
		p.set.unbacked++
	}
}

// join puts a waiting poller among those that run.
func (p *Poller) join() {
	if p.period != 0 {
		p.set.arm(p, p.set.now+p.period)
		return
	}
	p.set.activate(p)
}

// leave takes the poller out of those that run, if it is there.
func (p *Poller) leave() {
	if p.slot < 0 {
		return
	}
	if p.period != 0 {
		p.set.disarm(p)
		return
	}
	p.set.deactivate(p)
}
