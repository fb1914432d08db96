package target

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/bdev"
	"goftl/thread"
)

// Info says what a target is.
type Info struct {
	Name       string // in words
	Bytes      uint64
	BlockSize  uint64
	Trims      bool
	TrimZeroes bool // a trimmed block reads as zeroes
	Flushes    bool
	FUA        bool
	ReadOnly   bool
	Forgets    bool // reads do not return what was written
}

// bdevInfo describes a block device. What its trim leaves behind is known of the
// modules that promise it.
func bdevInfo(i *bdev.Info) Info {
	return Info{
		Name:  fmt.Sprintf("%s (%s)", i.Name, i.Product),
		Bytes: i.Bytes(), BlockSize: max(uint64(i.BlockSize), uint64(i.BlockSize)*uint64(i.WriteUnit)),
		Trims: i.Ops.Has(bdev.OpUnmap), Flushes: i.Ops.Has(bdev.OpFlush), FUA: true, ReadOnly: i.ReadOnly,
		Forgets: i.Product == "Null disk",
	}
}

// bdevTarget gives jobs channels of an open device.
type bdevTarget struct{ desc *bdev.Desc }

// Open implements job.Target.
func (b *bdevTarget) Open(t *thread.Thread) (job.Channel, error) {
	ch, err := b.desc.Channel(t)
	if err != nil {
		return nil, err
	}
	return &bdevChannel{ch: ch, shift: uint8(bits.TrailingZeros32(b.desc.Bdev().Info().BlockSize))}, nil
}

// bdevChannel passes IOs on.
type bdevChannel struct {
	ch    *bdev.Channel
	shift uint8
	wait  bdev.IOWait
}

// Submit implements job.Channel.
func (c *bdevChannel) Submit(io *job.IO) error {
	lba, count := io.Offset>>c.shift, io.Length>>c.shift
	var err error
	switch io.Op {
	case job.OpRead:
		err = c.ch.Read(io.Buf, lba, count, bdevDone, io)
	case job.OpWrite:
		err = c.ch.Write(io.Buf, lba, count, bdevDone, io)
	case job.OpWriteFUA:
		io.Vec[0] = io.Buf
		err = c.ch.WritevFUA(io.Vec[:], nil, lba, count, bdevDone, io)
	case job.OpTrim:
		err = c.ch.Unmap(lba, count, bdevDone, io)
	case job.OpFlush:
		err = c.ch.Flush(bdevDone, io)
	}
	if err != nil {
		return refusal(err)
	}
	return nil
}

func bdevDone(b *bdev.IO) { b.Ctx.(*job.IO).Complete(b.Err()) }

func refusal(err error) error {
	if errors.Is(err, unix.ENOMEM) {
		return job.ErrAgain
	}
	return err
}

// AwaitFree implements job.Channel.
func (c *bdevChannel) AwaitFree(fn func(arg any), arg any) {
	c.wait.Fn, c.wait.Arg = fn, arg
	c.ch.QueueIOWait(&c.wait)
}

// Close implements job.Channel.
func (c *bdevChannel) Close() { c.ch.Put() }
