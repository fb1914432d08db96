package ftl

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/ftl/record"
	"goftl/internal/assert"
)

// Errors of the log. A record whose write failed is written again elsewhere,
// with its number. When that cannot help (no space, a device that is gone)
// every record that was not switched fails, and a void record takes its
// number, because what stands on media must never count later.

// rehomeRecords writes failed records again, in order, before anything new. It
// returns false when that has to wait.
func (d *Device) rehomeRecords() bool {
	l := &d.log_
	for l.rehome != nil {
		r := l.rehome
		s := l.cur.segment(r.slotsNeeded())
		if s == nil {
			d.starve()
			d.noSpaceLeft()
			return false
		}
		if s.next+s.roundUp(r.slotsNeeded()) > s.body {
			// A band that does without one of its zones is smaller than the
			// one that the record was made for: the next may be larger.
			if r.rehomed++; r.rehomed > maxRehome {
				d.fail(HealthReadOnly, "no band is large enough for a record that failed", unix.ENOSPC)
				return false
			}
			continue
		}
		l.rehome = r.next
		r.next = nil
		d.stats.Rehomed++
		r.write(s)
	}
	return true
}

// logWriteFailed decides what an error means for the log as a whole.
func (d *Device) logWriteFailed(r *recordOp, err error) {
	l := &d.log_
	r.rehomed++
	switch {
	case r.kind == record.KindPad:
		return
	case errors.Is(err, unix.ENOSPC):
	case errors.Is(err, unix.ENODEV), r.rehomed > maxRehome:
		d.fail(HealthReadOnly, "the log cannot be written", err)
		err = unix.EIO
	default:
		return
	}
	if !l.failing {
		l.failing = true
		l.failErr = err
	}
}

// recordFailed takes a record out of the segment whose tail was cut.
func recordFailed(w *slotWrite, err error) {
	r := w.owner.(*recordOp)
	d, l := r.d, &r.d.log_
	if r.kind == record.KindPad {
		l.giveOp(r)
		return
	}
	w.seg.unacked--
	if l.failing {
		return // voidRecords ends it
	}
	// Kept in order of u: the segment's list is, and so is what waits already.
	pos := &l.rehome
	for *pos != nil && (*pos).u < r.u {
		pos = &(*pos).next
	}
	r.next = *pos
	*pos = r
	d.wakeUser()
}

// abandonLog ends what waits when the device takes no more writes.
func (d *Device) abandonLog() {
	l := &d.log_
	d.dropQueue(unix.EROFS)
	if l.rehome == nil && !l.voidActive && !l.failing {
		return
	}
	if !l.failing {
		l.failing, l.failErr = true, unix.EIO
	}
	if l.writing == 0 {
		d.voidRecords()
	}
}

// dropQueue answers the requests that wait. Of a request that was packed in
// part only the rest is dropped; it completes with its last record. What stands
// in write buffers was answered: it waits on, or is given up.
func (d *Device) dropQueue(err error) {
	var kept queue
	drop := d.log_.q.take()
	for p := &drop; *p != nil; {
		r := *p
		if r.run == nil || !d.keeps(err) {
			p = &r.next
			continue
		}
		*p = r.next
		kept.push(r)
	}
	d.log_.q = kept
	held := kept.head != nil
	for r := drop; r != nil; {
		n := r.next
		r.next = nil
		for i := r.off; r.run != nil && i < r.Count; i++ {
			d.giveUp(r, r.LBA+i)
		}
		r.Err = err
		r.left -= r.Count - r.off
		if r.left == 0 {
			d.complete(r)
		}
		r = n
	}
	d.reportLoss(err)
	if held {
		d.heldBack(err)
	}
}

// voidRecords answers every record that was not switched yet with the error
// that stopped the log. Their numbers may stand on media, so they are never
// used again: a void record will cover them before anything new is written.
func (d *Device) voidRecords() {
	l := &d.log_
	err := l.failErr
	l.failing, l.failErr, l.rehome = false, nil, nil
	from := d.ackedU + 1
	var kept queue
	for u := from; u <= l.nextU; u++ {
		r := l.ring[u%uint64(len(l.ring))]
		if r == nil && l.voidFrom != 0 && u <= l.voidTo {
			continue // only the void record that covers it was under way
		}
		l.ring[u%uint64(len(l.ring))] = nil
		assert.That(r != nil && r.u == u, "every record that was not switched is in the ring")
		d.voidRecord(r, err, &kept)
	}
	d.requeue(kept)
	if l.voidFrom == 0 {
		l.voidFrom = from
	}
	l.voidTo = l.nextU
	l.voidErr = err
	l.voidActive = false
	l.voidTried = d.th.Now()
	d.dropQueue(err)
}

// voidRecord ends a record. Blocks of it that stand in write buffers go to kept,
// or are given up.
func (d *Device) voidRecord(r *recordOp, err error, kept *queue) {
	l := &d.log_
	if r.effective {
		r.w.seg.unacked--
		d.noteIfEmpty(r.w.seg)
	}
	d.stats.Voided++
	for i := range r.n {
		if r.kind == record.KindData {
			l.inflight.remove(r.lbas[i], r.seqs[i])
		}
	}
	at := 0
	for _, p := range r.parts {
		if p.req.run != nil {
			if d.keeps(err) {
				d.keep(p.req, kept)
				at += int(p.n)
				continue
			}
			for _, lba := range r.lbas[at : at+int(p.n)] {
				d.giveUp(p.req, lba)
			}
		}
		at += int(p.n)
		p.req.left -= p.n
		p.req.Err = err
		if p.req.left == 0 {
			d.complete(p.req)
		}
	}
	op := r.move
	l.giveOp(r)
	if op != nil {
		op.detourFailed()
	}
}

// keep puts a run, of which a record is void, on the list to be written again.
func (d *Device) keep(r *Request, kept *queue) {
	if kept.tail == r {
		return // an earlier part of it is there
	}
	if d.log_.q.head == r {
		d.log_.q.pop() // packed in part only
	}
	kept.push(r)
}

// voidRetryNs is how long the log waits before it tries again to write after
// the file system was full.
const voidRetryNs = 50e6

// settleVoid writes the void record that stands in front of anything new. It
// returns true when nothing stands in front.
func (d *Device) settleVoid() bool {
	l := &d.log_
	if l.voidFrom == 0 {
		return true
	}
	if l.voidActive {
		return false
	}
	if l.q.head == nil && !d.stranded() {
		return false
	}
	if d.th.Now()-l.voidTried < voidRetryNs {
		d.dropQueue(l.voidErr)
		d.retryLater()
		return false
	}
	s := l.cur.segment(1)
	if s == nil {
		d.noSpaceLeft()
		return false
	}
	r := l.takeOp()
	r.kind = record.KindVoid
	r.u, r.voidLast = l.voidFrom, l.voidTo
	l.voidActive = true
	l.ring[r.u%uint64(len(l.ring))] = r
	r.write(s)
	return false
}
