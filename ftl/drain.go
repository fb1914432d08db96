package ftl

import (
	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/internal/assert"
)

// drain empties one full segment: it walks the segment's P2L and hands what is
// still valid to move ops. It holds the segment from selection to the last
// switch (Rule 8).
type drain struct {
	m        *mover
	seg      *segment
	sum      record.Summary // borrowed from the device's pool, or the segment's own
	own      bool           // sum is the segment's own
	slot     uint32         // next slot to look at
	ops      int            // move ops under way
	ready    bool           // sum holds the P2L
	passes   int
	lossy    bool // blocks that cannot be read are given up
	blind    bool // the P2L could not be found to its end
	scanned  bool // sum is from a scan
	badReads int  // blocks that could not be read
	io       devIO
	scan     *segScan
	next     *drain
}

// startDrain takes a full segment out of the game until it is empty.
func (m *mover) startDrain(s *segment) *drain {
	assert.That(s.state == segFull && !s.draining && s.unacked == 0, "only full segments are drained")
	d := m.d
	dr := m.spare
	if dr == nil {
		dr = &drain{m: m}
	} else {
		m.spare = dr.next
	}
	dr.next, dr.seg, dr.slot, dr.ops, dr.passes, dr.ready, dr.blind, dr.scanned, dr.badReads = nil, s, 0, 0, 0, false, false, false, 0
	dr.lossy = s.mayLose()
	s.draining = true
	s.pins++
	m.drains = append(m.drains, dr)
	if s.sum != nil && !s.blind {
		dr.sum, dr.own, dr.ready = s.sum, true, true
		return dr
	}
	dr.own = false
	dr.sum = d.takeSummary(s.band)
	dr.io.prepareOne(s.dev, bdev.OpRead, dr.sum, s.sumOff(), m.src)
	dr.io.call(drainLoaded, dr)
	return dr
}

func drainLoaded(x *devIO, err error) {
	dr := x.owner.(*drain)
	s, d := dr.seg, dr.m.d
	if err == nil {
		err = dr.sum.Check(s.summaryID())
	}
	if err == nil {
		dr.begin()
		return
	}
	d.log.Warn("summary unreadable, the segment is scanned", "kind", s.kindName(), "id", s.id, "err", err)
	dr.rescan()
}

// rescan makes the P2L from the headers of the records.
func (dr *drain) rescan() {
	dr.ready, dr.scanned, dr.slot = false, true, 0
	dr.scan = newSegScan(dr.m.d, dr.seg, dr.sum, dr.m.src)
	dr.scan.start(drainScanned, dr)
}

func drainScanned(arg any, err error) {
	dr := arg.(*drain)
	dr.scan.free()
	dr.scan = nil
	dr.blind = err != nil
	if err != nil {
		dr.m.d.log.Error("segment cannot be scanned", "kind", dr.seg.kindName(), "id", dr.seg.id, "err", err)
	}
	dr.begin()
}

// begin starts the walk. It wakes the background, for if no move may start now
// nothing else would look whether any ever can.
func (dr *drain) begin() {
	dr.ready = true
	dr.m.run()
	dr.m.d.wake()
}

// done says whether the walk is over and nothing is under way.
func (dr *drain) done() bool { return dr.ready && dr.slot >= dr.seg.body && dr.ops == 0 }

// collect fills op with blocks of the segment that are valid, as far as the
// mapping can tell without waiting, up to one record.
func (dr *drain) collect(op *moveOp) {
	d, s := dr.m.d, dr.seg
	op.n, op.d = 0, dr
	from := dr.slot
	for dr.slot < s.body && op.n < record.MaxBlocks {
		slot := dr.slot
		dr.slot++
		lba := dr.sum.LBAAt(slot)
		if lba >= d.lay.LBAs {
			continue
		}
		if a, ok := d.table.Peek(lba); ok && a != s.addr+l2p.Addr(slot) {
			continue
		}
		e := dr.sum.At(slot)
		op.ents[op.n] = moveEntry{lba: lba, u: e.U, sum: e.Sum, slot: slot}
		op.n++
	}
	op.span = int(dr.slot - from)
}

// maxPasses bounds how often a drain walks its segment again because moves
// failed before it gives the segment back.
const maxPasses = 3

