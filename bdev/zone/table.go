package zone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/thread"
)

// The table is cut into units of the base's write unit, each in two slots that
// are written in turn, so that one is whole. A unit has a header, 16 bytes for
// each of its zones and, at its end, a checksum of all before it. When neither
// slot is whole and one is zeroes, no write of the unit was ever completed: the
// zones are as they begin. When both hold something else, it is not known what:
// the zones count as full, which loses nothing.
//
//	0  magic       8  version  12  index of the unit
//	16 zone blocks 24 capacity 32  number of zones  40 conventional ones
//	48 number of the write, the higher one counts   56 zero
//
// A zone: u32 blocks that are durable, u32 generation, u8 flags, zeroes.
const (
	tableMagic   = 0x656E6F7A6C746667 // "gftlzone"
	tableVersion = 2
	tableHeader  = 64
	tableSum     = 8
	entryBytes   = 16
)

// Flags of a zone in the table.
const (
	flagUsed     uint8 = 1 << iota // may have been written to
	flagFinished                   // full, whatever was written
	flagReadOnly
	flagOffline
)

// zoneEntry is what the table knows of a zone.
type zoneEntry struct {
	durable uint64 // blocks that were there when the base was flushed last
	done    uint64 // blocks that were written and have their sums, without a gap
	gen     uint32
	flags   uint8
	moved   bool   // is in table.moved
	dirty   uint32 // sum units that are not written
	round   uint32 // the last one that it had a part in
	broken  error  // why nothing can be written until a reset
	ahead   *state // writes that wait for one before them, by offset
}

// table is the part of the device that says how far zones are written. It
// belongs to the thread th; channels of other threads send it messages.
type table struct {
	d        *Driver
	th       *thread.Thread
	ch       *bdev.Channel
	volatile bool // the base has a cache
	readOnly bool

	first, sumFirst uint64 // LBAs
	perZone         uint64 // sum units of a zone
	unit            uint64 // blocks of a unit
	bytes           uint64 // of a unit
	out             []byte // the units of the table as they are being written
	units           []unit
	zones           []zoneEntry

	// Sums, see sums.go.
	sums      map[uint64]*sumUnit
	spare     []*sumUnit
	dirtySums []*sumUnit
	owned     [][]byte // buffers of sum units
	sumErr    error    // of the round

	// Rounds, see round.go.
	pending    queue
	active     queue
	dirtyUnits []*unit
	roundNo    uint32
	structural bool // the round that runs has structural requests
	parts      int  // of the round that are being written; 0: no round
	moved      []uint64
	flush      flusher

	loader  *loader
	loaded  atomic.Bool
	err     error // of loading; written before loaded is set
	waiters []*channel
	closing bool
}

// unit is one unit of the table.
type unit struct {
	op    tableOp
	index uint64
	seq   uint64
	slot  uint64 // to write next
	dirty bool
	err   error // of the last write
}

func tableUnit(i *bdev.Info) (blocks, zones uint64) {
	blocks = uint64(max(i.WriteUnit, 1))
	return blocks, (blocks*uint64(i.BlockSize) - tableHeader - tableSum) / entryBytes
}

// tableBlocks returns how many blocks of the base the table takes.
func tableBlocks(zones uint64, i *bdev.Info) uint64 {
	blocks, per := tableUnit(i)
	return (zones + per - 1) / per * 2 * blocks
}

// newTable begins to load the table.
func newTable(d *Driver, th *thread.Thread, info *bdev.Info, o *Options) (*table, error) {
	zones := uint64(len(d.m.zones))
	n := tableBlocks(zones, info)
	t := &table{
		d: d, th: th, volatile: info.VolatileCache, readOnly: info.ReadOnly,
		first: info.Blocks - n, sumFirst: zones * d.zone, zones: make([]zoneEntry, zones), sums: make(map[uint64]*sumUnit),
	}
	t.unit, _ = tableUnit(info)
	t.bytes = t.unit * uint64(info.BlockSize)
	t.perZone = (d.m.capacity + sumsOf(t.bytes) - 1) / sumsOf(t.bytes)
	t.flush.op.init(t, baseFlushed, t)
	t.loader = newLoader(t, o)
	t.out = iobuf.Alloc(int(n / 2 * uint64(info.BlockSize)))
	if t.out == nil || !t.loader.alloc() {
		t.free()
		return nil, fmt.Errorf("zone %s: memory for the table of %d zones: %w", d.info.Name, zones, unix.ENOMEM)
	}
	t.units = make([]unit, n/2/t.unit)
	for i := range t.units {
		u := &t.units[i]
		u.index = uint64(i)
		u.op.init(t, unitWritten, u)
	}
	ch, err := d.base.Desc.Channel(th)
	if err != nil {
		t.free()
		return nil, err
	}
	t.ch = ch
	t.loader.start()
	return t, nil
}

