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
	m         *mover
	seg       *segment
	sum       record.Summary // borrowed from the device's pool, or the segment's own
	own       bool           // sum is the segment's own
	slot      uint32         // next slot to look at
	ops       int            // move ops under way
	ready     bool           // sum holds the P2L
	passes    int
	lossy     bool   // blocks that cannot be read are given up
	badReads  int    // blocks that could not be read
	goodReads uint64 // of the source's device, when the pass began
	io        devIO
	scan      *segScan
	next      *drain
}

// startDrain takes a full segment out of the game until it is empty.
func (m *mover) startDrain(s *segment) {
	assert.That(s.state == segFull && !s.draining && s.unacked == 0, "only full segments are drained")
	d := m.d
	dr := m.spare
	if dr == nil {
		dr = &drain{m: m}
	} else {
		m.spare = dr.next
	}
	dr.next, dr.seg, dr.slot, dr.ops, dr.passes, dr.ready, dr.lossy = nil, s, 0, 0, 0, false, false
	dr.badReads, dr.goodReads = 0, s.dev.goodReads
	s.draining = true
	s.pins++
	m.drains = append(m.drains, dr)
	if s.sum != nil {
		dr.sum, dr.own, dr.ready = s.sum, true, true
		return
	}
	dr.own = false
	dr.sum = d.takeSummary(s.band)
	dr.io.prepareOne(s.dev, bdev.OpRead, dr.sum, s.off+uint64(s.body), m.src)
	dr.io.call(drainLoaded, dr)
}

func drainLoaded(x *devIO, err error) {
	dr := x.owner.(*drain)
	s, d := dr.seg, dr.m.d
	if err == nil {
		err = dr.sum.Check(s.summaryID())
	}
	if err == nil {
		dr.ready = true
		dr.m.run()
		return
	}
	d.log.Warn("summary unreadable, the segment is scanned", "kind", s.kindName(), "id", s.id, "err", err)
	dr.scan = newSegScan(d, s, dr.sum, dr.m.src)
	dr.scan.start(drainScanned, dr)
}

func drainScanned(arg any, err error) {
	dr := arg.(*drain)
	dr.scan.free()
	dr.scan = nil
	if err != nil {
		dr.m.d.log.Error("segment cannot be scanned", "kind", dr.seg.kindName(), "id", dr.seg.id, "err", err)
	}
	dr.ready = true
	dr.m.run()
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
	if d.valid[s.idx] != 0 && d.health == HealthOK && dr.passes < maxPasses && !m.blocked {
		dr.passes++
		dr.slot = 0
		// Blocks are given up only when the device answers otherwise: what
		// fails altogether may come back.
		dr.lossy = dr.passes == maxPasses && dr.badReads > 0 && s.dev.goodReads > dr.goodReads
		dr.goodReads = s.dev.goodReads
		return
	}
	s.draining = false
	s.pins--
	if !dr.own {
		d.returnSummary(s.band, dr.sum)
	}
	dr.sum = nil
	for i, x := range m.drains {
		if x == dr {
			m.drains = append(m.drains[:i], m.drains[i+1:]...)
			break
		}
	}
	dr.next = m.spare
	m.spare = dr
	if d.valid[s.idx] == 0 {
		if s.band {
			d.stats.Relocated++
		} else {
			d.stats.Compacted++
		}
	} else {
		// Moves failed again and again. The segment goes to the end of the line.
		s.opened = d.lastG
		if dr.badReads == 0 {
			d.orphans(s, m)
		}
	}
	d.noteIfEmpty(s)
}

// orphans reports blocks that are mapped to a segment whose P2L does not know
// them: their content cannot be checked, so it is given up.
func (d *Device) orphans(s *segment, m *mover) {
	if d.health != HealthOK || m.blocked || m.failed > 0 {
		return
	}
	lost := uint64(0)
	for lba := range d.lay.LBAs {
		a := d.table.Get(lba)
		if a < s.addr || a >= s.addr+l2p.Addr(s.body) {
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
