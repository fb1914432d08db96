package ftl

import (
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/internal/assert"
)

// Op is what a request asks for.
type Op uint8

// Operations of a Request.
const (
	OpRead    Op = iota
	OpWrite      // with FUA: durable before it completes
	OpTrim       // the blocks read as zeroes afterwards; as durable as a write
	OpFlush      // everything that completed before it was submitted is durable
	OpExtents    // which blocks are stored; nothing is read
)

// Request is one operation of a user. The caller owns it and its buffers and
// leaves both alone until Done; it may use the request again from inside Done.
type Request struct {
	Op    Op
	FUA   bool
	LBA   uint64
	Count uint64 // blocks
	// Bufs hold Count blocks; every element is a multiple of 4096 bytes.
	Bufs [][]byte
	// Extents is filled in by OpExtents, as far as Filled says, from LBA on. At
	// least one is, if there is no error; they may cover less than Count blocks.
	Extents []bdev.Extent
	Filled  int
	// Done is called on the core thread, never from inside Submit. Err is nil,
	// or a unix.Errno: EIO (some of exactly these blocks cannot be read, or
	// could not be written), ENOSPC, EROFS, ENODEV, EINVAL.
	Done func(*Request)
	Ctx  any
	Err  error

	ch   *Channel
	pin  l2p.PinRequest // entries of the mapping, from Submit to the end
	next *Request
	left uint64 // blocks (or pieces of a read) that are not done
	off  uint64 // blocks packed into records, or copied into a write buffer, so far
	buf  int    // buffer and byte that block off stands in
	bufo int
	seq  uint64     // place in the order of the log; of a flush: what it has to wait for
	run  *bufferRun // this is no request of a user, but blocks in a write buffer
}

// check validates what a caller may get wrong.
func (r *Request) check(blocks uint64) error {
	if r.Op == OpFlush {
		return nil
	}
	if r.Op > OpExtents || r.Count == 0 || r.LBA >= blocks || r.Count > blocks-r.LBA {
		return unix.EINVAL
	}
	if r.Op == OpExtents && len(r.Extents) == 0 {
		return unix.EINVAL
	}
	if r.Op == OpTrim || r.Op == OpExtents {
		return nil
	}
	n := uint64(0)
	for _, b := range r.Bufs {
		if len(b)%layout.BlockSize != 0 {
			return unix.EINVAL
		}
		n += uint64(len(b))
	}
	if n != r.Count*layout.BlockSize {
		return unix.EINVAL
	}
	return nil
}

// block returns the next block of the request's buffers and steps over it.
func (r *Request) block() []byte {
	b := r.blocks(1)
	return b[:len(b):len(b)]
}

// blocks returns the next blocks of the request's buffers, up to n, that lie
// side by side, and steps over them.
func (r *Request) blocks(n int) []byte {
	for r.bufo == len(r.Bufs[r.buf]) {
		r.buf++
		r.bufo = 0
	}
	b := r.Bufs[r.buf][r.bufo:]
	b = b[:min(len(b), n*layout.BlockSize)]
	r.bufo += len(b)
	return b
}

// queue is a list of requests in order.
type queue struct {
	head, tail *Request
	n          int
}

func (q *queue) push(r *Request) {
	r.next = nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
	q.n++
}

func (q *queue) pop() {
	r := q.head
	q.head = r.next
	if q.head == nil {
		q.tail = nil
	}
	r.next = nil
	q.n--
}

// take empties the queue and returns its head.
func (q *queue) take() *Request {
	h := q.head
	*q = queue{}
	return h
}

// Submit starts a request on the device's own channel; it is called on the core
// thread. See Channel.Submit.
func (d *Device) Submit(r *Request) { d.own.Submit(r) }

// start counts a request that was admitted, and pins its part of the mapping.
func (d *Device) start(r *Request) {
	d.inUse++
	d.countRequest(r)
	if r.Op == OpExtents {
		d.queueExtents(r)
		return
	}
	if r.Op != OpFlush {
		r.pin = l2p.PinRequest{LBA: r.LBA, Count: r.Count, Done: requestPinned, Arg: r}
		if !d.table.Pin(&r.pin) {
			return
		}
	}
	d.enqueue(r)
}

func requestPinned(p *l2p.PinRequest) {
	r := p.Arg.(*Request)
	if p.Err != nil {
		r.Err = unix.EIO
		r.ch.d.completeUnpinned(r)
		return
	}
	r.ch.d.enqueue(r)
}

// enqueue puts a request, whose part of the mapping is resident, in line.
func (d *Device) enqueue(r *Request) {
	switch r.Op {
	case OpRead:
		r.left = 1 // its own share, until every piece was started
		d.reader.q.push(r)
	case OpWrite, OpTrim:
		r.left = r.Count
		if r.ch.wb != nil {
			r.ch.wait(r)
		} else {
			d.log_.push(r)
		}
	case OpFlush:
		d.flusher.push(d, r)
	case OpExtents:
		assert.That(false, "ftl: a question about extents pins nothing")
	}
	d.wakeUser()
}

func (d *Device) countRequest(r *Request) {
	switch r.Op {
	case OpRead:
		d.stats.User.Read.IOs++
		d.stats.User.Read.Blocks += r.Count
	case OpWrite:
		d.stats.User.Write.IOs++
		d.stats.User.Write.Blocks += r.Count
	case OpTrim:
		d.stats.TrimIOs++
		d.stats.TrimBlock += r.Count
	case OpFlush:
		d.stats.Flushes++
	case OpExtents:
	}
}

func (d *Device) admit(r *Request) error {
	if d.stopping || d.health == HealthFaulted {
		return unix.ENODEV
	}
	if err := r.check(d.lay.LBAs); err != nil {
		return err
	}
	if (r.Op == OpWrite || r.Op == OpTrim) && d.health != HealthOK {
		return unix.EROFS
	}
	return nil
}

// wakeUser makes the queues of user requests be looked at after the messages
// of this turn, so that everything that arrived together goes together.
func (d *Device) wakeUser() {
	if !d.userAwake {
		d.userAwake = true
		d.th.Post(serveUser, d)
	}
}

func serveUser(arg any) {
	d := arg.(*Device)
	d.userAwake = false
	d.lastActive = d.th.Now()
	d.fillBuffers()
	d.pack()
	d.checkStuck()
	d.startReads()
	d.startFlush()
}

// complete answers a request that start counted.
func (d *Device) complete(r *Request) {
	if r.run != nil {
		d.runDone(r.run)
		return
	}
	if r.Op != OpFlush && r.Op != OpExtents && r.pin.Count != 0 {
		d.table.Unpin(&r.pin)
	}
	d.completeUnpinned(r)
}

func (d *Device) completeUnpinned(r *Request) {
	c := r.ch
	d.inUse--
	c.under--
	if r.Err != nil {
		d.countUserError(r)
	}
	r.Done(r)
	c.endIfIdle()
	if d.inUse == 0 && d.stopping {
		d.drained()
	}
}

func (d *Device) countUserError(r *Request) {
	switch r.Op {
	case OpRead:
		d.stats.User.Read.ErrorsMedia++
	case OpWrite, OpTrim:
		d.stats.User.Write.ErrorsMedia++
	case OpFlush, OpExtents:
	}
}

// completeLater answers a request that was refused.
func (d *Device) completeLater(r *Request, err error) {
	r.Err = err
	r.next = nil
	d.th.Post(completeRefused, r)
}

func completeRefused(arg any) {
	r := arg.(*Request)
	r.Done(r)
}
