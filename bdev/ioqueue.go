package bdev

import "goftl/internal/assert"

// ioQueue is a FIFO of IOs that are linked through next. An IO is in at most
// one.
type ioQueue struct{ head, tail *IO }

func (q *ioQueue) push(io *IO) {
	io.next = nil
	if q.head == nil {
		q.head = io
	} else {
		q.tail.next = io
	}
	q.tail = io
}

func (q *ioQueue) pushFront(io *IO) {
	if io.next = q.head; q.head == nil {
		q.tail = io
	}
	q.head = io
}

func (q *ioQueue) pop() *IO {
	io := q.head
	if io != nil {
		if q.head = io.next; q.head == nil {
			q.tail = nil
		}
		io.next = nil
	}
	return io
}

// remove takes io out; it says whether it was there.
func (q *ioQueue) remove(io *IO) bool {
	var prev *IO
	for x := q.head; x != nil; prev, x = x, x.next {
		if x != io {
			continue
		}
		if prev == nil {
			q.head = x.next
		} else {
			prev.next = x.next
		}
		if q.tail == x {
			q.tail = prev
		}
		x.next = nil
		return true
	}
	return false
}

func (q *ioQueue) empty() bool { return q.head == nil }

// take empties the queue and returns what was in it.
func (q *ioQueue) take() ioQueue {
	r := *q
	*q = ioQueue{}
	return r
}

// IOWait is a place in the queue for a free IO of a channel. Fn is called
// once, on the channel's thread, when an IO is free. The caller owns the
// IOWait and must not touch or queue it again before Fn is called.
type IOWait struct {
	Fn  func(arg any)
	Arg any

	next   *IOWait
	queued bool
}

type waitQueue struct{ head, tail *IOWait }

func (q *waitQueue) push(w *IOWait) {
	assert.That(!w.queued && w.Fn != nil, "bdev: IOWait queued twice or without Fn")
	w.queued, w.next = true, nil
	if q.head == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
}

func (q *waitQueue) pop() *IOWait {
	w := q.head
	if q.head = w.next; q.head == nil {
		q.tail = nil
	}
	w.next, w.queued = nil, false
	return w
}
