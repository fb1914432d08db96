package null

import (
	"goftl/bdev"
	"goftl/thread"
)

// Options describe a null device.
type Options struct {
	Name      string
	Blocks    uint64
	BlockSize uint32 // default 4096
	MDSize    uint32
}

// Driver is a null device.
type Driver struct{ info bdev.Info }

// New makes a null device.
func New(o Options) *Driver {
	if o.BlockSize == 0 {
		o.BlockSize = 4096
	}
	return &Driver{bdev.Info{
		Name: o.Name, Product: "Null disk", BlockSize: o.BlockSize, Blocks: o.Blocks, MDSize: o.MDSize,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes, bdev.OpReset,
			bdev.OpAbort, bdev.OpCopy),
	}}
}

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Close implements bdev.Driver.
func (d *Driver) Close() error { return nil }

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(*thread.Thread) (bdev.DriverChannel, error) { return channel{}, nil }

type channel struct{}

func (channel) Submit(io *bdev.IO) { io.Complete(nil) }
func (channel) Close()             {}
