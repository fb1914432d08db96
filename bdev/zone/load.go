package zone

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/iobuf"
)

const (
	loadBytes     = 256 << 10 // read at a time
	maxUnreadable = 1024      // blocks in a row that a zone may have before its end is given up
	loadTries     = 4         // a device that fails now and then must not cost what it holds
)

// loader reads the table and finds out where the zones end that were written
// to behind what is known to be durable: as far as blocks fit their sums. Then
// it writes what it found into the table, with a new generation for these
// zones, so that blocks that survived behind a gap never count for something
// written later.
//
// An error of the base must not end a zone early: what was answered would be
// gone, and for good, because of the new generation. So reads are tried again; a
// block that cannot be read but has a sum counts as written, and a zone whose
// sums cannot be read counts as full, which loses nothing.
type loader struct {
	t        *table
	op       tableOp
	initFull bool
	buf      []byte
	pair     []byte // both slots of a sum unit
	next     uint64 // unit of the table, then zone
	batch    uint64 // units being read

	// The zone that is looked at.
	zone    uint64
	at      uint64 // the next block to look at
	end     uint64 // the last one that fits, plus 1
	count   uint64 // blocks being read
	single  uint64 // blocks that are read one by one, after an error
	missing int    // unreadable blocks in a row
	tries   int    // of the present read
	step    func(l *loader, err error)
}

func newLoader(t *table, o *Options) *loader {
	l := &loader{t: t, initFull: o.InitFull}
	l.op.init(t, loadStep, l)
	return l
}

func (l *loader) alloc() bool {
	l.buf, l.pair = iobuf.Alloc(int(max(loadBytes, 2*l.t.bytes))), iobuf.Alloc(int(2*l.t.bytes))
	return l.buf != nil && l.pair != nil
}

func (l *loader) free() {
	iobuf.Free(l.buf)
	iobuf.Free(l.pair)
	l.buf, l.pair = nil, nil
}

func loadStep(arg any, err error) {
	l := arg.(*loader)
	l.step(l, err)
}

// start first makes durable what an earlier process may have left in the cache
// of the base, so that what is read here stays.
func (l *loader) start() {
	if l.t.readOnly {
		l.readUnits()
		return
	}
	l.step = (*loader).flushed
	l.op.flush()
}

func (l *loader) flushed(err error) {
	if err != nil && !errors.Is(err, bdev.ErrUnsupported) {
		l.fail(fmt.Errorf("flush the base: %w", err))
		return
	}
	l.readUnits()
}

func (l *loader) readUnits() {
	t := l.t
	l.batch = min(uint64(len(t.units))-l.next, uint64(len(l.buf))/(2*t.bytes))
	l.step = (*loader).unitsRead
	l.op.read(l.buf[:l.batch*2*t.bytes], t.unitLBA(&t.units[l.next]), l.batch*2*t.unit)
}

func (l *loader) unitsRead(err error) {
	t := l.t
	if err != nil {
		l.fail(fmt.Errorf("read the table of zones: %w", err))
		return
	}
	for i := range l.batch {
		if err := t.decode(&t.units[l.next+i], l.buf[i*2*t.bytes:(i+1)*2*t.bytes], l.initFull); err != nil {
			l.fail(err)
			return
		}
	}
	if l.next += l.batch; l.next < uint64(len(t.units)) {
		l.readUnits()
		return
	}
	l.zone = t.d.m.conv
	l.nextZone()
}

// nextZone goes on with the next zone whose end is not known.
func (l *loader) nextZone() {
	t := l.t
	for ; l.zone < uint64(len(t.zones)); l.zone++ {
		e := &t.zones[l.zone]
		e.done = e.durable
		if e.flags&flagUsed != 0 && e.flags&flagOffline == 0 && e.done < t.d.m.capacity {
			l.at, l.end, l.missing, l.single = e.done, e.done, 0, 0
			l.readSums()
			return
		}
	}
	l.commit()
}

// readSums reads the sums for the block at l.at and those behind it.
func (l *loader) readSums() {
	t := l.t
	if l.at >= t.d.m.capacity {
		l.zoneDone()
		return
	}
	l.step, l.tries = (*loader).sumsRead, 0
	l.readPair()
}

func (l *loader) readPair() {
	t := l.t
	l.tries++
	l.op.read(l.pair, t.sumLBA(t.sumKey(l.zone, l.at)), 2*t.unit)
}

func (l *loader) sumsRead(err error) {
	switch {
	case err == nil:
		l.readData()
	case errors.Is(err, unix.EIO) && l.tries < loadTries:
		l.readPair()
	case errors.Is(err, unix.EIO):
		l.giveUp()
	default:
		l.fail(fmt.Errorf("read the sums of zone %d: %w", l.zone, err))
	}
}

// slot returns what the sum unit that was read says of a block.
func (l *loader) slot(i int, off uint64) uint64 {
	at := uint64(i)*l.t.bytes + off%sumsOf(l.t.bytes)*sumBytes
	return binary.LittleEndian.Uint64(l.pair[at:])
}

