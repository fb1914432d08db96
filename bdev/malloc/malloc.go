package malloc

import (
	"bytes"
	"fmt"
	"math"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/memcopy"
	"goftl/iobuf"
	"goftl/thread"
)

// Options describe a malloc device.
type Options struct {
	Name      string
	UUID      uuid.UUID
	Blocks    uint64
	BlockSize uint32 // default 4096
	MDSize    uint32 // bytes of separate metadata a block has
	Populate  bool   // take all memory now, not when a block is first written
}

// Driver is a malloc device.
type Driver struct {
	info     bdev.Info
	data, md []byte
	past     bool // too large for caches: writes go past them
}

// pastCaches is the size from which on a device is taken for larger than what
// the caches of a processor keep.
const pastCaches = 512 << 20

// New maps the memory of a device.
func New(o Options) (*Driver, error) {
	if o.BlockSize == 0 {
		o.BlockSize = 4096
	}
	per := uint64(o.BlockSize)
	if o.Blocks == 0 || o.Blocks > math.MaxInt64/4/max(per, uint64(o.MDSize), 1) {
		return nil, fmt.Errorf("malloc %s: %d blocks of %d bytes: there must be some, and they must fit into memory: %w", o.Name, o.Blocks, o.BlockSize, unix.EINVAL)
	}
	d := &Driver{info: bdev.Info{
		Name: o.Name, Product: "Malloc disk", UUID: o.UUID, BlockSize: o.BlockSize, Blocks: o.Blocks, MDSize: o.MDSize,
		Preallocated: o.Populate,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes, bdev.OpReset,
			bdev.OpAbort, bdev.OpCompare, bdev.OpCopy),
	}}
	d.past = o.Blocks*per >= pastCaches
	d.data = iobuf.Alloc(int(o.Blocks * per))
	if d.data == nil {
		return nil, fmt.Errorf("malloc %s: map %d bytes: %w", o.Name, o.Blocks*per, unix.ENOMEM)
	}
	if o.MDSize > 0 {
		d.md = iobuf.Alloc(int(o.Blocks * uint64(o.MDSize)))
		if d.md == nil {
			iobuf.Free(d.data)
			return nil, fmt.Errorf("malloc %s: map %d bytes of metadata: %w", o.Name, o.Blocks*uint64(o.MDSize), unix.ENOMEM)
		}
	}
	if o.Populate {
		if err := d.populate(); err != nil {
			_ = d.Close() // cannot fail
			return nil, err
		}
	}
	return d, nil
}

func (d *Driver) populate() error {
	for _, buf := range [][]byte{d.data, d.md} {
		if err := iobuf.Populate(buf); err != nil {
			return fmt.Errorf("malloc %s: populate: %d MiB are more than the system has available (without populate, only what is written counts): %w",
				d.info.Name, len(buf)>>20, err)
		}
	}
	return nil
}

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Data returns the memory of the blocks. It is for tests that look at, or
// damage, what a device holds.
func (d *Driver) Data() []byte { return d.data }

// MD returns the memory of the metadata, nil when there is none.
func (d *Driver) MD() []byte { return d.md }

// Close implements bdev.Driver.
func (d *Driver) Close() error {
	iobuf.Free(d.data)
	iobuf.Free(d.md)
	d.data, d.md = nil, nil
	return nil
}

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(*thread.Thread) (bdev.DriverChannel, error) {
	return &channel{d: d, bs: uint64(d.info.BlockSize), ms: uint64(d.info.MDSize)}, nil
}

type channel struct {
	d      *Driver
	bs, ms uint64
}

func (c *channel) Close() {}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	switch io.Op {
	case bdev.OpRead:
		c.read(io)
	case bdev.OpWrite:
		c.write(io)
	case bdev.OpUnmap, bdev.OpWriteZeroes:
		iobuf.Discard(c.blocks(io.LBA, io.Count))
		if c.ms > 0 {
			iobuf.Discard(c.metadata(io.LBA, io.Count))
		}
	case bdev.OpCompare:
		io.Complete(c.compare(io))
		return
	case bdev.OpCopy:
		copy(c.blocks(io.LBA, io.Count), c.blocks(io.Src, io.Count))
		if c.ms > 0 {
			copy(c.metadata(io.LBA, io.Count), c.metadata(io.Src, io.Count))
		}
	case bdev.OpFlush, bdev.OpReset:
	case bdev.OpAbort:
		io.Complete(bdev.ErrNotFound)
		return
	default:
		io.Complete(bdev.ErrUnsupported)
		return
	}
	io.Complete(nil)
}

func (c *channel) blocks(lba, count uint64) []byte {
	return c.d.data[lba*c.bs : (lba+count)*c.bs]
}

func (c *channel) metadata(lba, count uint64) []byte {
	return c.d.md[lba*c.ms : (lba+count)*c.ms]
}

func (c *channel) read(io *bdev.IO) {
	src := c.blocks(io.LBA, io.Count)
	for _, b := range io.Bufs {
		src = src[copy(b, src):]
	}
	if io.MD != nil {
		copy(io.MD, c.metadata(io.LBA, io.Count))
	}
}

func (c *channel) write(io *bdev.IO) {
	dst := c.blocks(io.LBA, io.Count)
	if c.d.past {
		c.writePast(io, dst)
		return
	}
	for _, b := range io.Bufs {
		dst = dst[copy(dst, b):]
	}
	if io.MD != nil {
		copy(c.metadata(io.LBA, io.Count), io.MD)
	}
}

func (c *channel) writePast(io *bdev.IO, dst []byte) {
	for _, b := range io.Bufs {
		dst = dst[memcopy.Past(dst, b):]
	}
	if io.MD != nil {
		memcopy.Past(c.metadata(io.LBA, io.Count), io.MD)
	}
	memcopy.Fence()
}

func (c *channel) compare(io *bdev.IO) error {
	have := c.blocks(io.LBA, io.Count)
	for _, b := range io.Bufs {
		if !bytes.Equal(b, have[:len(b)]) {
			return bdev.ErrMiscompare
		}
		have = have[len(b):]
	}
	if io.MD != nil && !bytes.Equal(io.MD, c.metadata(io.LBA, io.Count)) {
		return bdev.ErrMiscompare
	}
	return nil
}
