package superblock

import (
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
)

const (
	// Version is the version of the superblock that this program writes.
	Version = 1
	// Size is the number of bytes that Encode fills: a block without the
	// trailer of its metadata object.
	Size = layout.BlockSize - 16
	// MaxName bounds the name of an FTL, in bytes.
	MaxName = 128
)

// Errors that callers tell apart; each wraps a unix.Errno.
var (
	// ErrBlank: the block holds only zeroes.
	ErrBlank error = &sentinel{"superblock: the device is blank", unix.ENOENT}
	// ErrForeign: the block holds something that is not of this program.
	ErrForeign error = &sentinel{"superblock: the device holds foreign data", unix.EINVAL}
	// ErrDamaged: a superblock, but torn or rotten.
	ErrDamaged error = &sentinel{"superblock: damaged", unix.EIO}
	// ErrNewer: written by a newer program; there is no downgrade.
	ErrNewer error = &sentinel{"superblock: made by a newer version", unix.ENOTSUP}
	// ErrSwapped: the cache was given as the base, or the base as the cache.
	ErrSwapped error = &sentinel{"superblock: cache and base are swapped", unix.EINVAL}
	// ErrMismatch: cache and base belong to different FTLs, or to another
	// one than was asked for.
	ErrMismatch error = &sentinel{"superblock: belongs to another FTL", unix.EINVAL}
	// ErrResized: a device is smaller than when the FTL was made.
	ErrResized error = &sentinel{"superblock: a device has shrunk", unix.EINVAL}
)

// sentinel is an error with an errno that its text does not repeat.
type sentinel struct {
	text  string
	errno unix.Errno
}

func (e *sentinel) Error() string { return e.text }
func (e *sentinel) Unwrap() error { return e.errno }

// Role is the device that a copy belongs to.
type Role uint8

// The roles. Zero is none, so that a forgotten role is noticed.
const (
	RoleCache Role = 1
	RoleBase  Role = 2
)

// String names the role.
func (r Role) String() string {
	switch r {
	case RoleCache:
		return "cache"
	case RoleBase:
		return "base"
	}
	return "unknown"
}

// State is a set of conditions that outlive a restart.
type State uint32

// The conditions.
const (
	// StateDegraded: data or metadata was lost; some blocks do not read.
	StateDegraded State = 1 << iota
	// StateReadOnly: what was lost cannot be told apart from what is there;
	// the device stays read-only until a person accepts that.
	StateReadOnly
	// StateUpgrading: an upgrade of regions is under way.
	StateUpgrading
	// StateCreating: the FTL is being made. One that was left like this holds
	// nothing, and a new one may be made over it.
	StateCreating

	stateAll = StateDegraded | StateReadOnly | StateUpgrading | StateCreating
)

// Limit couples a number of free bands to the share of user writes that may
// go on.
type Limit struct {
	FreeBands uint32
	SharePct  uint32 // at most 100
}

// NumLimits is the number of limits: critical, high, low, start.
const NumLimits = 4

// Config is the part of the configuration that stays with the FTL.
type Config struct {
	SparePct    uint32
	Limits      [NumLimits]Limit
	InvalidPct  uint32 // bands with less invalid blocks are not relocated
	CkptBlocks  uint64 // blocks of log between two checkpoints; 0: chosen at start
	VerifyReads bool
}

// Superblock is the decoded block.
type Superblock struct {
	Version uint32
	Role    Role
	UUID    uuid.UUID // of the FTL
	Name    string
	Seq     uint64 // raised with every write of the superblock
	Clean   bool
	State   State
	Inc     uint32 // incarnation: raised with every load
	CkptK   uint64 // number of the committed checkpoint; 0: none
	DirSlot uint32 // directory slot of that checkpoint, 0 or 1
	CU, CM  uint64 // what that checkpoint covers: user records, records
	// Durable: when that checkpoint was committed, the user records up to this
	// number were durable. 0: not known.
	Durable uint64
	Created int64 // nanoseconds since 1970

	// CacheUUID and BaseUUID identify the devices, when they have an
	// identity of their own; else zero.
	CacheUUID, BaseUUID uuid.UUID

	Config Config
	Layout *layout.Layout
}
