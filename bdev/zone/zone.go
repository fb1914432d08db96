package zone

import (
	"fmt"

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
	InitFull   bool   // zones begin full instead of empty
	Persist    bool   // which zones are empty is kept on the base
}

// Driver is a zoned device.
type Driver struct {
	base  *bdev.Base
	info  bdev.Info
	m     machine
	zone  uint64 // blocks of a zone
	table *table // nil without Persist
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
	case o.Persist && i.ReadOnly:
		return nil, bad("persist", "on", "off on a read-only base")
	}
	zones := zonesOn(&i, o)
	zones -= zones % uint64(o.Units)
	if zones == 0 {
		return nil, bad("the zone size in blocks", o.ZoneBlocks,
			fmt.Sprintf("so small that %d parallel units have at least one zone each on the %d blocks of %s",
				o.Units, i.Blocks, o.Base))
	}
	d := &Driver{base: base, zone: o.ZoneBlocks}
	d.m = machine{
		zones: make([]zone, zones), capacity: o.Capacity, maxOpen: uint64(o.MaxOpen), maxActive: uint64(o.MaxActive),
	}
	if o.InitFull {
		for z := range d.m.zones {
			d.m.zones[z].w.Store(uint64(makeWord(bdev.ZoneFull, o.Capacity)))
		}
	}
	d.info = zonedInfo(&i, o, zones)
	if o.Persist {
		tab, err := newTable(d, t, i.Blocks)
		if err != nil {
			return nil, err
		}
		d.table = tab
	}
	return d, nil
}

// zonesOn returns how many zones fit, with their table when there is one.
func zonesOn(i *bdev.Info, o *Options) uint64 {
	zones := i.Blocks / o.ZoneBlocks
	for o.Persist && zones > 0 && zones*o.ZoneBlocks+tableBlocks(zones, i) > i.Blocks {
		zones--
	}
	return min(zones, 1<<24)
}

func zonedInfo(base *bdev.Info, o *Options, zones uint64) bdev.Info {
	i := *base
	i.Zoned = true
	i.Blocks = zones * o.ZoneBlocks
	i.ZoneBlocks, i.ZoneCapacity = o.ZoneBlocks, o.Capacity
	i.MaxOpenZones, i.MaxActiveZones, i.ParallelUnits = o.MaxOpen, o.MaxActive, o.Units
	i.MaxAppend = uint32(o.Capacity)
	if o.MaxAppend != 0 {
		i.MaxAppend = min(i.MaxAppend, o.MaxAppend)
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

// SetState makes the zone that begins at lba read-only or offline, as a failing
// device would. Any thread may call it.
func (d *Driver) SetState(lba uint64, s bdev.ZoneState) error {
	i := lba / d.zone
	if lba%d.zone != 0 || i >= uint64(len(d.m.zones)) || s != bdev.ZoneReadOnly && s != bdev.ZoneOffline {
		return fmt.Errorf("zone %s: state %s of zone at %d: %w", d.info.Name, s, lba, unix.EINVAL)
	}
	for {
		w := d.m.load(i)
		if ok, _ := d.m.become(i, w, makeWord(s, w.wp())); ok {
			return nil
		}
	}
}

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Close implements bdev.Driver.
func (d *Driver) Close() error {
	if d.table != nil {
		d.table.close()
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
