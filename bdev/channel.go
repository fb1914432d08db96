package bdev

import (
	"goftl/thread"
)

// Channel is one thread's access to a device through one descriptor. Only code
// that runs on that thread may use it.
//
// A submit method returns an error at once, and then done is not called; or
// nil, and then done is called exactly once, later, never inside the method.
// The errors returned at once wrap ENOMEM (ErrNoMem: all IOs of the channel
// are in use, queue an IOWait), EINVAL (range, alignment, lengths), EBADF (the
// descriptor is not open for write), ENOTSUP and ENODEV.
//
// Buffers stay the caller's, and they and the slice that lists them must stay
// as they are until done. LBAs and counts are in blocks.
type Channel struct {
	k    *core
	d    *Desc
	ioch *thread.IOChannel
}

// Thread returns the channel's thread.
func (c *Channel) Thread() *thread.Thread { return c.k.th }

// Desc returns the descriptor that the channel was made from.
func (c *Channel) Desc() *Desc { return c.d }

// Bdev returns the device.
func (c *Channel) Bdev() *Bdev { return c.k.b }

// InFlight returns how many IOs of this thread the device has.
func (c *Channel) InFlight() int { return c.k.used }

// Put gives the channel back. IOs in flight complete as usual.
func (c *Channel) Put() {
	k := c.k
	if k.used > 0 {
		k.puts = append(k.puts, c.ioch)
		k.onRelease = true
		return
	}
	c.ioch.Put()
}

// QueueIOWait has w called when an IO of the channel is free. Waiters are
// called in the order in which they were queued.
func (c *Channel) QueueIOWait(w *IOWait) {
	k := c.k
	k.waiters.push(w)
	k.onRelease = true
	if k.hasFree() {
		k.th.Post(kickWaiters, k)
	}
}

func kickWaiters(arg any) {
	if k := arg.(*core); k.onRelease && k.hasFree() {
		k.released()
	}
}

func (k *core) outside(lba, count uint64) bool {
	blocks := k.b.blocks.Load()
	return count-1 >= blocks || lba > blocks-count // count 0 wraps and is outside
}

// Read reads count blocks at lba into buf.
func (c *Channel) Read(buf []byte, lba, count uint64, done DoneFunc, ctx any) error {
	k := c.k
	if k.outside(lba, count) {
		return k.rangeError(OpRead, lba, count)
	}
	if uint64(len(buf)) != count<<k.shift {
		return k.lengthError(OpRead, "data", uint64(len(buf)), count<<k.shift)
	}
	io := k.get()
	if io == nil {
		return ErrNoMem
	}
	io.Op, io.LBA, io.Count, io.done, io.Ctx, io.ch = OpRead, lba, count, done, ctx, c
	io.one[0] = buf
	io.Bufs = io.one[:]
	return k.start(io)
}

// Write writes buf to count blocks at lba.
func (c *Channel) Write(buf []byte, lba, count uint64, done DoneFunc, ctx any) error {
	k := c.k
	if k.outside(lba, count) {
		return k.rangeError(OpWrite, lba, count)
	}
	if uint64(len(buf)) != count<<k.shift {
		return k.lengthError(OpWrite, "data", uint64(len(buf)), count<<k.shift)
	}
	if err := c.writable(OpWrite, lba, count); err != nil {
		return err
	}
	io := k.get()
	if io == nil {
		return ErrNoMem
	}
	io.Op, io.LBA, io.Count, io.done, io.Ctx, io.ch = OpWrite, lba, count, done, ctx, c
	io.one[0] = buf
	io.Bufs = io.one[:]
	return k.start(io)
}

// writable says why this channel may not write there.
func (c *Channel) writable(op Op, lba, count uint64) error {
	if !c.d.write.Load() {
		return ErrReadOnly
	}
	if u := c.k.limits.writeUnit; u > 1 && (lba%u|count%u) != 0 {
		return c.k.limitError(op, lba, count, "not whole write units")
	}
	if z := c.k.limits.zone; z != 0 && lba/z != (lba+count-1)/z && lba+count > c.k.limits.conv {
		return c.k.limitError(op, lba, count, "more than one zone")
	}
	return nil
}

