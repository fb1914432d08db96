package layout

import (
	"fmt"
	"math/bits"
)

// Bounds of segment sizes, in blocks.
const (
	minChunkBlocks = 1 << 20 / BlockSize
	maxChunkBlocks = 64 << 20 / BlockSize
	minBandBlocks  = 2 << 20 / BlockSize
	maxBandBlocks  = 256 << 20 / BlockSize
	// minSegBlocks bounds sizes that the caller chose.
	minSegBlocks = 16
	maxSegBlocks = 1 << 20

	aimChunks    = 64 // chosen sizes give at least this many, if they can
	aimBands     = 128
	minChunks    = 16 // with a chosen size
	minChunksSet = 4  // with a size that the caller set
	minBands     = ReserveBands + 4

	// dataAlign aligns chunks and bands on their devices, in blocks: 1 MiB.
	dataAlign = 1 << 20 / BlockSize

	// maxDevBlocks bounds a device: 2^48 blocks are 1 EiB.
	maxDevBlocks = 1 << 48

	// DefaultSparePct is used when Params.SparePct is 0.
	DefaultSparePct = 20
	maxSparePct     = 90

	// vssMinBytes is the metadata a block that records without headers need.
	vssMinBytes = 64
)

// Params is what a layout is computed from.
type Params struct {
	CacheBlocks uint64 // size of the cache device; 0 only with NoCache
	BaseBlocks  uint64 // size of the base device
	CacheMD     uint32 // separate metadata of the cache device, bytes a block
	SparePct    uint32 // share of the base that is kept from users; 0: DefaultSparePct
	SizeBlocks  uint64 // logical blocks wanted; 0: as many as fit
	ChunkBlocks uint64 // 0: chosen
	BandBlocks  uint64 // 0: chosen
	// NoCache: user records go to the bands. A cache device, if there is one,
	// then holds metadata only; without one the base does.
	NoCache bool
	Zones   *Zones // of a zoned base, else nil
}

