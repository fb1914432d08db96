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

// The table is cut into units of the base's write unit. Each has a header, a
// byte for each of its zones (0: empty) and, at its end, a checksum of all
// before it. A unit of zeroes stands for zones that are all empty. A unit with
// a wrong checksum was torn or is not ours: its zones are taken as not empty,
// which loses nothing.
//
//	0  magic       8  version  12  index of the unit
//	16 zone blocks 24 capacity 32  number of zones  40 reserved
const (
	tableMagic   = 0x656E6F7A6C746667 // "gftlzone"
	tableVersion = 1
	tableHeader  = 64
	tableSum     = 8
)

// table is the part of the device that says which zones are not empty. It
// belongs to the thread th; channels of other threads send it messages.
type table struct {
	d     *Driver
	th    *thread.Thread
	ch    *bdev.Channel
	first uint64 // LBA
	unit  uint64 // blocks of a unit
	bytes uint64 // of a unit
	buf   []byte // as it is to be
	out   []byte // as it is being written
	units []unit

	loaded  atomic.Bool
	err     error // of loading; written before loaded is set
	waiters []*channel
	closing bool
}

// unit is one unit of the table and who waits for it to be written.
type unit struct {
	t       *table
	index   uint64
	writing *state
	pending *state
	wait    bdev.IOWait
}

// state is what an IO carries in its Driver field.
type state struct {
	c    *channel
	io   *bdev.IO
	used bool
	then func(c *channel, io *bdev.IO)
	err  error
	next *state
}

func tableUnit(i *bdev.Info) (blocks, zones uint64) {
	blocks = uint64(max(i.WriteUnit, 1))
	return blocks, blocks*uint64(i.BlockSize) - tableHeader - tableSum
}

// tableBlocks returns how many blocks of the base the table takes.
func tableBlocks(zones uint64, i *bdev.Info) uint64 {
	blocks, per := tableUnit(i)
	return (zones + per - 1) / per * blocks
}

// newTable begins to load the table.
func newTable(d *Driver, t *thread.Thread, baseBlocks uint64) (*table, error) {
	info := d.base.Desc.Bdev().Info()
	n := tableBlocks(uint64(len(d.m.zones)), info)
	tab := &table{d: d, th: t, first: baseBlocks - n}
	tab.unit, _ = tableUnit(info)
	tab.bytes = tab.unit * uint64(info.BlockSize)
	size := int(n * uint64(info.BlockSize))
	tab.buf, tab.out = iobuf.Alloc(size), iobuf.Alloc(size)
	if tab.buf == nil || tab.out == nil {
		return nil, fmt.Errorf("zone %s: memory for the table of %d zones: %w", d.info.Name, len(d.m.zones), unix.ENOMEM)
	}
	tab.units = make([]unit, n/tab.unit)
	for i := range tab.units {
		u := &tab.units[i]
		*u = unit{t: tab, index: uint64(i)}
		u.wait = bdev.IOWait{Fn: writeUnitAgain, Arg: u}
	}
	ch, err := d.base.Desc.Channel(t)
	if err != nil {
		return nil, err
	}
	tab.ch = ch
	if err := ch.Read(tab.buf, tab.first, n, tableRead, tab); err != nil {
		ch.Put()
		return nil, err
	}
	return tab, nil
}

