package ftl

import (
	"cmp"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/record"
)

// Flush and FUA (Rule 6): the flush of the device that holds the log,
// submitted after the acknowledgements that it covers. What was acknowledged
// when a flush that completed was submitted is durable: that is D.

// flushState joins flushes: one is under way, what comes meanwhile waits for
// the next.
type flushState struct {
	q            queue
	held         queue // wait until what is in write buffers has reached the log
	io           devIO
	active       *Request // requests that the flush under way answers
	under        bool
	upTo         uint64 // acknowledged when it was submitted
	wantPadFlush bool   // flush even if no request waits: a pad was written
	quiet        bool   // the flush under way only makes a pad durable
}

// push puts a flush in line. What was acknowledged before it but is only in a
// write buffer comes first.
func (f *flushState) push(d *Device, r *Request) {
	r.seq = d.log_.buffered
	if r.seq == d.log_.taken {
		f.q.push(r)
	} else {
		f.held.push(r)
	}
}

// release lets flushes go on for which the log has taken enough.
func (f *flushState) release(taken uint64) {
	for f.held.head != nil && f.held.head.seq <= taken {
		r := f.held.head
		f.held.pop()
		f.q.push(r)
	}
}

// startFlush submits a flush for everything that waits.
func (d *Device) startFlush() {
	f := &d.flusher
	f.release(d.log_.taken)
	if f.under || (f.q.head == nil && !f.wantPadFlush) {
		return
	}
	if err := cmp.Or(d.flushBroken, d.log_.lossErr); err != nil {
		f.wantPadFlush = false
		for f.q.head != nil {
			r := f.q.head
			f.q.pop()
			r.Err = flushError(err)
			d.complete(r)
		}
		return
	}
	f.under = true
	f.quiet = f.q.head == nil
	f.wantPadFlush = false
	f.active = f.q.take()
	f.upTo = d.ackedU
	f.io.prepare(d.logDev, bdev.OpFlush, nil, nil, 0, 0, SourceUser)
	f.io.call(flushDone, d)
}

func flushDone(x *devIO, err error) {
	d := x.owner.(*Device)
	f := &d.flusher
	f.under = false
	switch {
	case err == nil && d.flushBroken == nil:
		d.durableU = max(d.durableU, f.upTo)
	case err == nil:
		err = d.flushBroken // another flush failed meanwhile
	default:
		d.flushFailed(d.logDev, err)
	}
	if !f.quiet && err == nil {
		d.idleSoon()
	}
	for r := f.active; r != nil; {
		n := r.next
		r.next = nil
		if err != nil {
			r.Err = flushError(err)
		}
		d.complete(r)
		r = n
	}
	f.active = nil
	d.startFlush()
}

// flushFailed ends the writing: what a device dropped when its flush failed is
// unknown, and a later flush that succeeds says nothing about it: from here on
// every flush of a user fails. A restart finds out what is there.
func (d *Device) flushFailed(v *dev, err error) {
	d.flushBroken = err
	d.fail(HealthReadOnly, v.kind.String()+" device "+v.name()+" cannot flush", err)
}

// checkMDFlush notices flushes that failed inside a metadata object.
func (d *Device) checkMDFlush(err error) {
	if err != nil && d.mdStats.FlushErrors > 0 {
		d.flushFailed(d.meta, err)
	}
}

// flushError keeps ENOSPC and turns the rest into EIO.
func flushError(err error) error {
	if isNoSpace(err) {
		return unix.ENOSPC
	}
	return unix.EIO
}

// padDone ends a pad record.
func (d *Device) padDone(r *recordOp) {
	d.logBlocks += uint64(r.w.slots)
	d.log_.giveOp(r)
	d.flusher.wantPadFlush = true
	d.startFlush()
}

// pad writes a record that carries the present D, once the log is idle after a
// flush: without it, rot in the last records would look like a torn tail
// (Rule 17). It returns false when there is no open segment just now. A device
// that stops writes none: nobody would wait for the segment that it may open.
func (d *Device) pad() bool {
	l := &d.log_
	if l.under != 0 || l.q.head != nil || l.free == nil || l.voidFrom != 0 || d.health != HealthOK ||
		l.padD == d.durableU || d.quiesce {
		return true
	}
	s := l.cur.segment(1)
	if s == nil {
		return false
	}
	l.padD = d.durableU
	r := l.takeOp()
	r.kind = record.KindPad
	r.u = 0
	r.write(s)
	return true
}
