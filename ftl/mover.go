package ftl

import (
	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// A mover empties segments into bands of its own stream: one moves chunks
// (compaction), one moves bands (relocation), so that fresh and old data do not
// mix. A move op carries up to one record of blocks through four stages: pin
// the mapping, read, write, switch. A block whose mapping changed meanwhile is dropped
// before the write and again at the switch (Rule 8).

const (
	// Defaults of Config.MoveDepth and Config.MoveSegments.
	defaultMoveDepth    = 8
	defaultMoveSegments = 2
	// moveReadRetries is how often a run is read again block by block.
	moveReadRetries = 2
)

// moveEntry is one block on its way.
type moveEntry struct {
	lba  uint64
	u    uint64
	sum  uint64
	slot uint32 // in the source; in the buffer it is the entry's index
	bad  bool   // could not be read
}

// moveOp moves one record of blocks.
type moveOp struct {
	m     *mover
	d     *drain
	w     slotWrite
	io    devIO
	reads []devIO
	tries []uint8
	hdr   []byte
	buf   []byte // MaxBlocks blocks; entry i at block i
	md    []byte
	bufs  [][]byte
	ents  [record.MaxBlocks]moveEntry
	live  [record.MaxBlocks]uint8 // entries in the record being written
	pins  [record.MaxBlocks]l2p.PinRequest
	npins int
	n     int // entries
	span  int // slots of the source that were walked for them
	at    int // entries written so far
	nlive int
	wait  int
	next  *moveOp
	// strays: it takes a detour though there are bands (Config.DetourEvery).
	strays bool
}

// mover is compaction or relocation.
type mover struct {
	d        *Device
	name     string
	src      Source
	stream   stream
	drains   []*drain
	spare    *drain
	ops      []*moveOp
	free     *moveOp
	under    int
	limit    int     // ops that may be under way
	waiting  *moveOp // read and verified; wait for room in the stream
	waitTail *moveOp
	detour   *drain // begun for a detour, while others wait (detour.go)
	turn     int    // moves that waited so far
	credit   int64  // blocks that compaction may write while bands are short
	failed   int    // moves that failed since the last success
	blocked  bool   // the base device has no room or fails; a timer unblocks
	pick     func(d *Device) *segment
	wanted   func(d *Device) bool
}

func (m *mover) init(d *Device, name string, src Source, reserve int) {
	m.d, m.name, m.src, m.limit = d, name, src, d.cfg.MoveDepth
	m.stream = stream{d: d, name: name, band: true, src: src, reserve: reserve, ready: func(*Device) { m.resume() }}
}

// opFor takes a move op, with its buffers allocated at first use.
func (m *mover) opFor() *moveOp {
	op := m.free
	if op != nil {
		m.free = op.next
		op.next = nil
		return op
	}
	op = &moveOp{
		m: m, hdr: iobuf.Alloc(blockSize), buf: iobuf.Alloc(record.MaxBlocks * blockSize),
		reads: make([]devIO, record.MaxBlocks), tries: make([]uint8, record.MaxBlocks),
		bufs: make([][]byte, 0, record.MaxBlocks+1),
	}
	if m.d.lay.VSS {
		op.md = iobuf.Alloc(record.MaxBlocks * int(m.d.cache.info.MDSize))
	}
	op.w.owner, op.w.effective, op.w.failed = op, moveEffective, moveFailed
	m.ops = append(m.ops, op)
	return op
}

func (m *mover) release() {
	for _, op := range m.ops {
		iobuf.Free(op.hdr)
		iobuf.Free(op.buf)
		if op.md != nil {
			iobuf.Free(op.md)
		}
	}
	m.ops, m.free = nil, nil
}

// run starts as much as there is to do and room for.
func (m *mover) run() {
	d := m.d
	for i := 0; i < len(m.drains); {
		dr := m.drains[i]
		if dr.done() {
			dr.finish()
			continue
		}
		i++
	}
	for m.detour != nil && m.under <= m.limit && m.detour.ready && m.detour.slot < m.detour.seg.body && !m.ends() {
		m.move(m.detour)
	}
	for m.under < m.limit && !m.paused() {
		dr := m.readyDrain()
		if dr == nil {
			if len(m.drains) >= m.d.cfg.MoveSegments || !m.wanted(d) {
				return
			}
			s := m.pick(d)
			if s == nil {
				return
			}
			m.startDrain(s)
			continue
		}
		if d.held(m) {
			return
		}
		m.move(dr)
	}
}

// move starts the next move of a drain.
func (m *mover) move(dr *drain) {
	op := m.opFor()
	dr.collect(op)
	if op.n == 0 {
		op.next = m.free
		m.free = op
		if dr.done() {
			dr.finish()
		}
		return
	}
	dr.ops++
	m.under++
	m.credit -= int64(op.n)
	op.pin()
}

// paused says whether no new move may start: all end, or some wait for room
// already.
func (m *mover) paused() bool { return m.waiting != nil || m.ends() }

// ends says whether moves wait for a timer, or the device stops or is not healthy.
func (m *mover) ends() bool { return m.blocked || m.d.quiesce || m.d.health != HealthOK }

// readyDrain returns a drain with slots left to look at.
func (m *mover) readyDrain() *drain {
	for _, dr := range m.drains {
		if dr.ready && dr.slot < dr.seg.body {
			return dr
		}
	}
	return nil
}

// waits says whether no move is under way that could end without room or another
// try.
func (m *mover) waits() bool { return m.blocked || m.stalled() }

// stalled says whether nothing of the mover is under way but what waits for
// room.
func (m *mover) stalled() bool {
	n := 0
	for op := m.waiting; op != nil; op = op.next {
		n++
	}
	return !m.blocked && n == m.under
}

// rests says whether the mover has nothing to do. On a device that takes no
// writes its drains stay where they are.
func (m *mover) rests() bool {
	for _, dr := range m.drains {
		if m.d.health == HealthOK || !dr.ready || dr.ops > 0 {
			return false
		}
	}
	return m.under == 0
}

// pin holds the mapping of every entry until the op ends.
func (op *moveOp) pin() {
	t := op.m.d.table
	op.wait, op.npins = 1, op.n
	for i := range op.n {
		p := &op.pins[i]
		*p = l2p.PinRequest{LBA: op.ents[i].lba, Count: 1, Done: movePinned, Arg: op}
		if !t.Pin(p) {
			op.wait++
		}
	}
	op.pinned()
}

func movePinned(p *l2p.PinRequest) { p.Arg.(*moveOp).pinned() }

// pinned goes on when every pin is there: what is still valid is read.
func (op *moveOp) pinned() {
	op.wait--
	if op.wait > 0 {
		return
	}
	d, n := op.m.d, 0
	for i := range op.n {
		e := op.ents[i]
		if op.pins[i].Err != nil || d.table.Get(e.lba) != op.d.seg.addr+l2p.Addr(e.slot) {
			d.stats.Overtaken++
			continue
		}
		op.ents[n] = e
		n++
	}
	op.n = n
	op.read()
}

func (op *moveOp) unpin() {
	t := op.m.d.table
	for i := range op.npins {
		if op.pins[i].Err == nil {
			t.Unpin(&op.pins[i])
		}
	}
	op.npins = 0
}

// read fetches the entries of op, one device read for each run of slots.
func (op *moveOp) read() {
	op.at, op.wait = 0, 1
	clear(op.tries[:op.n])
	for i := 0; i < op.n; {
		j := i + 1
		for j < op.n && op.ents[j].slot == op.ents[j-1].slot+1 {
			j++
		}
		op.readRun(i, j)
		i = j
	}
	op.readsDone(1)
}

// readRun reads entries [i, j), whose slots lie side by side.
func (op *moveOp) readRun(i, j int) {
	s := op.d.seg
	x := &op.reads[i]
	x.idx = i
	op.wait++
	x.prepareOne(s.dev, bdev.OpRead, op.buf[i*blockSize:j*blockSize], s.off+uint64(op.ents[i].slot), op.m.src)
	if s.vss() {
		md := int(op.m.d.cache.info.MDSize)
		x.md = op.md[i*md : j*md]
	}
	x.call(moveReadDone, op)
}

func moveReadDone(x *devIO, err error) {
	op := x.owner.(*moveOp)
	i, n := x.idx, int(x.n)
	if err == nil {
		for k := i; k < i+n; k++ {
			op.check(k)
		}
		op.readsDone(1)
		return
	}
	for k := i; k < i+n; k++ {
		op.again(k)
	}
	op.readsDone(1)
}

// check verifies entry k after its read.
func (op *moveOp) check(k int) {
	e := &op.ents[k]
	e.bad = false
	if op.m.d.cfg.NoVerify || record.DataSum(op.buf[k*blockSize:(k+1)*blockSize], e.lba) == e.sum {
		return
	}
	op.m.d.stats.crc(op.d.seg.dev, op.m.src)
	op.again(k)
}

// again reads a block by itself once more, or gives it up for this pass.
func (op *moveOp) again(k int) {
	e := &op.ents[k]
	e.bad = true
	op.tries[k]++
	if op.tries[k] <= moveReadRetries {
		op.readRun(k, k+1)
	}
}

// readsDone books n answers; the last one leads to the write.
func (op *moveOp) readsDone(n int) {
	op.wait -= n
	if op.wait > 0 {
		return
	}
	op.dropBad()
	op.enqueue()
}

// dropBad deals with blocks that stayed unreadable: on the drain's last pass
// they are lost, before that they stay where they are.
func (op *moveOp) dropBad() {
	d := op.m.d
	for i := range op.n {
		e := &op.ents[i]
		if !e.bad {
			continue
		}
		op.d.badReads++
		a := op.d.seg.addr + l2p.Addr(e.slot)
		if op.d.lossy && d.table.Get(e.lba) == a {
			d.log.Error("block lost: it cannot be read", "lba", e.lba, "kind", op.d.seg.kindName(),
				"id", op.d.seg.id, "slot", e.slot)
			d.lose(e.lba, a)
		}
	}
}

// enqueue puts op in the line for the stream.
func (op *moveOp) enqueue() {
	m := op.m
	op.next = nil
	if m.waiting == nil {
		m.waiting = op
	} else {
		m.waitTail.next = op
	}
	m.waitTail = op
	op.strays = m.d.straysNow(op)
	m.writeWaiting()
	if m.waiting != nil {
		m.d.checkStuck()
		m.d.wake() // it may be stranded
	}
}

// resume goes on after the stream got a segment.
func (m *mover) resume() {
	m.writeWaiting()
	m.run()
}

// writeWaiting writes what waits, in order, as long as the stream has room.
func (m *mover) writeWaiting() {
	for m.waiting != nil {
		op := m.waiting
		if m.d.health != HealthOK || m.d.abandonMoves {
			m.waiting = op.next
			op.finish()
			continue
		}
		if m.blocked || op.strays && m.d.log_.sound() {
			return
		}
		s := m.stream.segment(2)
		if s == nil {
			return // resume is called when one is open; a freed band wakes us too
		}
		if !op.write(s) {
			continue // all of it went out of date, or was written: next
		}
	}
}

// write puts the entries that are still valid into one record of s, and keeps
// op at the head of the line while some are left. It returns whether a device
// write was started.
func (op *moveOp) write(s *segment) bool {
	m, d := op.m, op.m.d
	src := op.d.seg
	room := int(s.body - s.next - 1)
	op.bufs = append(op.bufs[:0], op.hdr)
	op.nlive = 0
	from := op.at
	for op.at < op.n && op.nlive < room {
		i := op.at
		op.at++
		e := &op.ents[i]
		if e.bad || d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
			continue
		}
		op.live[op.nlive] = uint8(i)
		record.PutEntry(op.hdr, op.nlive, record.Entry{LBA: e.lba, U: e.u, Sum: e.sum})
		op.nlive++
		op.bufs = append(op.bufs, op.buf[i*blockSize:(i+1)*blockSize])
	}
	d.stats.Overtaken += uint64(op.at - from - op.nlive)
	m.waiting = op.next
	op.next = nil
	if op.nlive == 0 {
		op.finish()
		return false
	}
	op.joinBuffers()
	if m == &d.compaction {
		d.rounds = 0
	}
	d.lastG++
	s.place(&op.w, uint32(op.nlive)+1)
	s.maxG, s.maxD = d.lastG, d.durableU
	h := record.Header{
		UUID: d.sb.UUID, Seg: s.idx, Slot: op.w.slot, Gen: s.gen, Inc: d.sb.Inc,
		Kind: record.KindMove, Count: uint16(op.nlive), G: d.lastG, D: d.durableU,
	}
	s.sum.Put(op.w.slot, record.Entry{LBA: record.MarkHeader, Sum: d.lastG})
	for i := range op.nlive {
		s.sum.Put(op.w.slot+1+uint32(i), record.EntryAt(op.hdr, i))
	}
	h.Seal(op.hdr)
	op.bufs = s.pad(&op.w, uint32(op.nlive)+1, op.bufs)
	op.io.prepare(s.dev, bdev.OpWrite, op.bufs, nil, s.off+uint64(op.w.slot), uint64(op.w.slots), m.src)
	op.io.call(moveWritten, op)
	return true
}

