package ftl

import (
	"errors"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/internal/assert"
	"goftl/iobuf"
)

// stream is a place where records of one kind are appended: an open segment
// and, when asked for, the next one being opened ahead of need.
type stream struct {
	d    *Device
	name string
	band bool
	src  Source
	// ahead: the next segment is opened before the present one is full, when
	// aheadPct percent of it are.
	ahead    bool
	aheadPct uint32
	reserve  int // free segments that this stream leaves to others
	cur      *segment
	next     *segment // opening or open
	// ready is called when a segment became open, or opening failed.
	ready func(d *Device)
}

// segment returns the open segment with at least need free slots, or nil when
// the caller must wait for ready (or for a free segment).
func (t *stream) segment(need uint32) *segment {
	d := t.d
	if s := t.cur; s != nil {
		if s.state == segOpen && s.broken {
			return nil
		}
		if s.state == segOpen && s.next+need <= s.body {
			return s
		}
		t.cur = nil
		if s.state == segOpen {
			d.seal(s)
		}
	}
	if t.next != nil && t.next.state == segOpen {
		t.cur, t.next = t.next, nil
	}
	if t.next == nil && (t.cur == nil || t.ahead && t.cur.next >= t.cur.body/100*t.aheadPct) {
		t.openNext()
	}
	return t.cur
}

// room is the number of slots that an open segment has left.
func (s *segment) room() uint64 {
	if s == nil || s.state != segOpen || s.broken {
		return 0
	}
	return uint64(s.body - s.next)
}

// openNext starts opening a free segment.
func (t *stream) openNext() {
	d := t.d
	if !d.mayOpen(t) {
		return
	}
	s := d.takeFree(t.band)
	if s == nil {
		return
	}
	t.next = s
	d.open(s, t)
}

// mayOpen says whether the stream may take a free segment now.
func (d *Device) mayOpen(t *stream) bool {
	if d.health != HealthOK {
		return false
	}
	if t.band {
		return d.freeBands.n > t.reserve && d.zonesAllow(t)
	}
	return d.freeChunks.n > t.reserve
}

// fifo is a queue of segments; its room is the number of segments, so it is
// never full.
type fifo struct {
	q    []uint32
	head int
	n    int
}

func (f *fifo) push(i uint32) {
	f.q[(f.head+f.n)%len(f.q)] = i
	f.n++
}

func (f *fifo) pop() uint32 {
	i := f.q[f.head]
	f.head = (f.head + 1) % len(f.q)
	f.n--
	return i
}

// remove takes i out of the queue; the others keep their order.
func (f *fifo) remove(i uint32) {
	for range f.n {
		if x := f.pop(); x != i {
			f.push(x)
		}
	}
}

func (d *Device) takeFree(band bool) *segment {
	f := &d.freeChunks
	if band {
		f = &d.freeBands
	}
	if f.n == 0 {
		return nil
	}
	return &d.segs[f.pop()]
}

// open makes a free segment ready for records. Rule 3: its OPEN descriptor,
// with a new generation, is durable before the first record is written. On
// zones they are reset first (Rule 10: nothing maps to it or reads it any more).
func (d *Device) open(s *segment, t *stream) {
	s.setState(segOpening)
	assert.That(d.valid[s.idx] == 0 && s.pins == 0 && s.unacked == 0, "a free segment holds nothing")
	s.owner = t
	switch {
	case !s.zoned():
		d.describeOpen(s)
	case s.claimsLog():
		s.describeFree(openDisclaimed)
	default:
		d.zones.Reset(uint64(s.id), openReset, s)
	}
}

