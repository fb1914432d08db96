package ftl

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// Recovery: from the checkpoint, the user records after cu are redone in order,
// up to the first gap (Rules 16 to 18). Segments whose descriptor says OPEN are
// scanned, of FULL ones the summary is read. Nothing on media changes before
// recovery's own checkpoint (Rule 15, 19).

// redoRec is one user record to redo.
type redoRec struct {
	u    uint64
	g    uint64 // of a record that a scan found; described is more
	seg  uint32
	slot uint32
	n    uint32 // data: blocks; trim: ranges; void: numbers
	at   uint32 // trim: index of its first range
	kind record.Kind
	bad  bool // not every block has its checksum
	// unread: a block of it cannot be read, so whether it was whole is
	// unknown; it is applied, and reads of that block fail.
	unread bool
	// lost: which LBA one of its blocks holds, or what a trim covers, is unknown.
	lost bool
}

// last is the last number that the record stands for.
func (r *redoRec) last() uint64 {
	if r.kind == record.KindVoid {
		return r.u + uint64(r.n) - 1
	}
	return r.u
}

// described is the g of a record that a summary on the media describes.
const described = ^uint64(0)

// trimRange is one range of a trim record.
type trimRange struct{ lba, n uint64 }

// redoState is recovery's memory.
type redoState struct {
	d      *Device
	done   func(d *Device, err error)
	work   []uint32 // segments to look at
	at     int
	under  int
	recs   []redoRec
	trims  []trimRange
	sums   map[uint32]record.Summary // of full chunks, until redo is over
	scans  []*redoScan
	maxD   uint64
	maxG   uint64
	next   int // record to apply
	pos    int // trim records of full chunks to fetch
	fetch  []redoFetch
	gaps   uint64 // numbers that rot took
	rotten uint64 // records with bad blocks that were applied
}

// redoScan looks at one segment.
type redoScan struct {
	rs   *redoState
	seg  *segment
	io   devIO
	sum  record.Summary
	scan *segScan
	busy bool
	// moves: a record of moves was found, so no user record is in the segment.
	moves bool
	lastU uint64 // the last number that was found
}

// redoFetch reads the block of a trim record that a summary named.
type redoFetch struct {
	rs    *redoState
	io    devIO
	buf   []byte
	rec   int
	tries int
	busy  bool
}

const (
	redoDepth = 4
	// redoBatch is the number of records applied before other messages run.
	redoBatch = 4096
)

// loadDescriptors turns the restored descriptors into segment states.
func (d *Device) loadDescriptors() error {
	for i := range d.segs {
		s := &d.segs[i]
		var ds record.Descriptor
		if err := ds.Decode(d.mdOf(s).Buffer()[uint64(s.id)*blockSize:], s.idx); err != nil {
			return fmt.Errorf("%s %d: descriptor: %w", s.kindName(), s.id, err)
		}
		s.gen, s.inc, s.next, s.opened = ds.Gen, ds.Inc, ds.Slots, ds.Opened
		s.firstU, s.lastU, s.maxG, s.maxD = ds.FirstU, ds.LastU, ds.MaxG, ds.MaxD
		if err := s.useZones(&ds); err != nil {
			return err
		}
		d.lastG = max(d.lastG, ds.MaxG, ds.Opened)
		if s.band {
			d.maxGen = max(d.maxGen, s.gen)
		}
		if s.next > s.body {
			return fmt.Errorf("%s %d: descriptor says %d of %d slots: %w", s.kindName(), s.id, s.next, s.body, unix.EINVAL)
		}
		switch ds.State {
		case record.StateFree:
		case record.StateOpen:
			s.setState(segClosing)
			s.closing, s.claims = closeHeld, true
		case record.StateFull:
			s.summaryOK = true
			s.setState(segFull)
		}
	}
	return nil
}