func (t *table) perUnit() uint64 { return (t.bytes - tableHeader - tableSum) / entryBytes }

// unitLBA returns where both slots of a unit are.
func (t *table) unitLBA(u *unit) uint64 { return t.first + u.index*2*t.unit }

// dirty has the unit of a zone written in the next round.
func (t *table) dirty(zone uint64) {
	u := &t.units[zone/t.perUnit()]
	if !u.dirty {
		u.dirty = true
		t.dirtyUnits = append(t.dirtyUnits, u)
	}
}

// zonesOf returns the numbers of the first zone of a unit and of the one behind
// its last.
func (t *table) zonesOf(u *unit) (from, to uint64) {
	from = u.index * t.perUnit()
	return from, min(from+t.perUnit(), uint64(len(t.zones)))
}

// writeUnit writes a unit to the slot that was not written last, durably.
func (t *table) writeUnit(u *unit) {
	p := t.out[u.index*t.bytes : (u.index+1)*t.bytes]
	clear(p)
	le := binary.LittleEndian
	u.seq++
	le.PutUint64(p, tableMagic)
	le.PutUint32(p[8:], tableVersion)
	le.PutUint32(p[12:], uint32(u.index))
	le.PutUint64(p[16:], t.d.zone)
	le.PutUint64(p[24:], t.d.m.capacity)
	le.PutUint64(p[32:], uint64(len(t.zones)))
	le.PutUint64(p[40:], t.d.m.conv)
	le.PutUint64(p[48:], u.seq)
	from, to := t.zonesOf(u)
	for z := from; z < to; z++ {
		e := &t.zones[z]
		if !t.volatile {
			e.durable = e.done // what was written is
		}
		b := p[tableHeader+(z-from)*entryBytes:]
		le.PutUint32(b, uint32(e.durable))
		le.PutUint32(b[4:], e.gen)
		b[8] = e.flags
	}
	n := len(p) - tableSum
	le.PutUint64(p[n:], xxhash.Sum64(p[:n]))
	u.op.write(p, t.unitLBA(u)+u.slot*t.unit, t.unit, true)
}

