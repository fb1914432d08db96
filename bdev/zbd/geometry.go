package zbd

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/hostfile"
)

const (
	blockSectors = hostfile.BlockSize / sectorSize
	maxZones     = 1 << 24
)

// geometry is what a zoned device is like, in blocks.
type geometry struct {
	zoneBlocks  uint64
	zones       []bdev.ZoneInfo // as they were found
	capacity    uint64          // of the largest zone that is written in order
	conv        uint64          // conventional ones at the beginning
	writeUnit   uint32
	maxOpen     uint32
	maxActive   uint32
	maxTransfer uint32 // 0: no limit
	maxSegments int
}

// discover finds out whether the device is zoned, and all about its zones.
func discover(c control) (*geometry, error) {
	sectors, err := zoneSectors(c)
	if err != nil {
		return nil, err
	}
	g := &geometry{zoneBlocks: uint64(sectors) / blockSectors}
	if sectors%blockSectors != 0 {
		return nil, fmt.Errorf("zones of %d sectors are not whole blocks of %d bytes: %w", sectors, hostfile.BlockSize, unix.ENOTSUP)
	}
	if err := g.limits(c); err != nil {
		return nil, err
	}
	if err := g.readZones(c, uint64(sectors)); err != nil {
		return nil, err
	}
	for _, z := range g.zones {
		if !z.Conventional {
			g.capacity = max(g.capacity, z.Capacity)
		}
	}
	for g.conv < uint64(len(g.zones)) && g.zones[g.conv].Conventional {
		g.conv++
	}
	if g.capacity == 0 {
		g.capacity = g.zoneBlocks // conventional ones only
	}
	return g, nil
}

// zoneSectors returns the size of the zones, or why there are none.
func zoneSectors(c control) (uint32, error) {
	model, err := c.attribute("zoned")
	if err == nil && model == "none" {
		model = ""
	}
	sectors, err := number(c, blkGetZoneSz)
	switch {
	case errors.Is(err, unix.ENOTTY):
		return 0, fmt.Errorf("this kernel has no support for zoned block devices (CONFIG_BLK_DEV_ZONED); file:PATH serves other ones: %w", unix.ENOTSUP)
	case err != nil:
		return 0, fmt.Errorf("size of the zones: %w", err)
	case sectors == 0 || model == "":
		return 0, fmt.Errorf("it is no zoned block device; file:PATH serves it: %w", unix.EINVAL)
	}
	return sectors, nil
}

// limits reads the attributes of the queue. What an older kernel does not have
// is without a limit.
func (g *geometry) limits(c control) error {
	var err error
	get := func(name string) uint64 {
		text, e := c.attribute(name)
		if errors.Is(e, unix.ENOENT) {
			return 0
		}
		n, perr := strconv.ParseUint(text, 10, 64)
		if e == nil {
			e = perr
		}
		if e != nil && err == nil {
			err = fmt.Errorf("attribute %s of the queue is %q: %w", name, text, errors.Join(e, unix.EINVAL))
		}
		return n
	}
	g.maxOpen, g.maxActive = uint32(get("max_open_zones")), uint32(get("max_active_zones"))
	unit := max(get("zone_write_granularity"), get("physical_block_size"))
	if logical := get("logical_block_size"); logical > hostfile.BlockSize {
		return fmt.Errorf("blocks of %d bytes are larger than the %d that can be served: %w", logical, hostfile.BlockSize, unix.ENOTSUP)
	}
	if unit%hostfile.BlockSize != 0 && unit > hostfile.BlockSize {
		return fmt.Errorf("a write unit of %d bytes is no multiple of %d: %w", unit, hostfile.BlockSize, unix.ENOTSUP)
	}
	if unit > hostfile.BlockSize {
		g.writeUnit = uint32(unit / hostfile.BlockSize)
	}
	// One request to the kernel must be one to the device, so that none of its parts can be overtaken.
	g.maxTransfer = uint32(get("max_sectors_kb") << 10 / hostfile.BlockSize)
	g.maxTransfer -= g.maxTransfer % max(g.writeUnit, 1)
	g.maxSegments = int(min(get("max_segments"), 1<<16))
	return err
}

