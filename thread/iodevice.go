package thread

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
)

var (
	errRegistered = fmt.Errorf("io_device: owner is registered already: %w", unix.EEXIST)
	errGone       = fmt.Errorf("io_device: unregistered: %w", unix.ENODEV)
	errTwice      = fmt.Errorf("io_device: unregistered twice: %w", unix.EALREADY)
	errExited     = fmt.Errorf("io_channel: thread has exited: %w", unix.ESHUTDOWN)
	errRecursion  = fmt.Errorf("io_channel: asked for while being created: %w", unix.EDEADLK)
)

// ChannelFuncs make and end the channels of a device, each on the channel's thread.
type ChannelFuncs struct {
	// Create returns what Ctx of the new channel returns.
	Create func(dev *IODevice, t *Thread) (ctx any, err error)
	// Destroy ends it; it runs in a message of its own, never inside Put. It may be nil.
	Destroy func(ctx any, t *Thread)
}

// Bit of IODevice.refs; the rest counts the channels and the walks over them.
const unregistering = 1 << 62

// IODevice is something that threads reach through channels of their own. Its methods are safe on any thread.
type IODevice struct {
	sys   *System
	name  string
	owner any
	funcs ChannelFuncs
	refs  atomic.Uint64

	// Set before the unregistering bit, read by whoever drops the last reference after it.
	last   *Thread
	done   Func
	arg    any
	inLast atomic.Bool // claimed by the first Unregister
}

// RegisterIODevice adds a device. owner is the object that the device stands for: registering the same one (a
// comparable value other than nil) twice is an error that wraps unix.EEXIST.
func (s *System) RegisterIODevice(name string, owner any, f ChannelFuncs) (*IODevice, error) {
	assert.That(f.Create != nil, "thread: an io_device that cannot create channels")
	d := &IODevice{sys: s, name: name, owner: owner, funcs: f}
	if err := s.addDevice(d); err != nil {
		return nil, fmt.Errorf("register %q: %w", name, err)
	}
	return d, nil
}

// Owner returns the object given at registration.
func (d *IODevice) Owner() any { return d.owner }

// Name returns the name given at registration.
func (d *IODevice) Name() string { return d.name }

// hold takes a reference unless the device is being unregistered.
func (d *IODevice) hold() bool {
	for {
		n := d.refs.Load()
		if n&unregistering != 0 {
			return false
		}
		if d.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release drops a reference. The last one of a device that is being unregistered ends it.
func (d *IODevice) release() {
	n := d.refs.Add(^uint64(0))
	assert.That(n&^unregistering != unregistering-1, "thread: io_device released too often")
	if n == unregistering {
		d.last.Send(unregistered, d)
	}
}

// Unregister ends the device: no new channels, and, once the walks over its channels are over and the last channel is
// destroyed, done(arg) in a message on t, which is the calling thread. A second call is an error that wraps
// unix.EALREADY. done may be nil.
func (d *IODevice) Unregister(t *Thread, done func(arg any), arg any) error {
	if !d.inLast.CompareAndSwap(false, true) {
		return fmt.Errorf("unregister %q: %w", d.name, errTwice)
	}
	d.last, d.done, d.arg = t, done, arg
	t.unregisters++
	if d.refs.Or(unregistering) == 0 {
		d.last.Send(unregistered, d)
	}
	return nil
}

func unregistered(arg any) {
	d := arg.(*IODevice)
	d.sys.removeDevice(d)
	d.last.unregisters--
	if d.done != nil {
		d.done(d.arg)
	}
}

// IOChannel is a thread's own access to a device. Everything about it belongs to that thread.
type IOChannel struct {
	dev      *IODevice
	thread   *Thread
	ctx      any
	refs     int
	doomed   int // messages under way that will destroy the channel if nobody wants it then
	creating bool
}

// Ctx returns what the device's Create returned.
func (c *IOChannel) Ctx() any { return c.ctx }

// Thread returns the thread that owns the channel.
func (c *IOChannel) Thread() *Thread { return c.thread }

// Device returns the channel's device.
func (c *IOChannel) Device() *IODevice { return c.dev }

// Channel returns t's channel of the device, made if there is none, with one more reference. It may be called only on
// t. It fails with what Create returned, with unix.ENODEV when the device is being unregistered, and with
// unix.ESHUTDOWN when t has exited.
func (d *IODevice) Channel(t *Thread) (*IOChannel, error) {
	assert.That(t.sys == d.sys, "thread: channel on a thread of another system")
	if t.exited.Load() {
		return nil, fmt.Errorf("channel of %q on %q: %w", d.name, t.name, errExited)
	}
	if d.refs.Load()&unregistering != 0 {
		return nil, fmt.Errorf("channel of %q on %q: %w", d.name, t.name, errGone)
	}
	if c := t.channelOf(d); c != nil {
		if c.creating {
			return nil, fmt.Errorf("channel of %q on %q: %w", d.name, t.name, errRecursion)
		}
		c.refs++
		return c, nil
	}
	if !d.hold() {
		return nil, fmt.Errorf("channel of %q on %q: %w", d.name, t.name, errGone)
	}
	c := &IOChannel{dev: d, thread: t, refs: 1, creating: true}
	t.channels = append(t.channels, c)
	ctx, err := d.funcs.Create(d, t)
	if err != nil {
		t.channels = without(t.channels, c)
		d.release()
		return nil, fmt.Errorf("channel of %q on %q: %w", d.name, t.name, err)
	}
	c.ctx, c.creating = ctx, false
	return c, nil
}

func (t *Thread) channelOf(d *IODevice) *IOChannel {
	for _, c := range t.channels {
		if c.dev == d {
			return c
		}
	}
	return nil
}

// Put gives one reference back. It may be called only on the channel's thread. The last one queues a message that
// destroys the channel, unless somebody took a reference in the meantime.
func (c *IOChannel) Put() {
	assert.That(c.refs > 0, "thread: io_channel put too often")
	c.refs--
	if c.refs == 0 {
		c.doomed++
		c.thread.Post(destroyUnused, c)
	}
}

func destroyUnused(arg any) {
	c := arg.(*IOChannel)
	c.doomed--
	if c.refs > 0 || c.doomed > 0 {
		return // revived; or revived and put again, then the later message does it
	}
	t := c.thread
	t.channels = without(t.channels, c)
	if c.dev.funcs.Destroy != nil {
		c.dev.funcs.Destroy(c.ctx, t)
	}
	c.dev.release()
}
