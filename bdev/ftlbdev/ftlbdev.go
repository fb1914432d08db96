// Package ftlbdev is an FTL as a block device like any other.
//
// The device's core thread executes every request. A channel on that thread
// hands requests over directly; a channel on another thread sends them there
// and gets the answer back by message. Buffers must be multiples of 4096 bytes,
// at 4096-byte addresses when the devices below need that; the bdev layer
// bounces what is not.
package ftlbdev

import (
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl"
	"goftl/internal/assert"
	"goftl/thread"
)

// Driver is the bdev driver over an FTL.
type Driver struct {
	name string
	d    *ftl.Device
}

var _ bdev.Driver = (*Driver)(nil)

// New makes a driver for a running device. The device is stopped by its owner,
// after the bdev was unregistered.
func New(name string, d *ftl.Device) *Driver { return &Driver{name: name, d: d} }

// Info describes the device.
func (v *Driver) Info() bdev.Info {
	return bdev.Info{
		Name: v.name, Product: "goftl FTL", UUID: v.d.UUID(),
		BlockSize: 4096, Blocks: v.d.Blocks(), WriteUnit: 1,
		BufAlign: 4096, VolatileCache: true, FUA: true,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes),
	}
}

// NewChannel makes a channel for thread t.
func (v *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	return &channel{d: v.d, t: t, local: t == v.d.Thread()}, nil
}

// Close does nothing: the device belongs to who started it.
func (v *Driver) Close() error { return nil }

// channel is one thread's way to the device.
type channel struct {
	d     *ftl.Device
	t     *thread.Thread
	local bool
}

// op is the state that every IO keeps across its reuse.
type op struct {
	ch  *channel
	io  *bdev.IO
	req ftl.Request
}

var ops = [bdev.NumOps]ftl.Op{
	bdev.OpRead: ftl.OpRead, bdev.OpWrite: ftl.OpWrite, bdev.OpFlush: ftl.OpFlush,
	bdev.OpUnmap: ftl.OpTrim, bdev.OpWriteZeroes: ftl.OpTrim,
}

// Submit hands an IO to the device.
func (c *channel) Submit(io *bdev.IO) {
	o, ok := io.Driver.(*op)
	if !ok {
		o = &op{}
		o.req.Ctx = o
		io.Driver = o
	}
	o.ch, o.io = c, io
	switch io.Op {
	case bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes:
	default:
		io.Complete(unix.ENOTSUP)
		return
	}
	r := &o.req
	r.Op, r.LBA, r.Count, r.Bufs, r.FUA = ops[io.Op], io.LBA, io.Count, io.Bufs, io.FUA
	if c.local {
		r.Done = done
		c.d.Submit(r)
		return
	}
	r.Done = doneRemote
	c.t.SendTo(c.d.Thread(), submitRemote, o)
}

// Close ends the channel.
func (c *channel) Close() {}

func done(r *ftl.Request) {
	o := r.Ctx.(*op)
	assert.That(o.io != nil, "an IO completes once")
	io := o.io
	o.io = nil
	io.Complete(r.Err)
}

func submitRemote(arg any) {
	o := arg.(*op)
	o.ch.d.Submit(&o.req)
}

func doneRemote(r *ftl.Request) {
	o := r.Ctx.(*op)
	o.ch.d.Thread().SendTo(o.ch.t, completeRemote, o)
}

func completeRemote(arg any) {
	o := arg.(*op)
	io := o.io
	o.io = nil
	io.Complete(o.req.Err)
}
