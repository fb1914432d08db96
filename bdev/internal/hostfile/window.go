package hostfile

import (
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

// Engine carries out Requests.
type Engine interface {
	// Start takes a Request; its result comes back by Window.Finish, on the
	// window's thread, in Start or later. It always has room: there are no more
	// Requests than the window is deep.
	Start(r *Request)
}

// Window is the table of Requests of one channel, with the queue of IOs behind
// it. All methods are called on the channel's thread.
type Window struct {
	file   *File
	engine Engine
	reqs   []Request
	free   []uint32
	wait   fifo
	seen   uint64 // failures of flush that this channel has reported
}

// Reset makes an empty window of depth requests.
func (w *Window) Reset(f *File, e Engine, depth int) {
	*w = Window{file: f, engine: e, reqs: make([]Request, depth), free: make([]uint32, depth)}
	iov := make([]Iovec, 4*depth)
	for i := range w.reqs {
		w.reqs[i].Index = uint32(i)
		w.reqs[i].iov = iov[4*i : 4*i : 4*i+4]
		w.free[i] = uint32(depth - 1 - i)
	}
	w.seen = f.flushFails.Load()
}

// Request returns a Request by its Index.
func (w *Window) Request(index uint32) *Request { return &w.reqs[index] }

// InFlight is the number of Requests that were started and not finished.
func (w *Window) InFlight() int { return len(w.reqs) - len(w.free) }

// Idle says that there is nothing in flight and nothing queued.
func (w *Window) Idle() bool { return len(w.free) == len(w.reqs) && w.wait.n == 0 }

// Submit starts an IO, or queues it when the table is full. The queue is bounded
// by the bdev layer's pool of IOs.
func (w *Window) Submit(io *bdev.IO) {
	if w.wait.n > 0 || len(w.free) == 0 {
		w.wait.push(io)
		return
	}
	w.start(io)
}

func (w *Window) start(io *bdev.IO) {
	r := &w.reqs[w.free[len(w.free)-1]]
	assert.That(r.IO == nil, "hostfile: a free request has an IO")
	if err := r.begin(w.file, io); err != nil {
		r.drop()
		io.Complete(err)
		return
	}
	w.free = w.free[:len(w.free)-1]
	w.engine.Start(r)
}

// Finish ends a Request and completes its IO. The engine calls Pump after one or
// more of them.
func (w *Window) Finish(r *Request, err error) {
	io := r.IO
	assert.That(io != nil, "hostfile: a request finished twice")
	if io.Op == bdev.OpFlush {
		err = w.flushed(err)
	}
	r.drop()
	w.free = append(w.free, r.Index)
	io.Complete(err)
}

// flushed makes sure that a failure to flush is heard on every channel: the
// kernel tells only whoever asks first, and data of others may be what was lost.
func (w *Window) flushed(err error) error {
	if e, ok := err.(unix.Errno); ok { //nolint:errorlint // the kernel's bare errno
		w.file.flushErrno.Store(uint32(e))
		w.seen = w.file.flushFails.Add(1)
		return err
	}
	if n := w.file.flushFails.Load(); n != w.seen && err == nil {
		w.seen = n
		return unix.Errno(w.file.flushErrno.Load())
	}
	return err
}

// Pump starts queued IOs while there is room.
func (w *Window) Pump() {
	for w.wait.n > 0 && len(w.free) > 0 {
		w.start(w.wait.pop())
	}
}

// fifo is a growing ring of IOs.
type fifo struct {
	buf  []*bdev.IO // length is a power of two
	head int
	n    int
}

func (q *fifo) push(io *bdev.IO) {
	if q.n == len(q.buf) {
		grown := make([]*bdev.IO, max(64, 2*len(q.buf)))
		for i := range q.n {
			grown[i] = q.buf[(q.head+i)&(len(q.buf)-1)]
		}
		q.buf, q.head = grown, 0
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = io
	q.n++
}

func (q *fifo) pop() *bdev.IO {
	io := q.buf[q.head]
	q.buf[q.head] = nil
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	return io
}
