package reactor

import (
	"math"
	"time"

	"goftl/poller"
)

// turn is one round: control messages, every thread, file descriptors, and sleep when there is nothing to do.
func (r *Reactor) turn() {
	if r.idleTurns%clockEvery == 0 {
		r.now = Now()
	}
	if r.lastStart != 0 {
		r.stats.busy += r.now - r.lastStart
		r.lastStart = 0
	}
	if r.controls.Load() != nil {
		r.runControls()
	}
	start := r.now
	busy := r.pollThreads()
	safepoint()
	r.stats.turns++
	if r.sinceLook++; r.sinceLook >= collectEvery && r.poll.watched > 0 {
		r.sinceLook = 0
		busy = r.dispatch(r.poll.look()) || busy
	}
	if busy {
		r.stats.busyTurns++
		r.lastStart = start
		r.idleTurns = 0
		r.spinUntil = start + int64(r.opts.Spin)
		r.nap = napFirst
		r.share()
		return
	}
	r.idleTurns++
	r.idle()
}

// pollThreads polls every thread once. With several of them the clock is read after a busy one, so that each is
// charged for its own time.
func (r *Reactor) pollThreads() bool {
	busy := false
	several := len(r.seats) > 1
	for i := 0; i < len(r.seats); i++ {
		s := r.seats[i]
		if s.thread.Poll(r.opts.Batch, r.now) == poller.Busy {
			busy = true
			if several {
				r.now = Now()
				s.thread.Ended(r.now)
			}
		}
		if s.thread.Exited() {
			r.dismiss(s)
			i--
		}
	}
	return busy
}

// idle decides what a turn without work ends with: another turn, or sleep.
func (r *Reactor) idle() {
	if len(r.seats) > 0 && !r.stopping {
		if r.opts.Mode == Poll {
			if r.idleTurns%shareIdle == 0 && !r.spare() {
				r.shareAt, r.napAt = 0, 0 // nothing to lose by sharing more often
			}
			r.share()
			return
		}
		if r.now < r.spinUntil {
			if r.spare() {
				return
			}
			r.spinUntil = 0
		}
	}
	if !r.stopping {
		r.sleepForWork()
	}
}

// sleepForWork sleeps until a message, a file descriptor, the next timer, or, while there are pollers that only
// polling serves, for a nap, which grows while they find nothing.
func (r *Reactor) sleepForWork() {
	until, timed := r.nextTimer()
	r.now = Now()
	r.idleTurns = 0
	if timed && until <= r.now {
		return
	}
	left := r.longest
	if timed {
		left = min(left, time.Duration(until-r.now))
	}
	r.publish()
	if !r.mustPoll() {
		r.stats.sleeps++
		r.sleep(left)
		return
	}
	r.stats.naps++
	r.sleep(min(left, r.nap))
	r.nap = min(2*r.nap, napLongest)
}

func (r *Reactor) nextTimer() (int64, bool) {
	first, found := int64(math.MaxInt64), false
	for _, s := range r.seats {
		if at, ok := s.thread.NextTimer(); ok && at < first {
			first, found = at, true
		}
	}
	return first, found
}

// mustPoll reports whether a thread has a poller that no event announces.
func (r *Reactor) mustPoll() bool {
	for _, s := range r.seats {
		if s.thread.MustPoll() {
			return true
		}
	}
	return false
}

// spare reports whether a place is left beside the reactors that are awake.
func (r *Reactor) spare() bool { return awake.Load() < r.places }

// share gives others their share of the core. It offers the core before a slice is over; and when reactors have taken
// every place, it leaves the core every ShareEvery. One that naps keeps its place: its nap may last, because the
// runtime lets nobody come back while it stops the world, and then the others must go on sharing.
func (r *Reactor) share() {
	if r.now < r.shareAt {
		return
	}
	nap := false
	if r.now >= r.napAt {
		r.napAt = r.now + int64(ShareEvery)
		r.publish()
		r.places = places()
		nap = !r.spare()
	}
	r.shareAt = min(r.now+int64(offerEvery), r.napAt)
	from := Now()
	for _, s := range r.seats {
		s.thread.Ended(from)
	}
	if nap {
		r.stats.naps++
		r.poll.pause(ShareNap)
	} else {
		r.stats.offers++
		offer()
	}
	r.now = Now()
	if r.lastStart != 0 {
		r.lastStart += r.now - from
	}
}

// sleep waits in the kernel for at most d; with messages there, not at all. The order matters: the threads' flags, the
// reactor's, then the look at the queues. A sender does the opposite, so one of the two sees the other.
func (r *Reactor) sleep(d time.Duration) {
	for _, s := range r.seats {
		s.thread.SetAsleep(true)
	}
	r.sleeping.Store(stateAsleep)
	n := 0
	if !r.hasMessages() {
		awake.Add(-1)
		n = r.poll.wait(d)
		awake.Add(1)
	}
	if r.sleeping.Swap(stateAwake) == stateWoken {
		r.waking++
	}
	for _, s := range r.seats {
		s.thread.SetAsleep(false)
	}
	r.sinceLook = 0
	r.now = Now()
	if r.dispatch(n) {
		r.spinUntil = r.now + int64(r.opts.Spin)
		r.nap = napFirst
	}
}

func (r *Reactor) hasMessages() bool {
	if r.controls.Load() != nil {
		return true
	}
	for _, s := range r.seats {
		if s.thread.HasMessages() {
			return true
		}
	}
	return false
}

// dispatch delivers the first n events collected and reports whether a thread got one.
func (r *Reactor) dispatch(n int) bool {
	delivered := false
	for i := range n {
		w, events := r.poll.event(i)
		if w == nil {
			continue // closed by the callback of an earlier event
		}
		if w == &r.poll.bell {
			continue
		}
		delivered = true
		r.stats.events++
		w.seat.thread.Event(w.fn, w.arg, events, r.now)
		if len(r.seats) > 1 {
			r.now = Now()
			w.seat.thread.Ended(r.now)
		}
	}
	return delivered
}

func (r *Reactor) publish() {
	p, c := &r.counters, &r.stats
	if c.began == 0 {
		c.began = r.now
	}
	p.turns.Store(c.turns)
	p.busyTurns.Store(c.busyTurns)
	p.sleeps.Store(c.sleeps)
	p.naps.Store(c.naps)
	p.offers.Store(c.offers)
	p.events.Store(c.events)
	p.began.Store(c.began)
	p.busy.Store(c.busy)
	p.at.Store(r.now)
	for _, s := range r.seats {
		s.busy.Store(s.thread.BusyTime())
	}
}

// safepoint is where the runtime can stop the loop in time. A function that calls nothing has no stack check, which is
// what the runtime uses to stop a goroutine; this one calls something and is never inlined. Without it a loop of raw
// system calls and tiny functions was seen to hold up the garbage collector for more than a second.
//
//go:noinline
func safepoint() { leaf() }

//go:noinline
func leaf() {}
