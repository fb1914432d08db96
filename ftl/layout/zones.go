package layout

import (
	"fmt"
)

// MaxUnits bounds the zones that make a band: their states fit one word.
const MaxUnits = 64

// Zones is what a layout needs to know of the zones of a base.
type Zones struct {
	ZoneBlocks uint64 // distance of two zones
	Units      uint64 // parallel units: zones that make a band
	// First is the first zone of the first band. Zones in front of it are
	// conventional: they can hold metadata.
	First uint64
	// Stripe is the number of blocks that stand side by side in one zone; the
	// device's write unit divides it.
	Stripe uint64
	// BandSlots is the capacity of a whole band, a multiple of Stripe.
	BandSlots uint64
	// Usable is the capacity of all bands together, without zones that are
	// offline or read-only.
	Usable uint64
}

func (z *Zones) check(baseBlocks uint64) error {
	bad := func(what string, v uint64, want string) error {
		return fmt.Errorf("%w: %s is %d, it must be %s", ErrInvalid, what, v, want)
	}
	switch {
	case z.ZoneBlocks == 0 || z.ZoneBlocks > maxSegBlocks:
		return bad("zone size in blocks", z.ZoneBlocks, fmt.Sprintf("1 to %d", maxSegBlocks))
	case z.Units == 0 || z.Units > MaxUnits:
		return bad("number of zones in a band", z.Units, fmt.Sprintf("1 to %d", MaxUnits))
	case z.ZoneBlocks*z.Units > maxSegBlocks:
		return bad("number of blocks in a band", z.ZoneBlocks*z.Units, fmt.Sprintf("at most %d; use fewer units", maxSegBlocks))
	case z.Stripe == 0 || z.Stripe > z.ZoneBlocks:
		return bad("stripe", z.Stripe, "1 to the size of a zone")
	case z.BandSlots%z.Stripe != 0 || z.BandSlots > z.ZoneBlocks*z.Units:
		return bad("capacity of a band", z.BandSlots, "a multiple of the stripe, at most its zones")
	case z.First > baseBlocks/z.ZoneBlocks:
		return bad("first zone", z.First, "one of the device's")
	}
	return nil
}

// bandSpan is the distance of two bands in addresses.
func bandSpan(blocks uint64) uint64 {
	n := uint64(minSegBlocks)
	for n < blocks {
		n *= 2
	}
	return n
}

// placeZones makes bands of zones.
func (l *Layout) placeZones(p *Params) error {
	z := p.Zones
	l.Zones = ZoneShape{ZoneBlocks: z.ZoneBlocks, Units: z.Units, Stripe: z.Stripe}
	l.BandBlocks, l.BandSlots = bandSpan(z.ZoneBlocks*z.Units), z.BandSlots
	l.Bands = (p.BaseBlocks/z.ZoneBlocks - z.First) / z.Units
	r := l.Region(RegionBands)
	r.Offset, r.Blocks = z.First*z.ZoneBlocks, l.Bands*l.BandBlocks
	if l.BandSlots >= minSegBlocks {
		l.UsableBands = min(z.Usable/l.BandSlots, l.Bands)
	}
	if l.UsableBands < minBands {
		return fmt.Errorf("%w: the zones of the base make %d bands of %d zones (%s each) that can be written; %d are needed: "+
			"smaller zones, fewer parallel units or a larger device would do", ErrTooSmall,
			l.UsableBands, z.Units, size(l.BandSlots), minBands)
	}
	return nil
}

// noChunks is the size of chunks that stands in a layout without any.
const noChunks = minSegBlocks

// placeMeta lays metadata alone over the cache device.
func (l *Layout) placeMeta(p *Params) error {
	l.ChunkBlocks, l.Chunks = noChunks, 0
	l.sizeL2P()
	l.assignCache()
	if end := l.Region(RegionChunks).Offset; end > l.metaRoom() {
		return fmt.Errorf("%w: the metadata device of %s is too small; %s are needed", ErrMetadata, size(p.CacheBlocks), size(end+1))
	}
	return nil
}

// placeAlone lays metadata and bands over the base, which is the only device.
func (l *Layout) placeAlone(p *Params) error {
	l.ChunkBlocks, l.Chunks = noChunks, 0
	if p.Zones != nil {
		return l.placeAloneZoned(p)
	}
	// The size of the metadata follows from the number of bands, which follows
	// from where the metadata ends: a few rounds settle it, each later than the
	// one before.
	for from := uint64(dataAlign); ; {
		if err := l.placeBands(p, from); err != nil {
			return err
		}
		l.placeDevs()
		if err := l.placeLBAs(p); err != nil {
			return err
		}
		l.sizeL2P()
		l.assignCache()
		end := l.Region(RegionChunks).Offset
		if end <= from {
			break
		}
		from = ceilDiv(end, dataAlign) * dataAlign
	}
	r := l.Region(RegionSBMirror)
	r.Offset, r.Blocks = l.mirrorAt(), 1
	return nil
}

// placeAloneZoned puts the metadata into the conventional zones in front.
func (l *Layout) placeAloneZoned(p *Params) error {
	if err := l.placeZones(p); err != nil {
		return err
	}
	l.placeDevs()
	if err := l.placeLBAs(p); err != nil {
		return err
	}
	l.sizeL2P()
	l.assignCache()
	room := l.Region(RegionBands).Offset
	if end := l.Region(RegionChunks).Offset + 1; end > room {
		return fmt.Errorf("%w: the metadata of a zoned base needs %s that can be written at random, its conventional zones are %s: "+
			"name a small conventional device for the metadata", ErrMetadata, size(end), size(room))
	}
	r := l.Region(RegionSBMirror)
	r.Offset, r.Blocks = l.mirrorAt(), 1
	return nil
}