// Compute divides the devices. The error says what was wrong and what would
// do; it wraps ErrInvalid, ErrTooSmall or ErrNoSpace.
func Compute(p Params) (*Layout, error) {
	if p.SparePct == 0 {
		p.SparePct = DefaultSparePct
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	l := &Layout{
		Version:     Version,
		SparePct:    p.SparePct,
		CacheBlocks: p.CacheBlocks,
		BaseBlocks:  p.BaseBlocks,
		VSS:         p.CacheMD >= vssMinBytes && !p.NoCache,
		NoCache:     p.NoCache,
	}
	for t := RegionSB; t < NumRegions; t++ {
		i := &regionInfos[t]
		l.Regions[t] = Region{Type: t, Name: i.name, EntryBlocks: i.entry, Mirror: i.mirror, Version: i.version}
	}
	if p.CacheBlocks == 0 {
		if err := l.placeAlone(&p); err != nil {
			return nil, err
		}
	} else {
		if err := l.placeBase(&p); err != nil {
			return nil, err
		}
		if err := l.placeLBAs(&p); err != nil {
			return nil, err
		}
		if err := l.placeCache(&p); err != nil {
			return nil, err
		}
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return l, nil
}

func (p *Params) check() error {
	seg := func(field string, n uint64) error {
		if n == 0 || bits.OnesCount64(n) == 1 && n >= minSegBlocks && n <= maxSegBlocks {
			return nil
		}
		return fmt.Errorf("%w: %s is %d, it must be a power of two from %d to %d", ErrInvalid, field, n, minSegBlocks, maxSegBlocks)
	}
	if err := seg("chunk blocks", p.ChunkBlocks); err != nil {
		return err
	}
	if err := seg("band blocks", p.BandBlocks); err != nil {
		return err
	}
	switch {
	case p.SparePct > maxSparePct:
		return fmt.Errorf("%w: spare is %d %%, it must be 1 to %d %%", ErrInvalid, p.SparePct, maxSparePct)
	case p.CacheBlocks > maxDevBlocks || p.BaseBlocks > maxDevBlocks:
		return fmt.Errorf("%w: a device of more than %s", ErrInvalid, size(maxDevBlocks))
	case p.CacheBlocks == 0 && !p.NoCache:
		return fmt.Errorf("%w: there is no cache device", ErrTooSmall)
	case p.Zones != nil && p.BandBlocks != 0:
		return fmt.Errorf("%w: bands of a zoned base are as large as its zones; leave band blocks (%d) unset", ErrInvalid, p.BandBlocks)
	case p.Zones != nil:
		return p.Zones.check(p.BaseBlocks)
	}
	return nil
}

// placeBase chooses the bands of a base that holds no metadata but a mirror of
// the superblock.
func (l *Layout) placeBase(p *Params) error {
	var err error
	if p.Zones != nil {
		err = l.placeZones(p)
	} else {
		err = l.placeBands(p, dataAlign)
	}
	l.placeDevs()
	r := l.Region(RegionSBMirror)
	r.Offset, r.Blocks = l.mirrorAt(), 1
	return err
}

// placeDevs says on which device each region lies.
func (l *Layout) placeDevs() {
	for t := RegionSB; t < NumRegions; t++ {
		l.Regions[t].Dev = l.regionDev(t)
	}
}

// mirrorAt is the block of the superblock's mirror: the first one of the base,
// or the last one of the device that holds the metadata, as far from the
// primary as it can be.
func (l *Layout) mirrorAt() uint64 {
	return MirrorAt(l.CacheBlocks, l.BaseBlocks, l.Zoned(), l.Region(RegionBands).Offset)
}

// MirrorAt returns the block of the superblock's mirror, which a load has to
// find before it knows the layout. bandsAt is the first block of a zoned base
// that is not conventional.
func MirrorAt(cacheBlocks, baseBlocks uint64, zoned bool, bandsAt uint64) uint64 {
	switch {
	case zoned && cacheBlocks != 0:
		return cacheBlocks - 1
	case zoned:
		return max(bandsAt, 1) - 1
	case cacheBlocks != 0:
		return 0
	}
	return baseBlocks - 1
}

// placeBands lays bands over a conventional base, from a block on.
func (l *Layout) placeBands(p *Params, from uint64) error {
	if p.CacheBlocks != 0 && p.BandBlocks != 0 && p.BandBlocks < from {
		from = p.BandBlocks
	}
	end := p.BaseBlocks
	if p.CacheBlocks == 0 && end > 0 {
		end-- // the superblock's mirror
	}
	n := p.BandBlocks
	if n == 0 {
		n = maxBandBlocks
		for n > minBandBlocks && bandsIn(end, n, from) < aimBands {
			n /= 2
		}
	}
	l.BandBlocks, l.BandSlots = n, n
	l.Bands = bandsIn(end, n, from)
	l.UsableBands = l.Bands
	if l.Bands < minBands {
		return fmt.Errorf("%w: the base of %s holds %d bands of %s; it needs %d, which is %s", ErrTooSmall,
			size(p.BaseBlocks), l.Bands, size(n), minBands, size(from+minBands*n))
	}
	r := l.Region(RegionBands)
	r.Offset, r.Blocks = from, l.Bands*n
	return nil
}

func bandsIn(blocks, band, offset uint64) uint64 {
	if blocks < offset {
		return 0
	}
	return (blocks - offset) / band
}

// placeLBAs chooses the number of logical blocks.
func (l *Layout) placeLBAs(p *Params) error {
	most := l.MaxLBAs()
	if most == 0 {
		return fmt.Errorf("%w: a base of %s with %d %% spare holds no data", ErrTooSmall, size(p.BaseBlocks), p.SparePct)
	}
	l.LBAs = most
	if p.SizeBlocks == 0 {
		return nil
	}
	if p.SizeBlocks > most {
		return fmt.Errorf("%w: %s wanted, a base of %s with %d %% spare holds %s (%d blocks); a base of %s, or a smaller size, would do",
			ErrNoSpace, size(p.SizeBlocks), size(p.BaseBlocks), l.SparePct, size(most), most, size(l.baseFor(p.SizeBlocks)))
	}
	l.LBAs = p.SizeBlocks
	return nil
}

// baseFor returns the size of a base, in whole MiB, that holds lbas logical
// blocks. Larger bands, which a larger base may get, are allowed for.
func (l *Layout) baseFor(lbas uint64) uint64 {
	band := min(2*l.BandBlocks, maxSegBlocks)
	per := DataBlocks(min(l.BandSlots, band))
	data := max(lbas*100/uint64(100-l.SparePct)+100, lbas+ReserveBands*DataBlocks(band))
	blocks := l.Region(RegionBands).Offset + (data/per+1)*l.bandSpace() + 2*band
	return ceilDiv(blocks, dataAlign) * dataAlign
}

// MaxLBAs returns the most logical blocks that the bands may hold: their data
// blocks without the spare, and without ReserveBands bands.
func (l *Layout) MaxLBAs() uint64 {
	per := DataBlocks(l.BandSlots)
	return min(l.UsableBands*per/100*uint64(100-l.SparePct), (l.UsableBands-ReserveBands)*per)
}

// placeCache lays the metadata and the chunks over the cache device.
func (l *Layout) placeCache(p *Params) error {
	if l.NoCache {
		return l.placeMeta(p)
	}
	n, set := p.ChunkBlocks, p.ChunkBlocks != 0
	least := uint64(minChunks)
	if set {
		least = minChunksSet
	} else {
		n = maxChunkBlocks
	}
	for {
		l.ChunkBlocks = n
		l.sizeL2P()
		l.Chunks = l.fitChunks()
		if set || n <= minChunkBlocks || l.Chunks >= aimChunks {
			break
		}
		n /= 2
	}
	if l.Chunks < least {
		l.Chunks = least
		l.assignCache()
		return fmt.Errorf("%w: the cache of %s does not hold the metadata and %d chunks of %s; it needs %s", ErrTooSmall,
			size(p.CacheBlocks), least, size(n), size(l.Region(RegionChunks).End()))
	}
	l.assignCache()
	return nil
}

// fitChunks returns how many chunks fit beside their own metadata.
func (l *Layout) fitChunks() uint64 {
	l.Chunks = l.CacheBlocks / l.ChunkBlocks
	for l.Chunks > 0 {
		l.sizeL2P()
		l.assignCache()
		end := l.Region(RegionChunks).End()
		room := l.metaRoom()
		if end <= room {
			break
		}
		over := (end - room + l.ChunkBlocks - 1) / l.ChunkBlocks
		l.Chunks -= min(max(over/2, 1), l.Chunks)
	}
	return l.Chunks
}

// metaRoom is the number of blocks, from the first on, that the device of the
// metadata offers.
func (l *Layout) metaRoom() uint64 {
	if l.Region(RegionSBMirror).Dev == DevCache {
		return l.CacheBlocks - 1
	}
	return l.CacheBlocks
}

// sizeL2P chooses the width of the L2P's entries and the sizes that follow.
func (l *Layout) sizeL2P() {
	l.L2PEntryBytes = 4
	if l.addrSpan() > 1<<32 {
		l.L2PEntryBytes = 8
	}
	l.L2PEntriesPerPage = (BlockSize - PageHeaderSize) / l.L2PEntryBytes
	l.L2PPages = ceilDiv(l.LBAs, uint64(l.L2PEntriesPerPage))
	l.DirBlocks = ceilDiv(l.L2PPages, DirEntriesPerBlock)
}

// addrSpan is the number of addresses: the slots of all segments and those
// that name none.
func (l *Layout) addrSpan() uint64 {
	return l.Chunks*l.ChunkBlocks + l.Bands*l.BandBlocks + addrReserved
}

// assignCache gives every region of the device that holds the metadata its
// place, chunks included.
func (l *Layout) assignCache() {
	var at uint64
	put := func(t RegionType, blocks uint64) {
		r := l.Region(t)
		r.Offset, r.Blocks = at, blocks
		at += blocks
	}
	put(RegionSB, 1)
	put(RegionChunkMD, l.Chunks)
	put(RegionChunkMDMirror, l.Chunks)
	put(RegionBandMD, l.Bands)
	put(RegionBandMDMirror, l.Bands)
	for t := RegionL2PDir0A; t <= RegionL2PDir1B; t++ {
		put(t, l.DirBlocks)
	}
	put(RegionL2PSlot0, l.L2PPages)
	put(RegionL2PSlot1, l.L2PPages)
	align := min(uint64(dataAlign), l.ChunkBlocks)
	at = ceilDiv(at, align) * align
	put(RegionChunks, l.Chunks*l.ChunkBlocks)
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }
