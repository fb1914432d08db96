package layout

import (
	"fmt"
	"math/bits"
)

// Validate verifies every invariant of the package's documentation. It is
// called on what Compute made and on what Decode read; nil means that all
// fields may be used in arithmetic without further checks.
func (l *Layout) Validate() error {
	if l.Version == 0 {
		return fmt.Errorf("%w: version 0", ErrInvalid)
	}
	if l.Version > Version {
		return fmt.Errorf("%w: layout version %d, this program knows %d", ErrNewer, l.Version, Version)
	}
	if err := l.validateSizes(); err != nil {
		return err
	}
	for t := RegionSB; t < NumRegions; t++ {
		if err := l.validateRegion(l.Region(t)); err != nil {
			return err
		}
	}
	if l.Regions[RegionNone] != (Region{}) {
		return fmt.Errorf("%w: region none is not empty", ErrInvalid)
	}
	for t := RegionL2PDir0B; t <= RegionL2PDir1B; t++ {
		if l.Region(t).Offset != l.Region(t-1).End() {
			return fmt.Errorf("%w: the directories do not lie one after another", ErrInvalid)
		}
	}
	return l.validateOverlap()
}

func (l *Layout) validateSizes() error {
	bad := func(what string, v any) error { return fmt.Errorf("%w: %s is %v", ErrInvalid, what, v) }
	seg := func(n uint64) bool { return bits.OnesCount64(n) == 1 && n >= minSegBlocks && n <= maxSegBlocks }
	switch {
	case l.CacheBlocks > maxDevBlocks || l.CacheBlocks == 0 && !l.NoCache:
		return bad("cache size", l.CacheBlocks)
	case l.BaseBlocks > maxDevBlocks || l.BaseBlocks == 0:
		return bad("base size", l.BaseBlocks)
	case !seg(l.ChunkBlocks):
		return bad("chunk size", l.ChunkBlocks)
	case !seg(l.BandBlocks):
		return bad("band size", l.BandBlocks)
	case l.NoCache && (l.Chunks != 0 || l.VSS):
		return bad("number of chunks without a cache", l.Chunks)
	case !l.NoCache && (l.Chunks < minChunksSet || l.Chunks > l.CacheBlocks/l.ChunkBlocks):
		return bad("number of chunks", l.Chunks)
	case l.Bands < minBands || l.Bands > l.BaseBlocks/l.bandSpace():
		return bad("number of bands", l.Bands)
	case l.UsableBands < minBands || l.UsableBands > l.Bands:
		return bad("number of usable bands", l.UsableBands)
	case l.SparePct == 0 || l.SparePct > maxSparePct:
		return bad("spare percentage", l.SparePct)
	case l.LBAs == 0 || l.LBAs > l.MaxLBAs():
		return bad("number of logical blocks", l.LBAs)
	case l.L2PEntryBytes != 4 && l.L2PEntryBytes != 8:
		return bad("L2P entry size", l.L2PEntryBytes)
	case l.L2PEntryBytes == 4 && l.addrSpan() > 1<<32:
		return bad("L2P entry size of a large device", l.L2PEntryBytes)
	case l.L2PEntriesPerPage != (BlockSize-PageHeaderSize)/l.L2PEntryBytes:
		return bad("L2P page size", l.L2PEntriesPerPage)
	case l.L2PPages != ceilDiv(l.LBAs, uint64(l.L2PEntriesPerPage)):
		return bad("number of L2P pages", l.L2PPages)
	case l.DirBlocks != ceilDiv(l.L2PPages, DirEntriesPerBlock):
		return bad("directory size", l.DirBlocks)
	}
	return l.validateZones()
}

// validateZones verifies the shape of bands on zones.
func (l *Layout) validateZones() error {
	z := &l.Zones
	bad := func(what string, v any) error { return fmt.Errorf("%w: %s is %v", ErrInvalid, what, v) }
	if !l.Zoned() {
		if l.BandSlots != l.BandBlocks || l.UsableBands != l.Bands {
			return bad("band capacity", l.BandSlots)
		}
		return nil
	}
	switch {
	case z.Units == 0 || z.Units > MaxUnits:
		return bad("zones of a band", z.Units)
	case z.ZoneBlocks == 0 || z.ZoneBlocks > maxSegBlocks:
		return bad("zone size", z.ZoneBlocks)
	case z.Stripe == 0 || z.Stripe > z.ZoneBlocks:
		return bad("stripe", z.Stripe)
	case l.BandBlocks != bandSpan(z.ZoneBlocks*z.Units):
		return bad("band size", l.BandBlocks)
	case l.BandSlots < minSegBlocks || l.BandSlots > z.ZoneBlocks*z.Units || l.BandSlots%z.Stripe != 0:
		return bad("band capacity", l.BandSlots)
	case l.Region(RegionBands).Offset%z.ZoneBlocks != 0:
		return bad("first zone of a band", l.Region(RegionBands).Offset)
	}
	return nil
}

