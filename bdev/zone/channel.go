package zone

import (
	"slices"

	"goftl/bdev"
	"goftl/thread"
)

// channel is one thread's part of the device.
type channel struct {
	d       *Driver
	th      *thread.Thread
	base    *bdev.Channel
	waiting []*bdev.IO // for the table to be loaded
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() { c.base.Put() }

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	if t := c.d.table; t != nil {
		if !t.loaded.Load() {
			c.wait(io)
			return
		}
		if t.err != nil {
			io.Complete(t.err)
			return
		}
	}
	switch io.Op {
	case bdev.OpRead:
		c.read(io)
	case bdev.OpWrite, bdev.OpZoneAppend:
		c.write(io)
	case bdev.OpZoneInfo:
		c.report(io)
	case bdev.OpZoneReset:
		c.reset(io)
	case bdev.OpZoneFinish:
		z := io.LBA / c.d.zone
		if c.d.table != nil && z >= c.d.m.conv && !c.d.m.zones[z].marked.Load() {
			c.mark(io, true, finishMarked)
			return
		}
		io.Complete(c.d.m.change(z, io.Op))
	case bdev.OpZoneOpen, bdev.OpZoneClose, bdev.OpZoneOffline:
		io.Complete(c.d.m.change(io.LBA/c.d.zone, io.Op))
	default:
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
	}
}

// read reads what lies before the write pointer, and zeroes behind it.
func (c *channel) read(io *bdev.IO) {
	z := io.LBA / c.d.zone
	valid, err := readable(c.d.m.load(z))
	if err != nil {
		io.Complete(err)
		return
	}
	off := io.LBA - z*c.d.zone
	if off+io.Count <= valid {
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
		return
	}
	io.Result = 0
	if valid > off {
		io.Result = valid - off
		c.base.Forward(io, io.LBA, partDone)
		return
	}
	zeroFrom(io, 0)
	io.Complete(nil)
}

func partDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	zeroFrom(io, io.Result)
	io.Complete(inner.Err())
}

// zeroFrom clears what a read has behind its first blocks.
func zeroFrom(io *bdev.IO, blocks uint64) {
	skip := blocks * uint64(io.BlockSize())
	for _, b := range io.Bufs {
		n := min(skip, uint64(len(b)))
		clear(b[n:])
		skip -= n
	}
	if io.MD != nil {
		clear(io.MD[uint64(len(io.MD))/io.Count*blocks:])
	}
}

// write moves the write pointer and then writes there.
func (c *channel) write(io *bdev.IO) {
	z := io.LBA / c.d.zone
	at := io.LBA - z*c.d.zone
	if io.Op == bdev.OpZoneAppend {
		at = atWP
	}
	off, err := c.d.m.write(z, at, io.Count)
	if err != nil {
		io.Complete(err)
		return
	}
	io.Result = z*c.d.zone + off
	if c.d.table != nil && z >= c.d.m.conv && !c.d.m.zones[z].marked.Load() {
		c.mark(io, true, writeMarked)
		return
	}
	c.writeData(io)
}

func writeMarked(c *channel, io *bdev.IO) { c.writeData(io) }

func (c *channel) writeData(io *bdev.IO) {
	if io.Op == bdev.OpWrite {
		c.base.Forward(io, io.LBA, writeDone)
		return
	}
	c.base.ForwardAs(io, bdev.OpWrite, io.Result, writeDone)
}

// writeDone keeps the Result, which says where an append went.
func writeDone(inner *bdev.IO) { inner.Ctx.(*bdev.IO).Complete(inner.Err()) }

func finishMarked(c *channel, io *bdev.IO) {
	io.Complete(c.d.m.change(io.LBA/c.d.zone, io.Op))
}

// reset gives the zone's blocks back, takes it out of the table and makes it
// empty, in this order: a crash in between leaves a zone that is full.
func (c *channel) reset(io *bdev.IO) {
	z := io.LBA / c.d.zone
	w := c.d.m.load(z)
	if _, err := c.d.m.target(w, io.Op); err != nil {
		io.Complete(err)
		return
	}
	if c.d.resetFails() {
		c.d.worsen(z, bdev.ZoneOffline)
		io.Complete(ErrReset)
		return
	}
	if w == makeWord(bdev.ZoneEmpty, 0) && !c.d.m.zones[z].marked.Load() {
		io.Complete(nil)
		return
	}
	if c.base.Bdev().Info().Ops.Has(bdev.OpUnmap) {
		c.stateOf(io)
		c.base.ForwardAs(io, bdev.OpUnmap, io.LBA, unmapDone)
		return
	}
	c.resetMark(io)
}

func unmapDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	if err := inner.Err(); err != nil {
		io.Complete(err)
		return
	}
	io.Driver.(*state).c.resetMark(io)
}

func (c *channel) resetMark(io *bdev.IO) {
	if c.d.table != nil {
		c.mark(io, false, resetMarked)
		return
	}
	resetMarked(c, io)
}

func resetMarked(c *channel, io *bdev.IO) {
	io.Complete(c.d.m.change(io.LBA/c.d.zone, io.Op))
}

func (c *channel) report(io *bdev.IO) {
	first := io.LBA / c.d.zone
	for i := range io.Zones {
		io.Zones[i] = c.d.m.info(first + uint64(i))
	}
	io.Complete(nil)
}

// wait holds an IO until the table is loaded.
func (c *channel) wait(io *bdev.IO) {
	if io.Op == bdev.OpAbort {
		if i := slices.Index(c.waiting, io.Target); i >= 0 {
			c.waiting = slices.Delete(c.waiting, i, i+1)
			io.Target.Complete(bdev.ErrAborted)
			io.Complete(nil)
			return
		}
	}
	if c.waiting = append(c.waiting, io); len(c.waiting) == 1 {
		c.d.table.th.Send(waitForTable, c)
	}
}

func tableLoaded(arg any) {
	c := arg.(*channel)
	list := c.waiting
	c.waiting = nil
	for _, io := range list {
		c.Submit(io)
	}
}
