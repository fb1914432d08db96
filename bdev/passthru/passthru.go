package passthru

import (
	"goftl/bdev"
	"goftl/thread"
)

// Options describe a passthru device.
type Options struct {
	Name string
	Base string // name of the device below
	Own  bool   // the device below is unregistered with this one
}

// Driver is a passthru device.
type Driver struct {
	base *bdev.Base
	info bdev.Info
}

// Create claims the base and registers the device. It must be called on t.
func Create(m *bdev.Manager, t *thread.Thread, o Options) (*bdev.Bdev, error) {
	base, err := bdev.OpenBase(m, o.Base, "passthru", t)
	if err != nil {
		return nil, err
	}
	d := &Driver{base: base, info: base.Info(o.Name, "Passthru")}
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
	return &channel{ch}, nil
}

type channel struct{ base *bdev.Channel }

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) { c.base.Forward(io, io.LBA, bdev.ForwardDone) }

// Close implements bdev.DriverChannel.
func (c *channel) Close() { c.base.Put() }
