package thread

import (
	"sync/atomic"

	"goftl/internal/assert"
)

const (
	ringMin = 1 << 8  // slots of a thread's first ring
	ringMax = 1 << 16 // largest ring; a longer backlog chains rings of this size

	closedFull = 1 << 63 // in ring.tail: full once, what follows is in the next ring
	closedExit = 1 << 62 // in ring.tail: the thread has exited, nothing follows
	closedAny  = closedFull | closedExit
)

type slot struct {
	seq atomic.Uint64 // position+1 of the message it holds, or held last
	fn  Func
	arg any
}

// ahead is how many slots before their use a sender asks for their cache lines, which the receiver had last. They
// arrive while the messages before them are sent.
const ahead = 16

// ring is a bounded queue of many senders and one receiver: the one of D. Vyukov, but the receiver says how far it
// got once per batch instead of in every slot, which halves the locked instructions of a message. A sender that finds
// the ring full closes it and goes on to a larger one; closing is a bit in tail, the word that senders compete for, so
// that no message can enter a closed ring.
type ring struct {
	slots []slot
	mask  uint64
	next  atomic.Pointer[ring]
	_     [64]byte
	tail  atomic.Uint64
	known atomic.Uint64 // a value that freed has had: spares the senders the receiver's cache line
	_     [48]byte
	freed atomic.Uint64 // the slots of all positions before this one plus the size are free
	_     [56]byte
	head  uint64 // the receiver's
	_     [56]byte
}

func newRing(size int) *ring {
	assert.That(size&(size-1) == 0, "thread: ring size is not a power of two")
	return &ring{slots: make([]slot, size), mask: uint64(size - 1)}
}

// push adds a message unless the ring is, or now becomes, closed. The one comparison finds a full ring, a closed one
// and a tail older than known: each of them makes the difference huge.
func (r *ring) push(fn Func, arg any) bool {
	for {
		pos := r.tail.Load()
		if pos-r.known.Load() > r.mask {
			if pos&closedAny != 0 {
				return false
			}
			r.refresh(pos, 1)
			continue
		}
		if r.tail.CompareAndSwap(pos, pos+1) {
			s := &r.slots[pos&r.mask]
			s.fn, s.arg = fn, arg
			publish(&s.seq, pos+1, &r.slots[(pos+ahead)&r.mask])
			return true
		}
	}
}

// pushAll is push for several messages, which go in together or not at all; there are no more of them than the
// smallest ring has slots.
//
// The exchange takes slots of consecutive positions, which nobody else writes. They are filled from the last to the
// first, because the receiver looks at the first of them only: while the batch is being written the two cores do not
// fight for a line, and when the receiver sees the first sequence number, it sees the others too. Its being right does
// not hang on that order. Each slot's number is stored after its message, so wherever the receiver is, it takes a
// message that is there, and stops at the first that is not.
func (r *ring) pushAll(msgs []message) bool {
	n := uint64(len(msgs))
	for {
		pos := r.tail.Load()
		if pos+n-1-r.known.Load() > r.mask {
			if pos&closedAny != 0 {
				return false
			}
			r.refresh(pos, n)
			continue
		}
		if !r.tail.CompareAndSwap(pos, pos+n) {
			continue
		}
		for i := n; i > 0; i-- {
			s := &r.slots[(pos+i-1)&r.mask]
			s.fn, s.arg = msgs[i-1].fn, msgs[i-1].arg
			publish(&s.seq, pos+i, s)
		}
		return true
	}
}

// refresh learns how far the receiver got, and closes the ring when there is no room for n messages even so. A pos that
// is outdated is seen to be so: freed may have passed it, and the exchange fails.
func (r *ring) refresh(pos, n uint64) {
	freed := r.freed.Load()
	if pos+n-1-freed > r.mask && pos >= freed {
		r.tail.CompareAndSwap(pos, pos|closedFull)
		return
	}
	r.known.Store(freed)
}

// inbox is the queue of messages from other threads.
type inbox struct {
	in  atomic.Pointer[ring] // where senders put messages
	_   [56]byte
	out *ring // where the receiver takes them: in, or one that leads to it
}

