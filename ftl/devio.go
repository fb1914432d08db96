package ftl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/ftl/zoned"
	"goftl/internal/assert"
	"goftl/thread"
)

// dev is one of the two devices under the FTL, with the channel of the core
// thread.
type dev struct {
	kind    layout.Dev
	th      *thread.Thread
	desc    *bdev.Desc
	ch      *bdev.Channel
	info    *bdev.Info
	stats   *Stats
	zones   *zoned.Base // of a zoned base: translates addresses of bands
	removed bool
	gone    func() // tells of it, once
	// goodReads counts reads that succeeded: a device that answers is worth
	// asking again.
	goodReads uint64
}

// name is the bdev's name, for messages.
func (v *dev) name() string { return v.info.Name }

// devIO is one device operation with its retry on ENOMEM. The owner embeds it,
// fills it and calls start; fn is called exactly once, never inline. It has one
// user at a time.
type devIO struct {
	dev   *dev
	op    bdev.Op
	bufs  [][]byte
	one   [1][]byte
	md    []byte
	lba   uint64
	n     uint64
	src   Source
	fn    func(x *devIO, err error)
	owner any
	idx   int // for the owner: which of its operations this is

	wait bdev.IOWait
	busy bool
	err  error
}

// prepare fills everything but the callback.
func (x *devIO) prepare(v *dev, op bdev.Op, bufs [][]byte, md []byte, lba, n uint64, src Source) {
	x.dev, x.op, x.bufs, x.md, x.lba, x.n, x.src = v, op, bufs, md, lba, n, src
}

// prepareOne is prepare for a single buffer.
func (x *devIO) prepareOne(v *dev, op bdev.Op, buf []byte, lba uint64, src Source) {
	x.one[0] = buf
	x.prepare(v, op, x.one[:], nil, lba, uint64(len(buf))/layout.BlockSize, src)
}

// call sets the callback and starts the operation.
func (x *devIO) call(fn func(x *devIO, err error), owner any) {
	x.fn, x.owner = fn, owner
	x.start()
}

// start submits. A flush of a device without a volatile cache completes by
// message.
func (x *devIO) start() {
	assert.That(!x.busy, "a device operation has one user at a time")
	x.busy = true
	x.err = nil
	if x.op == bdev.OpFlush && !x.dev.info.VolatileCache {
		x.dev.th.Post(devIOPosted, x)
		return
	}
	x.submit()
}

func (x *devIO) submit() {
	if z := x.dev.zones; z != nil && x.lba >= z.First() {
		switch x.op {
		case bdev.OpRead:
			lba, ok := z.Direct(x.lba, x.n)
			if !ok {
				z.Read(x.bufs, x.lba, x.n, devIOZoned, x)
				return
			}
			x.submitAt(lba)
			return
		case bdev.OpWrite:
			z.Write(x.bufs, x.lba, x.n, devIOZoned, x)
			return
		default: // flushes are the device's
		}
	}
	x.submitAt(x.lba)
}

// submitAt submits to the device itself.
func (x *devIO) submitAt(lba uint64) {
	var err error
	ch := x.dev.ch
	switch x.op {
	case bdev.OpRead:
		err = ch.Readv(x.bufs, x.md, lba, x.n, devIODone, x)
	case bdev.OpWrite:
		err = ch.Writev(x.bufs, x.md, lba, x.n, devIODone, x)
	case bdev.OpFlush:
		err = ch.Flush(devIODone, x)
	case bdev.OpWriteZeroes:
		err = ch.WriteZeroes(lba, x.n, devIODone, x)
	default:
		assert.That(false, "unknown device operation")
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		x.wait.Fn, x.wait.Arg = devIORetry, x
		ch.QueueIOWait(&x.wait)
	default:
		x.err = err
		x.dev.th.Post(devIOPosted, x)
	}
}

func devIOZoned(arg any, err error) { arg.(*devIO).finish(err) }

func devIORetry(arg any) { arg.(*devIO).submit() }

func devIOPosted(arg any) {
	x := arg.(*devIO)
	x.finish(x.err)
}

func devIODone(io *bdev.IO) {
	x := io.Ctx.(*devIO)
	x.finish(io.Err())
}

func (x *devIO) finish(err error) {
	x.busy = false
	x.dev.stats.count(x, err)
	switch {
	case err == nil && x.op == bdev.OpRead:
		x.dev.goodReads++
	case err != nil && errors.Is(err, unix.ENODEV):
		x.dev.remove()
	}
	x.fn(x, err)
}

// remove notes that the device is gone: its event, or the first IO that hears of it, says so.
func (v *dev) remove() {
	if !v.removed {
		v.removed = true
		v.gone()
	}
}

// failed says on which device what failed. It is for the control path: it
// allocates.
func (x *devIO) failed(what string, err error) error {
	return fmt.Errorf("%s to %s device %s: %w", what, x.dev.kind, x.dev.name(), err)
}
