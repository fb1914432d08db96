package poller

import (
	"math"
	"time"

	"goftl/internal/assert"
)

// entry is what a Poll reads of an active poller; a nil fn marks one that left during a Poll.
type entry struct {
	fn   Func
	arg  any
	p    *Poller
	runs uint64
}

// Set is a set of pollers. The zero value is empty and ready for use.
type Set struct {
	active   []entry
	timed    []*Poller // a binary heap by (deadline, order)
	all      []*Poller // in the order of registration
	current  *Poller   // the timed poller whose callback is running
	now      int64
	next     int64 // deadline of timed[0]; meaningless while timed is empty
	unbacked int   // active pollers that run and are not event-backed
	gone     int   // entries of active whose fn is nil
	ids      uint64
	orders   uint64
	started  bool // a time was given
	polling  bool
}

// Register adds a poller. A period of 0 makes it active; otherwise it runs first one period after the time of the
// last Poll or Advance (of the first one to come, when there was none yet), then every period. A Poll that comes late
// runs it once, not once for each period missed. name is for people.
func (s *Set) Register(name string, fn Func, arg any, period time.Duration) *Poller {
	assert.That(fn != nil, "poller: a poller without a callback")
	assert.That(period >= 0, "poller: a negative period")
	s.ids++
	p := &Poller{set: s, name: name, fn: fn, arg: arg, id: s.ids, period: int64(period), slot: -1}
	s.all = append(s.all, p)
	p.join()
	return p
}

// Len returns how many pollers are registered, paused ones included.
func (s *Set) Len() int { return len(s.all) }

// All returns the registered pollers in the order of registration. The slice is the set's own: it is valid until the
// next Register or Unregister and must not be changed.
func (s *Set) All() []*Poller { return s.all }

// Now returns the time given last.
func (s *Set) Now() int64 { return s.now }

// NextDeadline returns the earliest deadline of a timed poller.
func (s *Set) NextDeadline() (int64, bool) {
	if len(s.timed) == 0 {
		return math.MaxInt64, false
	}
	return s.next, true
}

// HasUnbacked reports whether there is an active poller that is neither paused nor event-backed: the loop must poll.
func (s *Set) HasUnbacked() bool { return s.unbacked > 0 }

// Advance tells the time, in nanoseconds of a monotonic clock, without polling.
func (s *Set) Advance(now int64) {
	if !s.started {
		s.start(now)
	}
	s.now = now
}

// start moves the deadlines set before any time was known; they are relative to zero, so their order stays.
func (s *Set) start(now int64) {
	s.started = true
	for _, p := range s.timed {
		p.deadline += now
	}
	s.next += now
}

// Poll runs every active poller once and then the timed ones whose time has come, each at most once. It returns Busy
// when one of them did. It must not be called from a callback.
func (s *Set) Poll(now int64) Result {
	s.Advance(now)
	assert.That(!s.polling, "poller: Poll from a callback")
	s.polling = true
	res := Idle
	n := len(s.active)
	for i := 0; i < n; i++ {
		e := &s.active[i]
		if e.fn == nil {
			continue
		}
		e.runs++
		p := e.p
		if e.fn(e.arg) == Busy {
			p.busy++
			res = Busy
		}
	}
	if s.gone > 0 {
		s.compact()
	}
	if len(s.timed) > 0 && s.next <= now && s.pollTimed(now) == Busy {
		res = Busy
	}
	s.polling = false
	return res
}

// pollTimed runs the timed pollers that are due. What is armed meanwhile gets a deadline after now, so this ends.
func (s *Set) pollTimed(now int64) Result {
	res := Idle
	for len(s.timed) > 0 && s.next <= now {
		p := s.timed[0]
		s.disarm(p)
		p.state = Running
		p.runs++
		s.current = p
		if p.fn(p.arg) == Busy {
			p.busy++
			res = Busy
		}
		s.current = nil
		if p.state != Running {
			continue // paused or unregistered by its callback
		}
		p.state = Waiting
		due := p.deadline + p.period
		if due <= now {
			due = now + p.period
		}
		s.arm(p, due)
	}
	return res
}

func (s *Set) activate(p *Poller) {
	p.slot = len(s.active)
	s.active = append(s.active, entry{fn: p.fn, arg: p.arg, p: p})
	if !p.backed {
		s.unbacked++
	}
}

func (s *Set) deactivate(p *Poller) {
	e := &s.active[p.slot]
	p.runs += e.runs
	e.fn, e.arg = nil, nil
	p.slot = -1
	if !p.backed {
		s.unbacked--
	}
	s.gone++
	if !s.polling {
		s.compact()
	}
}

// compact closes the gaps in active and keeps the order.
func (s *Set) compact() {
	kept := 0
	for i := range s.active {
		if s.active[i].fn == nil {
			continue
		}
		if kept != i {
			s.active[kept] = s.active[i]
			s.active[kept].p.slot = kept
		}
		kept++
	}
	clear(s.active[kept:])
	s.active = s.active[:kept]
	s.gone = 0
}

func (s *Set) forget(p *Poller) {
	for i, q := range s.all {
		if q == p {
			copy(s.all[i:], s.all[i+1:])
			s.all[len(s.all)-1] = nil
			s.all = s.all[:len(s.all)-1]
			return
		}
	}
	assert.That(false, "poller: not in its set")
}