// redo looks at every segment that may hold user records after cu, and scans
// every open one.
func (d *Device) redo(done func(d *Device, err error)) {
	rs := &redoState{d: d, done: done, sums: map[uint32]record.Summary{}, maxD: d.sb.Durable}
	d.rs = rs
	rs.maxG = d.lastG
	for i := range d.segs {
		s := &d.segs[i]
		full := s.holdsLog() && s.state == segFull && s.inc == d.sb.Inc && s.lastU > d.sb.CU
		if s.state == segClosing || full {
			rs.work = append(rs.work, uint32(i))
			if full {
				rs.maxD = max(rs.maxD, s.maxD)
			}
		}
	}
	for range redoDepth {
		rs.scans = append(rs.scans, &redoScan{rs: rs})
	}
	rs.fill()
}

func (rs *redoState) fill() {
	for _, sc := range rs.scans {
		if !sc.busy && rs.at < len(rs.work) && !rs.d.cancelled() {
			sc.begin(&rs.d.segs[rs.work[rs.at]])
			rs.at++
			rs.d.progressOf("reading the log", uint64(rs.at), uint64(len(rs.work)))
		}
	}
	if rs.under == 0 {
		rs.collected()
	}
}

func (sc *redoScan) begin(s *segment) {
	d := sc.rs.d
	sc.seg, sc.busy = s, true
	sc.rs.under++
	sc.sum = d.takeSummary(s.band)
	if s.state == segClosing {
		sc.scanBody()
		return
	}
	sc.io.prepareOne(s.dev, bdev.OpRead, sc.sum, s.sumOff(), s.mdSource())
	sc.io.call(redoSummaryDone, sc)
}

func (sc *redoScan) scanBody() {
	sc.rs.d.found.Scanned++
	sc.scan = newSegScan(sc.rs.d, sc.seg, sc.sum, sc.seg.mdSource())
	sc.scan.visit = redoVisit
	sc.moves, sc.lastU = false, 0
	if sc.seg.holdsLog() {
		sc.scan.later = redoLater
	}
	sc.scan.start(redoScanned, sc)
}

func redoSummaryDone(x *devIO, err error) {
	sc := x.owner.(*redoScan)
	s := sc.seg
	if err == nil {
		err = sc.sum.Check(s.summaryID())
	}
	if err != nil {
		sc.rs.d.log.Warn("summary unreadable, the segment is scanned", "kind", s.kindName(), "id", s.id, "err", err)
		s.summaryOK = false
		sc.scanBody()
		return
	}
	sc.fromSummary()
	sc.end()
}

// fromSummary lists the user records of a full segment.
func (sc *redoScan) fromSummary() {
	s, rs := sc.seg, sc.rs
	for slot := uint32(0); slot < s.next; {
		e := sc.sum.At(slot)
		r := redoRec{u: e.U, g: described, seg: s.idx, slot: slot, n: 1}
		switch e.LBA {
		case record.MarkVoid:
			r.kind, r.n = record.KindVoid, uint32(e.Sum-e.U+1)
			slot++
		case record.MarkTrim:
			r.kind = record.KindTrim
			slot++
		case record.MarkHeader:
			slot++
			continue
		default:
			if record.IsMark(e.LBA) {
				slot++
				continue
			}
			r.kind = record.KindData
			for slot++; slot < s.next; slot++ {
				n := sc.sum.At(slot)
				if record.IsMark(n.LBA) || n.U != e.U {
					break
				}
			}
			r.n = slot - r.slot
		}
		rs.add(r)
	}
}

// redoVisit takes a record that a scan found.
func redoVisit(arg any, r *scanRecord) {
	sc := arg.(*redoScan)
	rs := sc.rs
	rs.maxG = max(rs.maxG, r.g)
	s := sc.seg
	if r.kind == record.KindMove {
		sc.moves = true
		return
	}
	// Rule 16: only records of the present incarnation count.
	if r.inc != rs.d.sb.Inc {
		return
	}
	rs.maxD = max(rs.maxD, r.d)
	if !r.kind.IsUser() {
		return
	}
	s.noteU(r.u)
	rr := redoRec{u: r.u, g: r.g, seg: s.idx, slot: r.slot, n: uint32(r.n), kind: r.kind, bad: !r.whole, unread: r.unread, lost: r.lost}
	if r.kind == record.KindTrim {
		rr.at = rs.addTrims(r.header, r.n)
	}
	sc.lastU = max(sc.lastU, rr.last())
	rs.add(rr)
}

