package ftl

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/zoned"
	"goftl/iobuf"
	"goftl/thread"
)

// Policy chooses the victims of relocation.
type Policy uint8

// Policies.
const (
	// PolicyCostBenefit weighs garbage by age (the default): best for skewed
	// loads.
	PolicyCostBenefit Policy = iota
	// PolicyGreedy takes the band with the most garbage.
	PolicyGreedy
)

// Health says what a device still serves.
type Health uint8

// Health in order of decline.
const (
	HealthOK       Health = iota
	HealthReadOnly        // reads go on, writes fail with EROFS
	HealthFaulted         // nothing is served: ENODEV
)

// String names the health.
func (h Health) String() string {
	switch h {
	case HealthOK:
		return "ok"
	case HealthReadOnly:
		return "read-only"
	case HealthFaulted:
		return "faulted"
	}
	return "unknown"
}

// Limits are the thresholds of background work in percent of all segments of
// the kind; small devices round up. Zero values take the defaults.
type Limits struct {
	ThrottlePct   int // free chunks below which user writes are paced (10)
	CheckpointPct int // free chunks below which a checkpoint may feed the free list (20)
	CriticalPct   int // free chunks below which one must (5)
	CompactPct    int // free and quarantined chunks that compaction aims at (50)
	RelocatePct   int // free and quarantined bands that relocation aims at (6)
	InvalidPct    int // garbage below which a band is not worth relocating while space is not short (10)
	// User is the share of users in what is written to the bands without a
	// cache, by free bands; between two points it is interpolated. The numbers
	// of bands are scaled down so that Start is what RelocatePct says.
	User UserLimits
}

// UserLimits are the points of the share of users, from the fewest free bands
// to the most.
type UserLimits struct {
	Critical, High, Low, Start UserLimit
}

// UserLimit says that at Bands free bands users get Pct percent of what is
// written.
type UserLimit struct {
	Bands int
	Pct   int
}

// defaultUser are the limits of the original's generation without a cache.
var defaultUser = UserLimits{
	Critical: UserLimit{5, 0}, High: UserLimit{10, 5}, Low: UserLimit{20, 40}, Start: UserLimit{40, 100},
}

func (u *UserLimits) points() [4]UserLimit { return [4]UserLimit{u.Critical, u.High, u.Low, u.Start} }

func (u *UserLimits) complete(need func(ok bool, field, remedy string)) {
	if *u == (UserLimits{}) {
		*u = defaultUser
	}
	names := [4]string{"Critical", "High", "Low", "Start"}
	last := UserLimit{0, -1}
	for i, p := range u.points() {
		field := "Limits.User." + names[i]
		need(p.Pct >= 0 && p.Pct <= 100, field+".Pct", fmt.Sprintf("is %d, must be 0 to 100", p.Pct))
		need(p.Bands > last.Bands, field+".Bands", fmt.Sprintf("is %d, must be more than the limit below (%d)", p.Bands, last.Bands))
		need(p.Pct >= last.Pct, field+".Pct", fmt.Sprintf("is %d, must not be less than the limit below (%d)", p.Pct, last.Pct))
		last = p
	}
}

