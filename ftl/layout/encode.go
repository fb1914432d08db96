package layout

import (
	"encoding/binary"
	"fmt"

	"goftl/internal/assert"
)

var le = binary.LittleEndian

const (
	encHeader = 128
	encRegion = 32

	// MaxRegions bounds the table of regions of any version of the layout.
	MaxRegions = 32
	// EncodedSize is the number of bytes that Encode fills and Decode reads.
	EncodedSize = encHeader + MaxRegions*encRegion
)

// The table must hold every region; a negative array length does not compile.
var _ [MaxRegions - int(NumRegions)]struct{}

const (
	flagVSS     = 1
	flagNoCache = 2
	flagZoned   = 4
	knownFlags  = flagVSS | flagNoCache | flagZoned
)

// Encode stores the layout in b[:EncodedSize]. The integrity of the bytes is
// the business of the superblock that holds them.
// Precondition: len(b) >= EncodedSize and the layout is valid.
func (l *Layout) Encode(b []byte) {
	assert.That(len(b) >= EncodedSize, "layout: buffer too small")
	b = b[:EncodedSize]
	clear(b)
	le.PutUint32(b[0:], l.Version)
	le.PutUint32(b[4:], uint32(NumRegions))
	le.PutUint64(b[8:], l.LBAs)
	le.PutUint64(b[16:], l.ChunkBlocks)
	le.PutUint64(b[24:], l.Chunks)
	le.PutUint64(b[32:], l.BandBlocks)
	le.PutUint64(b[40:], l.Bands)
	le.PutUint32(b[48:], l.L2PEntryBytes)
	le.PutUint32(b[52:], l.L2PEntriesPerPage)
	le.PutUint64(b[56:], l.L2PPages)
	le.PutUint64(b[64:], l.DirBlocks)
	le.PutUint64(b[72:], l.CacheBlocks)
	le.PutUint64(b[80:], l.BaseBlocks)
	le.PutUint32(b[88:], l.SparePct)
	le.PutUint32(b[92:], l.flags())
	if l.Zoned() {
		le.PutUint32(b[96:], uint32(l.BandSlots))
		le.PutUint32(b[100:], uint32(l.Zones.ZoneBlocks))
		le.PutUint32(b[104:], uint32(l.Zones.Units))
		le.PutUint32(b[108:], uint32(l.Zones.Stripe))
		le.PutUint64(b[112:], l.UsableBands)
	}
	for t := RegionSB; t < NumRegions; t++ {
		r, e := l.Region(t), b[encHeader+int(t)*encRegion:]
		e[0], e[1], e[2] = byte(r.Type), byte(r.Dev), byte(r.Mirror)
		le.PutUint32(e[4:], r.Version)
		le.PutUint32(e[8:], r.EntryBlocks)
		le.PutUint64(e[16:], r.Offset)
		le.PutUint64(e[24:], r.Blocks)
	}
}

func (l *Layout) flags() (f uint32) {
	if l.VSS {
		f |= flagVSS
	}
	if l.NoCache {
		f |= flagNoCache
	}
	if l.Zoned() {
		f |= flagZoned
	}
	return f
}

// Decode reads what Encode stored and validates it. Any bytes may be given;
// the error wraps ErrInvalid or ErrNewer.
func Decode(b []byte) (*Layout, error) {
	if len(b) < EncodedSize {
		return nil, fmt.Errorf("%w: %d bytes, at least %d expected", ErrInvalid, len(b), EncodedSize)
	}
	b = b[:EncodedSize]
	l := &Layout{
		Version:           le.Uint32(b[0:]),
		LBAs:              le.Uint64(b[8:]),
		ChunkBlocks:       le.Uint64(b[16:]),
		Chunks:            le.Uint64(b[24:]),
		BandBlocks:        le.Uint64(b[32:]),
		Bands:             le.Uint64(b[40:]),
		L2PEntryBytes:     le.Uint32(b[48:]),
		L2PEntriesPerPage: le.Uint32(b[52:]),
		L2PPages:          le.Uint64(b[56:]),
		DirBlocks:         le.Uint64(b[64:]),
		CacheBlocks:       le.Uint64(b[72:]),
		BaseBlocks:        le.Uint64(b[80:]),
		SparePct:          le.Uint32(b[88:]),
		VSS:               le.Uint32(b[92:])&flagVSS != 0,
		NoCache:           le.Uint32(b[92:])&flagNoCache != 0,
	}
	l.BandSlots, l.UsableBands = l.BandBlocks, l.Bands
	if le.Uint32(b[92:])&flagZoned != 0 {
		l.BandSlots, l.UsableBands = uint64(le.Uint32(b[96:])), le.Uint64(b[112:])
		l.Zones = ZoneShape{
			ZoneBlocks: uint64(le.Uint32(b[100:])), Units: uint64(le.Uint32(b[104:])), Stripe: uint64(le.Uint32(b[108:])),
		}
		if !l.Zoned() {
			return nil, fmt.Errorf("%w: zones without a shape", ErrInvalid)
		}
	}
	if l.Version > Version {
		return nil, fmt.Errorf("%w: layout version %d, this program knows %d", ErrNewer, l.Version, Version)
	}
	if n := le.Uint32(b[4:]); n != uint32(NumRegions) {
		return nil, fmt.Errorf("%w: %d regions", ErrInvalid, n)
	}
	if f := le.Uint32(b[92:]); f&^knownFlags != 0 {
		return nil, fmt.Errorf("%w: unknown flags %#x", ErrInvalid, f)
	}
	for t := RegionSB; t < NumRegions; t++ {
		e := b[encHeader+int(t)*encRegion:]
		l.Regions[t] = Region{
			Type: RegionType(e[0]), Name: regionInfos[t].name, Dev: Dev(e[1]), Mirror: RegionType(e[2]),
			Version: le.Uint32(e[4:]), EntryBlocks: le.Uint32(e[8:]),
			Offset: le.Uint64(e[16:]), Blocks: le.Uint64(e[24:]),
		}
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return l, nil
}