func unitWritten(arg any, err error) {
	u := arg.(*unit)
	if u.err = err; err == nil {
		u.slot ^= 1
		u.dirty = false
	}
	u.op.t.partDone()
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func sealed(p []byte) bool {
	n := len(p) - tableSum
	return binary.LittleEndian.Uint64(p) == tableMagic && binary.LittleEndian.Uint64(p[n:]) == xxhash.Sum64(p[:n])
}

// decode reads a unit from its two slots.
func (t *table) decode(u *unit, slots []byte, initFull bool) error {
	best := -1
	for i := range 2 {
		p := slots[uint64(i)*t.bytes : uint64(i+1)*t.bytes]
		if !sealed(p) {
			continue
		}
		if err := t.checkHeader(p, u.index); err != nil {
			return err
		}
		if seq := binary.LittleEndian.Uint64(p[48:]); best < 0 || seq > u.seq {
			best, u.seq, u.slot = i, seq, uint64(1-i)
		}
	}
	from, to := t.zonesOf(u)
	for z := max(from, t.d.m.conv); z < to && best < 0; z++ {
		if initFull || !allZero(slots[:t.bytes]) && !allZero(slots[t.bytes:]) {
			t.zones[z].flags, t.zones[z].durable = flagUsed, t.d.m.capacity
		}
	}
	for z := from; z < to && best >= 0; z++ {
		b := slots[uint64(best)*t.bytes+tableHeader+(z-from)*entryBytes:]
		e := &t.zones[z]
		e.durable = min(uint64(binary.LittleEndian.Uint32(b)), t.d.m.capacity)
		e.gen = binary.LittleEndian.Uint32(b[4:]) & (1<<genBits - 1)
		e.flags = b[8]
	}
	return nil
}

func (t *table) checkHeader(p []byte, index uint64) error {
	le := binary.LittleEndian
	if v := le.Uint32(p[8:]); v != tableVersion {
		return fmt.Errorf("zone %s: the table of zones has version %d, this program knows %d: %w",
			t.d.info.Name, v, tableVersion, unix.EPROTONOSUPPORT)
	}
	zone, capacity, zones, conv := le.Uint64(p[16:]), le.Uint64(p[24:]), le.Uint64(p[32:]), le.Uint64(p[40:])
	m := &t.d.m
	if uint64(le.Uint32(p[12:])) != index || zone != t.d.zone || capacity != m.capacity || zones != uint64(len(m.zones)) || conv != m.conv {
		return fmt.Errorf("zone %s: the base has %d zones of %d blocks, %d usable, %d conventional; not %d of %d, %d usable, %d conventional: %w",
			t.d.info.Name, zones, zone, capacity, conv, len(m.zones), t.d.zone, m.capacity, m.conv, unix.EINVAL)
	}
	return nil
}

// close ends the table, on its own thread. No channel uses it any more.
func (t *table) close() { t.th.Send(closeTable, t) }

func closeTable(arg any) {
	t := arg.(*table)
	t.closing = true
	t.endIfIdle()
}

// endIfIdle ends the table, and lets go of the base, when that was asked for
// and nothing is under way.
func (t *table) endIfIdle() {
	if !t.closing || !t.loaded.Load() || t.parts > 0 || t.pending.head != nil {
		return
	}
	t.closing = false
	t.ch.Put()
	t.free()
	t.d.base.Close()
}

func (t *table) free() {
	iobuf.Free(t.out)
	for _, b := range t.owned {
		iobuf.Free(b)
	}
	t.out, t.owned = nil, nil
	t.loader.free()
}

// tableOp is one IO of the table. It waits for a free IO where there is none.
type tableOp struct {
	t     *table
	fn    func(arg any, err error)
	arg   any
	kind  bdev.Op
	fua   bool
	lba   uint64
	count uint64
	bufs  [1][]byte
	wait  bdev.IOWait
}

func (o *tableOp) init(t *table, fn func(arg any, err error), arg any) {
	o.t, o.fn, o.arg = t, fn, arg
	o.wait = bdev.IOWait{Fn: opAgain, Arg: o}
}

func (o *tableOp) write(buf []byte, lba, count uint64, fua bool) {
	o.kind, o.bufs[0], o.lba, o.count, o.fua = bdev.OpWrite, buf, lba, count, fua
	opAgain(o)
}

func (o *tableOp) read(buf []byte, lba, count uint64) {
	o.kind, o.bufs[0], o.lba, o.count = bdev.OpRead, buf, lba, count
	opAgain(o)
}

func (o *tableOp) flush() {
	o.kind = bdev.OpFlush
	opAgain(o)
}

func opAgain(arg any) {
	o := arg.(*tableOp)
	ch := o.t.ch
	var err error
	switch {
	case o.kind == bdev.OpFlush:
		err = ch.Flush(opDone, o)
	case o.kind == bdev.OpRead:
		err = ch.Readv(o.bufs[:], nil, o.lba, o.count, opDone, o)
	case o.fua:
		err = ch.WritevFUA(o.bufs[:], nil, o.lba, o.count, opDone, o)
	default:
		err = ch.Writev(o.bufs[:], nil, o.lba, o.count, opDone, o)
	}
	switch {
	case err == nil:
	case errors.Is(err, bdev.ErrNoMem):
		ch.QueueIOWait(&o.wait)
	default: // never inside the call that asked for it
		o.t.th.Post(opRefused, &refusal{o, err})
	}
}

type refusal struct {
	o   *tableOp
	err error
}

func opRefused(arg any) {
	r := arg.(*refusal)
	r.o.fn(r.o.arg, r.err)
}

func opDone(io *bdev.IO) {
	o := io.Ctx.(*tableOp)
	o.fn(o.arg, io.Err())
}