// bandSpace returns the blocks of the base that a band takes.
func (l *Layout) bandSpace() uint64 {
	if l.Zoned() && l.Zones.ZoneBlocks <= maxSegBlocks && l.Zones.Units <= MaxUnits {
		return max(l.Zones.ZoneBlocks*l.Zones.Units, 1)
	}
	return l.BandBlocks
}

// regionDev returns the device that a region must lie on.
func (l *Layout) regionDev(t RegionType) Dev {
	switch {
	case t == RegionSBMirror && l.Zoned():
		return l.MetaDev() // a zone takes no block that is written again and again
	case regionInfos[t].dev == DevCache:
		return l.MetaDev()
	}
	return DevBase
}

// takes returns the blocks of its device that a region takes: for the bands of
// a zoned base that is not the same as the addresses.
func (l *Layout) takes(r *Region) uint64 {
	if r.Type == RegionBands {
		return l.Bands * l.bandSpace()
	}
	return r.Blocks
}

// blocksOf returns the size that a region must have.
func (l *Layout) blocksOf(t RegionType) uint64 {
	switch t {
	case RegionSB, RegionSBMirror:
		return 1
	case RegionChunkMD, RegionChunkMDMirror:
		return l.Chunks
	case RegionBandMD, RegionBandMDMirror:
		return l.Bands
	case RegionL2PDir0A, RegionL2PDir0B, RegionL2PDir1A, RegionL2PDir1B:
		return l.DirBlocks
	case RegionL2PSlot0, RegionL2PSlot1:
		return l.L2PPages
	case RegionChunks:
		return l.Chunks * l.ChunkBlocks
	case RegionBands:
		return l.Bands * l.BandBlocks
	default:
		return 0
	}
}

func (l *Layout) devBlocks(d Dev) uint64 {
	if d == DevCache {
		return l.CacheBlocks
	}
	return l.BaseBlocks
}

func (l *Layout) validateRegion(r *Region) error {
	bad := func(what string, v any) error {
		return fmt.Errorf("%w: region %s: %s is %v", ErrInvalid, r.Name, what, v)
	}
	if r.Type == RegionNone || r.Type >= NumRegions || l.Region(r.Type) != r {
		return fmt.Errorf("%w: a region of type %d out of place", ErrInvalid, r.Type)
	}
	i := &regionInfos[r.Type]
	dev, takes := l.devBlocks(l.regionDev(r.Type)), l.takes(r)
	switch {
	case r.Name != i.name:
		return bad("name", r.Name)
	case r.Dev != l.regionDev(r.Type):
		return bad("device", r.Dev)
	case r.Mirror != i.mirror:
		return bad("mirror", r.Mirror)
	case r.EntryBlocks != i.entry:
		return bad("entry size", r.EntryBlocks)
	case r.Version == 0:
		return bad("version", r.Version)
	case r.Version > i.version:
		return fmt.Errorf("%w: region %s has version %d, this program knows %d", ErrNewer, r.Name, r.Version, i.version)
	case r.Blocks != l.blocksOf(r.Type):
		return bad("size", r.Blocks)
	case r.Offset > dev || takes > dev-r.Offset:
		return fmt.Errorf("%w: region %s: blocks %d+%d lie outside the %s of %d blocks", ErrInvalid, r.Name, r.Offset, r.Blocks, r.Dev, dev)
	case r.Type == RegionSB && r.Offset != 0, r.Type == RegionSBMirror && r.Offset != l.mirrorAt():
		return bad("offset", r.Offset)
	}
	return nil
}

func (l *Layout) validateOverlap() error {
	for a := RegionSB; a < NumRegions; a++ {
		for b := a + 1; b < NumRegions; b++ {
			ra, rb := l.Region(a), l.Region(b)
			if ra.Dev == rb.Dev && ra.Offset < rb.Offset+l.takes(rb) && rb.Offset < ra.Offset+l.takes(ra) {
				return fmt.Errorf("%w: regions %s and %s overlap", ErrInvalid, ra.Name, rb.Name)
			}
		}
	}
	return nil
}
