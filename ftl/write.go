package ftl

import (
	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// The log of user records.
//
// Requests wait in a queue. pack puts as many of them as fit into one record
// (group commit) and writes it straight from the callers' buffers. A record is
// effective when it and everything before it in its segment is on the device;
// records are switched into the mapping and acknowledged strictly in the order
// of their numbers (Rule 5), whatever segment they stand in.

const (
	// maxRecords bounds the user records under way.
	maxRecords = 64
	// fewRecords: with so many under way a record waits until it has
	// enoughBlocks, because an answer will come soon anyway and each costs a
	// header. It does not wait to be full: that would keep large writes from a
	// device that could have them already.
	fewRecords   = 4
	enoughBlocks = 32
	// maxTrimBlocks bounds the blocks that one trim record unmaps, so that
	// its switch takes well under a millisecond.
	maxTrimBlocks = 64 << 10
	// maxRehome bounds how often one record is written again elsewhere.
	maxRehome = 8
)

// part is a piece of a request inside a record.
type part struct {
	req *Request
	n   uint64 // blocks
}

// recordOp is one user record on its way to the log.
type recordOp struct {
	d         *Device
	w         slotWrite
	io        devIO
	kind      record.Kind
	u         uint64
	voidLast  uint64 // void: last number covered
	n         int    // blocks, or ranges
	hdr       []byte // header block
	vss       []byte
	bufs      [][]byte // header slot, then data
	parts     []part
	move      *moveOp // on a detour (detour.go); nobody else waits for the record then
	lbas      []uint64
	counts    []uint64 // of ranges
	sums      []uint64
	seqs      []uint64 // Request.seq of each block
	effective bool
	rehomed   int
	next      *recordOp
}

// logState is the user log of a device.
type logState struct {
	q     queue  // writes and trims that wait
	seq   uint64 // given to what was queued last
	free  *recordOp
	hdrs  []byte // of all records
	vss   []byte
	under int // records under way: packed and not switched
	// writing counts device writes of records under way.
	writing int
	ring    [maxRecords * 2]*recordOp
	nextU   uint64

	inflight inflightMap
	cur      stream

	rehome     *recordOp // to be written again, in u order
	failing    bool      // an error that ends records was seen; waiting for the rest to come back
	failErr    error
	voidFrom   uint64 // numbers that a void record must cover before the log goes on
	voidTo     uint64
	voidErr    error
	voidTried  int64
	voidActive bool

	padD    uint64 // D of the last pad
	credit  int64  // blocks that may be written while space is short
	starved bool   // what waits has no room; ends with the next record
	// desperate: nor does relocation know of a band that would surely make some.
	desperate bool
	tookBack  bool // retired segments were taken back since
	lent      bool // bands beyond the reserve were lent since

	// Of write buffers.
	buffered  uint64 // runs queued so far
	taken     uint64 // of them: switched, or given up
	givenUp   uint64 // blocks given up and not reported
	lossErr   error  // why blocks were given up
	stopSince int64  // a stop tries since then to write what there was no space for
}

// recovers books that a record could be written: there is room.
func (l *logState) recovers() {
	l.starved, l.desperate, l.tookBack, l.lent = false, false, false, false
}

// push queues a request for the log.
func (l *logState) push(r *Request) {
	l.seq++
	r.seq = l.seq
	l.q.push(r)
}

func newRecordOp(d *Device, hdr, vss []byte) *recordOp {
	r := &recordOp{
		d:      d,
		hdr:    hdr,
		vss:    vss,
		bufs:   make([][]byte, 0, record.MaxBlocks+1),
		parts:  make([]part, 0, record.MaxTrims),
		lbas:   make([]uint64, record.MaxTrims),
		counts: make([]uint64, record.MaxTrims),
		sums:   make([]uint64, record.MaxBlocks+1),
		seqs:   make([]uint64, record.MaxBlocks+1),
	}
	r.w.owner = r
	r.w.effective = recordEffective
	r.w.failed = recordFailed
	return r
}

func (d *Device) initLog() {
	d.log_.cur = stream{d: d, name: "log", band: d.lay.NoCache, src: SourceUser, ahead: true, ready: (*Device).pack}
	if d.lay.NoCache {
		d.log_.cur.reserve, d.log_.cur.aheadPct = d.lim.gcReserve, uint32(d.cfg.BandThresholdPct)
	}
	perRecord := 0
	if d.lay.VSS {
		perRecord = (record.MaxBlocks + 1) * int(d.cache.info.MDSize)
	}
	l := &d.log_
	l.hdrs, l.vss = iobuf.Alloc(maxRecords*blockSize), iobuf.Alloc(maxRecords*perRecord)
	for i := range maxRecords {
		r := newRecordOp(d, nth(l.hdrs, i, blockSize), nth(l.vss, i, perRecord))
		r.next = l.free
		l.free = r
	}
	l.inflight.init()
}

// nth is piece i of buf, which is cut into pieces of n bytes.
func nth(buf []byte, i, n int) []byte { return buf[i*n : (i+1)*n : (i+1)*n] }

func (d *Device) freeLog() {
	l := &d.log_
	if l.under == 0 { // else a device that hangs may still read them
		iobuf.Free(l.hdrs)
		iobuf.Free(l.vss)
	}
	l.free, l.hdrs, l.vss = nil, nil, nil
}

func (l *logState) takeOp() *recordOp {
	r := l.free
	l.free = r.next
	r.next = nil
	r.parts, r.bufs = r.parts[:0], r.bufs[:0]
	r.n, r.rehomed, r.effective, r.move = 0, 0, false, nil
	l.under++
	return r
}

func (l *logState) giveOp(r *recordOp) {
	r.next = l.free
	l.free = r
	l.under--
}

// headerSlots is the number of slots in front of the data blocks of a record.
func (d *Device) headerSlots() uint32 {
	if d.lay.VSS {
		return 0
	}
	return 1
}

// pack makes records of what waits.
func (d *Device) pack() {
	l := &d.log_
	if d.health != HealthOK {
		d.abandonLog()
		return
	}
	if l.failing || !d.rehomeRecords() || !d.settleVoid() || !d.detour() {
		return
	}
	for l.q.head != nil && l.free != nil {
		if l.under >= fewRecords && !d.enoughWaits() {
			return
		}
		if !d.spaceForUser() {
			d.starve()
			return
		}
		s := l.cur.segment(d.headerSlots() + 1)
		if s == nil {
			d.starve()
			d.noSpaceLeft()
			return
		}
		r := l.takeOp()
		if l.q.head.Op == OpTrim {
			r.packTrims()
		} else {
			r.packData(s)
		}
		d.number(r)
		r.write(s)
		d.paid(r.w.slots)
	}
}

// number gives a record its place in the order of the log.
func (d *Device) number(r *recordOp) {
	l := &d.log_
	l.nextU++
	r.u = l.nextU
	l.ring[r.u%uint64(len(l.ring))] = r
	d.stats.Records++
}

// enoughWaits says whether what waits is worth a record of its own.
func (d *Device) enoughWaits() bool {
	q := &d.log_.q
	if q.n >= enoughBlocks {
		return true
	}
	blocks := uint64(0)
	for r := q.head; r != nil && blocks < enoughBlocks; r = r.next {
		blocks += r.Count - r.off
	}
	return blocks >= enoughBlocks
}

// packData takes blocks from the head of the queue, up to the room of s.
func (r *recordOp) packData(s *segment) {
	l := &r.d.log_
	r.kind = record.KindData
	room := int(min(record.MaxBlocks, s.body-s.next-r.d.headerSlots()))
	r.bufs = append(r.bufs, r.hdr)
	for l.q.head != nil && l.q.head.Op == OpWrite && r.n < room {
		q := l.q.head
		n := min(room-r.n, int(q.Count-q.off))
		for left := n; left > 0; {
			b := q.blocks(left)
			r.packRun(q, b)
			left -= len(b) / blockSize
		}
		r.parts = append(r.parts, part{q, uint64(n)})
		if q.off == q.Count {
			l.q.pop()
		}
	}
}

// packRun takes the next blocks of q, which lie side by side in b.
func (r *recordOp) packRun(q *Request, b []byte) {
	l := &r.d.log_
	r.bufs = append(r.bufs, b)
	for ; len(b) > 0; b = b[blockSize:] {
		lba := q.LBA + q.off
		r.lbas[r.n] = lba
		r.seqs[r.n] = q.seq
		if q.run != nil {
			r.sums[r.n] = q.run.sum(q.off)
		} else {
			r.sums[r.n] = record.DataSum(b[:blockSize], lba)
			l.inflight.put(lba, q.seq, b[:blockSize])
		}
		r.n++
		q.off++
	}
}

// packTrims takes ranges from the head of the queue.
func (r *recordOp) packTrims() {
	l := &r.d.log_
	r.kind = record.KindTrim
	total := uint64(0)
	for l.q.head != nil && l.q.head.Op == OpTrim && r.n < record.MaxTrims && total < maxTrimBlocks {
		q := l.q.head
		n := min(maxTrimBlocks-total, q.Count-q.off)
		r.lbas[r.n], r.counts[r.n] = q.LBA+q.off, n
		r.n++
		total += n
		q.off += n
		r.parts = append(r.parts, part{q, n})
		if q.off == q.Count {
			l.q.pop()
		}
	}
}

// write gives the record its slots and submits it.
func (r *recordOp) write(s *segment) {
	d := r.d
	if r.move == nil {
		d.log_.recovers()
		d.rounds = 0
	}
	d.lastG++
	g := d.lastG
	slots := r.slotsNeeded()
	s.place(&r.w, slots)
	if r.kind.IsUser() {
		s.unacked++
	}
	s.maxG, s.maxD = g, d.durableU
	if r.kind == record.KindData && s.vss() {
		r.writeVSS(s, g)
		return
	}
	h := record.Header{
		UUID: d.sb.UUID, Seg: s.idx, Slot: r.w.slot, Gen: s.gen, Inc: d.sb.Inc,
		Kind: r.kind, Count: uint16(r.n), G: g, U: r.u, D: d.durableU,
	}
	slot := r.w.slot
	switch r.kind {
	case record.KindData:
		s.sum.Put(slot, record.Entry{LBA: record.MarkHeader, U: r.u, Sum: g})
		for i := range r.n {
			e := record.Entry{LBA: r.lbas[i], U: r.u, Sum: r.sums[i]}
			record.PutEntry(r.hdr, i, e)
			s.sum.Put(slot+1+uint32(i), e)
		}
	case record.KindTrim:
		for i := range r.n {
			record.PutEntry(r.hdr, i, record.Entry{LBA: r.lbas[i], U: r.counts[i]})
		}
		s.sum.Put(slot, record.Entry{LBA: record.MarkTrim, U: r.u, Sum: g})
	case record.KindVoid:
		h.Count = uint16(r.voidLast - r.u + 1)
		s.sum.Put(slot, record.Entry{LBA: record.MarkVoid, U: r.u, Sum: r.voidLast})
	case record.KindPad:
		s.sum.Put(slot, record.Entry{LBA: record.MarkPad, U: d.durableU, Sum: g})
	default:
	}
	h.Seal(r.hdr)
	if r.kind != record.KindData {
		r.bufs = append(r.bufs[:0], r.hdr)
	}
	var vss []byte
	if s.vss() {
		vss = r.vss[:d.cache.info.MDSize]
		m := record.Meta{
			LBA: markOf(r.kind), U: r.u, G: g, D: d.durableU, Sum: record.DataSum(r.hdr, 0),
			Gen: s.gen, Inc: d.sb.Inc, Count: 1, Kind: r.kind,
		}
		m.Put(vss, record.Place(d.sb.UUID, s.off+uint64(slot)))
	}
	bufs := s.pad(&r.w, slots, r.bufs)
	r.bufs = bufs[:len(r.bufs)] // written elsewhere it may need another pad
	d.log_.writing++
	r.io.prepare(s.dev, bdev.OpWrite, bufs, vss, s.off+uint64(slot), uint64(r.w.slots), r.source())
	r.io.call(recordWritten, r)
}

// writeVSS writes a data record whose description stands in the metadata of
// each block (Rule 4).
func (r *recordOp) writeVSS(s *segment, g uint64) {
	d := r.d
	stride := int(d.cache.info.MDSize)
	addr := s.off + uint64(r.w.slot)
	m := record.Meta{U: r.u, G: g, D: d.durableU, Gen: s.gen, Inc: d.sb.Inc, Count: uint16(r.n), Kind: r.kind}
	for i := range r.n {
		m.LBA, m.Sum, m.Index = r.lbas[i], r.sums[i], uint16(i)
		m.Put(r.vss[i*stride:], record.Place(d.sb.UUID, addr+uint64(i)))
		s.sum.Put(r.w.slot+uint32(i), record.Entry{LBA: r.lbas[i], U: r.u, Sum: r.sums[i]})
	}
	d.log_.writing++
	r.io.prepare(s.dev, bdev.OpWrite, r.bufs[1:], r.vss[:r.n*stride], addr, uint64(r.n), r.source())
	r.io.call(recordWritten, r)
}

// source is who has the record written.
func (r *recordOp) source() Source {
	if r.move != nil {
		return SourceGC
	}
	return SourceUser
}

// markOf is the mark that stands for a record without data.
func markOf(k record.Kind) uint64 {
	switch k {
	case record.KindTrim:
		return record.MarkTrim
	case record.KindPad:
		return record.MarkPad
	case record.KindVoid:
		return record.MarkVoid
	default:
	}
	return record.MarkHeader
}

func (r *recordOp) slotsNeeded() uint32 {
	if r.kind == record.KindData {
		return uint32(r.n) + r.d.headerSlots()
	}
	return 1
}

func (s *segment) noteU(u uint64) {
	if s.firstU == 0 || u < s.firstU {
		s.firstU = u
	}
	s.lastU = max(s.lastU, u)
}

func recordWritten(x *devIO, err error) {
	r := x.owner.(*recordOp)
	d := r.d
	d.log_.writing--
	if err != nil {
		d.logWriteFailed(r, err)
	}
	r.w.seg.completed(&r.w, err)
	d.afterRecord()
}

// afterRecord goes on with what a record that came back makes possible.
func (d *Device) afterRecord() {
	l := &d.log_
	if l.failing && l.writing == 0 {
		d.voidRecords()
	}
	if l.q.head != nil || l.rehome != nil {
		d.wakeUser()
	}
	if d.gc.waiting != nil {
		d.wake() // it may have waited for the log to be at rest
	}
}

func recordEffective(w *slotWrite) {
	r := w.owner.(*recordOp)
	r.effective = true
	d := r.d
	if r.kind == record.KindPad {
		d.padDone(r)
		return
	}
	// Only what counts there binds a segment: one that all records were taken
	// out of again, because writes failed, need not wait for their numbers, nor
	// may it, because they may be waiting for a free one.
	w.seg.noteU(r.u)
	w.seg.noteU(max(r.u, r.voidLast))
	if !d.log_.failing {
		d.switchInOrder()
	}
}

// switchInOrder acknowledges effective records, lowest number first.
func (d *Device) switchInOrder() {
	l := &d.log_
	for {
		r := l.ring[(d.ackedU+1)%uint64(len(l.ring))]
		if r == nil || !r.effective || r.u != d.ackedU+1 {
			return
		}
		l.ring[r.u%uint64(len(l.ring))] = nil
		d.switchRecord(r)
	}
}

// switchRecord makes the mapping point at the record and answers its users.
func (d *Device) switchRecord(r *recordOp) {
	l := &d.log_
	s := r.w.seg
	switch r.kind {
	case record.KindData:
		if r.move != nil {
			r.checkDetour()
		}
		d.mapData(r, s.addr+l2p.Addr(r.w.slot+d.headerSlots()))
	case record.KindTrim:
		for i := range r.n {
			d.unmap(r.lbas[i], r.counts[i])
		}
	case record.KindVoid:
		d.setAcked(r.voidLast)
		l.voidActive, l.voidFrom, l.voidErr = false, 0, nil
	default:
	}
	if r.kind != record.KindVoid {
		d.setAcked(r.u)
	}
	s.unacked--
	d.logBlocks += uint64(r.w.slots)
	if s.unacked == 0 {
		d.noteIfEmpty(s)
	}
	d.answer(r)
	op := r.move
	l.giveOp(r)
	if op != nil {
		op.detoured()
	}
	d.wakeIfDue()
}

// mapData switches the mapping of a data record. The first loop only loads the
// entries, so that their cache misses overlap.
func (d *Device) mapData(r *recordOp, at l2p.Addr) {
	t := d.table
	var touch l2p.Addr
	for i := range r.n {
		touch |= t.Get(r.lbas[i])
	}
	d.touched = touch
	for i := range r.n {
		lba := r.lbas[i]
		old := t.Get(lba)
		t.Set(lba, at+l2p.Addr(i))
		if old >= l2p.First {
			d.dropBlock(old)
		} else {
			d.mapped++
		}
	}
	for i := r.n - 1; i >= 0; i-- { // backwards, see inflightMap.remove
		d.log_.inflight.remove(r.lbas[i], r.seqs[i])
	}
	d.valid[r.w.seg.idx] += uint32(r.n)
}

// unmap switches a trimmed range to unmapped.
func (d *Device) unmap(lba, n uint64) {
	t := d.table
	for end := lba + n; lba < end; lba++ {
		old := t.Get(lba)
		if old == l2p.Unmapped {
			continue
		}
		t.Set(lba, l2p.Unmapped)
		if old >= l2p.First {
			d.dropBlock(old)
			d.mapped--
		}
	}
}

// dropBlock books that nothing maps to address a any more.
func (d *Device) dropBlock(a l2p.Addr) {
	idx, _ := d.segOf(a)
	d.valid[idx]--
	if d.valid[idx] == 0 {
		d.noteIfEmpty(&d.segs[idx])
	}
}

// setAcked moves the point up to which user records are acknowledged.
func (d *Device) setAcked(u uint64) {
	d.ackedU = u
	if d.shm != nil {
		d.shm.setAcked(u, d.lastG)
	}
	if !d.logDev.info.VolatileCache {
		d.durableU = u
	}
}

// answer completes the requests of which this record was the last part.
func (d *Device) answer(r *recordOp) {
	for _, p := range r.parts {
		q := p.req
		q.left -= p.n
		if q.left != 0 {
			continue
		}
		if q.FUA && q.Err == nil {
			// Rule 6: acknowledged in order, then the log device's flush.
			d.flusher.q.push(q)
			d.wakeUser()
			continue
		}
		d.complete(q)
	}
}
