package nbd

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"goftl/poller"
)

// A host looks after its memory once a second while there is something to look
// after: slabs to give back, or sessions that wait for memory.

const (
	lookPeriod = time.Second
	// trimSlabs is how many slabs go back at a time: to take them again costs
	// up to a millisecond each, which a load that comes in bursts pays.
	trimSlabs = 16
	// What stays mapped while there are sessions: 32 MiB.
	keepData  = 14
	keepInput = 2
	// paceShare: who moves less than this part of what it holds in all of the
	// time that Limits.Stall gives does not move.
	paceShare = 32
)

var errStalled = fmt.Errorf("nbd: the client held memory that others waited for, and neither read nor sent: %w", unix.ETIMEDOUT)

// pace says how one direction of a session, in which the client owes something,
// gets on.
type pace struct {
	at    int64 // when it last did: thread.Now
	moved int   // bytes since
}

// start begins a debt.
func (p *pace) start(now int64) { p.at, p.moved = now, 0 }

// move accounts for n bytes by a client that holds held.
func (p *pace) move(n, held int, now int64) {
	if p.moved += n; p.moved > held/paceShare {
		p.at, p.moved = now, 0
	}
}

// look has the host look after its memory until there is nothing to do. It
// allocates the first time only.
func (h *Host) look() {
	switch {
	case h.watching:
		return
	case h.watch == nil:
		h.watch = h.th.RegisterPoller("nbd_memory", lookAfter, h, lookPeriod)
	default:
		h.watch.Resume()
	}
	h.watching = true
}

// unlook is called when the last session is gone.
func (h *Host) unlook() {
	if h.watch != nil {
		h.watch.Unregister()
		h.watch, h.watching = nil, false
	}
}

// lookAfter is the poller's callback.
func lookAfter(arg any) poller.Result {
	h := arg.(*Host)
	did := h.data.trim(trimSlabs) + h.input.trim(trimSlabs)
	waiting := h.starving()
	if waiting > 0 {
		did += h.cutStalled(waiting)
	}
	if waiting == 0 && !h.data.excess() && !h.input.excess() {
		h.watch.Pause()
		h.watching = false
	}
	if did > 0 {
		return poller.Busy
	}
	return poller.Idle
}

// starves says that the session waits for memory.
func (s *Session) starves() bool { return s.waiting && s.state == sessionOpen }

// starving returns how many sessions wait for memory.
func (h *Host) starving() int {
	n := 0
	for _, s := range h.waiters {
		if s.starves() {
			n++
		}
	}
	return n
}

// cutStalled cuts those off that hold memory and do not move, while another
// one waits for memory. waiting is how many do.
func (h *Host) cutStalled(waiting int) (cut int) {
	since := h.th.Now() - int64(h.limits.Stall)
	for _, s := range h.sessions {
		if !s.stalled(since) || waiting == 1 && s.starves() {
			continue
		}
		if s.starves() {
			waiting--
		}
		s.Kill(errStalled)
		s.why = errStalled // also of one that was ending
		cut++
	}
	return cut
}

// stalled says that the client makes the session hold memory and has not moved
// since then. Time that the device takes does not count.
func (s *Session) stalled(since int64) bool {
	return s.held > 0 && s.state != sessionDead &&
		(s.cur != nil && s.rx.at <= since || !s.out.empty() && s.tx.at <= since)
}
