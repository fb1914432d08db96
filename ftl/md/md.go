package md

import (
	"fmt"

	"github.com/google/uuid"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/internal/assert"
	"goftl/iobuf"
	"goftl/thread"
)

// BlockSize is the size of a metadata block.
const BlockSize = layout.BlockSize

// DoneFunc is told once, on the object's thread and never inside the call that
// started the operation, how it ended. It may destroy the object.
type DoneFunc func(arg any, err error)

// Flags say what memory an object has.
type Flags uint32

// The flags. Without FlagShm or FlagNoMem the object's memory is its own.
const (
	// FlagShm: the memory is shared memory that can outlive the process.
	FlagShm Flags = 1 << iota
	// FlagShmNew: with FlagShm; what was there before is removed.
	FlagShmNew
	// FlagNoMem: no memory. Clear and entry operations with Data work.
	FlagNoMem
)

// Target is a device that copies lie on, with the channel of the object's
// thread.
type Target struct {
	Desc *bdev.Desc
	Ch   *bdev.Channel
	// Stats counts what is done there; nil: nothing is counted. Objects on
	// the same device share it.
	Stats *IOStats
}

// IOStats counts metadata operations on one device (M29).
type IOStats struct {
	Reads, ReadBlocks, ReadErrors    uint64
	Writes, WriteBlocks, WriteErrors uint64
	Flushes, FlushErrors             uint64
	CRC                              uint64 // blocks that were read and not whole
}

// Logger is told of repairs and failures. A *slog.Logger is one.
type Logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
	Error(msg string, args ...any)
}

type nopLogger struct{}

func (nopLogger) Info(string, ...any)  {}
func (nopLogger) Warn(string, ...any)  {}
func (nopLogger) Error(string, ...any) {}

// Config describes an object.
type Config struct {
	Thread *thread.Thread
	UUID   uuid.UUID // of the FTL: blocks of another one are not taken for ours

	// Region is where the primary lies, Mirror the other copy; nil: none.
	// Region may be nil at first, see SetRegion; Blocks then sizes the object.
	Region, Mirror       *layout.Region
	Target, MirrorTarget Target // MirrorTarget without channel: Target

	Blocks uint64 // size of the object; 0: of the region
	Flags  Flags

	// ShmDir and Name say where shared memory lies: ShmDir/ftl_UUID_Name.
	ShmDir, Name string
	// ShmFailed is told, inside New, that shared memory could not be had: who
	// said that it was ready must take that back and start from the devices.
	ShmFailed func()

	// VSS is the number of metadata bytes a block that the object keeps
	// beside its data, at least 8; they go to devices whose blocks have as
	// many, and every one begins with the version of the region. 0: none.
	VSS uint32

	// XferBlocks is the size of a part of a bulk transfer; 0: 4 write units,
	// at least 1 MiB. Depth is how many parts are in flight; 0: 4.
	XferBlocks uint64
	Depth      int

	// Clean says, when a restore has read the primary, whether the last
	// shutdown was clean; if not, the mirror is brought up to date. Nil: clean.
	Clean func() bool
	// ReadOnly: Restore writes nothing, neither repairs nor mirror.
	ReadOnly bool
	// Upgrade brings the payload of a block from an older version of the
	// region to the current one, in place. Nil: an older block is unusable.
	Upgrade func(from uint32, index uint64, payload []byte) error

	Logger Logger
	// Alloc and Free replace iobuf's, for tests that run out of memory.
	Alloc func(size int) []byte
	Free  func(buf []byte)
}

// area is one copy: a region of a device.
type area struct {
	name   string // for messages
	region *layout.Region
	t      Target
	md     bool // the device takes the object's VSS
}

// Object is a metadata object: blocks in memory with one or two copies on
// devices. See the package's documentation.
type Object struct {
	th     *thread.Thread
	cfg    Config
	log    Logger
	seed   uint64
	region *layout.Region
	blocks uint64 // size of the object

	primary, mirror area
	mirrored        bool

	buf, vss []byte
	shm      *Shm
	mem      []byte // own memory: data, then VSS

	stamp [stampMax]byte // pre-stamped VSS of one block
	entry []byte         // pre-stamped VSS of an entry range, grows

	bulk    bulk
	ordered ordered
	// suspect has the entries whose primary is not known to be whole and
	// durable, because writing it failed. Their mirror is, so the primary is
	// written first. Nil: none.
	suspect bitmap
	entries int    // entry operations under way or queued
	number  uint32 // of the last write, or the highest that was read

	destroyed bool
}