// redoLater hears of a header behind the end of a chunk's records.
func redoLater(arg any, d uint64) {
	rs := arg.(*redoScan).rs
	rs.maxD = max(rs.maxD, d)
}

// addTrims keeps the ranges of a trim record.
func (rs *redoState) addTrims(header []byte, n int) uint32 {
	at := uint32(len(rs.trims))
	for i := range n {
		e := record.EntryAt(header, i)
		rs.trims = append(rs.trims, trimRange{e.LBA, e.U})
	}
	return at
}

// noTrims says that the ranges of a trim record are still to be read.
const noTrims = ^uint32(0)

func (rs *redoState) add(r redoRec) {
	if r.last() <= rs.d.redoFrom {
		return
	}
	if r.kind == record.KindTrim && rs.d.segs[r.seg].state == segFull {
		if s := rs.d.segs[r.seg]; s.summaryOK {
			r.at = noTrims
		}
	}
	rs.recs = append(rs.recs, r)
}

func redoScanned(arg any, err error) {
	sc := arg.(*redoScan)
	s, rs := sc.seg, sc.rs
	records := s.holdsLog() && !sc.moves && s.inc == rs.d.sb.Inc
	switch {
	case err != nil:
		rs.d.log.Error("segment cannot be read to its end", "kind", s.kindName(), "id", s.id, "err", err)
		s.blind = true
		if records {
			// User records may stand behind it: that is not a torn tail.
			rs.gaps++
		}
	case records && s.state == segFull && s.lastU > max(sc.lastU, rs.d.redoFrom):
		// Its descriptor names the last one, so all of them were durable.
		rs.d.log.Error("records of a full segment are gone", "kind", s.kindName(), "id", s.id, "found", sc.lastU, "last", s.lastU)
		rs.gaps++
	}
	if s.state == segClosing {
		s.next = sc.scan.end
	}
	sc.scan.free()
	sc.scan = nil
	sc.end()
}

// end keeps the summary: open segments and those whose summary is bad need it
// until they are closed or emptied, the others until redo is over.
func (sc *redoScan) end() {
	s, rs := sc.seg, sc.rs
	if s.state == segClosing || !s.summaryOK {
		s.sum = sc.sum
	} else {
		rs.sums[s.idx] = sc.sum
	}
	sc.sum, sc.busy = nil, false
	rs.under--
	rs.fill()
}

// collected orders the records and fetches what summaries do not hold.
func (rs *redoState) collected() {
	if rs.d.cancelled() { // what was found is not looked at any more
		rs.recs = nil
		rs.apply()
		return
	}
	rs.order()
	rs.fetch = make([]redoFetch, redoDepth*2)
	rs.fetchTrims()
}

// order sorts the records by their numbers, and copies of one by what they are worth.
func (rs *redoState) order() {
	byU := func(a, b redoRec) int {
		switch {
		case a.u < b.u:
			return -1
		case a.u > b.u:
			return 1
		case a.bad != b.bad:
			if b.bad {
				return -1 // of two copies the whole one comes first
			}
			return 1
		}
		// Of whole ones the last one written: those before it failed, and the
		// summaries of their segments, which a scan does without, do not know them.
		return cmp.Compare(b.g, a.g)
	}
	if !slices.IsSortedFunc(rs.recs, byU) {
		slices.SortStableFunc(rs.recs, byU)
	}
}

func (rs *redoState) fetchTrims() {
	d := rs.d
	for i := range rs.fetch {
		f := &rs.fetch[i]
		if f.busy {
			continue
		}
		for rs.pos < len(rs.recs) && (rs.recs[rs.pos].kind != record.KindTrim || rs.recs[rs.pos].at != noTrims) {
			rs.pos++
		}
		if rs.pos == len(rs.recs) {
			break
		}
		f.rs, f.rec, f.busy, f.tries = rs, rs.pos, true, 0
		rs.pos++
		if f.buf == nil {
			f.buf = iobuf.Alloc(blockSize)
		}
		rs.under++
		s := &d.segs[rs.recs[f.rec].seg]
		f.io.prepareOne(s.dev, bdev.OpRead, f.buf, s.off+uint64(rs.recs[f.rec].slot), s.mdSource())
		f.io.call(redoFetched, f)
	}
	if rs.under == 0 {
		for i := range rs.fetch {
			if rs.fetch[i].buf != nil {
				iobuf.Free(rs.fetch[i].buf)
			}
		}
		rs.order() // a trim that was not found stands behind a copy of it
		rs.plan()
	}
}

