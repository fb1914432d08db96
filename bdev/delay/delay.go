package delay

import (
	"sync/atomic"
	"time"

	"goftl/bdev"
	"goftl/bdev/internal/timeline"
	"goftl/thread"
)

// Times say how long IOs are held back. A P99 of 0 is like the other.
type Times struct {
	Read, Write       time.Duration
	ReadP99, WriteP99 time.Duration // for one IO of a hundred
}

// Options describe a delay device.
type Options struct {
	Name string
	Base string // name of the device below
	Own  bool   // the device below is unregistered with this one
	Times
	Seed uint64 // of the choice of the one in a hundred
}

// Driver is a delay device.
type Driver struct {
	base  *bdev.Base
	info  bdev.Info
	seed  uint64
	times atomic.Pointer[Times]
}

// Create claims the base and registers the device. It must be called on t.
func Create(m *bdev.Manager, t *thread.Thread, o Options) (*bdev.Bdev, error) {
	base, err := bdev.OpenBase(m, o.Base, "delay", t)
	if err != nil {
		return nil, err
	}
	d := &Driver{base: base, info: base.Info(o.Name, "Delay"), seed: o.Seed}
	d.SetTimes(o.Times)
	d.info.Ops = d.info.Ops.With(bdev.OpReset, bdev.OpAbort)
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

// SetTimes changes the times for IOs that complete from now on. Any thread may
// call it.
func (d *Driver) SetTimes(t Times) { d.times.Store(&t) }

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
	c := &channel{d: d, base: ch, rnd: d.seed ^ t.ID()*0x9E3779B97F4A7C15}
	c.line = timeline.New(t, "delay_"+d.info.Name, precision(d.times.Load()), (*bdev.IO).Complete)
	return c, nil
}

// precision is a sixteenth of the shortest delay, within bounds.
func precision(t *Times) time.Duration {
	least := time.Duration(1 << 62)
	for _, d := range [...]time.Duration{t.Read, t.Write, t.ReadP99, t.WriteP99} {
		if d > 0 {
			least = min(least, d)
		}
	}
	return min(max(least/16, time.Microsecond), 100*time.Microsecond)
}

type channel struct {
	d    *Driver
	base *bdev.Channel
	line *timeline.Line
	rnd  uint64
}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	if io.Op == bdev.OpAbort && c.line.Take(io.Target) {
		io.Target.Complete(bdev.ErrAborted)
		io.Complete(nil)
		return
	}
	if io.Driver == nil {
		io.Driver = c
	}
	c.base.Forward(io, io.LBA, baseDone)
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() {
	c.line.Close()
	c.base.Put()
}

func baseDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	io.Result = inner.Result
	c := io.Driver.(*channel)
	d := c.pick(io.Op)
	if d == 0 {
		io.Complete(inner.Err())
		return
	}
	c.line.Hold(io, inner.Err(), d)
}

func (c *channel) pick(op bdev.Op) time.Duration {
	t := c.d.times.Load()
	usual, rare := t.Read, t.ReadP99
	switch op.Class() {
	case bdev.ClassRead:
	case bdev.ClassWrite, bdev.ClassFlush, bdev.ClassUnmap:
		usual, rare = t.Write, t.WriteP99
	default:
		return 0
	}
	if rare == 0 {
		return usual
	}
	// splitmix64
	c.rnd += 0x9E3779B97F4A7C15
	z := c.rnd
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	if (z^z>>31)%100 == 0 {
		return rare
	}
	return usual
}