// describeOpen makes the segment's next use durable.
func (d *Device) describeOpen(s *segment) {
	s.gen++
	if s.band {
		d.maxGen = max(d.maxGen, s.gen)
	}
	s.inc = d.sb.Inc
	s.next, s.firstU, s.lastU, s.maxG, s.maxD = 0, 0, 0, 0, 0
	s.opened = d.lastG
	s.broken, s.summaryOK, s.blind, s.draining, s.hurt, s.unreadable = false, false, false, false, false, 0
	s.sum = d.takeSummary(s.band)
	s.claims = true
	d.putDescriptor(s, record.StateOpen)
	s.entry.Arg = s
	s.entry.Done = openDone
	d.persistDescriptor(s)
}

func openDone(arg any, err error) {
	s := arg.(*segment)
	d, t := s.d, s.owner
	d.checkMDFlush(err)
	if err == nil {
		s.setState(segOpen)
		d.descFailures = 0
		t.ready(d)
		d.wake() // whether something can go on was not asked while it was opened
		return
	}
	d.giveSummary(s)
	s.openFailed(err)
}

// openFailed takes back what is being opened: a descriptor could not be written.
func (s *segment) openFailed(err error) {
	d, t := s.d, s.owner
	d.log.Error("opening a segment failed", "kind", s.kindName(), "id", s.id, "err", err)
	t.next = nil
	if isNoSpace(err) {
		// A full host file system is not a broken one: users are told, and it
		// is tried again for as long as it takes.
		switch t {
		case &d.log_.cur:
			if t.cur == nil {
				d.refuseWrites()
			}
		case &d.compaction.stream:
			d.compaction.noBand(err)
		case &d.gc.stream:
			d.gc.noBand(err)
		}
	} else {
		d.descFailures++
	}
	if d.descFailures > maxDescFailures {
		s.setState(segBad)
		d.fail(HealthReadOnly, "descriptors cannot be written", err)
		t.ready(d)
		return
	}
	// The copies on media may say OPEN with the new generation or still the
	// old one; either way the segment holds nothing.
	s.releaseZones()
	s.setState(segFree)
	d.freeList(s.band).push(s.idx)
	d.retryLater()
}

func (d *Device) freeList(band bool) *fifo {
	if band {
		return &d.freeBands
	}
	return &d.freeChunks
}

// putDescriptor encodes the segment's durable state into its metadata object.
func (d *Device) putDescriptor(s *segment, st record.State) {
	desc := record.Descriptor{
		State: st, Seg: s.idx, Gen: s.gen, Inc: s.inc, Slots: s.next,
		FirstU: s.firstU, LastU: s.lastU, MaxG: s.maxG, MaxD: s.maxD, Opened: s.opened,
	}
	if s.zoned() {
		desc.Zones, desc.Capacity = d.zones.Mask(uint64(s.id)), s.slots
	}
	desc.Put(d.mdOf(s).Buffer()[uint64(s.id)*blockSize:])
}

// persistDescriptor writes it by Rule 1: mirror, flush, primary, flush.
func (d *Device) persistDescriptor(s *segment) {
	d.mdOf(s).PersistEntryOrdered(&s.entry, uint64(s.id), 1)
}

// seal lets the segment take no more records; it is closed when those under
// way are on the device.
func (d *Device) seal(s *segment) {
	s.setState(segClosing)
	s.closeIfDone()
}

// closeStage is where the closing of a segment stands.
type closeStage uint8

const (
	closeNone closeStage = iota
	closeBodies
	closeSummary
	closeSummaryFlush
	closeDescriptor
	closeZones // on zones: they are finished, so that others may be open
	closeHeld  // found open by a load; closed after recovery's checkpoint
)

// closeIfDone starts to close a sealed segment once nothing is under way.
func (s *segment) closeIfDone() {
	if s.state != segClosing || s.inflight != 0 || s.head != nil || s.closing != closeNone {
		return
	}
	if s.blind {
		// A summary would say for ever that nothing stands behind what could not
		// be read. Without one every load looks again.
		s.finishZones(errBlind)
		return
	}
	s.sum.Clear(s.next, s.body)
	s.sum.Seal(s.summaryID())
	if s.zoned() && !s.d.zones.At(uint64(s.id), s.next) {
		s.finishZones(errNoRoom)
		return
	}
	// Rule 7: bodies complete, flush, summary, FULL descriptor. The summary
	// is flushed too, so that FULL never stands in front of it.
	s.closing = closeBodies
	s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())
	s.io.call(closeStep, s)
}