func redoFetched(x *devIO, err error) {
	f := x.owner.(*redoFetch)
	rs := f.rs
	r := &rs.recs[f.rec]
	s := &rs.d.segs[r.seg]
	if f.tries++; err != nil && f.tries < readTries {
		f.io.call(redoFetched, f)
		return
	}
	var h record.Header
	if err == nil {
		err = h.Decode(f.buf)
	}
	if err == nil && (h.Kind != record.KindTrim || h.U != r.u || h.Seg != s.idx || h.Gen != s.gen || h.UUID != d16(rs.d)) {
		err = record.ErrInvalid
	}
	if err == nil {
		r.n = uint32(h.Count)
		r.at = rs.addTrims(f.buf, int(h.Count))
	} else {
		// Its ranges are unknown, and it was durable, because its segment is full.
		rs.d.log.Error("trim record unreadable", "u", r.u, "err", err)
		r.n, r.at, r.bad, r.unread, r.lost = 0, 0, true, true, true
	}
	f.busy = false
	rs.under--
	rs.fetchTrims()
}

// plan drops records that a void covers and those behind the end of the
// unbroken run (Rule 17), then applies the rest.
func (rs *redoState) plan() {
	d := rs.d
	voids := make([]redoRec, 0, 4)
	for _, r := range rs.recs {
		if r.kind == record.KindVoid {
			voids = append(voids, r)
		}
	}
	voided := func(u uint64) bool {
		for _, v := range voids {
			if u >= v.u && u < v.u+uint64(v.n) {
				return true
			}
		}
		return false
	}
	end := d.redoFrom
	out := rs.recs[:0]
	for _, r := range rs.recs {
		if r.last() <= end || r.kind != record.KindVoid && len(voids) > 0 && voided(r.u) {
			continue
		}
		if r.u > end+1 {
			// A gap. Numbers up to maxD were durable: there it is rot, and
			// redo goes on; behind it is the torn tail, and redo ends.
			if end+1 > rs.maxD {
				break
			}
			rs.gaps += min(r.u-1, rs.maxD) - end
			if r.u-1 > rs.maxD {
				end = rs.maxD
				break
			}
			end = r.u - 1
		}
		if r.bad {
			if r.u > rs.maxD && !r.unread {
				break
			}
			if r.kind == record.KindData {
				rs.rotten++
			}
			if r.lost {
				// Some block would read as its older version.
				rs.gaps++
			}
		}
		end = r.u
		if r.kind == record.KindVoid {
			d.found.Voids++
			end = r.last()
		}
		out = append(out, r)
	}
	if end < rs.maxD {
		rs.gaps += rs.maxD - end
		end = rs.maxD
	}
	// Of two copies of a record, and of those that a void covers, none is torn.
	for _, r := range rs.recs[len(out):] {
		if r.u > end {
			d.found.Torn++
		}
	}
	d.found.Rotten = int(rs.rotten)
	rs.recs = out
	d.redoTo = end
	if rs.gaps > 0 {
		d.log.Error("user records that were durable cannot be read", "records", rs.gaps)
	}
	if rs.rotten > 0 {
		d.log.Error("records with damaged blocks: reads of those fail", "records", rs.rotten)
	}
	rs.apply()
}