// readData reads blocks from l.at on that have sums.
func (l *loader) readData() {
	t := l.t
	per := sumsOf(t.bytes)
	n := min(per-l.at%per, t.d.m.capacity-l.at, uint64(len(l.buf))/l.t.blockBytes())
	if l.single > 0 {
		n = 1
	}
	l.count = 0
	for l.count < n && l.slot(0, l.at+l.count)|l.slot(1, l.at+l.count) != 0 {
		l.count++
	}
	if l.count == 0 {
		l.zoneDone()
		return
	}
	l.step, l.tries = (*loader).dataRead, 0
	l.readBlocks()
}

func (l *loader) readBlocks() {
	t := l.t
	l.tries++
	l.op.read(l.buf[:l.count*t.blockBytes()], l.zone*t.d.zone+l.at, l.count)
}

func (t *table) blockBytes() uint64 { return t.bytes / t.unit }

func (l *loader) dataRead(err error) {
	t := l.t
	e := &t.zones[l.zone]
	switch {
	case err != nil && !errors.Is(err, unix.EIO):
		l.fail(fmt.Errorf("read zone %d: %w", l.zone, err))
		return
	case err != nil && l.count > 1:
		l.single = l.count
		l.readData()
		return
	case err != nil && l.tries < loadTries:
		l.readBlocks()
		return
	case err != nil:
		if l.missing++; l.missing > maxUnreadable {
			l.giveUp()
			return
		}
		l.at++
		l.end = l.at
	}
	for i := uint64(0); err == nil && i < l.count; i++ {
		block := l.buf[i*t.blockBytes() : (i+1)*t.blockBytes()]
		lba := l.zone*t.d.zone + l.at
		a, b := l.slot(0, l.at), l.slot(1, l.at)
		sum, hole := sumOf(block, e.gen, lba), holeOf(e.gen, lba)
		if a != sum && b != sum && a != hole && b != hole {
			l.zoneDone()
			return
		}
		l.at++
		l.end, l.missing = l.at, 0
	}
	if l.single > 0 {
		l.single--
	}
	if l.at%sumsOf(t.bytes) == 0 {
		l.readSums()
		return
	}
	if l.at >= t.d.m.capacity {
		l.zoneDone()
		return
	}
	l.readData()
}

// giveUp has a zone count as full whose end cannot be found.
func (l *loader) giveUp() {
	l.end = l.t.d.m.capacity
	l.zoneDone()
}

// zoneDone takes what fits as written, in whole write units.
func (l *loader) zoneDone() {
	t := l.t
	e := &t.zones[l.zone]
	if unit := uint64(max(t.d.info.WriteUnit, 1)); l.end > e.durable {
		e.durable = max(e.durable, l.end-l.end%unit)
	}
	e.done = e.durable
	e.gen = nextGen(e.gen)
	t.dirty(l.zone)
	l.zone++
	l.nextZone()
}

// commit makes durable what was found.
func (l *loader) commit() {
	if len(l.t.dirtyUnits) == 0 || l.t.readOnly {
		l.finish()
		return
	}
	l.t.writeRound()
}

// committed is called when the table is written.
func (l *loader) committed() {
	if list := l.t.dirtyUnits; len(list) > 0 {
		l.fail(fmt.Errorf("write the table of zones: %w", list[0].err))
		return
	}
	l.finish()
}

func (l *loader) fail(err error) {
	l.t.err = fmt.Errorf("zone %s: %w", l.t.d.info.Name, err)
	l.ready()
}

// finish gives every zone the state that was found.
func (l *loader) finish() {
	t := l.t
	for i := range t.zones {
		t.begin(uint64(i))
	}
	l.ready()
}

// begin gives a zone the state that it has after a restart: what was open is
// closed. One that is to be read-only or offline stays so.
func (t *table) begin(i uint64) {
	e := &t.zones[i]
	z := &t.d.m.zones[i]
	set := func(s bdev.ZoneState, wp uint64) { z.w.Store(uint64(makeWord(s, e.gen, wp))) }
	was := word(z.w.Load())
	wp := e.done
	if i < t.d.m.conv {
		wp = t.d.m.blocks
	}
	switch {
	case was.state() == bdev.ZoneOffline || e.flags&flagOffline != 0:
		set(bdev.ZoneOffline, wp)
	case was.state() == bdev.ZoneReadOnly || e.flags&flagReadOnly != 0:
		set(bdev.ZoneReadOnly, wp)
	case was.state() == bdev.ZoneNotWP:
	case e.flags&flagFinished != 0 || wp == t.d.m.capacity:
		set(bdev.ZoneFull, wp)
	case wp == 0:
		set(bdev.ZoneEmpty, 0)
	default:
		set(bdev.ZoneClosed, wp)
		t.d.m.used.Add(1)
	}
}

// ready lets in those who wait.
func (l *loader) ready() {
	t := l.t
	l.free()
	t.loaded.Store(true)
	for _, c := range t.waiters {
		c.th.Send(tableLoaded, c)
	}
	t.waiters = nil
	if t.err != nil || t.readOnly { // nothing is written
		t.dirtyUnits = nil
		for t.pending.head != nil {
			t.answer(t.pending.pop())
		}
	}
	t.kick()
	t.endIfIdle()
}

func waitForTable(arg any) {
	c := arg.(*channel)
	t := c.d.table
	if t.loaded.Load() {
		c.th.Send(tableLoaded, c)
		return
	}
	t.waiters = append(t.waiters, c)
}
