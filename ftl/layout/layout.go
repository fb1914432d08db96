package layout

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// BlockSize is the size of a block of the FTL, in bytes.
	BlockSize = 4096
	// Version is the version of the layout that this program makes.
	Version = 1

	// SummaryEntries is the number of slots that one summary block describes.
	SummaryEntries = 168
	// PageHeaderSize is the size of the header of an L2P page or a directory
	// block, in bytes.
	PageHeaderSize = 32
	// DirEntriesPerBlock is the number of L2P pages that one block of the
	// checkpoint directory describes: 4 bytes each.
	DirEntriesPerBlock = (BlockSize - PageHeaderSize) / 4

	// ReserveBands is the number of bands that stay beyond valid data, so
	// that relocation never waits for itself.
	ReserveBands = 8
	// RecordBlocks is the length of the records for which the share of
	// header blocks in bands is reckoned.
	RecordBlocks = 64
	// addrReserved is the number of addresses that name no slot.
	addrReserved = 16
)

// Errors that callers tell apart; each wraps a unix.Errno.
var (
	// ErrTooSmall: the devices cannot hold an FTL. EINVAL.
	ErrTooSmall error = &sentinel{"layout: device too small", unix.EINVAL}
	// ErrMetadata: the metadata alone finds no room. It is an ErrTooSmall.
	ErrMetadata error = &narrower{ErrTooSmall}
	// ErrInvalid: parameters, or decoded bytes, that contradict themselves.
	ErrInvalid error = &sentinel{"layout: invalid", unix.EINVAL}
	// ErrNewer: made by a newer program. ENOTSUP.
	ErrNewer error = &sentinel{"layout: made by a newer version", unix.ENOTSUP}
	// ErrNoSpace: more logical blocks wanted than the base can hold. ENOSPC.
	ErrNoSpace error = &sentinel{"layout: does not fit", unix.ENOSPC}
)

// Dev is one of the two devices.
type Dev uint8

// The devices.
const (
	DevCache Dev = iota
	DevBase
)

// String names the device.
func (d Dev) String() string {
	switch d {
	case DevCache:
		return "cache"
	case DevBase:
		return "base"
	}
	return "unknown"
}

// RegionType names a region. The values are stored.
type RegionType uint8

// The regions. L2PDirNX is copy X of directory slot N.
const (
	RegionNone RegionType = iota
	RegionSB
	RegionSBMirror
	RegionChunkMD
	RegionChunkMDMirror
	RegionBandMD
	RegionBandMDMirror
	RegionL2PDir0A
	RegionL2PDir0B
	RegionL2PDir1A
	RegionL2PDir1B
	RegionL2PSlot0
	RegionL2PSlot1
	RegionChunks
	RegionBands
	NumRegions

	// RegionL2PDir is the first of the four directories, which lie one after
	// another: slot 0 copy A and B, slot 1 copy A and B.
	RegionL2PDir = RegionL2PDir0A
)

type regionInfo struct {
	name    string
	dev     Dev    // DevCache also stands for the device of the metadata, see Layout.MetaDev
	entry   uint32 // blocks of an entry
	mirror  RegionType
	version uint32 // of the format that this program writes
}

var regionInfos = [NumRegions]regionInfo{
	RegionNone:          {name: "none"},
	RegionSB:            {"sb", DevCache, 1, RegionSBMirror, 1},
	RegionSBMirror:      {"sb_mirror", DevBase, 1, RegionNone, 1},
	RegionChunkMD:       {"chunk_md", DevCache, 1, RegionChunkMDMirror, 1},
	RegionChunkMDMirror: {"chunk_md_mirror", DevCache, 1, RegionNone, 1},
	RegionBandMD:        {"band_md", DevCache, 1, RegionBandMDMirror, 1},
	RegionBandMDMirror:  {"band_md_mirror", DevCache, 1, RegionNone, 1},
	RegionL2PDir0A:      {"l2p_dir0_a", DevCache, 1, RegionNone, 1},
	RegionL2PDir0B:      {"l2p_dir0_b", DevCache, 1, RegionNone, 1},
	RegionL2PDir1A:      {"l2p_dir1_a", DevCache, 1, RegionNone, 1},
	RegionL2PDir1B:      {"l2p_dir1_b", DevCache, 1, RegionNone, 1},
	RegionL2PSlot0:      {"l2p_slot0", DevCache, 1, RegionNone, 1},
	RegionL2PSlot1:      {"l2p_slot1", DevCache, 1, RegionNone, 1},
	RegionChunks:        {"chunks", DevCache, 0, RegionNone, 1},
	RegionBands:         {"bands", DevBase, 0, RegionNone, 1},
}

