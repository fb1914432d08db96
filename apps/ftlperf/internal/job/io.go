package job

import "goftl/thread"

// Op is what a Channel is asked to do.
type Op uint8

// The operations.
const (
	OpRead Op = iota
	OpWrite
	OpWriteFUA
	OpTrim
	OpFlush
)

// IO is one of a job's requests. The job fills it in, the Channel reads it
// until it calls Complete.
type IO struct {
	Op     Op
	dir    Dir
	Offset uint64    // bytes
	Length uint64    // bytes
	Buf    []byte    // of Length, for reads and writes; the job's
	Vec    [1][]byte // for a Channel that needs a list of buffers

	job    *Job
	start  int64
	next   *IO // of the list it is parked in
	memory []byte
	err    error // of a submission that was refused
}

// Channel submits IOs on one thread. Every method is called there.
type Channel interface {
	// Submit starts io. It returns nil, and io.Complete is called later, once,
	// on the thread, never before Submit returned; or an error, ErrAgain when there is no room.
	Submit(io *IO) error
	// AwaitFree calls fn(arg) once, later, when an IO that got ErrAgain may be tried again.
	AwaitFree(fn func(arg any), arg any)
	// Close releases the channel; nothing is in flight.
	Close()
}

// Target is what a job runs on.
type Target interface {
	// Open returns a channel for jobs on t; called on t.
	Open(t *thread.Thread) (Channel, error)
}

// list is a FIFO of IOs.
type list struct {
	head, tail *IO
	n          int
}

func (l *list) push(io *IO) {
	io.next = nil
	if l.head == nil {
		l.head = io
	} else {
		l.tail.next = io
	}
	l.tail = io
	l.n++
}

func (l *list) pop() *IO {
	io := l.head
	if io != nil {
		l.head, io.next = io.next, nil
		l.n--
	}
	return io
}
