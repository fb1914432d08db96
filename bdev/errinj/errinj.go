package errinj

import (
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/timeline"
	"goftl/thread"
)

// Options describe an errinj device.
type Options struct {
	Name  string
	Base  string // name of the device below
	Own   bool   // the device below is unregistered with this one
	Rules []Rule
}

// Driver is an errinj device. Rules may be changed on any thread:
// b.Driver().(*errinj.Driver).Add(...).
type Driver struct {
	base  *bdev.Base
	info  bdev.Info
	rules atomic.Pointer[[]*Active] // immutable, replaced as a whole
	chans atomic.Pointer[[]*channel]
}

// Create claims the base and registers the device. It must be called on t.
func Create(m *bdev.Manager, t *thread.Thread, o Options) (*bdev.Bdev, error) {
	d := &Driver{}
	d.rules.Store(&[]*Active{})
	d.chans.Store(&[]*channel{})
	for _, r := range o.Rules {
		if _, err := d.Add(r); err != nil {
			return nil, err
		}
	}
	base, err := bdev.OpenBase(m, o.Base, "errinj", t)
	if err != nil {
		return nil, err
	}
	d.base, d.info = base, base.Info(o.Name, "Error injection")
	d.info.Ops = d.info.Ops.With(bdev.OpReset, bdev.OpAbort)
	d.info.ZoneOrder = false // rules may hold an IO back
	b, err := m.Register(d)
	if err != nil {
		base.Close()
		return nil, err
	}
	if o.Own {
		base.Own()
	}
	base.Attach(b, func(blocks uint64) uint64 { return blocks })
	return b, nil
}

// Add adds a rule behind those there are.
func (d *Driver) Add(r Rule) (*Active, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Ops == 0 {
		r.Ops = ^bdev.Ops(bdev.OpAbort)
	}
	if r.Action == Fail && r.Err == 0 {
		r.Err = unix.EIO
	}
	a := &Active{d: d, r: r}
	a.on.Store(!r.Off)
	replace(&d.rules, func(list []*Active) []*Active { return append(list, a) })
	return a, nil
}

func (d *Driver) remove(a *Active) {
	replace(&d.rules, func(list []*Active) []*Active {
		return slices.DeleteFunc(list, func(o *Active) bool { return o == a })
	})
}

// Rules returns the rules in the order in which they are asked.
func (d *Driver) Rules() []*Active { return slices.Clone(*d.rules.Load()) }

// Clear removes all rules. What hangs goes on hanging.
func (d *Driver) Clear() {
	replace(&d.rules, func([]*Active) []*Active { return nil })
}

// ReleaseHung completes all IOs that hang with err. Their threads do it when
// they get a message.
func (d *Driver) ReleaseHung(err error) {
	for _, c := range *d.chans.Load() {
		c.th.Send(func(any) { c.releaseHung(err) }, nil)
	}
}

func replace[T any](p *atomic.Pointer[[]T], change func([]T) []T) {
	for {
		old := p.Load()
		list := change(slices.Clone(*old))
		if p.CompareAndSwap(old, &list) {
			return
		}
	}
}

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Close implements bdev.Driver.
func (d *Driver) Close() error {
	d.base.Close()
	return nil
}

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	ch, err := d.base.Desc.Channel(t)
	if err != nil {
		return nil, err
	}
	c := &channel{d: d, th: t, base: ch}
	c.line = timeline.New(t, "errinj_"+d.info.Name, 10*time.Microsecond, delayed)
	replace(&d.chans, func(list []*channel) []*channel { return append(list, c) })
	return c, nil
}

// channel is one thread's part of the device.
type channel struct {
	d    *Driver
	th   *thread.Thread
	base *bdev.Channel
	line *timeline.Line
	hung []*bdev.IO
}

// state is what an IO carries in its Driver field while a rule has hold of it.
type state struct {
	c    *channel
	rule *Active
	rnd  uint64
	copy []byte // what is written instead of the IO's own data
	n    uint64 // blocks of it
}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	if io.Op == bdev.OpAbort && c.abort(io.Target) {
		io.Complete(nil)
		return
	}
	for _, a := range *c.d.rules.Load() {
		if rnd, hit := a.strikes(io); hit {
			c.strike(io, a, rnd)
			return
		}
	}
	c.base.Forward(io, io.LBA, bdev.ForwardDone)
}

func (c *channel) strike(io *bdev.IO, a *Active, rnd uint64) {
	s, _ := io.Driver.(*state)
	if s == nil {
		s = &state{}
		io.Driver = s
	}
	*s = state{c: c, rule: a, rnd: rnd}
	switch a.r.Action {
	case Fail:
		if a.r.Landed {
			c.base.Forward(io, io.LBA, landed)
			return
		}
		io.Complete(a.r.Err)
	case Drop:
		io.Complete(nil)
	case Hang:
		c.hung = append(c.hung, io)
	case Delay:
		c.line.Hold(io, nil, a.r.Delay)
	case Corrupt:
		c.corrupt(io, s)
	case Tear:
		c.tear(io, s)
	default:
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
	}
}

func landed(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	io.Complete(io.Driver.(*state).rule.r.Err)
}

func delayed(io *bdev.IO, _ error) {
	io.Driver.(*state).c.base.Forward(io, io.LBA, bdev.ForwardDone)
}

func (c *channel) abort(target *bdev.IO) bool {
	if c.line.Take(target) {
		target.Complete(bdev.ErrAborted)
		return true
	}
	if i := slices.Index(c.hung, target); i >= 0 {
		c.hung = slices.Delete(c.hung, i, i+1)
		target.Complete(bdev.ErrAborted)
		return true
	}
	return false
}

func (c *channel) releaseHung(err error) {
	list := c.hung
	c.hung = nil
	for _, io := range list {
		io.Complete(err)
	}
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() {
	replace(&c.d.chans, func(list []*channel) []*channel {
		return slices.DeleteFunc(list, func(o *channel) bool { return o == c })
	})
	c.line.Close()
	c.base.Put()
}