// Config says what to start. Fields without a comment of their own follow the
// name.
type Config struct {
	Name    string // of a new device; up to 128 bytes
	System  *thread.System
	Thread  *thread.Thread // the core thread
	Manager *bdev.Manager
	// Cache names the cache bdev. Without a cache (NoCache) it may name a small
	// device for the metadata, which else lies on the base.
	Cache string
	Base  string // name of the base bdev, conventional or zoned
	// NoCache makes a new device without a cache: user records go to the bands.
	NoCache bool
	// ZoneUnits is the number of zones that make a band of a new device on a
	// zoned base: 0 takes the base's parallel units.
	ZoneUnits uint64
	// ZoneStripeBlocks is the stripe in which a band of a new device goes round
	// its zones: up to so many blocks (at most 1024), at least a write unit; 0:
	// 16 to 64 by the size of zones.
	ZoneStripeBlocks uint64
	// ZoneAppend writes zones by append and not at their write pointers.
	ZoneAppend bool

	// Create makes a new device. Without Force it refuses devices that hold a
	// superblock or foreign data.
	Create bool
	Force  bool
	// UUID of a new device; of an existing one, what it must be (Nil: any).
	UUID      uuid.UUID
	CreatedNs int64  // time of creation, ns since 1970
	SizeBytes uint64 // user-visible size of a new device; 0: as much as fits
	SparePct  uint32 // share of the base kept from users (20)
	// ChunkBlocks and BandBlocks of a new device; 0: chosen from the sizes.
	ChunkBlocks, BandBlocks uint64

	// ReadOnly loads without writing anything to the devices.
	ReadOnly bool
	// AcceptLoss lets a device take writes again although user records that
	// were durable, or pages of the mapping, cannot be read.
	AcceptLoss bool
	// RewriteSuperblock gives leave to write the superblock of a device anew
	// where it is blank (ErrHalfBlank) or foreign (superblock.ErrForeign), from
	// the whole copy of the other device. Without it a start refuses such
	// devices, because one of them may be the wrong one.
	RewriteSuperblock bool
	// NoVerify switches off the verification of data checksums on reads.
	NoVerify bool
	// ShmDir is where the mapping is kept in shared memory, so that a restart
	// of the process need not read it back; empty: not kept.
	ShmDir string
	// RedoLimitBytes is the amount of log between two checkpoints (4 GiB, at
	// most half of the cache).
	RedoLimitBytes uint64
	// SumCacheBytes bounds the memory for checksums of the base (64 MiB).
	SumCacheBytes uint64
	// MaxIOChannels bounds the channels of users (128; up to 4096).
	MaxIOChannels int
	// VolatileWriteCache acknowledges a write when it was copied to the write
	// buffer of its channel. Until a flush, a kill of the process may lose it.
	VolatileWriteCache bool
	// WriteBufferBytes is the size of that buffer, for each channel (6 MiB; a
	// multiple of 4096, up to 256 MiB).
	WriteBufferBytes uint64
	// BandThresholdPct: without a cache, the share of a band in percent after
	// which the next one is opened ahead of need (90).
	BandThresholdPct int
	Limits           Limits
	Policy           Policy
	// MoveDepth bounds the records that compaction and relocation each have
	// under way (8; 1 to 64), MoveSegments the segments that each empties at a
	// time (2; 1 to 16).
	MoveDepth, MoveSegments int
	// UserIOPool bounds the IOs that one thread may have in flight; more wait
	// in front of the device (4096; 1 to 65536).
	UserIOPool int

	Logger *slog.Logger          // nil: nothing is logged
	alloc  func(size int) []byte // of write buffers; tests have it fail
	// Progress, if set, is told how far a load is; total may be 0.
	Progress func(phase string, done, total uint64)
	// DetourEvery has one in so many moves of relocation take the way through the
	// log that is for want of bands, though there are some. It is for tests: what
	// is rare must not be tested rarely. 0: none.
	DetourEvery int
	// OnHealth, if set, is told when the device serves less than before.
	OnHealth func(h Health, err error)
}

// FieldError says what is wrong with a field of a Config and what would do. It
// wraps EINVAL.
type FieldError struct {
	Field  string // as in Limits.User.Low.Pct
	Remedy string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("ftl: config field %s: %s: %v", e.Field, e.Remedy, unix.EINVAL)
}

// Unwrap returns EINVAL.
func (e *FieldError) Unwrap() error { return unix.EINVAL }

// complaints gathers what is wrong with a Config.
type complaints []error

func (c *complaints) need(ok bool, field, remedy string) {
	if !ok {
		*c = append(*c, &FieldError{field, remedy})
	}
}

