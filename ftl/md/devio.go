package md

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

// devIO is one device operation of an object. The owner fills it and calls
// start; fn is called exactly once, never inline. An empty IO pool is waited
// for (M27); any other refusal comes back like a failure of the device.
type devIO struct {
	o     *Object
	a     *area
	op    bdev.Op
	at, n uint64 // blocks of the object
	buf   []byte
	vss   []byte
	fn    func(x *devIO, err error)
	owner any

	bufs [1][]byte
	wait bdev.IOWait
	busy bool
	err  error
}

func (x *devIO) start() {
	assert.That(!x.busy, "md: a device operation has two users")
	x.busy = true
	if x.op == bdev.OpFlush && !volatile(x.a) {
		x.err = nil
		x.o.th.Post(devIOPosted, x)
		return
	}
	x.submit()
}

// volatile says whether the device has a cache that a flush must empty.
func volatile(a *area) bool { return a.t.Desc.Bdev().Info().VolatileCache }

func (x *devIO) submit() {
	var err error
	ch, lba := x.a.t.Ch, x.a.region.Offset+x.at
	switch {
	case x.op == bdev.OpFlush:
		err = ch.Flush(devIODone, x)
	case x.op == bdev.OpRead && x.vss == nil:
		err = ch.Read(x.buf, lba, x.n, devIODone, x)
	case x.op == bdev.OpRead:
		x.bufs[0] = x.buf
		err = ch.Readv(x.bufs[:], x.vss, lba, x.n, devIODone, x)
	case x.vss == nil:
		err = ch.Write(x.buf, lba, x.n, devIODone, x)
	default:
		x.bufs[0] = x.buf
		err = ch.Writev(x.bufs[:], x.vss, lba, x.n, devIODone, x)
	}
	if err == nil {
		return
	}
	if errors.Is(err, unix.ENOMEM) {
		x.wait.Fn, x.wait.Arg = devIORetry, x
		ch.QueueIOWait(&x.wait)
		return
	}
	x.err = err
	x.o.th.Post(devIOPosted, x)
}

func devIORetry(arg any) { arg.(*devIO).submit() }

func devIOPosted(arg any) {
	x := arg.(*devIO)
	x.finish(x.err)
}

func devIODone(io *bdev.IO) { io.Ctx.(*devIO).finish(io.Err()) }

func (x *devIO) finish(err error) {
	x.busy = false
	if s := x.a.t.Stats; s != nil {
		s.count(x.op, x.n, err)
	}
	x.fn(x, err)
}

func (s *IOStats) count(op bdev.Op, blocks uint64, err error) {
	switch op {
	case bdev.OpFlush:
		s.Flushes++
		if err != nil {
			s.FlushErrors++
		}
	case bdev.OpRead:
		s.Reads++
		if err != nil {
			s.ReadErrors++
		} else {
			s.ReadBlocks += blocks
		}
	default:
		s.Writes++
		if err != nil {
			s.WriteErrors++
		} else {
			s.WriteBlocks += blocks
		}
	}
}
