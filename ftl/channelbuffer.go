package ftl

import (
	"fmt"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// The volatile write cache. With Config.VolatileWriteCache each channel has a
// write buffer, a ring of blocks. A write is copied there, with its checksums,
// and answered; the log takes the blocks from there. So an answer promises
// nothing but that reads see the data: a flush is the barrier.
//
// The order of answers is the order of the log, whatever channels the writes
// came on: blocks that enter a buffer enter the queue of the log in the same
// step. They are answered from the table of blocks under way (inflight.go) until
// the mapping points at their record; the mapping itself never points into
// memory, because its pages are checkpointed.
//
// Entries are taken at the head of the ring and come back at its tail, because
// records are switched in order: behind the head stands the free queue, in front
// of it the submit queue. What finds no free entry waits in the channel, and so
// does everything that comes behind it; nothing overtakes.
//
// Trims, and writes with FUA, take no entries: they are queued in their order
// and answered by the log.

const (
	defaultWriteBuffer = 6 << 20
	// MaxWriteBuffer is the most that Config.WriteBufferBytes may be.
	MaxWriteBuffer = 256 << 20
	// stopPatienceNs is how long a stop tries to write what was acknowledged
	// when there is no space.
	stopPatienceNs = 500e6
)

// writeBuffer is the write cache of one channel.
type writeBuffer struct {
	mem        []byte   // a block for each entry; off the Go heap
	sums       []uint64 // their checksums
	runs       []bufferRun
	mask       uint64 // runs are a power of two
	n          uint64 // entries
	head, tail uint64 // entries [tail, head), modulo n, are in the submit queue
	runHead    uint64
	runTail    uint64
}

// bufferRun is what one write put into a buffer at a time. For the log it is a
// request like any other.
type bufferRun struct {
	req   Request
	first uint64 // entry
	vec   [2][]byte
	done  bool
}

// runsOf is the number of runs of a buffer: in the worst case each is one block.
func runsOf(entries uint64) uint64 { return 1 << bits.Len64(entries-1) }

// ChannelMemory is the memory of one IO channel whose write buffer has that many
// bytes (0: the default).
func ChannelMemory(bufferBytes uint64) uint64 {
	if bufferBytes == 0 {
		bufferBytes = defaultWriteBuffer
	}
	n := bufferBytes / blockSize
	return n*(blockSize+8) + runsOf(n)*uint64(unsafe.Sizeof(bufferRun{})) + 2*n*inflightSlotBytes
}

// newWriteBuffer allocates a buffer; any thread may call it.
func newWriteBuffer(bytes uint64, alloc func(size int) []byte) (*writeBuffer, error) {
	mem := alloc(int(bytes))
	if mem == nil {
		return nil, fmt.Errorf("ftl: no memory for a write buffer of %d bytes: %w", bytes, unix.ENOMEM)
	}
	n := bytes / blockSize
	b := &writeBuffer{mem: mem, n: n, sums: make([]uint64, n), runs: make([]bufferRun, runsOf(n))}
	b.mask = uint64(len(b.runs) - 1)
	return b, nil
}

func (b *writeBuffer) free() { iobuf.Free(b.mem) }

// used is the number of entries that are not back.
func (b *writeBuffer) used() uint64 { return b.head - b.tail }

// take returns a run of n free entries.
func (b *writeBuffer) take(n uint64) *bufferRun {
	r := &b.runs[b.runHead&b.mask]
	b.runHead++
	r.first = b.head % b.n
	b.head += n
	front := min(n, b.n-r.first)
	r.vec[0] = b.mem[r.first*blockSize : (r.first+front)*blockSize]
	r.vec[1] = b.mem[:(n-front)*blockSize]
	r.done = false
	return r
}

// sum is the checksum of block i of the run.
func (r *bufferRun) sum(i uint64) uint64 {
	b := r.req.ch.wb
	return b.sums[(r.first+i)%b.n]
}

// back gives entries back in the order in which they were taken.
func (b *writeBuffer) back() {
	for b.runTail != b.runHead && b.runs[b.runTail&b.mask].done {
		b.tail += b.runs[b.runTail&b.mask].req.Count
		b.runTail++
	}
}

// buffers says whether the device has a volatile write cache.
func (d *Device) buffers() bool { return d.cfg.VolatileWriteCache && !d.cfg.ReadOnly }

// bufferedBlocks is the number of blocks in the buffers of all channels.
func (d *Device) bufferedBlocks() (n uint64) {
	if d.own.wb != nil {
		n = d.own.wb.used()
	}
	for _, c := range d.channels.slots {
		if c != nil && c.wb != nil {
			n += c.wb.used()
		}
	}
	return n
}

// wait puts a write or trim in line for the buffer.
func (c *Channel) wait(r *Request) {
	c.waiting.push(r)
	if !c.listed {
		c.listed = true
		c.d.channels.waiting = append(c.d.channels.waiting, c)
	}
}

// fillBuffers takes what waits into the buffers of its channels.
func (d *Device) fillBuffers() {
	s := &d.channels
	n := len(s.waiting)
	for i := range n {
		s.waiting[i].fill()
	}
	keep := s.waiting[:0]
	for _, c := range s.waiting {
		if c.listed = c.waiting.head != nil; c.listed {
			keep = append(keep, c)
		}
	}
	s.waiting = keep
}

// fill takes what waits into the buffer, as far as there are free entries. What
// users submit meanwhile has to wait for the next turn.
func (c *Channel) fill() {
	d := c.d
	for n := c.waiting.n; n > 0; n-- {
		r := c.waiting.head
		if d.health != HealthOK {
			c.refuse(r, unix.EROFS)
			continue
		}
		if r.Op == OpTrim || r.FUA {
			c.waiting.pop()
			d.log_.push(r)
			continue
		}
		if free := c.wb.n - c.wb.used(); free > 0 {
			c.buffer(r, min(r.Count-r.off, free))
		}
		if r.off < r.Count {
			d.stats.BufferWaits++
			return // runDone wakes us
		}
		c.waiting.pop()
		d.complete(r)
	}
	if c.waiting.head != nil {
		d.wakeUser()
	}
}

// buffer copies n blocks of r into the buffer and queues them for the log.
func (c *Channel) buffer(r *Request, n uint64) {
	d, b := c.d, c.wb
	run := b.take(n)
	q := &run.req
	*q = Request{Op: OpWrite, LBA: r.LBA + r.off, Count: n, Bufs: run.vec[:], ch: c, run: run, left: n}
	d.log_.push(q)
	d.log_.buffered++
	d.inUse++
	for i := range n {
		e := (run.first + i) % b.n
		block := b.mem[e*blockSize : (e+1)*blockSize]
		copy(block, r.block())
		b.sums[e] = record.DataSum(block, q.LBA+i)
		d.log_.inflight.put(q.LBA+i, q.seq, block)
	}
	r.off += n
	if r.off == r.Count {
		c.passPin(r)
	}
}

// passPin hands the pin of r, whose last blocks are in the buffer, to the run
// that has them: it is the last one to need the mapping.
func (c *Channel) passPin(r *Request) {
	b := c.wb
	q := &b.runs[(b.runHead-1)&b.mask].req
	q.pin, r.pin = r.pin, l2p.PinRequest{}
}

// refuse ends a request that waits for the buffer. Blocks of it that are in the
// buffer already stay there, as after any write that failed: old or new.
func (c *Channel) refuse(r *Request, err error) {
	b := c.wb
	c.waiting.pop()
	if r.off > 0 && b.runHead != b.runTail && !b.runs[(b.runHead-1)&b.mask].done {
		c.passPin(r)
	}
	r.Err = err
	c.d.complete(r)
}

// runDone takes back the entries of a run that the log is done with.
func (d *Device) runDone(run *bufferRun) {
	q := &run.req
	c := q.ch
	if q.pin.Count != 0 {
		d.table.Unpin(&q.pin)
	}
	if q.Err != nil {
		c.failed = q.Err
	}
	run.done = true
	c.wb.back()
	d.inUse--
	l := &d.log_
	l.taken++
	if c.waiting.head != nil || d.flusher.held.head != nil && d.flusher.held.head.seq <= l.taken {
		d.wakeUser()
	}
	c.endIfIdle()
	if d.inUse == 0 && d.stopping {
		d.drained()
	}
}

// Errors behind the acknowledgement. What was acknowledged and cannot be written
// for want of space stays in its buffer and is tried again; meanwhile flushes,
// and writes that find the buffer full, fail with ENOSPC. What can never be
// written, because the device has become read-only, is given up: its blocks read
// as errors, and every later flush fails, until the device is started again.

// keeps says whether what was acknowledged stays in its buffer after an error of
// the log.
func (d *Device) keeps(err error) bool {
	if d.health != HealthOK || !isNoSpace(err) {
		return false
	}
	if !d.stopping {
		return true
	}
	l := &d.log_
	if l.stopSince == 0 {
		l.stopSince = d.th.Now()
	}
	return d.th.Now()-l.stopSince < stopPatienceNs
}

// rewind makes the log begin again with the first block of a run that it has
// not switched.
func (r *Request) rewind() {
	r.off = r.Count - r.left
	r.buf, r.bufo = 0, int(r.off)*blockSize
	if n := len(r.Bufs[0]); r.bufo > n {
		r.buf, r.bufo = 1, r.bufo-n
	}
}

// requeue puts runs, whose records are void, in front of what waits for the log.
func (d *Device) requeue(kept queue) {
	l := &d.log_
	if kept.head == nil {
		return
	}
	for r := kept.head; r != nil; r = r.next {
		r.rewind()
		for i := r.off; i < r.Count; i++ {
			e := (r.run.first + i) % r.ch.wb.n
			l.inflight.put(r.LBA+i, r.seq, r.ch.wb.mem[e*blockSize:(e+1)*blockSize])
		}
	}
	kept.tail.next = l.q.head
	if l.q.tail == nil {
		l.q.tail = kept.tail
	}
	l.q.head = kept.head
	l.q.n += kept.n
}

// heldBack tells whoever depends on what is kept why it does not go on.
func (d *Device) heldBack(err error) {
	d.retryLater()
	held := d.flusher.held.take()
	for r := held; r != nil; {
		n := r.next
		r.next = nil
		r.Err = flushError(err)
		d.complete(r)
		r = n
	}
	for _, c := range d.channels.waiting {
		for n := c.waiting.n; n > 0; n-- {
			c.refuse(c.waiting.head, unix.ENOSPC)
		}
	}
}

// giveUp makes a block of a run that was acknowledged and cannot be written read
// as an error.
func (d *Device) giveUp(r *Request, lba uint64) {
	d.log_.inflight.lose(lba, r.seq)
	d.log_.givenUp++
}

// reportLoss says what was given up.
func (d *Device) reportLoss(err error) {
	l := &d.log_
	if l.givenUp == 0 {
		return
	}
	if d.failure != nil {
		err = d.failure
	}
	d.log.Error("acknowledged writes cannot be written; their blocks cannot be read until the next start",
		"blocks", l.givenUp, "err", err)
	d.stats.BufferLost += l.givenUp
	if l.lossErr == nil {
		l.lossErr = fmt.Errorf("ftl: acknowledged writes were lost: %w", err)
	}
	l.givenUp = 0
}