// checkv checks a vectored transfer.
func (c *Channel) checkv(op Op, bufs [][]byte, md []byte, lba, count uint64) error {
	k := c.k
	if k.outside(lba, count) {
		return k.rangeError(op, lba, count)
	}
	var n uint64
	for _, b := range bufs {
		n += uint64(len(b))
	}
	if n != count<<k.shift {
		return k.lengthError(op, "data", n, count<<k.shift)
	}
	if md != nil && uint64(len(md)) != count*k.mdSize {
		return k.lengthError(op, "metadata", uint64(len(md)), count*k.mdSize)
	}
	if op.Modifies() {
		return c.writable(op, lba, count)
	}
	return nil
}

// prepare takes an IO and fills in what all have.
func (c *Channel) prepare(op Op, lba, count uint64, done DoneFunc, ctx any) *IO {
	io := c.k.get()
	if io != nil {
		io.Op, io.LBA, io.Count, io.done, io.Ctx, io.ch = op, lba, count, done, ctx, c
	}
	return io
}

// Readv reads count blocks at lba into bufs, whose lengths add up to them, and
// their metadata into md: nil, or count*MDSize bytes.
func (c *Channel) Readv(bufs [][]byte, md []byte, lba, count uint64, done DoneFunc, ctx any) error {
	if err := c.checkv(OpRead, bufs, md, lba, count); err != nil {
		return err
	}
	io := c.prepare(OpRead, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.MD = bufs, md
	return c.k.start(io)
}

// Writev writes bufs, and md when it is not nil, to count blocks at lba.
func (c *Channel) Writev(bufs [][]byte, md []byte, lba, count uint64, done DoneFunc, ctx any) error {
	if err := c.checkv(OpWrite, bufs, md, lba, count); err != nil {
		return err
	}
	io := c.prepare(OpWrite, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.MD = bufs, md
	return c.k.start(io)
}

// WritevFUA is Writev that is durable when it is done: by the device where it
// can, else by a flush behind the write.
func (c *Channel) WritevFUA(bufs [][]byte, md []byte, lba, count uint64, done DoneFunc, ctx any) error {
	if err := c.checkv(OpWrite, bufs, md, lba, count); err != nil {
		return err
	}
	io := c.prepare(OpWrite, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.MD, io.FUA = bufs, md, true
	return c.k.startAny(io)
}

// Flush makes durable what was written and acknowledged before.
func (c *Channel) Flush(done DoneFunc, ctx any) error {
	k := c.k
	if !k.limits.ops.Has(OpFlush) && k.b.Info().VolatileCache {
		return ErrUnsupported
	}
	io := c.prepare(OpFlush, 0, 0, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	return k.startAny(io)
}

// rangeOp submits an operation that has only a range.
func (c *Channel) rangeOp(op Op, supported bool, lba, count uint64, done DoneFunc, ctx any) error {
	k := c.k
	if k.outside(lba, count) {
		return k.rangeError(op, lba, count)
	}
	if !supported {
		return ErrUnsupported
	}
	if op.Modifies() && !c.d.write.Load() {
		return ErrReadOnly
	}
	io := c.prepare(op, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	return k.startAny(io)
}

// Unmap tells the device that the content of the blocks is not needed.
func (c *Channel) Unmap(lba, count uint64, done DoneFunc, ctx any) error {
	return c.rangeOp(OpUnmap, c.k.limits.ops.Has(OpUnmap), lba, count, done, ctx)
}

// WriteZeroes has the blocks read as zeroes. Devices that cannot do it get
// writes.
func (c *Channel) WriteZeroes(lba, count uint64, done DoneFunc, ctx any) error {
	ops := c.k.limits.ops
	if !ops.Has(OpWriteZeroes) && !c.k.outside(lba, count) {
		if err := c.writable(OpWriteZeroes, lba, count); err != nil {
			return err
		}
	}
	return c.rangeOp(OpWriteZeroes, ops.Has(OpWriteZeroes) || ops.Has(OpWrite), lba, count, done, ctx)
}

// Extents says which of count blocks at lba are stored. It fills in out, from
// its beginning and from lba on, and says how many in Result of the IO: at
// least one, none of them empty. They may end before lba+count and never end
// behind it: a driver does no more than it can do without holding others up.
// The slice must stay as it is until done.
func (c *Channel) Extents(lba, count uint64, out []Extent, done DoneFunc, ctx any) error {
	k := c.k
	if k.outside(lba, count) {
		return k.rangeError(OpExtents, lba, count)
	}
	if !k.limits.ops.Has(OpExtents) {
		return ErrUnsupported
	}
	if len(out) == 0 {
		return k.lengthError(OpExtents, "room for extents", 0, 1)
	}
	io := c.prepare(OpExtents, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Extents = out
	return k.startAny(io)
}

// Reset resets the device. New IOs of all channels wait until it is done; those
// that wait in the layer already are aborted. For a driver that has no reset
// the layer waits until nothing is in flight.
func (c *Channel) Reset(done DoneFunc, ctx any) error {
	io := c.prepare(OpReset, 0, 0, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	return c.k.startAny(io)
}

// Abort asks for an early end of the IOs that this thread submitted with the
// Ctx target. An aborted IO completes with ErrAborted, or as if nothing had
// been asked when it is too late. The abort completes with ErrNotFound when
// there is no such IO, and with ErrUnsupported when the driver has it and
// cannot abort it.
func (c *Channel) Abort(target any, done DoneFunc, ctx any) error {
	io := c.prepare(OpAbort, 0, 0, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.abortCtx = target
	return c.k.startAny(io)
}

// Compare reads count blocks at lba and completes with ErrMiscompare when they
// (or their metadata, when md is not nil) differ from bufs.
func (c *Channel) Compare(bufs [][]byte, md []byte, lba, count uint64, done DoneFunc, ctx any) error {
	if err := c.checkv(OpCompare, bufs, md, lba, count); err != nil {
		return err
	}
	io := c.prepare(OpCompare, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.MD = bufs, md
	return c.k.startAny(io)
}

// CompareAndWrite writes with to count blocks at lba if they hold want, and
// completes with ErrMiscompare if not. No other write through this layer comes
// in between.
func (c *Channel) CompareAndWrite(want, with [][]byte, lba, count uint64, done DoneFunc, ctx any) error {
	for _, bufs := range [...][][]byte{want, with} {
		if err := c.checkv(OpCompareAndWrite, bufs, nil, lba, count); err != nil {
			return err
		}
	}
	io := c.prepare(OpCompareAndWrite, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.Bufs2 = want, with
	return c.k.startAny(io)
}

// Copy copies count blocks from src to dst, which must not overlap and both
// begin with a write unit. Devices that cannot do it get reads and writes.
func (c *Channel) Copy(dst, src, count uint64, done DoneFunc, ctx any) error {
	k := c.k
	if k.outside(dst, count) {
		return k.rangeError(OpCopy, dst, count)
	}
	if k.outside(src, count) {
		return k.rangeError(OpCopy, src, count)
	}
	if err := c.writable(OpCopy, dst, count); err != nil {
		return err
	}
	if u := k.limits.writeUnit; u > 1 && src%u != 0 {
		return k.limitError(OpCopy, src, count, "the source does not begin with a write unit")
	}
	if dst < src+count && src < dst+count {
		return k.limitError(OpCopy, dst, count, "source and destination overlap")
	}
	io := c.prepare(OpCopy, dst, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Src = src
	return k.startAny(io)
}
