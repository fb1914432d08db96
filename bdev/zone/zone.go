package zone

import (
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/thread"
)

// Options describe a zoned device.
type Options struct {
	Name string
	Base string // name of the device below
	Own  bool   // the device below is unregistered with this one

	ZoneBlocks uint64 // size of a zone
	Capacity   uint64 // usable blocks of a zone, 0: all
	Units      uint32 // parallel units, see bdev.Info; 0: 1
	MaxOpen    uint32 // 0: no limit
	MaxActive  uint32 // 0: no limit
	MaxAppend  uint32 // blocks, 0: no limit but the zone
	WriteUnit  uint32 // blocks, a multiple of the base's write unit; 0: that
	ConvZones  uint64 // zones at the beginning that are conventional
	InitFull   bool   // zones begin full instead of empty
	Persist    bool   // zones and their write pointers are kept on the base
	Unmap      Unmap  // whether a reset gives the blocks of the zone back

	ReadOnly, Offline []uint64 // numbers of zones that are so from the beginning
	FailReset         uint64   // the reset with this number fails, and its zone turns offline; 0: none
}

// Unmap says whether a reset unmaps the blocks of its zone on the base. Nothing
// but space depends on it: what lies behind the write pointer reads as zeroes.
type Unmap uint8

// Choices of Unmap.
const (
	UnmapAuto Unmap = iota // where the base can, unless its space was taken beforehand (bdev.Info)
	UnmapOn                // where the base can
	UnmapOff               // the base keeps its blocks, and has them at hand when they are written again
)

// Driver is a zoned device.
type Driver struct {
	base  *bdev.Base
	info  bdev.Info
	m     machine
	zone  uint64 // blocks of a zone
	unmap bool   // resets unmap
	table *table // nil without Persist
	self  atomic.Pointer[bdev.Bdev]
	fail  atomic.Int64 // resets until one fails
}

// Create claims the base and registers the device. It must be called on t.
func Create(m *bdev.Manager, t *thread.Thread, o Options) (*bdev.Bdev, error) {
	base, err := bdev.OpenBase(m, o.Base, "zone", t)
	if err != nil {
		return nil, err
	}
	d, err := newDriver(base, t, &o)
	if err != nil {
		base.Close()
		return nil, err
	}
	b, err := m.Register(d)
	if err != nil {
		_ = d.Close() // the first error counts
		return nil, err
	}
	if o.Own {
		base.Own()
	}
	base.Attach(b, nil)
	d.self.Store(b)
	return b, nil
}

func newDriver(base *bdev.Base, t *thread.Thread, o *Options) (*Driver, error) {
	i := base.Info(o.Name, "Zoned")
	if o.Capacity == 0 {
		o.Capacity = o.ZoneBlocks
	}
	o.Units = max(o.Units, 1)
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("zone %s: %s is %v, it must be %s: %w", o.Name, field, v, want, unix.EINVAL)
	}
	unit := uint64(max(i.WriteUnit, 1))
	if o.WriteUnit != 0 {
		if uint64(o.WriteUnit)%unit != 0 {
			return nil, bad("the write unit in blocks", o.WriteUnit, fmt.Sprintf("a multiple of the base's, %d", unit))
		}
		unit = uint64(o.WriteUnit)
	}
	switch {
	case i.Zoned:
		return nil, bad("base", o.Base, "a conventional device, not a zoned one")
	case o.ZoneBlocks == 0 || o.ZoneBlocks >= 1<<32 || o.ZoneBlocks%unit != 0:
		return nil, bad("the zone size in blocks", o.ZoneBlocks, fmt.Sprintf("a positive multiple of %d below 2^32", unit))
	case o.Capacity > o.ZoneBlocks || o.Capacity%unit != 0:
		return nil, bad("the zone capacity in blocks", o.Capacity,
			fmt.Sprintf("a multiple of %d up to the zone size of %d", unit, o.ZoneBlocks))
	case o.MaxActive != 0 && o.MaxOpen > o.MaxActive:
		return nil, bad("the limit of open zones", o.MaxOpen, fmt.Sprintf("at most that of active ones, %d", o.MaxActive))
	case o.MaxAppend != 0 && uint64(o.MaxAppend) < unit:
		return nil, bad("the largest append in blocks", o.MaxAppend, fmt.Sprintf("at least one write unit, %d", unit))
	}
	baseInfo := i
	zones := zonesOn(&i, o)
	zones -= zones % uint64(o.Units)
	if zones == 0 {
		return nil, bad("the zone size in blocks", o.ZoneBlocks,
			fmt.Sprintf("so small that %d parallel units have at least one zone each on the %d blocks of %s",
				o.Units, i.Blocks, o.Base))
	}
	if o.ConvZones > zones {
		return nil, bad("the number of conventional zones", o.ConvZones, fmt.Sprintf("at most that of all zones, %d", zones))
	}
	for _, z := range slices.Concat(o.ReadOnly, o.Offline) {
		if z >= zones {
			return nil, bad("a zone that is to be read-only or offline", z, fmt.Sprintf("the number of a zone, from 0 to %d", zones-1))
		}
	}
	d := &Driver{base: base, zone: o.ZoneBlocks}
	d.unmap = i.Ops.Has(bdev.OpUnmap) && (o.Unmap == UnmapOn || o.Unmap == UnmapAuto && !i.Preallocated)
	d.fail.Store(int64(o.FailReset))
	d.m = machine{
		zones: make([]zone, zones), blocks: o.ZoneBlocks, capacity: o.Capacity, conv: o.ConvZones,
		maxOpen: uint64(o.MaxOpen), maxActive: uint64(o.MaxActive),
	}
	d.m.init(o)
	d.info = zonedInfo(&i, o, zones)
	if o.Persist {
		tab, err := newTable(d, t, &baseInfo, o)
		if err != nil {
			return nil, err
		}
		d.table = tab
		d.info.FUA = false // the write pointer of such a write needs more than the base's FUA
	}
	return d, nil
}