func (s *segment) mdSource() Source {
	if s.band {
		return SourceMDBase
	}
	return SourceMDCache
}

func closeStep(x *devIO, err error) {
	s := x.owner.(*segment)
	if err != nil && s.closing != closeSummary {
		s.d.flushFailed(s.dev, err)
	}
	if err == nil {
		err = s.d.flushBroken // bodies may be what another flush dropped
	}
	if err != nil {
		s.finishZones(err)
		return
	}
	switch s.closing {
	case closeBodies:
		s.closing = closeSummary
		s.writeSummary()
	case closeSummary:
		s.closing = closeSummaryFlush
		s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())
		s.io.call(closeStep, s)
	case closeSummaryFlush:
		s.closing = closeDescriptor
		s.d.putDescriptor(s, record.StateFull)
		s.entry.Arg, s.entry.Done = s, closeDescribed
		s.d.persistDescriptor(s)
	default:
		assert.That(false, "closing has no such stage")
	}
}

func closeDescribed(arg any, err error) {
	s := arg.(*segment)
	s.d.checkMDFlush(err)
	if err != nil {
		s.d.log.Warn("FULL descriptor not written; the segment is scanned after a crash",
			"kind", s.kindName(), "id", s.id, "err", err)
	}
	s.claims = s.claims && err != nil
	s.summaryOK = true
	s.finishZones(nil)
}

// writeSummary writes the summary, in whole write units.
func (s *segment) writeSummary() {
	s.sumBufs = append(s.sumBufs[:0], s.sum)
	n := uint32(len(s.sum) / blockSize)
	for ; n%s.unit != 0; n++ {
		s.sumBufs = append(s.sumBufs, zeroBlock)
	}
	s.io.prepare(s.dev, bdev.OpWrite, s.sumBufs, nil, s.sumOff(), uint64(n), s.mdSource())
	s.io.call(closeStep, s)
}

// closed ends the closing. A segment whose summary could not be written keeps
// it in memory; after a crash it is scanned as an open one.
func (s *segment) closed(err error) {
	d := s.d
	s.closing = closeNone
	if err != nil {
		s.hurt = s.hurt || !isNoSpace(err) && !errors.Is(err, errNoRoom) && !errors.Is(err, errBlind)
		d.log.Warn("summary not written; kept in memory", "kind", s.kindName(), "id", s.id, "err", err)
	}
	s.countFaults()
	s.setState(segFull)
	if s.summaryOK {
		d.cacheSums(s)
		d.giveSummary(s)
	}
	if s.recovered {
		s.recovered = false
		d.oneClosed()
	}
	d.noteIfEmpty(s)
	d.wake()
}

// countFaults books whether a write failed in the use that ends.
func (s *segment) countFaults() {
	switch {
	case !s.hurt:
		s.faults = 0
	case s.faults < maxSegmentFaults:
		s.faults++
	}
}

// cacheSums moves the checksums of a segment that was just written to the
// cache of checksums, where its first reads will look.
func (d *Device) cacheSums(s *segment) {
	if s.vss() {
		return
	}
	for i := uint32(0); int(i)*blockSize < len(s.sum); i++ {
		d.sums.insert(sumKey(s, i), s.sum[i*blockSize:(i+1)*blockSize])
	}
}

// takeSummary returns memory for a summary; giveSummary keeps it for the next.
func (d *Device) takeSummary(band bool) record.Summary {
	pool := &d.sumPool[kindIndex(band)]
	if n := len(*pool); n > 0 {
		m := (*pool)[n-1]
		*pool = (*pool)[:n-1]
		return m
	}
	slots := d.lay.ChunkBlocks
	if band {
		slots = d.lay.BandSlots
	}
	return record.Summary(iobuf.Alloc(int(layout.SummaryBlocks(slots)) * blockSize))
}

