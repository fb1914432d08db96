package ftl

import (
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/internal/assert"
)

// Relocation needs a free band to begin with. Two are kept for it, but a band is
// lost without notice when its zones turn out to be offline as they are reset,
// and writes that fail seal bands early. When none is left, what relocation has
// read takes a detour: it is written through the log, as a user's record of the
// same content, to a chunk (without a cache, to the band that is open for users).
// The source is empty then, and free behind a checkpoint like any other (Rule 9):
// that is the band to go on with.
//
// To recovery such a record is a user's record. So its blocks must be the newest
// ones of all records with lower numbers: it gets its number when no other record
// is under way and the mapping still names the source (Rule 8), and what users
// write from then on has higher numbers.

// stranded says whether relocation waits for a band, there is none, and none is
// on its way.
func (d *Device) stranded() bool {
	m, t := &d.gc, &d.gc.stream
	switch {
	case m.waiting == nil || m.blocked || d.quiesce || d.health != HealthOK:
		return false
	case m.waiting.strays && d.log_.sound():
		return true
	case d.freeBands.n > 0 || d.ckpt.active:
		return false
	}
	return t.cur == nil && t.next == nil && d.bands[segOpening]+d.bands[segClosing] == 0 && !d.willBeFree(true)
}

// strandedHelped says whether moves that are stranded can go on: through the log,
// or with bands that were retired, which are tried once more.
func (d *Device) strandedHelped() bool {
	if d.gc.waiting == nil || !d.stranded() {
		return false
	}
	return d.mayDetour() || d.takeBackOnce(true)
}

// straysNow says whether a move takes a detour though there are bands.
func (d *Device) straysNow(op *moveOp) bool {
	m, every := op.m, d.cfg.DetourEvery
	if m != &d.gc || every <= 0 {
		return false
	}
	m.turn++
	return m.turn%every == 0
}

// sound says whether nothing has failed in the log that must be mended before
// anything new is written: that may need a band, which no move may hold up then.
func (l *logState) sound() bool { return l.rehome == nil && l.voidFrom == 0 && !l.failing }

// mayDetour says whether a detour is under way, or can be: the log has room for
// all that is valid in some band. Part of it would take room and free nothing.
func (d *Device) mayDetour() bool {
	if d.detourFits() {
		return true
	}
	if d.gc.detour != nil {
		return d.gc.detour.goesOn()
	}
	return d.detourVictim() != nil
}

// goesOn says whether a drain will come to an end without room for what waits.
func (dr *drain) goesOn() bool {
	m := dr.m
	return !dr.ready || dr.slot < dr.seg.body && m.under <= m.limit || !m.stalled()
}

// detourRoom is the number of slots that the log has left.
func (d *Device) detourRoom() uint64 {
	log := &d.log_.cur
	body, free := uint64(d.segs[0].body), d.freeChunks.n
	if log.band {
		body, free = d.bandBody, d.freeBands.n-log.reserve
	}
	return uint64(max(free, 0))*body + log.cur.room() + log.next.room()
}

// detourNeed is what the valid blocks of a segment take there. Beside them a
// record takes a header and what its write unit or the end of its segment leaves
// unused.
func (d *Device) detourNeed(s *segment) uint64 {
	valid := uint64(d.valid[s.idx])
	return valid + (valid/min(record.MaxBlocks, uint64(d.segs[0].body)-1)+2)*uint64(s.unit+1)
}

// detourFits says whether the log has room for the segment of a move that waits.
func (d *Device) detourFits() bool {
	room := d.detourRoom()
	for op := d.gc.waiting; op != nil; op = op.next {
		if d.detourNeed(op.d.seg) <= room {
			return true
		}
	}
	return false
}

// detourNext takes the first move for whose segment the log has room out of the
// line.
func (d *Device) detourNext() *moveOp {
	m, room := &d.gc, d.detourRoom()
	var before *moveOp
	for op := m.waiting; op != nil; before, op = op, op.next {
		if d.detourNeed(op.d.seg) > room {
			continue
		}
		if before == nil {
			m.waiting = op.next
		} else {
			before.next = op.next
		}
		if m.waitTail == op {
			m.waitTail = before
		}
		op.next = nil
		return op
	}
	return nil
}

// detourVictim returns the band whose valid blocks need the least room, if the
// log has that.
func (d *Device) detourVictim() (best *segment) {
	least := d.detourRoom() + 1
	for i := d.lay.Chunks; i < uint64(len(d.segs)); i++ {
		s := &d.segs[i]
		if need := d.detourNeed(s); need < least && s.drainable() {
			best, least = s, need
		}
	}
	return best
}

// detour makes records of moves that are stranded. It returns false when users
// have to wait: until no record is under way, or for a smaller band where there is
// no room for what waits.
func (d *Device) detour() bool {
	m, l := &d.gc, &d.log_
	if m.waiting == nil || !d.stranded() {
		return true
	}
	if m.waiting.strays && d.detourNeed(m.waiting.d.seg) > d.detourRoom()/2 {
		m.waiting.strays = false // it would take what others need
		m.writeWaiting()
		return true
	}
	if !d.mayDetour() {
		return true
	}
	if !d.detourFits() {
		if m.detour == nil {
			m.detour = m.startDrain(d.detourVictim())
			d.wake()
		}
		return false
	}
	if l.under > 0 {
		return false
	}
	for l.free != nil && d.stranded() && d.detourFits() {
		s := l.cur.segment(d.headerSlots() + 1)
		if s == nil {
			return true // one is being opened, or there is no space
		}
		op := d.detourNext()
		if op == nil {
			return true // a segment was left with slots that nothing fits in
		}
		r := l.takeOp()
		if !r.packMove(op, s) {
			l.giveOp(r)
			continue
		}
		d.stats.Detoured += uint64(r.n)
		d.number(r)
		r.write(s)
	}
	m.writeWaiting()
	return true
}

// packMove takes the blocks of op that are still valid, up to the room of s. It
// returns false when none is.
func (r *recordOp) packMove(op *moveOp, s *segment) bool {
	d := r.d
	l, src := &d.log_, op.d.seg
	r.kind, r.move = record.KindData, op
	r.bufs = append(r.bufs, r.hdr)
	l.seq++
	room := int(min(record.MaxBlocks, s.body-s.next-d.headerSlots()))
	for op.at < op.n && r.n < room {
		i := op.at
		op.at++
		e := &op.ents[i]
		if e.bad || d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
			d.stats.Overtaken++
			continue
		}
		r.bufs = append(r.bufs, op.buf[i*blockSize:(i+1)*blockSize])
		r.lbas[r.n], r.sums[r.n], r.seqs[r.n] = e.lba, e.sum, l.seq
		op.live[r.n] = uint8(i)
		r.n++
	}
	if r.n == 0 {
		op.finish()
		return false
	}
	return true
}

// checkDetour checks, as a record of moves is switched, that nothing else has
// touched its blocks (Rule 8).
func (r *recordOp) checkDetour() {
	src := r.move.d.seg
	for i := range r.n {
		a := src.addr + l2p.Addr(r.move.ents[r.move.live[i]].slot)
		assert.That(r.d.table.Get(r.lbas[i]) == a, "a block on a detour lies where it was moved from")
	}
}

// detoured goes on with a move whose record was switched.
func (op *moveOp) detoured() {
	op.m.failed = 0
	op.next1()
}

// detourFailed drops what a void record held: the sources are still valid and
// will be found again.
func (op *moveOp) detourFailed() {
	op.m.blocked = true
	op.m.d.retryLater()
	op.at = op.n
	op.finish()
}