// init gives every zone the state in which it begins.
func (m *machine) init(o *Options) {
	for z := range m.zones {
		switch {
		case uint64(z) < m.conv:
			m.zones[z].w.Store(uint64(makeWord(bdev.ZoneNotWP, 0, m.blocks)))
		case o.InitFull:
			m.zones[z].w.Store(uint64(makeWord(bdev.ZoneFull, 0, m.capacity)))
		}
	}
	m.spoil(o)
}

// spoil makes the zones read-only and offline that are to be so from the
// beginning.
func (m *machine) spoil(o *Options) {
	for _, z := range o.ReadOnly {
		m.worsen(z, bdev.ZoneReadOnly)
	}
	for _, z := range o.Offline {
		m.worsen(z, bdev.ZoneOffline)
	}
}

// zonesOn returns how many zones fit, with their table when there is one.
func zonesOn(i *bdev.Info, o *Options) uint64 {
	zones := i.Blocks / o.ZoneBlocks
	for o.Persist && zones > 0 && zones*o.ZoneBlocks+tableBlocks(zones, i)+sumBlocks(zones, i, o) > i.Blocks {
		zones--
	}
	return min(zones, 1<<24)
}

func zonedInfo(base *bdev.Info, o *Options, zones uint64) bdev.Info {
	i := *base
	i.Zoned = true
	i.Blocks = zones * o.ZoneBlocks
	i.ZoneBlocks, i.ZoneCapacity, i.ConvZones = o.ZoneBlocks, o.Capacity, o.ConvZones
	if o.WriteUnit != 0 {
		i.WriteUnit = o.WriteUnit
	}
	i.MaxOpenZones, i.MaxActiveZones, i.ParallelUnits = o.MaxOpen, o.MaxActive, o.Units
	i.ZoneOrder = true
	i.MaxAppend = uint32(o.Capacity)
	if o.MaxAppend != 0 {
		i.MaxAppend = min(i.MaxAppend, o.MaxAppend-o.MaxAppend%max(i.WriteUnit, 1))
	}
	// The layer of the base splits for the base; here only zones matter.
	i.OptimalBoundary = uint32(o.ZoneBlocks)
	i.MaxTransfer, i.MaxSegments, i.BufAlign = 0, 0, 0
	i.Ops = bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpReset, bdev.OpAbort, bdev.OpZoneReset, bdev.OpZoneOpen,
		bdev.OpZoneClose, bdev.OpZoneFinish, bdev.OpZoneOffline, bdev.OpZoneAppend, bdev.OpZoneInfo)
	if base.VolatileCache && !base.Ops.Has(bdev.OpFlush) {
		i.Ops = i.Ops.Without(bdev.OpFlush)
	}
	return i
}

// SetZoneState makes zone i read-only or offline, as a failing device would,
// and tells all descriptors (bdev.ZoneChange). There is no way back, but from
// read-only to offline. Any thread may call it.
func (d *Driver) SetZoneState(i uint64, s bdev.ZoneState) error {
	if i >= uint64(len(d.m.zones)) || s != bdev.ZoneReadOnly && s != bdev.ZoneOffline {
		return fmt.Errorf("zone %s: state %s of zone %d of %d: %w", d.info.Name, s, i, len(d.m.zones), unix.EINVAL)
	}
	d.worsen(i, s)
	return nil
}

func (d *Driver) worsen(i uint64, s bdev.ZoneState) {
	if !d.m.worsen(i, s) {
		return
	}
	if d.table != nil {
		d.table.worsened(i, s)
	}
	if b := d.self.Load(); b != nil {
		b.NotifyZones([]bdev.MediaExtent{{LBA: i * d.zone, Blocks: d.zone}})
	}
}

// PushMedia has the device ask for the relocation of extents, and returns how
// many of them its openers had room for, see bdev.NotifyMedia. Any thread may
// call it.
func (d *Driver) PushMedia(extents []bdev.MediaExtent) int { return d.self.Load().NotifyMedia(extents) }

// FailReset makes the n-th reset from now fail, 1 being the next, and its zone
// turn offline; 0: none. Any thread may call it.
func (d *Driver) FailReset(n uint64) { d.fail.Store(int64(n)) }

// resetFails counts a reset and says whether it is the one that fails.
func (d *Driver) resetFails() bool { return d.fail.Load() > 0 && d.fail.Add(-1) == 0 }

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Close implements bdev.Driver.
func (d *Driver) Close() error {
	if d.table != nil {
		d.table.close() // and then the base
		return nil
	}
	d.base.Close()
	return nil
}

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	ch, err := d.base.Desc.Channel(t)
	if err != nil {
		return nil, err
	}
	return &channel{d: d, th: t, base: ch}, nil
}