// apply redoes a batch of records and goes on by message.
func (rs *redoState) apply() {
	d := rs.d
	if d.cancelled() {
		rs.next = len(rs.recs)
	}
	stop := min(rs.next+redoBatch, len(rs.recs))
	for ; rs.next < stop; rs.next++ {
		rs.applyOne(&rs.recs[rs.next])
	}
	d.progressOf("replaying the log", uint64(rs.next), uint64(len(rs.recs)))
	if rs.next < len(rs.recs) {
		d.th.Post(redoMore, rs)
		return
	}
	for idx, sum := range rs.sums {
		d.returnSummary(d.segs[idx].band, sum)
	}
	for i := range d.segs {
		// Records behind the end of the log do not count, and nobody waits for them:
		// their numbers are given again.
		s := &d.segs[i]
		s.lastU = min(s.lastU, d.redoTo)
	}
	d.ackedU, d.durableU = d.redoTo, d.redoTo
	d.log_.nextU = d.redoTo
	d.lastG = max(d.lastG, rs.maxG)
	d.redoGaps = rs.gaps
	d.redone = len(rs.recs)
	d.rs = nil
	rs.done(d, nil)
}

func redoMore(arg any) { arg.(*redoState).apply() }

func (rs *redoState) applyOne(r *redoRec) {
	d := rs.d
	s := &d.segs[r.seg]
	switch r.kind {
	case record.KindData:
		sum := s.sum
		if sum == nil {
			sum = rs.sums[r.seg]
		}
		// Only loads: the cache misses of a record's entries overlap.
		var touch l2p.Addr
		for i := range r.n {
			if lba := sum.LBAAt(r.slot + i); lba < d.lay.LBAs {
				touch |= d.table.Get(lba)
			}
		}
		d.touched = touch
		for i := range r.n {
			lba := sum.LBAAt(r.slot + i)
			if lba >= d.lay.LBAs {
				continue
			}
			d.redoBlock(lba, s.addr+l2p.Addr(r.slot+i))
		}
	case record.KindTrim:
		for _, t := range rs.trims[r.at : r.at+r.n] {
			if t.lba < d.lay.LBAs && t.n <= d.lay.LBAs-t.lba {
				d.unmap(t.lba, t.n)
			}
		}
	default: // a void only stands for numbers
	}
}

// redoBlock maps one block as a record said.
func (d *Device) redoBlock(lba uint64, a l2p.Addr) {
	old := d.table.Get(lba)
	if old == a {
		return
	}
	d.table.Set(lba, a)
	if old >= l2p.First {
		idx, _ := d.segOf(old)
		d.valid[idx]--
	} else {
		d.mapped++
	}
	idx, _ := d.segOf(a)
	d.valid[idx]++
}

// quarantineEmpty puts every full segment without a valid block in quarantine,
// and frees it at once when the checkpoint that was loaded covers it (after a
// clean shutdown).
func (d *Device) quarantineEmpty(clean bool) {
	for i := range d.segs {
		s := &d.segs[i]
		if s.state != segFull || d.valid[i] != 0 {
			continue
		}
		d.noteIfEmpty(s)
		if clean {
			s.freeable = true
			d.freeIfUnpinned(s)
		}
	}
}

// listFree fills the free lists, least used segments first.
func (d *Device) listFree() {
	d.takeZones()
	d.freeChunks.q = make([]uint32, d.lay.Chunks)
	d.freeBands.q = make([]uint32, d.lay.Bands)
	idx := make([]uint32, 0, len(d.segs))
	for i := range d.segs {
		if d.segs[i].state == segFree {
			idx = append(idx, uint32(i))
		}
	}
	slices.SortStableFunc(idx, func(a, b uint32) int { return int(d.segs[a].gen) - int(d.segs[b].gen) })
	for _, i := range idx {
		d.freeList(d.segs[i].band).push(i)
	}
}

// closeRecovered closes the segments that were open at the crash: they become
// FULL and are never appended to (Rule 19).
func (d *Device) closeRecovered(done func(d *Device, err error)) {
	d.recoveredDone = done
	d.closesLeft = 1
	for i := range d.segs {
		s := &d.segs[i]
		if s.state == segClosing && s.closing == closeHeld {
			d.closesLeft++
			s.closing = closeNone
			s.recovered = true
			s.closeIfDone()
		}
	}
	d.oneClosed()
}

func (d *Device) oneClosed() {
	d.closesLeft--
	if d.closesLeft == 0 {
		done := d.recoveredDone
		d.recoveredDone = nil
		done(d, nil)
	}
}
