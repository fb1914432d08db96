package nbd

import (
	"goftl/bdev"
	"goftl/poller"
	"goftl/thread"
)

// readUnit is the size of a read buffer: everything that a socket holds is
// read at once.
const readUnitShift = 18

// Host is what the sessions of one thread share: buffers, free requests, bdev
// channels and range locks. It belongs to the thread.
type Host struct {
	th     *thread.Thread
	limits Limits

	data  arena // of requests; sessions wait when it is exhausted
	input arena // read buffers: one unit for each session at most, so it needs no limit

	free     *request // requests that are not in use
	lanes    []*lane
	sessions []*Session
	waiters  []*Session // for memory, in order
	waking   bool
	draining bool

	watch    *poller.Poller // see memory.go; nil when it was never needed
	watching bool           // it is not paused

	drains []*drainWait
}

// NewHost returns the host for the sessions of a thread.
func NewHost(th *thread.Thread, l Limits) (*Host, error) {
	if err := l.complete(); err != nil {
		return nil, err
	}
	return newHost(th, l), nil
}

func newHost(th *thread.Thread, l Limits) *Host {
	h := &Host{th: th, limits: l}
	h.data.max = l.ThreadBytes / slabSize
	h.input.max = 1 << 30
	h.data.keep, h.input.keep = keepData, keepInput
	return h
}

// Drain lets every session finish what it has in flight and end, also those
// that come later.
func (h *Host) Drain() {
	h.draining = true
	for _, s := range h.sessions {
		s.Drain()
	}
}

// Holding is what the sessions of a host hold.
type Holding struct {
	Sessions int
	Requests int // admitted and not answered
	Locks    int // writes that run or wait for each other
	Waiters  int // sessions that wait for memory
	Data     int // bytes of buffers for data, at most Limits.ThreadBytes
	Input    int // bytes of buffers for what was received
}

// Holding counts what the sessions hold now.
func (h *Host) Holding() Holding {
	o := Holding{Sessions: len(h.sessions), Waiters: h.starving(), Data: h.data.used, Input: h.input.used}
	for _, s := range h.sessions {
		o.Requests += s.inflight
	}
	for _, l := range h.lanes {
		for r := l.first; r != nil; r = r.succ {
			o.Locks++
		}
	}
	return o
}

// Mapped is the memory of all buffers in bytes, with those that are not in use.
func (h *Host) Mapped() int { return (h.data.mapped + h.input.mapped) * slabSize }

// lane is one export on its thread.
type lane struct {
	x    *export
	host *Host
	ch   *bdev.Channel
	refs int

	shift uint8  // of x.gran
	mask  uint64 // x.gran - 1
	unit  uint64 // blocks of the device in x.gran

	// Writes that run or wait, oldest first; see rangelock.go.
	first, last *request
	partial     int // how many of them are read-modify-writes

	n counters
}

// lane returns the export's lane and counts the reference.
func (h *Host) lane(x *export) (*lane, error) {
	for _, l := range h.lanes {
		if l.x == x {
			l.refs++
			return l, nil
		}
	}
	ch, err := x.Desc.Channel(h.th)
	if err != nil {
		return nil, err
	}
	l := &lane{x: x, host: h, ch: ch, refs: 1, mask: x.gran - 1, unit: x.gran / uint64(x.info.BlockSize)}
	for x.gran>>l.shift > 1 {
		l.shift++
	}
	l.n = x.stats.load()
	h.lanes = append(h.lanes, l)
	return l, nil
}

func (l *lane) put() {
	if l.refs--; l.refs > 0 {
		return
	}
	l.x.stats.publish(&l.n)
	l.ch.Put()
	for i, o := range l.host.lanes {
		if o == l {
			l.host.lanes = append(l.host.lanes[:i], l.host.lanes[i+1:]...)
			return
		}
	}
}

// request takes a request off the free list.
func (h *Host) request() *request {
	r := h.free
	if r == nil {
		return new(request)
	}
	h.free, r.next = r.next, nil
	return r
}

// await queues a session that could not get memory.
func (h *Host) await(s *Session) {
	if !s.waiting {
		s.waiting = true
		h.waiters = append(h.waiters, s)
		h.look()
	}
}

// freed is called when memory came back.
func (h *Host) freed() {
	if len(h.waiters) > 0 && !h.waking {
		h.waking = true
		h.th.Post(wakeWaiters, h)
	}
	if h.data.excess() {
		h.look()
	}
}

// wakeWaiters lets the sessions that wait for memory try again, in the order
// in which they came.
func wakeWaiters(arg any) {
	h := arg.(*Host)
	h.waking = false
	n := len(h.waiters)
	for i := range n {
		s := h.waiters[i]
		s.waiting = false
		if !s.closed {
			s.kick()
		}
	}
	rest := copy(h.waiters, h.waiters[n:])
	clear(h.waiters[rest:])
	h.waiters = h.waiters[:rest]
}

func (h *Host) add(s *Session) { h.sessions = append(h.sessions, s) }

// remove forgets a session that is closed. With the last one the memory goes.
func (h *Host) remove(s *Session) {
	for i, o := range h.sessions {
		if o == s {
			last := len(h.sessions) - 1
			h.sessions[i] = h.sessions[last]
			h.sessions[last] = nil
			h.sessions = h.sessions[:last]
			break
		}
	}
	if len(h.sessions) == 0 {
		h.waiters = nil
		h.free = nil
		h.data.close()
		h.input.close()
		h.unlook()
	}
	h.drained()
}