// joinBuffers makes one element of blocks that lie side by side.
func (op *moveOp) joinBuffers() {
	out := op.bufs[:1]
	for i := 0; i < op.nlive; {
		j := i + 1
		for j < op.nlive && op.live[j] == op.live[j-1]+1 {
			j++
		}
		from := int(op.live[i]) * blockSize
		out = append(out, op.buf[from:from+(j-i)*blockSize])
		i = j
	}
	op.bufs = out
}

func moveWritten(x *devIO, err error) {
	op := x.owner.(*moveOp)
	if err != nil {
		op.m.writeFailed(err)
	}
	op.w.seg.completed(&op.w, err)
}

// moveEffective switches the mapping of every block that still lies where it
// was moved from.
func moveEffective(w *slotWrite) {
	op := w.owner.(*moveOp)
	m, d := op.m, op.m.d
	src, dst := op.d.seg, w.seg
	m.failed = 0
	d.baseErr = nil
	at := dst.addr + l2p.Addr(w.slot) + 1
	moved := uint32(0)
	for i := range op.nlive {
		e := &op.ents[op.live[i]]
		if d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
			continue
		}
		d.table.Set(e.lba, at+l2p.Addr(i))
		moved++
	}
	d.stats.Outdated += uint64(op.nlive) - uint64(moved)
	d.valid[dst.idx] += moved
	d.valid[src.idx] -= moved
	d.bandBlocks += uint64(w.slots)
	op.next1()
}

