package volatile_test

import (
	"fmt"

	"goftl/bdev"
	"goftl/thread"
)

// unitDevice is memory that is written in units of four blocks.
type unitDevice struct{ data []byte }

func (u *unitDevice) Info() bdev.Info {
	return bdev.Info{
		Name: "unit", BlockSize: 4096, Blocks: uint64(len(u.data) / 4096), WriteUnit: 4,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpWriteZeroes, bdev.OpUnmap),
	}
}

func (u *unitDevice) NewChannel(*thread.Thread) (bdev.DriverChannel, error) {
	return unitChannel{u}, nil
}
func (u *unitDevice) Close() error { return nil }

type unitChannel struct{ *unitDevice }

func (c unitChannel) Close() {}

func (c unitChannel) Submit(io *bdev.IO) {
	at := c.data[io.LBA*4096:]
	switch io.Op {
	case bdev.OpRead:
		for _, b := range io.Bufs {
			at = at[copy(b, at):]
		}
	case bdev.OpWrite:
		if io.LBA%4 != 0 || io.Count%4 != 0 {
			io.Complete(fmt.Errorf("%d blocks at %d: %w", io.Count, io.LBA, bdev.ErrUnsupported))
			return
		}
		for _, b := range io.Bufs {
			at = at[copy(at, b):]
		}
	default:
	}
	io.Complete(nil)
}
