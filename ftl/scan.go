package ftl

import (
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// segScan reads the body of a segment and rebuilds its summary from the record
// headers (or from the metadata of every block, on a cache with VSS). It stops
// at the first slot where no record begins: completions take effect in slot
// order, so nothing that counts stands behind it, and looking further could
// take user data for a header (Rule 5).
type segScan struct {
	d    *Device
	seg  *segment
	sum  record.Summary
	src  Source
	buf  []byte
	md   []byte
	io   devIO
	slot uint32 // first slot in buf
	n    uint32 // slots in buf
	end  uint32 // first slot that belongs to no record, when done
	// visit, if set, is told of every record, in slot order.
	visit func(arg any, r *scanRecord)
	// later, if set, is told the D of every header that stands behind the end
	// of the records. Those are no records, but they tell rot from a torn tail.
	later func(arg any, d uint64)
	done  func(arg any, err error)
	arg   any
	tries int
	// A window that cannot be read as a whole is read block by block; what
	// stays unreadable is noted.
	single int
	unread [scanBlocks]bool
	blind  bool // the scan ended at a block that cannot be read: what follows is unknown
	// Looking on behind the end: the slot behind the last header found.
	looking bool
	lookAt  uint32
}

// scanRecord is one record that a scan found.
type scanRecord struct {
	kind   record.Kind
	seg    *segment
	slot   uint32 // of the first data block, or of the block of another kind
	n      int    // data blocks, ranges, or numbers of a void
	g      uint64
	u      uint64
	d      uint64
	inc    uint32
	whole  bool   // every block has its checksum
	unread bool   // a block of it cannot be read
	lost   bool   // which LBA one of its blocks holds is unknown
	header []byte // the header block of trims; valid during the visit
}

// scanBlocks is the size of the window that a scan reads: it holds the largest
// record twice.
const scanBlocks = 2 * (record.MaxBlocks + 1)

func newSegScan(d *Device, s *segment, sum record.Summary, src Source) *segScan {
	sc := &segScan{d: d, seg: s, sum: sum, src: src, buf: iobuf.Alloc(scanBlocks * blockSize)}
	if s.vss() {
		sc.md = iobuf.Alloc(scanBlocks * int(d.cache.info.MDSize))
	}
	return sc
}

func (sc *segScan) free() {
	if sc.buf != nil {
		iobuf.Free(sc.buf)
	}
	if sc.md != nil {
		iobuf.Free(sc.md)
	}
	sc.buf, sc.md = nil, nil
}

// start reads and parses until the end. The summary is complete when done is
// called; an error means that a block could not be read where a record may
// begin, and the summary describes what stands in front of it.
func (sc *segScan) start(done func(arg any, err error), arg any) {
	sc.done, sc.arg = done, arg
	sc.slot, sc.end, sc.blind, sc.looking = 0, 0, false, false
	sc.readWindow()
}

func (sc *segScan) readWindow() {
	sc.n = min(scanBlocks, sc.seg.body-sc.slot)
	if sc.n == 0 {
		sc.finish(nil)
		return
	}
	sc.tries = 0
	clear(sc.unread[:])
	sc.readBlocks(0, sc.n, scanArrived)
}

// readBlocks reads n blocks of the window from position i on.
func (sc *segScan) readBlocks(i, n uint32, done func(x *devIO, err error)) {
	s := sc.seg
	sc.io.prepareOne(s.dev, bdev.OpRead, sc.buf[i*blockSize:(i+n)*blockSize], s.off+uint64(sc.slot+i), sc.src)
	if s.vss() {
		stride := sc.d.cache.info.MDSize
		sc.io.md = sc.md[i*stride : (i+n)*stride]
	}
	sc.io.call(done, sc)
}

func scanArrived(x *devIO, err error) {
	sc := x.owner.(*segScan)
	if err == nil {
		sc.parseWindow()
		return
	}
	sc.single = 0
	sc.readBlocks(0, 1, scanBlockArrived)
}

// scanBlockArrived goes through a window block by block.
func scanBlockArrived(x *devIO, err error) {
	sc := x.owner.(*segScan)
	if err != nil {
		sc.tries++
		if sc.tries < readTries {
			sc.readBlocks(uint32(sc.single), 1, scanBlockArrived)
			return
		}
		sc.unread[sc.single] = true
		clear(sc.io.one[0])
		clear(sc.io.md)
	}
	sc.tries = 0
	sc.single++
	if sc.single < int(sc.n) {
		sc.readBlocks(uint32(sc.single), 1, scanBlockArrived)
		return
	}
	sc.parseWindow()
}

func (sc *segScan) parseWindow() {
	if sc.looking {
		sc.lookOn()
		return
	}
	used := sc.parse()
	if used > 0 {
		sc.slot += used
		sc.readWindow()
		return
	}
	if sc.unread[0] {
		sc.blind = true
		sc.finish(unix.EIO)
		return
	}
	if sc.later != nil {
		sc.end = sc.slot
		sc.looking, sc.lookAt = true, sc.slot
		sc.lookOn()
		return
	}
	sc.finish(nil)
}

// lookBlocks is how far a scan looks on behind the last header that it found.
// Much more would be read for nothing at the end of every open chunk.
const lookBlocks = 8 * (record.MaxBlocks + 1)

// lookOn searches the window for headers behind the end of the records (Rule
// 17: a gap is rot if and only if a later valid record says that it was
// durable).
func (sc *segScan) lookOn() {
	for i := range sc.n {
		if d, ok := sc.laterD(i); ok {
			sc.lookAt = sc.slot + i + 1
			sc.later(sc.arg, d)
		}
	}
	sc.slot += sc.n
	if sc.slot-sc.lookAt >= lookBlocks {
		sc.finish(nil)
		return
	}
	sc.readWindow()
}

// laterD returns the D of the header at window position i, if one of this
// incarnation stands there.
func (sc *segScan) laterD(i uint32) (d uint64, ok bool) {
	s, inc := sc.seg, sc.d.sb.Inc
	if s.vss() {
		var m record.Meta
		ok = sc.meta(i, &m) && m.Inc == inc
		return m.D, ok
	}
	var h record.Header
	ok = h.Decode(sc.block(i)) == nil && h.UUID == d16(sc.d) && h.Seg == s.idx && h.Gen == s.gen &&
		h.Slot == sc.slot+i && h.Inc == inc
	return h.D, ok
}

func (sc *segScan) finish(err error) {
	if !sc.looking {
		sc.end = sc.slot
	}
	sc.sum.Clear(sc.end, sc.seg.body)
	sc.done(sc.arg, err)
}

// parse takes the whole records at the front of the window and returns the
// slots that they occupy; 0 says that none begins there.
func (sc *segScan) parse() (used uint32) {
	for used < sc.n {
		var r scanRecord
		r.seg = sc.seg
		slots, ok := sc.parseAt(used, &r)
		if !ok {
			// With used > 0 the window is read again from here, and then
			// nothing is found at its front.
			return used
		}
		if slots == 0 {
			return used // it goes beyond the window: read on from here
		}
		for i := used; i < used+slots; i++ {
			r.unread = r.unread || sc.unread[i]
		}
		for n := slots; n < sc.seg.roundUp(slots); n++ {
			sc.sum.Put(sc.slot+used+n, record.Entry{LBA: record.MarkUnused})
		}
		if sc.visit != nil {
			sc.visit(sc.arg, &r)
		}
		used += sc.seg.roundUp(slots)
	}
	return used
}

func (sc *segScan) block(i uint32) []byte { return sc.buf[i*blockSize : (i+1)*blockSize] }

// parseAt decodes the record at window position i. It returns ok = false when
// none begins there and slots = 0 when it does not lie in the window whole.
func (sc *segScan) parseAt(i uint32, r *scanRecord) (slots uint32, ok bool) {
	if sc.seg.vss() {
		return sc.parseVSS(i, r)
	}
	var h record.Header
	s := sc.seg
	slot := sc.slot + i
	if h.Decode(sc.block(i)) != nil || h.UUID != d16(sc.d) || h.Seg != s.idx || h.Gen != s.gen || h.Slot != slot {
		return 0, false
	}
	r.kind, r.g, r.u, r.d, r.inc, r.n = h.Kind, h.G, h.U, h.D, h.Inc, int(h.Count)
	if h.Kind != record.KindData && h.Kind != record.KindMove {
		r.slot, r.whole, r.header = slot, true, sc.block(i)
		sc.sum.Put(slot, markEntry(r))
		return 1, true
	}
	slots = uint32(h.Count) + 1
	if slot+slots > s.body {
		return 0, false
	}
	if i+slots > sc.n {
		return 0, true
	}
	r.slot, r.whole = slot+1, true
	sc.sum.Put(slot, record.Entry{LBA: record.MarkHeader, U: h.U, Sum: h.G})
	for k := range r.n {
		e := record.EntryAt(sc.block(i), k)
		if e.LBA >= sc.d.lay.LBAs {
			e.LBA = record.MarkUnused
		}
		sc.sum.Put(r.slot+uint32(k), e)
		if h.Kind == record.KindData && record.DataSum(sc.block(i+1+uint32(k)), e.LBA) != e.Sum {
			r.whole = false
		}
	}
	return slots, true
}

// markEntry is the summary entry of a record without data blocks.
func markEntry(r *scanRecord) record.Entry {
	switch r.kind {
	case record.KindVoid:
		return record.Entry{LBA: record.MarkVoid, U: r.u, Sum: r.u + uint64(r.n) - 1}
	case record.KindPad:
		return record.Entry{LBA: record.MarkPad, U: r.d, Sum: r.g}
	default:
	}
	return record.Entry{LBA: markOf(r.kind), U: r.u, Sum: r.g}
}

// parseVSS decodes a record of a cache with metadata of its own (Rule 4: it
// counts only if every block of it is there).
func (sc *segScan) parseVSS(i uint32, r *scanRecord) (slots uint32, ok bool) {
	s := sc.seg
	var m record.Meta
	if !sc.meta(i, &m) || m.Index != 0 {
		return 0, false
	}
	slot := sc.slot + i
	r.kind, r.g, r.u, r.d, r.inc, r.n, r.slot = m.Kind, m.G, m.U, m.D, m.Inc, int(m.Count), slot
	if m.Kind != record.KindData {
		return sc.parseVSSMark(i, r, &m)
	}
	slots = uint32(m.Count)
	if slot+slots > s.body {
		return 0, false
	}
	if i+slots > sc.n {
		return 0, true
	}
	first := m
	r.whole = true
	for k := range slots {
		e := record.Entry{LBA: record.MarkUnused, U: first.U}
		good := sc.meta(i+k, &m) && m.U == first.U && m.G == first.G && m.Count == first.Count &&
			uint32(m.Index) == k && m.Inc == first.Inc && m.LBA < sc.d.lay.LBAs
		if good {
			e.LBA, e.Sum = m.LBA, m.Sum
			good = record.DataSum(sc.block(i+k), m.LBA) == m.Sum
		} else {
			r.lost = true
		}
		r.whole = r.whole && good
		sc.sum.Put(slot+k, e)
	}
	return slots, true
}

// parseVSSMark decodes a trim, pad or void block.
func (sc *segScan) parseVSSMark(i uint32, r *scanRecord, m *record.Meta) (slots uint32, ok bool) {
	var h record.Header
	b := sc.block(i)
	if record.DataSum(b, 0) != m.Sum || h.Decode(b) != nil || h.Kind != m.Kind || h.Slot != r.slot ||
		h.Seg != sc.seg.idx || h.Gen != sc.seg.gen || h.UUID != d16(sc.d) {
		return 0, false
	}
	r.n, r.whole, r.header = int(h.Count), true, b
	sc.sum.Put(r.slot, markEntry(r))
	return 1, true
}

// meta decodes the metadata at window position i.
func (sc *segScan) meta(i uint32, m *record.Meta) bool {
	s := sc.seg
	stride := int(sc.d.cache.info.MDSize)
	b := sc.md[int(i)*stride : int(i+1)*stride]
	return m.Decode(b, record.Place(d16(sc.d), s.off+uint64(sc.slot+i))) == nil && m.Gen == s.gen
}
