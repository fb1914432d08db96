package bdev

import (
	"errors"
	"fmt"
	"sync/atomic"

	"goftl/thread"
)

// Base is what a driver that stands in front of another device needs of it:
// the open and claimed descriptor, and that the driver's own device follows
// when the base changes its size or goes away.
type Base struct {
	Desc *Desc
	th   *thread.Thread
	self *Bdev
	size func(blocks uint64) uint64
	own  bool

	holdsMedia atomic.Bool // media events that the device on top has no room for
}

// OpenBase opens and claims the device name for a module, on t. A read-only
// device is claimed against writers, any other for exclusive write.
func OpenBase(m *Manager, name, module string, t *thread.Thread) (*Base, error) {
	b := &Base{th: t}
	d, err := m.Open(name, false, baseEvent, b, t)
	if err != nil {
		return nil, err
	}
	kind := ClaimExclusiveWrite
	if d.b.Info().ReadOnly {
		kind = ClaimReadManyWriteNone
	}
	if err := d.Claim(kind, module); err != nil {
		d.Close()
		return nil, err
	}
	b.Desc = d
	return b, nil
}

// Info returns a copy of the base's Info under a new name and product. Its
// UUID is left open, and FUA is set, because Forward passes it on.
func (b *Base) Info(name, product string) Info {
	i := *b.Desc.b.Info()
	i.Name, i.Product = name, product
	i.UUID = [16]byte{}
	i.FUA = true
	return i
}

// Attach tells which device stands on this base. It is unregistered when the
// base is removed. When the base changes its size, it gets the size that the
// function says, or keeps its own when that is nil.
func (b *Base) Attach(self *Bdev, size func(blocks uint64) uint64) {
	b.self, b.size = self, size
	self.below.Store(b)
}

// Own makes the base part of the device that stands on it: Close unregisters
// it.
func (b *Base) Own() { b.own = true }

func baseEvent(arg any, ev Event, bd *Bdev, extents []MediaExtent) {
	b := arg.(*Base)
	if b.self == nil {
		return
	}
	switch ev {
	case Remove:
		b.self.Unregister(b.th, nil, nil)
	case Resize:
		if b.size != nil {
			_ = b.self.NotifyResize(b.size(bd.Info().Blocks)) // an impossible size is ignored
		}
	case MediaManagement:
		forwardMedia(b)
	case ZoneChange:
		b.self.NotifyZones(extents)
	}
}

// forwardMedia hands media events on. What the device on top has no room for
// stays here until somebody takes events from it.
func forwardMedia(arg any) {
	b := arg.(*Base)
	for d := b.Desc; !d.closed && len(d.media) > 0; {
		b.holdsMedia.Store(true) // before it is tried, so that no room made meanwhile is missed
		batch := d.media[:min(len(d.media), MediaBatch)]
		n := b.self.NotifyMedia(batch)
		d.dropMedia(n)
		if n < len(batch) {
			return
		}
	}
	b.holdsMedia.Store(false)
}

// Close releases the base. It may be called on any thread; the descriptor is
// closed on its own.
func (b *Base) Close() {
	b.th.Send(closeBase, b)
}

func closeBase(arg any) {
	b := arg.(*Base)
	b.Desc.Close()
	if b.own {
		b.Desc.b.Unregister(b.th, nil, nil)
	}
}

// forward is the state of an IO of a driver while another channel has it.
type forward struct {
	wait IOWait
	io   *IO
	ch   *Channel
	op   Op
	lba  uint64
	done DoneFunc
}

// Forward submits the operation of io, which a driver was given, to c with the
// first block lba, and waits for a free IO of c where there is none. done is
// called with the IO of c, whose Ctx is io; it, or somebody after it, completes
// io. ForwardDone does just that. When c refuses, io is completed at once.
func (c *Channel) Forward(io *IO, lba uint64, done DoneFunc) { c.ForwardAs(io, io.Op, lba, done) }

// ForwardAs is Forward with another operation than io's, on the same number of
// blocks and the same buffers.
func (c *Channel) ForwardAs(io *IO, op Op, lba uint64, done DoneFunc) {
	err := c.submitLike(io, op, lba, done)
	switch {
	case err == nil:
	case errors.Is(err, ErrNoMem):
		f := io.fwd
		if f == nil {
			f = &forward{}
			f.wait = IOWait{Fn: forwardAgain, Arg: f}
			io.fwd = f
		}
		f.io, f.ch, f.op, f.lba, f.done = io, c, op, lba, done
		c.QueueIOWait(&f.wait)
	default:
		io.Complete(err)
	}
}

func forwardAgain(arg any) {
	f := arg.(*forward)
	f.ch.ForwardAs(f.io, f.op, f.lba, f.done)
}

// ForwardDone completes the IO that was forwarded like the one that carried it.
func ForwardDone(inner *IO) {
	io := inner.Ctx.(*IO)
	io.Result = inner.Result
	io.Complete(inner.err)
}

// submitLike submits op to c with what io carries.
func (c *Channel) submitLike(io *IO, op Op, lba uint64, done DoneFunc) error {
	switch op {
	case OpRead:
		return c.Readv(io.Bufs, io.MD, lba, io.Count, done, io)
	case OpWrite:
		if io.FUA {
			return c.WritevFUA(io.Bufs, io.MD, lba, io.Count, done, io)
		}
		return c.Writev(io.Bufs, io.MD, lba, io.Count, done, io)
	case OpFlush:
		return c.Flush(done, io)
	case OpUnmap:
		return c.Unmap(lba, io.Count, done, io)
	case OpWriteZeroes:
		return c.WriteZeroes(lba, io.Count, done, io)
	case OpReset:
		return c.Reset(done, io)
	case OpAbort:
		return c.Abort(io.Target, done, io)
	case OpCompare:
		return c.Compare(io.Bufs, io.MD, lba, io.Count, done, io)
	case OpCompareAndWrite:
		return c.CompareAndWrite(io.Bufs, io.Bufs2, lba, io.Count, done, io)
	case OpCopy:
		return c.Copy(lba, io.Src, io.Count, done, io)
	case OpZoneReset, OpZoneOpen, OpZoneClose, OpZoneFinish, OpZoneOffline:
		return c.zoneOp(op, lba, done, io)
	case OpZoneAppend:
		return c.ZoneAppendv(io.Bufs, io.MD, lba, io.Count, done, io)
	case OpZoneInfo:
		return c.ZoneInfo(lba, io.Zones, done, io)
	case OpExtents:
		return c.Extents(lba, io.Count, io.Extents, done, io)
	default:
		return fmt.Errorf("bdev %s: unknown operation %d: %w", c.k.b.Name(), op, ErrUnsupported)
	}
}