// finish ends a drain that is done.
func (dr *drain) finish() {
	m, s := dr.m, dr.seg
	d := m.d
	unread := dr.badReads > 0 || dr.blind
	if d.valid[s.idx] != 0 && d.health == HealthOK && dr.passes < maxPasses && !m.blocked && !unread {
		dr.passes++
		dr.slot = 0
		return
	}
	if dr.mayKnowMore() {
		d.log.Warn("blocks that the summary does not describe, the segment is scanned", "kind", s.kindName(), "id", s.id)
		d.stats.Undescribed += uint64(d.valid[s.idx])
		dr.rescan()
		return
	}
	s.draining = false
	s.pins--
	if m == &d.gc {
		d.bandEmptied()
	}
	if d.valid[s.idx] == 0 {
		if s.band {
			d.stats.Relocated++
		} else {
			d.stats.Compacted++
		}
	} else {
		// Moves failed again and again. The segment goes to the end of the line.
		s.opened = d.lastG
		if !dr.blind || dr.lossy {
			dr.giveUpOrphans()
		}
		if unread {
			s.putOff()
		}
	}
	if !dr.own {
		d.returnSummary(s.band, dr.sum)
	}
	dr.sum = nil
	if m.detour == dr {
		m.detour = nil
	}
	for i, x := range m.drains {
		if x == dr {
			m.drains = append(m.drains[:i], m.drains[i+1:]...)
			break
		}
	}
	dr.next = m.spare
	m.spare = dr
	d.noteIfEmpty(s)
}

// What cannot be read may come back: a cable, a path, a device that resets
// itself. So a segment with such blocks is tried again after a while, longer
// each time, and blocks are given up only after maxPasses drains that failed,
// and only when the device answered other reads meanwhile.

// mayLose says whether the next drain may give up what it cannot read.
func (s *segment) mayLose() bool { return s.unreadable >= maxPasses && s.dev.goodReads > s.goodReads }

// putOff books a drain that met blocks that cannot be read.
func (s *segment) putOff() {
	s.d.retryLater()
	s.goodReads = s.dev.goodReads
	s.retryAt = s.d.th.Now() + int64(retryPeriod)<<min(s.unreadable, maxPutOff)
	if s.unreadable < maxPutOff {
		s.unreadable++
	}
}

// maxPutOff bounds the wait between two drains: 50 ms << 12 are 200 s.
const maxPutOff = 12

// drainable says whether a full segment may be drained now.
func (s *segment) drainable() bool {
	if s.state != segFull || s.draining || s.unacked != 0 {
		return false
	}
	if s.unreadable > 0 && s.d.th.Now() < s.retryAt {
		s.d.retryLater() // somebody has to look again
		return false
	}
	return true
}

// mayKnowMore says whether blocks are mapped to the segment that its summary on
// the media does not describe. Headers may: of a record that failed and landed,
// and that a load found which could not read the summary. What the summary knows
// must have been moved or given up, for a scan may know less.
func (dr *drain) mayKnowMore() bool {
	d, s := dr.m.d, dr.seg
	if d.valid[s.idx] == 0 || d.health != HealthOK || dr.m.blocked || dr.own || dr.scanned || dr.badReads > 0 && !dr.lossy {
		return false
	}
	described := uint32(0)
	for slot := range s.body {
		if lba := dr.sum.LBAAt(slot); lba < d.lay.LBAs && d.table.Get(lba) == s.addr+l2p.Addr(slot) {
			described++
		}
	}
	return described == 0
}

// giveUpOrphans reports blocks that are mapped to a segment whose P2L does not
// know them: their content cannot be checked, so it is given up. What the P2L
// describes is still there, only moving it failed.
func (dr *drain) giveUpOrphans() {
	d, s := dr.m.d, dr.seg
	if d.health != HealthOK || dr.m.blocked {
		return
	}
	lost := uint64(0)
	for lba := range d.lay.LBAs {
		a := d.table.Get(lba)
		if a < s.addr || a >= s.addr+l2p.Addr(s.body) || dr.sum.LBAAt(uint32(a-s.addr)) == lba {
			continue
		}
		d.lose(lba, a)
		lost++
	}
	if lost > 0 {
		d.log.Error("blocks given up: their segment does not describe them",
			"kind", s.kindName(), "id", s.id, "blocks", lost)
	}
}

// lose marks a mapped block as lost: reads of it fail from now on until it is
// written again. Its source is not reused before a checkpoint holds that.
func (d *Device) lose(lba uint64, a l2p.Addr) {
	d.table.Set(lba, l2p.Lost)
	d.mapped--
	d.stats.Lost++
	d.dropBlock(a)
}
