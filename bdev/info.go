package bdev

import (
	"fmt"
	"math/bits"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Info describes a block device. Limits are in blocks unless they say
// otherwise; 0 means that there is no limit.
type Info struct {
	Name, Product string
	UUID          uuid.UUID
	BlockSize     uint32 // bytes, a power of two from 512 to 1 MiB
	Blocks        uint64
	MDSize        uint32 // bytes of separate metadata a block has
	WriteUnit     uint32 // writes begin and end on a multiple of it
	// OptimalBoundary is never crossed by a read or write that reaches the
	// driver.
	OptimalBoundary uint32
	MaxTransfer     uint32 // largest read, write, compare
	MaxUnmap        uint32
	MaxWriteZeroes  uint32
	MaxCopy         uint32
	MaxSegments     int // most Bufs of one IO
	BufAlign        int // bytes: begin and length of every one of Bufs; 0 or a power of two
	VolatileCache   bool
	Preallocated    bool // its space was taken beforehand: who needs no zeroes had better not unmap
	FUA             bool // the driver makes a write with IO.FUA durable by itself
	ReadOnly        bool
	PoolMax         uint32 // IOs that one thread may have in flight; 0: as Manager.SetPool says
	Ops             OpSet

	Zoned          bool
	ZoneBlocks     uint64 // distance of two zones
	ZoneCapacity   uint64 // usable blocks of a zone, of the largest one if they differ
	ConvZones      uint64 // zones at the beginning that are conventional; more may follow, see ZoneInfo
	MaxOpenZones   uint32
	MaxActiveZones uint32
	MaxAppend      uint32
	ParallelUnits  uint32
	// ZoneOrder: of writes and appends to one zone that are in flight together on
	// a channel, each goes where the write pointer stands behind those submitted
	// before it. Elsewhere one has to wait for the other.
	ZoneOrder bool
}

// Bytes returns the capacity in bytes.
func (i *Info) Bytes() uint64 { return i.Blocks * uint64(i.BlockSize) }

func (i *Info) check() error {
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("bdev %q: %s is %v, it must be %s: %w", i.Name, field, v, want, unix.EINVAL)
	}
	switch {
	case i.Name == "":
		return bad("name", `""`, "set")
	case bits.OnesCount32(i.BlockSize) != 1 || i.BlockSize < 512 || i.BlockSize > 1<<20:
		return bad("block size", i.BlockSize, "a power of two from 512 to 1048576")
	case i.Blocks == 0 || i.Blocks > (1<<62)/uint64(i.BlockSize):
		return bad("number of blocks", i.Blocks, "at least 1 and at most 4 EiB in all")
	case i.MDSize > 4096:
		return bad("metadata size", i.MDSize, "at most 4096 bytes a block")
	case i.BufAlign < 0 || bits.OnesCount(uint(i.BufAlign)) > 1 || i.BufAlign > 1<<20:
		return bad("buffer alignment", i.BufAlign, "0 or a power of two up to 1048576")
	case i.PoolMax > maxPool:
		return bad("IOs in flight", i.PoolMax, fmt.Sprintf("at most %d", maxPool))
	case i.MaxSegments < 0:
		return bad("segment limit", i.MaxSegments, "0 or more")
	case !i.Ops.Has(OpRead):
		return bad("operations", i.Ops, "able to read")
	}
	if w := i.WriteUnit; w > 1 {
		if i.Blocks%uint64(w) != 0 || i.MaxTransfer%w != 0 || i.OptimalBoundary%w != 0 {
			return bad("write unit", w, "a divisor of the capacity, of the largest transfer and of the boundary")
		}
	}
	if uint64(i.WriteUnit)*uint64(i.BlockSize) > zeroBytes && i.Ops.Has(OpWrite) && !i.Ops.Has(OpWriteZeroes) {
		return bad("write unit", i.WriteUnit, "at most 1 MiB for a driver that cannot write zeroes")
	}
	if i.Zoned && (i.ZoneBlocks == 0 || i.Blocks%i.ZoneBlocks != 0 || i.ZoneCapacity == 0 || i.ZoneCapacity > i.ZoneBlocks) {
		return bad("zone size", i.ZoneBlocks, "a divisor of the capacity and not below the zone capacity")
	}
	if i.Zoned && i.ConvZones > i.Blocks/i.ZoneBlocks {
		return bad("number of conventional zones", i.ConvZones, "at most that of all zones")
	}
	return nil
}

// ZoneState is the state of a zone.
type ZoneState uint8

// The states of a zone.
const (
	ZoneEmpty ZoneState = iota
	ZoneImplicitOpen
	ZoneExplicitOpen
	ZoneClosed
	ZoneFull
	ZoneReadOnly
	ZoneOffline
	// ZoneNotWP is a conventional zone, which has no write pointer: it is
	// written anywhere and cannot be reset, opened, closed, finished or appended
	// to.
	ZoneNotWP
)

var zoneStateNames = [...]string{
	"empty", "implicit_open", "explicit_open", "closed", "full", "read_only", "offline", "not_write_pointer",
}

func (s ZoneState) String() string {
	if int(s) < len(zoneStateNames) {
		return zoneStateNames[s]
	}
	return "unknown"
}

// ZoneInfo is what a device says of one zone. Positions are LBAs.
type ZoneInfo struct {
	LBA      uint64 // first block
	Capacity uint64 // usable blocks
	WP       uint64 // write pointer: the next LBA to write; LBA+Capacity when full or without one
	State    ZoneState
	// Conventional zones have the state ZoneNotWP, or read-only or offline.
	Conventional bool
}

// Extent is a run of blocks of one kind.
type Extent struct {
	Blocks uint64
	// Hole says that nothing is stored for the blocks and that they read as
	// zeroes. Blocks of which that is not known are none.
	Hole bool
}

// MediaExtent is a run of blocks that the device asks to be relocated.
type MediaExtent struct{ LBA, Blocks uint64 }