// next1 goes on with the entries that did not fit, or ends the op.
func (op *moveOp) next1() {
	if op.at < op.n {
		op.enqueue()
		return
	}
	op.finish()
}

// moveFailed drops what the record held: the sources are still valid and will
// be found again.
func moveFailed(w *slotWrite, err error) {
	op := w.owner.(*moveOp)
	if !isNoSpace(err) { // a full host file system is not a broken device
		op.m.failed++
	}
	op.at = op.n
	op.finish()
}

// writeFailed backs off when the base device has no room or keeps failing.
func (m *mover) writeFailed(err error) {
	d := m.d
	d.baseErr = err
	if isNoSpace(err) || m.failed > m.limit {
		m.blocked = true
		d.retryLater()
	}
	if d.base.removed || m.failed > maxMoveFailures {
		d.fail(HealthReadOnly, "the base device cannot be written", err)
	}
}

// noBand backs off when no band could be opened for want of space: users must
// not wait for moves that may not happen for long.
func (m *mover) noBand(err error) {
	m.d.baseErr = err
	m.blocked = true
	m.d.wake()
}

// trying says whether moves are under way that no error has stopped.
func (m *mover) trying() bool { return !m.blocked && m.under > 0 }

// finish ends the op and lets its drain, and whoever waits for progress, go on.
func (op *moveOp) finish() {
	m, dr := op.m, op.d
	op.unpin()
	dr.ops--
	m.under--
	op.next = m.free
	m.free = op
	m.d.progress(m, op.span, op.n)
	if dr.done() {
		dr.finish()
	}
	m.d.wake()
}