// complete fills in defaults and reports what is wrong.
func (c *Config) complete() error {
	var wrong complaints
	need := wrong.need
	need(c.System != nil, "System", "must be set")
	need(c.Thread != nil, "Thread", "must be set")
	need(c.Manager != nil, "Manager", "must be set")
	need(c.Cache != "" || c.NoCache, "Cache", "name a cache device, or set NoCache")
	need(c.Base != "", "Base", "name a base device")
	need(c.Cache != c.Base || c.Cache == "", "Base", "must be another device than Cache")
	need(len(c.Name) <= 128, "Name", "at most 128 bytes")
	need(c.SparePct < 100, "SparePct", fmt.Sprintf("is %d, must be below 100", c.SparePct))
	need(c.SizeBytes%blockSize == 0, "SizeBytes", fmt.Sprintf("is %d, must be a multiple of 4096", c.SizeBytes))
	need(!c.Create || c.UUID != uuid.Nil, "UUID", "a new device needs one")
	need(!c.Create || !c.ReadOnly, "ReadOnly", "a new device cannot be made read-only")
	need(c.Policy <= PolicyGreedy, "Policy", "unknown")
	c.tune(need)
	if c.alloc == nil {
		c.alloc = iobuf.Alloc
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(wrong...)
}

// Tuned returns c with every default filled in that does not depend on the
// devices. It looks only at fields that tune a device, and the error names each
// that is wrong; for every one of them there is a FieldError.
func (c Config) Tuned() (Config, error) {
	var wrong complaints
	wrong.need(c.SparePct < 100, "SparePct", fmt.Sprintf("is %d, must be below 100", c.SparePct))
	wrong.need(c.Policy <= PolicyGreedy, "Policy", "unknown")
	c.tune(wrong.need)
	return c, errors.Join(wrong...)
}

// tune fills in and checks the fields that tune a device.
func (c *Config) tune(need func(ok bool, field, remedy string)) {
	c.Limits.complete(need)
	if c.RedoLimitBytes == 0 {
		c.RedoLimitBytes = 4 << 30
	}
	need(c.RedoLimitBytes >= 1<<20, "RedoLimitBytes", "at least 1 MiB")
	if c.BandThresholdPct == 0 {
		c.BandThresholdPct = 90
	}
	need(c.BandThresholdPct > 0 && c.BandThresholdPct <= 100, "BandThresholdPct", fmt.Sprintf("is %d, must be 1 to 100", c.BandThresholdPct))
	need(c.ZoneStripeBlocks <= zoned.MaxStripe, "ZoneStripeBlocks", fmt.Sprintf("is %d, must be 1 to %d", c.ZoneStripeBlocks, zoned.MaxStripe))
	if c.SumCacheBytes == 0 {
		c.SumCacheBytes = defaultSumCache
	}
	if c.MaxIOChannels == 0 {
		c.MaxIOChannels = defaultChannels
	}
	need(c.MaxIOChannels >= 1 && c.MaxIOChannels <= maxChannels, "MaxIOChannels",
		fmt.Sprintf("is %d, must be 1 to %d", c.MaxIOChannels, maxChannels))
	for _, f := range []struct {
		name      string
		v         *int
		def, most int
	}{
		{"MoveDepth", &c.MoveDepth, defaultMoveDepth, 64},
		{"MoveSegments", &c.MoveSegments, defaultMoveSegments, 16},
		{"UserIOPool", &c.UserIOPool, bdev.DefaultPoolMax, 65536},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		need(*f.v >= 1 && *f.v <= f.most, f.name, fmt.Sprintf("is %d, must be 1 to %d", *f.v, f.most))
	}
	if c.WriteBufferBytes == 0 {
		c.WriteBufferBytes = defaultWriteBuffer
	}
	need(c.WriteBufferBytes%blockSize == 0 && c.WriteBufferBytes <= MaxWriteBuffer, "WriteBufferBytes",
		fmt.Sprintf("is %d, must be a multiple of 4096, up to %d", c.WriteBufferBytes, MaxWriteBuffer))
}

func (l *Limits) complete(need func(ok bool, field, remedy string)) {
	for _, f := range []struct {
		name string
		v    *int
		def  int
	}{
		{"ThrottlePct", &l.ThrottlePct, 10},
		{"CheckpointPct", &l.CheckpointPct, 20},
		{"CriticalPct", &l.CriticalPct, 5},
		{"CompactPct", &l.CompactPct, 50},
		{"RelocatePct", &l.RelocatePct, 6},
		{"InvalidPct", &l.InvalidPct, 10},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		need(*f.v > 0 && *f.v < 100, "Limits."+f.name, fmt.Sprintf("is %d, must be 1 to 99", *f.v))
	}
	l.User.complete(need)
	need(l.CriticalPct <= l.CheckpointPct, "Limits.CriticalPct", "must not exceed CheckpointPct")
	need(l.CheckpointPct <= l.CompactPct, "Limits.CheckpointPct", "must not exceed CompactPct")
}
