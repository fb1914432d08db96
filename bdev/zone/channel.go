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
	scratch []byte     // a block that lies across buffers
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() { c.base.Put() }

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	t := c.d.table
	if t != nil {
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
	case bdev.OpZoneFinish, bdev.OpZoneOffline:
		c.end(io)
	case bdev.OpZoneOpen, bdev.OpZoneClose:
		io.Complete(c.d.m.change(io.LBA/c.d.zone, io.Op))
	case bdev.OpFlush:
		if t != nil {
			c.ask(io, reqFlush)
			return
		}
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
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
	off, gen, err := c.d.m.write(z, at, io.Count)
	if err != nil {
		io.Complete(err)
		return
	}
	io.Result = z*c.d.zone + off
	done := writeDone
	if c.d.table != nil && z >= c.d.m.conv {
		s := c.stateOf(io)
		s.kind, s.zone, s.off, s.count, s.gen = reqWrite, z, off, io.Count, gen
		s.sums = appendSums(s.sums[:0], io.Bufs, int(io.BlockSize()), gen, io.Result, &c.scratch)
		done = writtenDown
	}
	if io.Op == bdev.OpWrite {
		c.base.Forward(io, io.LBA, done)
		return
	}
	c.base.ForwardAs(io, bdev.OpWrite, io.Result, done)
}

// writeDone keeps the Result, which says where an append went.
func writeDone(inner *bdev.IO) { inner.Ctx.(*bdev.IO).Complete(inner.Err()) }

// writtenDown has the table note what was written, before the user is told.
func writtenDown(inner *bdev.IO) {
	s := inner.Ctx.(*bdev.IO).Driver.(*state)
	if s.err = inner.Err(); s.err != nil {
		s.holes()
	}
	s.c.d.table.th.Send(tableRequest, s)
}

// end finishes a zone or takes it offline.
func (c *channel) end(io *bdev.IO) {
	z := io.LBA / c.d.zone
	if c.d.table == nil {
		io.Complete(c.d.m.change(z, io.Op))
		return
	}
	w := c.d.m.load(z)
	if to, err := c.d.m.target(w, io.Op); err != nil || to == w {
		io.Complete(err)
		return
	}
	if io.Op == bdev.OpZoneFinish {
		c.ask(io, reqFinish)
		return
	}
	c.ask(io, reqOffline)
}

// reset makes a zone empty: first in the table, then for everybody. Its blocks
// are given back in between.
func (c *channel) reset(io *bdev.IO) {
	z := io.LBA / c.d.zone
	if _, err := c.d.m.target(c.d.m.load(z), io.Op); err != nil {
		io.Complete(err)
		return
	}
	if c.d.resetFails() {
		c.d.worsen(z, bdev.ZoneOffline)
		io.Complete(ErrReset)
		return
	}
	need, err := c.d.m.beginReset(z)
	if !need {
		io.Complete(err)
		return
	}
	if c.d.table != nil {
		c.ask(io, reqReset)
		return
	}
	c.unmap(io)
}

func (c *channel) unmap(io *bdev.IO) {
	if !c.d.unmap {
		c.resetDone(io, nil)
		return
	}
	c.stateOf(io)
	c.base.ForwardAs(io, bdev.OpUnmap, io.LBA, unmapDone)
}

func unmapDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	c := io.Driver.(*state).c
	err := inner.Err()
	if c.d.table != nil {
		err = nil // the zone is empty, whatever became of its blocks
	}
	c.resetDone(io, err)
}

func (c *channel) resetDone(io *bdev.IO, err error) {
	io.Complete(c.d.m.endReset(io.LBA/c.d.zone, err))
}

// stateOf returns the IO's state, which remembers the channel.
func (c *channel) stateOf(io *bdev.IO) *state {
	s, _ := io.Driver.(*state)
	if s == nil {
		s = &state{}
		io.Driver = s
	}
	s.c, s.io, s.err = c, io, nil
	return s
}

// ask sends an IO to the table, which answers with tableDone.
func (c *channel) ask(io *bdev.IO, kind reqKind) {
	s := c.stateOf(io)
	s.kind, s.zone = kind, io.LBA/c.d.zone
	c.d.table.th.Send(tableRequest, s)
}

// tableDone runs on the thread of the channel that asked.
func tableDone(arg any) {
	s := arg.(*state)
	c, io := s.c, s.io
	switch {
	case s.kind == reqReset && s.err == nil:
		c.unmap(io)
	case s.kind == reqReset:
		c.resetDone(io, s.err)
	case s.err == nil && (s.kind == reqFinish || s.kind == reqOffline):
		io.Complete(c.d.m.change(s.zone, io.Op))
	default:
		io.Complete(s.err)
	}
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