// New makes an object and its memory. It touches no device.
func New(cfg Config) (*Object, error) {
	if cfg.Alloc == nil {
		cfg.Alloc, cfg.Free = iobuf.Alloc, iobuf.Free
	}
	if cfg.Logger == nil {
		cfg.Logger = nopLogger{}
	}
	o := &Object{th: cfg.Thread, cfg: cfg, log: cfg.Logger, blocks: cfg.Blocks}
	if o.blocks == 0 && cfg.Region != nil {
		o.blocks = cfg.Region.Blocks
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := o.allocate(); err != nil {
		return nil, err
	}
	if cfg.Region != nil {
		if err := o.SetRegion(cfg.Region, cfg.Mirror); err != nil {
			o.Destroy(false)
			return nil, err
		}
	}
	return o, nil
}

const (
	// vssMin is the least VSS: the version.
	vssMin = 8
	// stampMax is the most VSS a block that is supported.
	stampMax = 256
	// maxBlocks bounds an object: 2^36 blocks are 256 TiB.
	maxBlocks = 1 << 36
)

func (o *Object) check() error {
	switch {
	case o.th == nil:
		return o.errorf("no thread", ErrInvalid)
	case o.blocks == 0 || o.blocks > maxBlocks:
		return o.errorf(fmt.Sprintf("%d blocks", o.blocks), ErrInvalid)
	case o.cfg.VSS != 0 && (o.cfg.VSS < vssMin || o.cfg.VSS > stampMax):
		return o.errorf(fmt.Sprintf("%d bytes of metadata a block", o.cfg.VSS), ErrInvalid)
	case o.cfg.Flags&FlagNoMem != 0 && o.cfg.Flags&FlagShm != 0:
		return o.errorf("no memory and shared memory at once", ErrInvalid)
	case o.cfg.Flags&FlagShmNew != 0 && o.cfg.Flags&FlagShm == 0:
		return o.errorf("new shared memory without shared memory", ErrInvalid)
	case o.cfg.Region == nil && o.cfg.Mirror != nil:
		return o.errorf("a mirror without a primary", ErrInvalid)
	}
	return nil
}

// allocate gets the object's memory: data and, each rounded up to whole pages,
// VSS.
func (o *Object) allocate() error {
	if o.cfg.Flags&FlagNoMem != 0 {
		return nil
	}
	data := roundUp(o.blocks*BlockSize, pageSize)
	size := data + roundUp(o.blocks*uint64(o.cfg.VSS), pageSize)
	if o.cfg.Flags&FlagShm != 0 {
		var flags ShmFlags
		if o.cfg.Flags&FlagShmNew != 0 {
			flags = ShmNew
		}
		shm, err := OpenShm(o.cfg.ShmDir, o.cfg.UUID, o.cfg.Name, size, flags)
		if err != nil {
			if o.cfg.ShmFailed != nil {
				o.cfg.ShmFailed()
			}
			return o.errorf("shared memory", err)
		}
		if err := shm.LockErr(); err != nil {
			o.log.Warn("shared memory is not locked", "name", shm.Path(), "err", err)
		}
		o.shm = shm
		o.layMemory(shm.Bytes(), data)
		return nil
	}
	if o.mem = o.cfg.Alloc(int(size)); o.mem == nil {
		return o.errorf(fmt.Sprintf("%d bytes of memory", size), ErrNoMem)
	}
	o.layMemory(o.mem, data)
	return nil
}

func (o *Object) layMemory(mem []byte, data uint64) {
	o.buf = mem[: o.blocks*BlockSize : o.blocks*BlockSize]
	if o.cfg.VSS != 0 {
		n := o.blocks * uint64(o.cfg.VSS)
		o.vss = mem[data : data+n : data+n]
	}
}

// SetRegion says where the object lies from now on; mirror may be nil. Both
// must fit the object and have entries of the same size. All VSS is stamped
// with the region's version. The object must be idle.
func (o *Object) SetRegion(region, mirror *layout.Region) error {
	assert.That(o.Idle(), "md: the region of a busy object changes")
	if region.Blocks > o.blocks || region.Blocks == 0 {
		return o.errorf(fmt.Sprintf("region %s of %d blocks, object of %d", region.Name, region.Blocks, o.blocks), ErrInvalid)
	}
	if mirror != nil && (mirror.Blocks != region.Blocks || mirror.EntryBlocks != region.EntryBlocks || mirror.Version != region.Version) {
		return o.errorf("mirror "+mirror.Name+" is not like "+region.Name, ErrInvalid)
	}
	if u := uint64(region.EntryBlocks); u != 0 && region.Blocks%u != 0 {
		return o.errorf(fmt.Sprintf("region %s of %d blocks, entries of %d", region.Name, region.Blocks, u), ErrInvalid)
	}
	if region.Version == 0 {
		return o.errorf("region "+region.Name+" has no version", ErrInvalid)
	}
	o.region, o.suspect = region, nil
	o.seed = placeSeed(o.cfg.UUID, uint64(region.Type))
	o.primary = area{name: "primary", region: region, t: o.cfg.Target}
	o.primary.md = o.takesVSS(&o.primary.t)
	if o.mirrored = mirror != nil; o.mirrored {
		o.mirror = area{name: "mirror", region: mirror, t: o.cfg.MirrorTarget}
		if o.mirror.t.Ch == nil {
			o.mirror.t = o.cfg.Target
		}
		o.mirror.md = o.takesVSS(&o.mirror.t)
	}
	if o.cfg.VSS != 0 {
		putVersion(o.stamp[:], region.Version)
		stampVSS(o.vss, o.stamp[:o.cfg.VSS])
		stampVSS(o.entry, o.stamp[:o.cfg.VSS])
	}
	return nil
}

// takesVSS says whether IO to the device carries metadata (M28).
func (o *Object) takesVSS(t *Target) bool {
	return o.cfg.VSS != 0 && t.Desc != nil && t.Desc.Bdev().Info().MDSize == o.cfg.VSS
}

// Buffer returns the object's data: block i is the 4096 bytes at i*4096, of
// which the first PayloadSize are the owner's. It is nil for FlagNoMem. What
// is being persisted must not be changed until the operation is done.
func (o *Object) Buffer() []byte { return o.buf }

// Payload returns the owner's part of block i.
func (o *Object) Payload(i uint64) []byte {
	return o.buf[i*BlockSize : i*BlockSize+PayloadSize : i*BlockSize+PayloadSize]
}

// VSS returns the metadata bytes of all blocks, nil when there are none.
func (o *Object) VSS() []byte { return o.vss }

// Blocks returns the size of the object.
func (o *Object) Blocks() uint64 { return o.blocks }

// Region returns the region of the primary, nil when none is set.
func (o *Object) Region() *layout.Region { return o.region }

// Mirror returns the region of the mirror, nil when there is none.
func (o *Object) Mirror() *layout.Region {
	if !o.mirrored {
		return nil
	}
	return o.mirror.region
}

// Idle says whether no operation is under way.
func (o *Object) Idle() bool { return o.bulk.op == opNone && o.entries == 0 }

// Shm returns the object's shared memory, nil when it has none.
func (o *Object) Shm() *Shm { return o.shm }

// Destroy gives the memory back. Shared memory stays for a restart when keep
// is set, else it is removed. The object must be idle. Destroying nil, or
// twice, does nothing.
func (o *Object) Destroy(keep bool) {
	if o == nil || o.destroyed {
		return
	}
	assert.That(o.Idle(), "md: a busy object is destroyed")
	o.destroyed = true
	if o.shm != nil {
		o.shm.Close(keep)
		o.shm = nil
	}
	o.freeBuf(&o.mem)
	o.freeBuf(&o.ordered.buf)
	o.buf, o.vss, o.entry = nil, nil, nil
}

func (o *Object) freeBuf(b *[]byte) {
	if *b != nil {
		o.cfg.Free(*b)
		*b = nil
	}
}

func (o *Object) name() string {
	if o.region != nil {
		return o.region.Name
	}
	return o.cfg.Name
}

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }
