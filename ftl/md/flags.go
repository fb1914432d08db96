package md

import (
	"fmt"

	"goftl/ftl/layout"
)

// Start says how an FTL is started, as far as memory is concerned.
type Start struct {
	Create       bool // a new FTL
	FastStartup  bool // after a fast shutdown: shared memory holds everything
	FastRecovery bool // after a kill: shared memory may hold what changes in place
}

// RegionFlags returns the memory that the object of a region has (M31): the
// superblock and the descriptors live in shared memory, which is made anew
// unless it is known to be whole; everything else has memory of its own.
func RegionFlags(t layout.RegionType, s Start) Flags {
	switch t {
	case layout.RegionSB:
		if s.Create {
			return FlagShm | FlagShmNew
		}
		return FlagShm
	case layout.RegionChunkMD, layout.RegionBandMD:
		if !s.FastStartup {
			return FlagShm | FlagShmNew
		}
		return FlagShm
	default:
		return 0
	}
}

// SharedFlags returns the same for shared memory without a region: mapping,
// valid counts, trim state (M31, M33).
func SharedFlags(s Start) ShmFlags {
	if s.FastStartup || s.FastRecovery {
		return 0
	}
	return ShmNew
}

// KeepRegion says whether the shared memory of a region's object outlives a
// shutdown (M32).
func KeepRegion(t layout.RegionType, fast bool) bool {
	switch t {
	case layout.RegionSB, layout.RegionChunkMD, layout.RegionBandMD:
		return fast
	default:
		return false
	}
}

// KeepShared says the same of shared memory without a region (M33).
func KeepShared(fast bool) bool { return fast }

// Unlink removes the memory of an object that is not open. Only shared memory
// has a name: for anything else it returns ErrInvalid (M11).
func Unlink(cfg *Config) error {
	if cfg.Flags&FlagShm == 0 {
		return fmt.Errorf("md %s: unlink of memory that is not shared: %w", cfg.Name, ErrInvalid)
	}
	return UnlinkShm(cfg.ShmDir, cfg.UUID, cfg.Name)
}
