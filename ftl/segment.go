package ftl

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/ftl/md"
	"goftl/ftl/record"
	"goftl/internal/assert"
	"goftl/iobuf"
)

const (
	devCache = layout.DevCache
	devBase  = layout.DevBase

	blockSize = layout.BlockSize
)

// segState is the state of a segment in memory. On media there are only free,
// open and full (record.State).
type segState uint8

const (
	segFree       segState = iota
	segOpening             // its OPEN descriptor is on its way
	segOpen                // takes records
	segClosing             // takes no more; bodies, summary and FULL descriptor follow
	segFull                // may be drained
	segQuarantine          // empty; waits for a checkpoint
	segBad                 // failed too often to be used again in this run
	numSegStates
)

var segStateNames = [numSegStates]string{"free", "opening", "open", "closing", "full", "quarantine", "bad"}

func (s segState) String() string { return segStateNames[s] }

// segNext lists the states that may follow each state.
var segNext = [numSegStates][]segState{
	segFree:       {segOpening, segFull, segClosing, segBad},
	segOpening:    {segOpen, segFree, segBad},
	segOpen:       {segClosing},
	segClosing:    {segFull},
	segFull:       {segQuarantine},
	segQuarantine: {segFree, segBad},
	segBad:        {segFree},
}

// slotWrite is one device write into a segment: a record. It is linked into
// its segment in slot order, because completions take effect in that order
// (Rule 5).
type slotWrite struct {
	next    *slotWrite
	seg     *segment
	slot    uint32 // first slot
	slots   uint32
	written bool // its device write came back
	err     error
	// effective is called when this and every earlier write of the segment
	// is on the device.
	effective func(w *slotWrite)
	// failed is called when this or an earlier write of the segment failed,
	// once nothing of the segment is in flight any more.
	failed func(w *slotWrite, err error)
	owner  any
}

// segment is a chunk or a band.
type segment struct {
	d     *Device
	idx   uint32 // in Device.segs
	id    uint32 // among its kind
	band  bool
	state segState
	gen   uint32
	dev   *dev
	off   uint64   // device block of slot 0
	addr  l2p.Addr // address of slot 0
	body  uint32   // slots that hold records
	slots uint32   // slots, with the summary
	unit  uint32   // slots that a record is a multiple of: the write unit of the device

	next     uint32 // first slot not given out
	inflight uint32 // device writes under way
	broken   bool   // a write failed; nothing is placed until the tail is cut
	head     *slotWrite
	tail     *slotWrite
	unacked  uint32 // user records in it that were not switched yet
	pins     uint32 // reads and drains that hold it
	firstU   uint64
	lastU    uint64
	maxG     uint64
	maxD     uint64
	opened   uint64 // G at opening: age
	inc      uint32

	sum       record.Summary // in memory from opening until FULL is durable
	summaryOK bool           // the summary on media can be trusted
	claims    bool           // its descriptor on media says OPEN
	blind     bool           // sum is from a scan that met a block it could not read: there may be more behind it
	faults    uint8          // uses in a row in which a write failed
	hurt      bool           // a write failed in this use
	// Drains in a row that met blocks that cannot be read, when the next may
	// begin, and the device's reads that had succeeded by then.
	unreadable uint8
	retryAt    int64
	goodReads  uint64
	draining   bool
	recovered  bool   // being closed after a recovery
	emptiedAt  uint64 // checkpoint attempts started when it became empty

	entry    md.EntryOp
	io       devIO
	closing  closeStage
	closeErr error    // why the summary was not written
	sumBufs  [][]byte // the summary, in whole write units
	evacuate bool     // its device says that it is failing: it is emptied first
	owner    *stream  // the stream that opened it
	freeable bool     // released by a checkpoint; waits for reads
}

func (s *segment) kindName() string {
	if s.band {
		return "band"
	}
	return "chunk"
}

// setState is the one place where states change.
func (s *segment) setState(to segState) {
	ok := false
	for _, n := range segNext[s.state] {
		ok = ok || n == to
	}
	assert.That(ok, "a segment changes state along its diagram")
	s.d.countState(s, -1)
	s.state = to
	s.d.countState(s, +1)
}

func (d *Device) countState(s *segment, by int) {
	if s.band {
		d.bands[s.state] += by
	} else {
		d.chunks[s.state] += by
	}
}

// segOf maps an address that names a slot to its segment index and slot.
func (d *Device) segOf(a l2p.Addr) (idx uint32, slot uint32) {
	i := uint64(a - l2p.First)
	if i < d.cacheSpan {
		return uint32(i >> d.chunkShift), uint32(i & d.chunkMask)
	}
	i -= d.cacheSpan
	return uint32(d.lay.Chunks + i>>d.bandShift), uint32(i & d.bandMask)
}

// addrSound says whether a names a body slot of a segment.
func (d *Device) addrSound(a l2p.Addr) bool {
	if a < l2p.First || uint64(a-l2p.First) >= d.span {
		return false
	}
	idx, slot := d.segOf(a)
	return slot < d.segs[idx].body
}

