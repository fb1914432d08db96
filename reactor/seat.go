package reactor

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/thread"
)

// seat is a thread's place on a reactor and its thread.Host. It follows the thread from reactor to reactor. What is
// not atomic belongs to the reactor's loop.
type seat struct {
	thread  *thread.Thread
	reactor atomic.Pointer[Reactor]
	target  atomic.Pointer[Reactor] // where it shall be
	busy    atomic.Int64            // the thread's busy time, published by the loop
	floats  atomic.Bool             // a scheduler may move it
	watches []*watch
}

// handOver has a reactor take in a thread that it was told to expect.
func (s *seat) handOver(to *Reactor) {
	to.control(func(r *Reactor) {
		r.adopt(s)
		r.arrived.Add(1)
		r.expected.Add(-1)
	})
}

// Add has the reactor poll t from now on. It is safe from any goroutine, provided that nothing polls t now: a thread
// that another reactor polls is moved with Move.
func (r *Reactor) Add(t *thread.Thread) { r.add(t, false) }

func (r *Reactor) add(t *thread.Thread, floats bool) {
	s := seatOf(t)
	if s == nil {
		s = &seat{thread: t}
	} else {
		s.reactor.Load().release(s)
	}
	s.floats.Store(floats)
	s.reactor.Store(r)
	s.target.Store(r)
	t.SetHost(s)
	r.expected.Add(1)
	s.handOver(r)
}

func seatOf(t *thread.Thread) *seat {
	s, _ := t.Host().(*seat)
	return s
}

// Move has the reactor to poll t instead of the one that does now. It is safe from any goroutine; the move happens
// soon, between two Polls, and takes the watched file descriptors along. It fails with unix.ENOENT when no reactor
// polls t.
func Move(t *thread.Thread, to *Reactor) error {
	s := seatOf(t)
	if s == nil {
		return fmt.Errorf("move thread %q: no reactor polls it: %w", t.Name(), unix.ENOENT)
	}
	s.target.Store(to)
	s.reactor.Load().control(s.settle)
	return nil
}

// settle brings the thread to its target, from whichever reactor has it by now.
func (s *seat) settle(r *Reactor) {
	if s.thread.Exited() {
		return
	}
	if at := s.reactor.Load(); at != r {
		at.control(s.settle) // it went on in the meantime
		return
	}
	if !r.seated(s) {
		r.control(s.settle) // it has not arrived yet
		return
	}
	if to := s.target.Load(); to != r {
		to.expected.Add(1)
		r.release(s)
		s.reactor.Store(to)
		s.handOver(to)
	}
}

func (r *Reactor) seated(s *seat) bool {
	for _, other := range r.seats {
		if other == s {
			return true
		}
	}
	return false
}

// adopt takes a thread in, with what it watches. A descriptor that cannot be watched here is reported to its owner as
// an error event.
func (r *Reactor) adopt(s *seat) {
	assert.That(!r.seated(s), "reactor: thread added twice")
	s.thread.SetAsleep(false)
	r.seats = append(r.seats, s)
	r.list()
	for _, w := range append([]*watch(nil), s.watches...) {
		if w.closed {
			continue
		}
		if err := r.poll.add(w); err != nil {
			s.drop(w)
			s.thread.Event(w.fn, w.arg, unix.EPOLLERR|unix.EPOLLHUP, r.now)
		}
	}
}

// release lets a thread go; what it watches stays with it.
func (r *Reactor) release(s *seat) {
	for _, w := range s.watches {
		_ = r.poll.remove(w) // the descriptor may have been closed
	}
	for i, other := range r.seats {
		if other == s {
			r.seats = append(r.seats[:i], r.seats[i+1:]...)
			break
		}
	}
	r.list()
}

// dismiss lets a thread that has exited go, with what it left watched.
func (r *Reactor) dismiss(s *seat) {
	r.release(s)
	for _, w := range s.watches {
		w.closed = true
	}
	s.watches = nil
}

func (r *Reactor) list() {
	threads := make([]*thread.Thread, 0, len(r.seats))
	for _, s := range r.seats {
		threads = append(threads, s.thread)
	}
	r.threads.Store(&threads)
}

// Wake implements thread.Host.
func (s *seat) Wake() { s.reactor.Load().Wake() }

// WatchFD implements thread.Host.
func (s *seat) WatchFD(fd int, events uint32, fn thread.FDFunc, arg any) (thread.FDWatch, error) {
	w := &watch{seat: s, fd: fd, events: events, fn: fn, arg: arg}
	if err := s.reactor.Load().poll.add(w); err != nil {
		return nil, err
	}
	s.watches = append(s.watches, w)
	return w, nil
}

func (s *seat) drop(w *watch) {
	w.closed = true
	for i, other := range s.watches {
		if other == w {
			s.watches = append(s.watches[:i], s.watches[i+1:]...)
			return
		}
	}
}

// Modify implements thread.FDWatch.
func (w *watch) Modify(events uint32) error {
	if w.closed {
		return fmt.Errorf("watch of fd %d: closed: %w", w.fd, unix.EBADF)
	}
	w.events = events
	return w.seat.reactor.Load().poll.modify(w)
}

// Close implements thread.FDWatch.
func (w *watch) Close() error {
	if w.closed {
		return nil
	}
	w.seat.drop(w)
	return w.seat.reactor.Load().poll.remove(w)
}