func tableRead(io *bdev.IO) {
	t := io.Ctx.(*table)
	if err := io.Err(); err != nil {
		t.err = fmt.Errorf("zone %s: read the table of zones: %w", t.d.info.Name, err)
	} else {
		t.err = t.decode()
	}
	t.loaded.Store(true)
	for _, c := range t.waiters {
		c.th.Send(tableLoaded, c)
	}
	t.waiters = nil
	if t.closing {
		t.end()
	}
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

func (t *table) part(i uint64) []byte { return t.buf[i*t.bytes : (i+1)*t.bytes] }

// entry returns the byte of a zone, and the unit it is in.
func (t *table) entry(z uint64) (*byte, *unit) {
	per := t.bytes - tableHeader - tableSum
	i := z / per
	return &t.part(i)[tableHeader+z%per], &t.units[i]
}

func (t *table) decode() error {
	for i := range t.units {
		p := t.part(uint64(i))
		switch {
		case allZero(p):
		case !sealed(p):
			clear(p)
			for j := tableHeader; j < len(p)-tableSum; j++ {
				p[j] = 1
			}
		default:
			if err := t.checkHeader(p, i); err != nil {
				return err
			}
		}
	}
	for z := range t.d.m.zones {
		if e, _ := t.entry(uint64(z)); *e != 0 {
			t.d.m.zones[z].marked.Store(true)
			t.d.m.zones[z].w.Store(uint64(makeWord(bdev.ZoneFull, t.d.m.capacity)))
		}
	}
	return nil
}

func (t *table) checkHeader(p []byte, index int) error {
	le := binary.LittleEndian
	if v := le.Uint32(p[8:]); v != tableVersion {
		return fmt.Errorf("zone %s: the table of zones has version %d, this program knows %d: %w",
			t.d.info.Name, v, tableVersion, unix.EPROTONOSUPPORT)
	}
	zone, capacity, zones := le.Uint64(p[16:]), le.Uint64(p[24:]), le.Uint64(p[32:])
	if int(le.Uint32(p[12:])) != index || zone != t.d.zone || capacity != t.d.m.capacity || zones != uint64(len(t.d.m.zones)) {
		return fmt.Errorf("zone %s: the base has %d zones of %d blocks, %d usable, not %d of %d, %d usable: %w",
			t.d.info.Name, zones, zone, capacity, len(t.d.m.zones), t.d.zone, t.d.m.capacity, unix.EINVAL)
	}
	return nil
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

func (t *table) seal(p []byte, index uint64) {
	le := binary.LittleEndian
	le.PutUint64(p, tableMagic)
	le.PutUint32(p[8:], tableVersion)
	le.PutUint32(p[12:], uint32(index))
	le.PutUint64(p[16:], t.d.zone)
	le.PutUint64(p[24:], t.d.m.capacity)
	le.PutUint64(p[32:], uint64(len(t.d.m.zones)))
	n := len(p) - tableSum
	le.PutUint64(p[n:], xxhash.Sum64(p[:n]))
}

// stateOf returns the IO's state, which remembers the channel.
func (c *channel) stateOf(io *bdev.IO) *state {
	s, _ := io.Driver.(*state)
	if s == nil {
		s = &state{}
		io.Driver = s
	}
	s.c, s.io = c, io
	return s
}

// mark has the table say whether the zone of io is used, and then goes on with
// then on the channel's thread.
func (c *channel) mark(io *bdev.IO, used bool, then func(c *channel, io *bdev.IO)) {
	s := c.stateOf(io)
	s.used, s.then, s.err, s.next = used, then, nil, nil
	c.d.table.th.Send(markZone, s)
}

func markZone(arg any) {
	s := arg.(*state)
	t := s.c.d.table
	z := s.io.LBA / t.d.zone
	e, u := t.entry(z)
	want := byte(0)
	if s.used {
		want = 1
	}
	if *e == want && u.writing == nil && u.pending == nil && t.d.m.zones[z].marked.Load() == s.used {
		s.c.th.Send(marked, s)
		return
	}
	*e = want
	last := &u.pending
	for *last != nil {
		last = &(*last).next
	}
	*last = s
	if u.writing == nil {
		t.write(u)
	}
}

// write writes a unit for all that wait for it.
func (t *table) write(u *unit) {
	u.writing, u.pending = u.pending, nil
	out := t.out[u.index*t.bytes : (u.index+1)*t.bytes]
	copy(out, t.part(u.index))
	t.seal(out, u.index)
	writeUnitAgain(u)
}

func writeUnitAgain(arg any) {
	u := arg.(*unit)
	t := u.t
	out := t.out[u.index*t.bytes : (u.index+1)*t.bytes]
	err := t.ch.WritevFUA([][]byte{out}, nil, t.first+u.index*t.unit, t.unit, unitWritten, u)
	switch {
	case err == nil:
	case errors.Is(err, bdev.ErrNoMem):
		t.ch.QueueIOWait(&u.wait)
	default:
		u.written(err)
	}
}

func unitWritten(io *bdev.IO) { io.Ctx.(*unit).written(io.Err()) }

func (u *unit) written(err error) {
	list := u.writing
	u.writing = nil
	for s := list; s != nil; {
		next := s.next
		s.next, s.err = nil, err
		if err == nil {
			u.t.d.m.zones[s.io.LBA/u.t.d.zone].marked.Store(s.used)
		}
		s.c.th.Send(marked, s)
		s = next
	}
	if u.pending != nil {
		u.t.write(u)
	}
}

// marked runs on the thread of the channel that asked.
func marked(arg any) {
	s := arg.(*state)
	if s.err != nil {
		s.io.Complete(s.err)
		return
	}
	s.then(s.c, s.io)
}

// close ends the table, on its own thread. No channel uses it any more.
func (t *table) close() { t.th.Send(closeTable, t) }

func closeTable(arg any) {
	t := arg.(*table)
	if t.closing = true; t.loaded.Load() {
		t.end()
	}
}

func (t *table) end() {
	t.ch.Put()
	iobuf.Free(t.buf)
	iobuf.Free(t.out)
}