// buildSegments lays the segment table over the layout.
func (d *Device) buildSegments() {
	l := d.lay
	d.chunkShift = log2(l.ChunkBlocks)
	d.bandShift = log2(l.BandBlocks)
	d.chunkMask = l.ChunkBlocks - 1
	d.bandMask = l.BandBlocks - 1
	d.cacheSpan = l.Chunks * l.ChunkBlocks
	d.span = d.cacheSpan + l.Bands*l.BandBlocks
	d.segs = make([]segment, l.Chunks+l.Bands)
	d.valid = make([]uint32, l.Chunks+l.Bands)
	for i := range d.segs {
		s := &d.segs[i]
		s.d, s.idx, s.id = d, uint32(i), uint32(i)
		s.dev, s.slots, s.unit = &d.cache, uint32(l.ChunkBlocks), 1
		s.off = l.Region(layout.RegionChunks).Offset + uint64(i)*l.ChunkBlocks
		s.addr = l2p.First + l2p.Addr(uint64(i)*l.ChunkBlocks)
		if uint64(i) >= l.Chunks {
			s.band = true
			s.id = uint32(uint64(i) - l.Chunks)
			s.dev, s.slots, s.unit = &d.base, uint32(l.BandSlots), max(d.base.info.WriteUnit, 1)
			s.off = l.Region(layout.RegionBands).Offset + uint64(s.id)*l.BandBlocks
			s.addr = l2p.First + l2p.Addr(d.cacheSpan+uint64(s.id)*l.BandBlocks)
		}
		s.setCapacity(s.slots)
		d.countState(s, +1)
	}
	d.bandBody = uint64(d.segs[l.Chunks].body)
}

// setCapacity gives the segment its slots. The last ones are for the summary,
// whose size is the same for all bands.
func (s *segment) setCapacity(slots uint32) {
	l := s.d.lay
	sum := layout.SummaryBlocks(l.ChunkBlocks)
	if s.band {
		sum = layout.SummaryBlocks(l.BandSlots)
	}
	s.slots, s.body = slots, 0
	if need := s.roundUp(uint32(sum)); slots >= 2*need {
		s.body = slots - need
	}
}

// roundUp returns the slots that a record of n slots takes: whole write units.
func (s *segment) roundUp(n uint32) uint32 { return (n + s.unit - 1) / s.unit * s.unit }

// zoned says whether the segment lies on zones.
func (s *segment) zoned() bool { return s.band && s.d.zones != nil }

// holdsLog says whether the segment may hold user records.
func (s *segment) holdsLog() bool { return !s.band || s.d.lay.NoCache }

// logSpan is the number of slots over which the log of users goes round.
func (d *Device) logSpan() uint64 {
	if d.lay.NoCache {
		return d.lay.UsableBands * d.lay.BandSlots / 4
	}
	return d.cacheSpan
}

// sumOff is the device block of a closed segment's summary: the last blocks,
// or on zones, which cannot be written out of order, right behind the records.
func (s *segment) sumOff() uint64 {
	if s.zoned() {
		return s.off + uint64(s.next)
	}
	return s.off + uint64(s.body)
}

func log2(n uint64) (s uint) {
	for n > 1 {
		n >>= 1
		s++
	}
	return s
}

func (s *segment) summaryID() record.SummaryID {
	return record.SummaryID{UUID: d16(s.d), Seg: s.idx, Gen: s.gen}
}

func d16(d *Device) [16]byte { return d.sb.UUID }

// vss says whether the segment's blocks carry metadata of their own, so that
// its data records have no header slot.
func (s *segment) vss() bool { return !s.band && s.d.lay.VSS }

// place links w to the segment's end and gives it its slots: whole write units.
func (s *segment) place(w *slotWrite, slots uint32) {
	slots = s.roundUp(slots)
	assert.That(s.state == segOpen && s.next+slots <= s.body, "a record fits its open segment")
	w.next, w.seg, w.slot, w.slots = nil, s, s.next, slots
	w.written, w.err = false, nil
	s.next += slots
	s.inflight++
	if s.tail == nil {
		s.head = w
	} else {
		s.tail.next = w
	}
	s.tail = w
}

// pad adds blocks of zeroes to the buffers of a record of n slots, up to the
// whole write units that it takes.
func (s *segment) pad(w *slotWrite, n uint32, bufs [][]byte) [][]byte {
	for ; n < w.slots; n++ {
		bufs = append(bufs, zeroBlock)
		s.sum.Put(w.slot+n, record.Entry{LBA: record.MarkUnused})
	}
	return bufs
}

var zeroBlock = iobuf.Alloc(blockSize)

// completed books the device's answer to w and lets everything take effect
// that may, in slot order.
func (s *segment) completed(w *slotWrite, err error) {
	w.written, w.err = true, err
	s.inflight--
	if err != nil {
		s.writeFailed(err)
	}
	for s.head != nil && s.head.written && s.head.err == nil {
		w := s.head
		s.head = w.next
		if s.head == nil {
			s.tail = nil
		}
		w.next = nil
		w.effective(w)
	}
	if s.head != nil && s.head.written && s.inflight == 0 {
		s.cutTail()
	}
	s.closeIfDone()
}

// writeFailed stops the segment from taking more records. A full host file
// system is not the segment's fault: it goes on at the failed slot when there
// is room, but on zones, which do not say how far a failed write came. Any other
// error seals it.
func (s *segment) writeFailed(err error) {
	s.broken = true
	if errors.Is(err, unix.ENOSPC) && !s.zoned() {
		return
	}
	if s.state == segOpen {
		s.hurt = true
		s.d.log.Warn("write failed, segment sealed", "kind", s.kindName(), "id", s.id, "err", err)
		s.setState(segClosing)
	}
}

// cutTail ends the segment in front of its first failed write: a scan stops
// there, so what stands behind it does not exist. Records that stand there
// nevertheless are void or moves that never took effect, so they may stay.
func (s *segment) cutTail() {
	first := s.head
	err := first.err
	s.head, s.tail = nil, nil
	s.next = first.slot
	s.broken = false
	for w := first; w != nil; {
		n := w.next
		w.next = nil
		w.failed(w, err)
		w = n
	}
}