// readZones reports all zones, a batch at a time.
func (g *geometry) readZones(c control, size uint64) error {
	want, err := number(c, blkGetNrZones)
	if err != nil {
		return fmt.Errorf("number of zones: %w", err)
	}
	if want == 0 || want > maxZones {
		return fmt.Errorf("%d zones; from 1 to %d can be served: %w", want, maxZones, unix.ENOTSUP)
	}
	buf := make([]byte, reportHeader+batch*zoneBytes)
	g.zones = make([]bdev.ZoneInfo, 0, want)
	for at := uint64(0); len(g.zones) < int(want); {
		list, err := report(c, buf, at, int(want)-len(g.zones))
		if err != nil {
			return fmt.Errorf("report of zones from %d on: %w", len(g.zones), err)
		}
		if len(list) == 0 {
			return fmt.Errorf("the device reported %d zones of %d: %w", len(g.zones), want, unix.EPROTO)
		}
		for _, r := range list {
			if r.start != at {
				return fmt.Errorf("zone %d begins at sector %d, not behind the one before it at %d: %w", len(g.zones), r.start, at, unix.EPROTO)
			}
			if at += r.size; r.size != size {
				if len(g.zones)+1 == int(want) && r.size < size {
					want-- // the shorter last one is not used
					break
				}
				return fmt.Errorf("zone %d has %d sectors, others %d: %w", len(g.zones), r.size, size, unix.ENOTSUP)
			}
			z, err := g.decode(r)
			if err != nil {
				return fmt.Errorf("zone %d: %w", len(g.zones), err)
			}
			g.zones = append(g.zones, z)
		}
	}
	if len(g.zones) == 0 {
		return fmt.Errorf("there is no whole zone: %w", unix.ENOTSUP)
	}
	return nil
}

// decode turns a zone into blocks and checks it.
func (g *geometry) decode(r rawZone) (bdev.ZoneInfo, error) {
	z := bdev.ZoneInfo{LBA: r.start / blockSectors, Capacity: r.capacity / blockSectors, Conventional: r.kind == typeConventional}
	states := map[uint8]bdev.ZoneState{
		condNotWP: bdev.ZoneNotWP, condEmpty: bdev.ZoneEmpty, condImpOpen: bdev.ZoneImplicitOpen, condExpOpen: bdev.ZoneExplicitOpen,
		condClosed: bdev.ZoneClosed, condReadOnly: bdev.ZoneReadOnly, condFull: bdev.ZoneFull, condOffline: bdev.ZoneOffline,
	}
	state, ok := states[r.cond]
	switch {
	case !ok:
		return z, fmt.Errorf("condition %#x is unknown: %w", r.cond, unix.EPROTO)
	case r.kind != typeConventional && r.kind != typeSequential && r.kind != typePreferred:
		return z, fmt.Errorf("type %d is unknown: %w", r.kind, unix.EPROTO)
	case r.capacity > r.size:
		return z, fmt.Errorf("a capacity of %d sectors in %d: %w", r.capacity, r.size, unix.EPROTO)
	case z.Conventional == (state != bdev.ZoneNotWP) && state != bdev.ZoneReadOnly && state != bdev.ZoneOffline:
		return z, fmt.Errorf("type %d in condition %#x: %w", r.kind, r.cond, unix.EPROTO)
	}
	z.State = state
	if z.Conventional {
		z.Capacity = g.zoneBlocks
	}
	z.Capacity -= z.Capacity % uint64(max(g.writeUnit, 1))
	switch state {
	case bdev.ZoneNotWP, bdev.ZoneFull:
		z.WP = z.LBA + z.Capacity
	case bdev.ZoneEmpty:
		z.WP = z.LBA
	case bdev.ZoneReadOnly, bdev.ZoneOffline: // the kernel's write pointer has no meaning
		z.WP = z.LBA + z.Capacity
	default:
		if r.wp < r.start || r.wp > r.start+r.capacity {
			return z, fmt.Errorf("write pointer %d outside of %d to %d: %w", r.wp, r.start, r.start+r.capacity, unix.EPROTO)
		}
		// In the middle of a block: what goes on there was not written by us.
		z.WP = min((r.wp+blockSectors-1)/blockSectors, z.LBA+z.Capacity)
	}
	return z, nil
}