func (d *Device) giveSummary(s *segment) {
	d.returnSummary(s.band, s.sum)
	s.sum = nil
}

func (d *Device) returnSummary(band bool, m record.Summary) {
	pool := &d.sumPool[kindIndex(band)]
	*pool = append(*pool, m)
}

func kindIndex(band bool) int {
	if band {
		return 1
	}
	return 0
}

// noteIfEmpty moves a full segment without valid blocks to quarantine (Rule
// 9: no pins are needed yet, but every user record in it was switched and no
// drain holds it).
func (d *Device) noteIfEmpty(s *segment) {
	if s.state != segFull || d.valid[s.idx] != 0 || s.unacked != 0 || s.draining || d.rs != nil {
		return // while redo runs (rs), a count of zero may be passed on the way
	}
	s.emptiedAt = d.ckpt.attempts
	d.unmarkUrgent(s)
	s.setState(segQuarantine)
	if s.sum != nil {
		d.giveSummary(s)
	}
	d.wake()
}

// releaseQuarantine frees what a committed checkpoint covers: segments that
// were empty before it started and whose last user record it reflects (Rule 9).
func (d *Device) releaseQuarantine(attempt, cu uint64) {
	for i := range d.segs {
		s := &d.segs[i]
		if s.state != segQuarantine || s.emptiedAt >= attempt || s.lastU > cu {
			continue
		}
		s.freeable = true
		d.freeIfUnpinned(s)
	}
}

// freeIfUnpinned frees a segment that a checkpoint released once no read holds
// it (Rule 10).
func (d *Device) freeIfUnpinned(s *segment) {
	if s.state != segQuarantine || !s.freeable || s.pins != 0 {
		return
	}
	s.freeable = false
	if s.faults >= maxSegmentFaults && d.mayRetire(s.band) {
		s.setState(segBad)
		d.log.Warn("segment retired after repeated errors", "kind", s.kindName(), "id", s.id)
		return
	}
	s.setState(segFree)
	if s.disclaims() {
		return
	}
	d.freeList(s.band).push(s.idx)
	s.dropIfGone()
	d.wake()
}

// mayRetire says whether the device can do without one more segment of the
// kind: the promised capacity stays, and so does half of what is spare beyond
// it. A device that fails everywhere is not helped by using less of it.
func (d *Device) mayRetire(band bool) bool {
	if !band {
		return d.chunks[segBad] < int(d.lay.Chunks)/8
	}
	per := layout.DataBlocks(d.lay.BandSlots)
	need := int((d.lay.LBAs+per-1)/per) + layout.ReserveBands
	return d.bands[segBad] < (int(d.lay.UsableBands)-need)/2
}

// takeBack makes retired segments free again, and zones whose reset failed, and
// says whether there were any: when no other is left, those that fail now and
// then are better than none.
func (d *Device) takeBack(band bool) (found bool) {
	for i := range d.segs {
		s := &d.segs[i]
		if s.band != band {
			continue
		}
		zones := s.zoned() && d.zones.TakeBack(uint64(s.id))
		if s.state != segBad || !zones && (s.faults < maxSegmentFaults || s.body == 0) {
			continue
		}
		found = true
		s.faults = 0
		d.log.Warn("retired segment is used again", "kind", s.kindName(), "id", s.id)
		s.setState(segFree)
		d.freeList(band).push(s.idx)
	}
	if found {
		d.wake()
	}
	return found
}

// unpin drops a read's hold on a segment.
func (d *Device) unpin(s *segment) {
	assert.That(s.pins > 0, "pins are counted")
	s.pins--
	if s.pins == 0 && s.freeable {
		d.freeIfUnpinned(s)
	}
}