// String names the region.
func (t RegionType) String() string {
	if t < NumRegions {
		return regionInfos[t].name
	}
	return "unknown"
}

// CurrentVersion is the format of the region that this program writes.
func (t RegionType) CurrentVersion() uint32 { return regionInfos[t].version }

// L2PDir returns the region of a directory slot's copy; both are 0 or 1.
func L2PDir(slot, copy uint32) RegionType {
	return RegionL2PDir0A + RegionType(slot&1)*2 + RegionType(copy&1)
}

// L2PSlot returns the region of a slot of the L2P pages, 0 or 1.
func L2PSlot(slot uint32) RegionType { return RegionL2PSlot0 + RegionType(slot&1) }

// Region is a run of blocks of one device with one purpose.
type Region struct {
	Type        RegionType
	Name        string
	Dev         Dev
	Offset      uint64 // first block
	Blocks      uint64
	EntryBlocks uint32 // blocks of an entry; 0: not made of entries
	Mirror      RegionType
	Version     uint32 // of the format on the device
}

// End returns the block after the region.
func (r *Region) End() uint64 { return r.Offset + r.Blocks }

// ZoneShape says how bands lie on the zones of a zoned base: band b is made of
// the Units zones from zone RegionBands.Offset/ZoneBlocks + b*Units on, and its
// slots go round them in stripes.
type ZoneShape struct {
	ZoneBlocks uint64 // distance of two zones
	Units      uint64 // zones of a band: one of each parallel unit
	Stripe     uint64 // blocks that stand side by side in one zone
}

// Layout is the division of the two devices. It is not changed after it was
// made, except by an upgrade.
type Layout struct {
	Version uint32
	Regions [NumRegions]Region

	LBAs        uint64 // logical blocks offered to users
	ChunkBlocks uint64 // power of two, includes the summary at the end
	Chunks      uint64
	// BandBlocks is the distance of two bands in addresses, a power of two.
	BandBlocks uint64
	// BandSlots is the number of blocks that a whole band has, with the summary
	// at the end: BandBlocks, or on zones what they hold.
	BandSlots uint64
	Bands     uint64
	// UsableBands is how many whole bands the zones that were usable when the
	// FTL was made come to; without zones it is Bands.
	UsableBands uint64
	Zones       ZoneShape // of a zoned base, else zero
	NoCache     bool      // there are no chunks: user records go to bands

	L2PEntryBytes     uint32 // 4 or 8
	L2PEntriesPerPage uint32 // 1016 or 508
	L2PPages          uint64
	DirBlocks         uint64 // of one copy of one directory slot

	VSS         bool // the chunks' device has at least 64 bytes of metadata a block
	SparePct    uint32
	CacheBlocks uint64 // size of the cache device when the FTL was made; 0: there is none
	BaseBlocks  uint64
}

// Region returns the region of a type. Precondition: t < NumRegions.
func (l *Layout) Region(t RegionType) *Region { return &l.Regions[t] }

// SummaryBlocks returns the number of summary blocks at the end of a segment
// of segBlocks blocks: the fewest that describe all blocks in front of them.
func SummaryBlocks(segBlocks uint64) uint64 {
	return (segBlocks + SummaryEntries) / (SummaryEntries + 1)
}

// Body returns the number of slots of a segment of segBlocks blocks.
func Body(segBlocks uint64) uint64 { return segBlocks - SummaryBlocks(segBlocks) }

// Zoned says whether the base is made of zones.
func (l *Layout) Zoned() bool { return l.Zones != ZoneShape{} }

// MetaDev is the device that holds the metadata: the cache, or the base when
// there is none.
func (l *Layout) MetaDev() Dev {
	if l.CacheBlocks == 0 {
		return DevBase
	}
	return DevCache
}

// DataBlocks returns the number of user blocks that a band of segBlocks blocks
// holds when its records are RecordBlocks long: the body without headers.
func DataBlocks(segBlocks uint64) uint64 {
	body := Body(segBlocks)
	return body - (body+RecordBlocks)/(RecordBlocks+1)
}

// sentinel is an error with an errno that its text does not repeat.
type sentinel struct {
	text  string
	errno unix.Errno
}

func (e *sentinel) Error() string { return e.text }
func (e *sentinel) Unwrap() error { return e.errno }

// narrower is a case of another error.
type narrower struct{ error }

func (n *narrower) Unwrap() error { return n.error }

// IsNewer reports whether err says that a newer program made this.
func IsNewer(err error) bool { return errors.Is(err, ErrNewer) }
