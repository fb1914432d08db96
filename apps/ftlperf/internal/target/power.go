package target

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/thread"
)

// outlet stands in front of a device like a socket outlet: what is plugged in
// can be cut off, and the next user gets a fresh plug to the same device. It is how
// --crash-after ends an FTL as kill -9 would: what was in flight reaches the
// device or not, nobody is told, and nothing comes after it.
type outlet struct {
	m     *bdev.Manager
	base  *bdev.Base
	plugs int
}

func newOutlet(m *bdev.Manager, name string, t *thread.Thread) (*outlet, error) {
	base, err := bdev.OpenBase(m, name, "ftlperf", t)
	if err != nil {
		return nil, err
	}
	base.Own()
	return &outlet{m: m, base: base}, nil
}

// plug registers one more device over the base. Only one may be live.
func (o *outlet) plug() (*plug, error) {
	o.plugs++
	info := o.base.Info(fmt.Sprintf("%s-plug%d", o.base.Desc.Bdev().Name(), o.plugs), "Outlet")
	info.UUID = o.base.Desc.Bdev().Info().UUID
	p := &plug{outlet: o, info: info}
	if _, err := o.m.Register(p); err != nil {
		return nil, err
	}
	return p, nil
}

// plug is a bdev.Driver. Its device is used on one thread, which owns its fields.
type plug struct {
	outlet   *outlet
	info     bdev.Info
	inflight int
	off      bool
}

// Info implements bdev.Driver.
func (p *plug) Info() bdev.Info { return p.info }

// Close implements bdev.Driver.
func (p *plug) Close() error {
	if !p.off {
		p.outlet.base.Close()
	}
	return nil
}

// NewChannel implements bdev.Driver.
func (p *plug) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	ch, err := p.outlet.base.Desc.Channel(t)
	if err != nil {
		return nil, err
	}
	return &plugChannel{p, ch}, nil
}

type plugChannel struct {
	p  *plug
	ch *bdev.Channel
}

// Submit implements bdev.DriverChannel.
func (c *plugChannel) Submit(io *bdev.IO) {
	if c.p.off {
		return
	}
	c.p.inflight++
	io.Driver = c.p
	c.ch.Forward(io, io.LBA, plugDone)
}

// Close implements bdev.DriverChannel.
func (c *plugChannel) Close() { c.ch.Put() }

func plugDone(inner *bdev.IO) {
	p := inner.Ctx.(*bdev.IO).Driver.(*plug)
	p.inflight--
	if !p.off {
		bdev.ForwardDone(inner)
	}
}

// cut switches plugs off and waits until nothing of them is in flight below.
func (m *machine) cut(t *thread.Thread, plugs []*plug) error {
	for end := time.Now().Add(closeLimit); ; time.Sleep(time.Millisecond) {
		under := 0
		err := m.on(t, func() error {
			for _, p := range plugs {
				p.off = true
				under += p.inflight
			}
			return nil
		})
		if err != nil || under == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("crash: %d IOs do not come back from the devices: %w", under, unix.ETIMEDOUT)
		}
	}
}
