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
	m := &d.gc
	if m.waiting == nil || m.blocked || d.freeBands.n > 0 || d.quiesce || d.ckpt.active || d.health != HealthOK {
		return false
	}
	t := &m.stream
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

// mayDetour says whether the log has room for what is valid in the segment whose
// move waits longest: part of it would take room and free nothing.
func (d *Device) mayDetour() bool {
	s := d.gc.waiting.d.seg
	valid := uint64(d.valid[s.idx])
	log := &d.log_.cur
	body, free := uint64(d.segs[0].body), d.freeChunks.n
	if log.band {
		body, free = d.bandBody, d.freeBands.n-log.reserve
	}
	room := uint64(max(free, 0))*body + log.cur.room() + log.next.room()
	// Beside its blocks a record takes a header and what its write unit or the
	// end of its segment leaves unused.
	records := valid/min(record.MaxBlocks, body-1) + 2
	return room >= valid+records*uint64(s.unit+1)
}

// detour makes records of moves that are stranded. It returns false when users
// have to wait until no record is under way.
func (d *Device) detour() bool {
	m, l := &d.gc, &d.log_
	if m.waiting == nil || !d.stranded() || !d.mayDetour() {
		return true
	}
	if l.under > 0 {
		return false
	}
	for m.waiting != nil && l.free != nil && d.mayDetour() {
		s := l.cur.segment(d.headerSlots() + 1)
		if s == nil {
			return true // one is being opened, or there is no space
		}
		r := l.takeOp()
		if !r.packMove(m.waiting, s) {
			l.giveOp(r)
			continue
		}
		d.stats.Detoured += uint64(r.n)
		d.number(r)
		r.write(s)
	}
	return true
}

// packMove takes the blocks of the move at the head of the line that are still
// valid, up to the room of s. It returns false when none is.
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
	op.m.waiting = op.next
	op.next = nil
	if r.n == 0 {
		op.finish()
		return false
	}
	return true
}

// beforeDetour checks, as a record of moves is switched, that nothing else has
// touched its blocks (Rule 8).
func (r *recordOp) beforeDetour() {
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