func (q *inbox) init() {
	r := newRing(ringMin)
	q.in.Store(r)
	q.out = r
}

// push reports false when the receiver has exited. Safe from any goroutine.
func (q *inbox) push(fn Func, arg any) bool {
	for r := q.in.Load(); !r.push(fn, arg); r = q.in.Load() {
		if r.tail.Load()&closedExit != 0 {
			return false
		}
		q.grow(r)
	}
	return true
}

// pushAll is push for several messages.
func (q *inbox) pushAll(msgs []message) bool {
	for r := q.in.Load(); !r.pushAll(msgs); r = q.in.Load() {
		if r.tail.Load()&closedExit != 0 {
			return false
		}
		q.grow(r)
	}
	return true
}

// grow chains a larger ring behind one that was closed because it was full.
func (q *inbox) grow(r *ring) {
	next := r.next.Load()
	if next == nil {
		next = newRing(min(2*len(r.slots), ringMax))
		if !r.next.CompareAndSwap(nil, next) {
			next = r.next.Load()
		}
	}
	q.in.CompareAndSwap(r, next)
}

// empty is for the receiver. It looks at tail, and a message whose sender is in the middle of push counts as there: on
// its way to asking whether the host sleeps, that sender's only full barrier is the one with which it moved tail.
func (q *inbox) empty() bool {
	for r := q.out; ; r = r.next.Load() {
		if r.tail.Load()&^closedAny != r.head {
			return false
		}
		if r.next.Load() == nil {
			return true
		}
	}
}

// run calls at most limit messages and returns how many.
func (q *inbox) run(limit int) int {
	n := 0
	r := q.out
	for n < limit {
		s := &r.slots[r.head&r.mask]
		if s.seq.Load() != r.head+1 {
			if r.next.Load() == nil || r.tail.Load()&^closedAny != r.head {
				break
			}
			r = r.next.Load() // the ring left behind is closed: nobody asks how far it got
			q.out = r
			continue
		}
		fn, arg := s.fn, s.arg
		s.fn, s.arg = nil, nil
		r.head++
		n++
		fn(arg)
	}
	if n > 0 {
		r.freed.Store(r.head)
	}
	return n
}

// close refuses all later messages, provided that there is none now.
func (q *inbox) close() bool {
	r := q.out
	return r.next.Load() == nil && r.tail.CompareAndSwap(r.head, r.head|closedExit)
}

// abandon refuses all later messages and drops those that are there.
func (q *inbox) abandon() int {
	dropped := 0
	for !q.close() {
		dropped += q.discard()
	}
	return dropped
}

func (q *inbox) discard() int {
	r := q.out
	s := &r.slots[r.head&r.mask]
	if s.seq.Load() == r.head+1 {
		s.fn, s.arg = nil, nil
		r.head++
		return 1
	}
	if r.next.Load() != nil && r.tail.Load()&^closedAny == r.head {
		q.out = r.next.Load()
	}
	return 0
}

// fifo is the queue of messages from the thread to itself: a ring that doubles when it is full.
type fifo struct {
	buf        []message
	head, tail uint64
}

type message struct {
	fn  Func
	arg any
}

func (q *fifo) len() int { return int(q.tail - q.head) }

func (q *fifo) push(fn Func, arg any) {
	if q.tail-q.head == uint64(len(q.buf)) {
		q.grow()
	}
	m := &q.buf[q.tail&uint64(len(q.buf)-1)]
	m.fn, m.arg = fn, arg
	q.tail++
}

func (q *fifo) grow() {
	buf := make([]message, max(64, 2*len(q.buf)))
	n := 0
	for i := q.head; i != q.tail; i++ {
		buf[n] = q.buf[i&uint64(len(q.buf)-1)]
		n++
	}
	q.buf, q.head, q.tail = buf, 0, uint64(n)
}

// run calls at most limit of the messages that are there now and returns how many.
func (q *fifo) run(limit int) int {
	n := min(q.len(), limit)
	for range n {
		m := &q.buf[q.head&uint64(len(q.buf)-1)]
		fn, arg := m.fn, m.arg
		m.fn, m.arg = nil, nil
		q.head++
		fn(arg)
	}
	return n
}
