// Package ftlbdev is an FTL as a block device like any other.
//
// The device's core thread executes every request. Each bdev channel, so each
// thread that uses the device, has an IO channel of the device (ftl.Channel). On
// the core thread requests are handed over directly; another thread sends them
// there and gets the answer back by message. The ftl.Channel is registered by
// the first of these messages and closed by the last. Buffers must be multiples of 4096 bytes,
// at 4096-byte addresses when the devices below need that; the bdev layer
// bounces what is not.
package ftlbdev

import (
	"fmt"

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
		BufAlign: 4096, VolatileCache: true, FUA: true, PoolMax: uint32(v.d.UserIOPool()),
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes, bdev.OpExtents),
	}
}

// NewChannel makes a channel for thread t. It fails with EAGAIN when the device
// has as many IO channels as it may have, and with ENODEV when it is stopping.
func (v *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	c, err := v.d.NewChannel()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.name, err)
	}
	ch := &channel{c: c, core: v.d.Thread(), t: t, local: t == v.d.Thread()}
	ch.onCore(register)
	return ch, nil
}

// Close does nothing: the device belongs to who started it.
func (v *Driver) Close() error { return nil }

// channel is one thread's way to the device.
type channel struct {
	c     *ftl.Channel
	core  *thread.Thread
	t     *thread.Thread
	local bool // t is the core thread
}

// onCore runs f on the core thread: now, or behind what was sent before.
func (c *channel) onCore(f thread.Func) {
	if c.local {
		f(c)
		return
	}
	c.t.SendTo(c.core, f, c) // as IOs are sent, so that the order is kept
}

func register(arg any) { arg.(*channel).c.Register() }

func shut(arg any) { arg.(*channel).c.Close(closed) }

// closed does nothing: the bdev layer does not wait for channels, the stop of the
// device does.
func closed(error) {}

// op is the state that every IO keeps across its reuse.
type op struct {
	ch  *channel
	io  *bdev.IO
	req ftl.Request
}

var ops = [bdev.NumOps]ftl.Op{
	bdev.OpRead: ftl.OpRead, bdev.OpWrite: ftl.OpWrite, bdev.OpFlush: ftl.OpFlush,
	bdev.OpUnmap: ftl.OpTrim, bdev.OpWriteZeroes: ftl.OpTrim, bdev.OpExtents: ftl.OpExtents,
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
	case bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes, bdev.OpExtents:
	default:
		io.Complete(unix.ENOTSUP)
		return
	}
	r := &o.req
	r.Op, r.LBA, r.Count, r.Bufs, r.FUA = ops[io.Op], io.LBA, io.Count, io.Bufs, io.FUA
	r.Extents, r.Filled = io.Extents, 0
	if c.local {
		r.Done = done
		c.c.Submit(r)
		return
	}
	r.Done = doneRemote
	c.t.SendTo(c.core, submitRemote, o)
}

// Close ends the channel.
func (c *channel) Close() { c.onCore(shut) }

func done(r *ftl.Request) {
	o := r.Ctx.(*op)
	assert.That(o.io != nil, "an IO completes once")
	io := o.io
	o.io = nil
	io.Result = uint64(r.Filled)
	io.Complete(r.Err)
}

func submitRemote(arg any) {
	o := arg.(*op)
	o.ch.c.Submit(&o.req)
}

func doneRemote(r *ftl.Request) {
	o := r.Ctx.(*op)
	o.ch.core.SendTo(o.ch.t, completeRemote, o)
}

func completeRemote(arg any) {
	o := arg.(*op)
	io := o.io
	o.io = nil
	io.Result = uint64(o.req.Filled)
	io.Complete(o.req.Err)
}
