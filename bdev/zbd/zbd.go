package zbd

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/file"
	"goftl/thread"
)

// Options say how to serve a zoned block device.
type Options struct {
	Name     string // default: the last element of the path
	Driver   string // of the data: "uring", "aio", or "" for uring where it is allowed
	Depth    int    // requests a channel has in flight at most; 0: the driver's default
	Units    uint32 // parallel units, see bdev.Info; 0: 1
	ReadOnly bool
}

// Driver is a zoned block device of the host.
type Driver struct {
	base *bdev.Base
	ctl  control
	g    *geometry
	info bdev.Info
	bad  []atomic.Uint32 // the state of zones that are read-only or offline, else 0
	self atomic.Pointer[bdev.Bdev]
}

// Create serves the device at path and registers it, and the one that carries
// its data. It must be called on t.
func Create(m *bdev.Manager, t *thread.Thread, path string, o Options) (*bdev.Bdev, error) {
	b, err := create(m, t, path, o)
	if err != nil {
		return nil, fmt.Errorf("zbd %q: %w", path, err)
	}
	return b, nil
}

func create(m *bdev.Manager, t *thread.Thread, path string, o Options) (*bdev.Bdev, error) {
	if o.Name == "" {
		o.Name = filepath.Base(path)
	}
	k, err := openKernel(path, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	g, err := discover(k)
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	d, err := file.New(path, file.Options{
		Name: o.Name + "_data", Driver: o.Driver, Depth: o.Depth, ReadOnly: o.ReadOnly, Direct: file.DirectOn, Zoned: true,
	})
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	data, err := m.Register(d)
	if err != nil {
		return nil, errors.Join(err, d.Close(), k.close())
	}
	b, err := attach(m, t, data.Name(), k, g, o)
	if err != nil {
		data.Unregister(t, nil, nil)
		return nil, errors.Join(err, k.close())
	}
	return b, nil
}

// attach makes the zoned device out of the one with its data and the control
// over its zones, which it takes over unless it fails.
func attach(m *bdev.Manager, t *thread.Thread, data string, c control, g *geometry, o Options) (*bdev.Bdev, error) {
	base, err := bdev.OpenBase(m, data, "zbd", t)
	if err != nil {
		return nil, err
	}
	d := &Driver{base: base, ctl: c, g: g, bad: make([]atomic.Uint32, len(g.zones))}
	err = d.describe(&o)
	var b *bdev.Bdev
	if err == nil {
		b, err = m.Register(d)
	}
	if err != nil {
		base.Close()
		return nil, err
	}
	for i, z := range g.zones {
		d.notice(uint64(i), z.State)
	}
	g.zones = nil
	base.Own()
	base.Attach(b, nil)
	d.self.Store(b)
	return b, nil
}

// describe fills in Info.
func (d *Driver) describe(o *Options) error {
	g := d.g
	i := d.base.Info(o.Name, "Zoned block device")
	blocks := uint64(len(g.zones)) * g.zoneBlocks
	if blocks > i.Blocks {
		return fmt.Errorf("zones of %d blocks on a device of %d: %w", blocks, i.Blocks, unix.EPROTO)
	}
	if g.zoneBlocks >= 1<<32 {
		return fmt.Errorf("zones of %d blocks are too large: %w", g.zoneBlocks, unix.ENOTSUP)
	}
	units := max(o.Units, 1)
	if n := uint64(len(g.zones)); n%uint64(units) != 0 {
		return fmt.Errorf("%d parallel units do not divide the %d zones: %w", units, n, unix.EINVAL)
	}
	i.UUID = d.base.Desc.Bdev().Info().UUID
	i.UUID[15] ^= 1 // the same disk, not the same device
	i.Zoned = true
	i.Blocks, i.ZoneBlocks, i.ZoneCapacity, i.ConvZones = blocks, g.zoneBlocks, g.capacity, g.conv
	i.MaxOpenZones, i.MaxActiveZones, i.ParallelUnits = g.maxOpen, g.maxActive, units
	i.WriteUnit, i.OptimalBoundary = g.writeUnit, uint32(g.zoneBlocks)
	if g.maxTransfer != 0 {
		i.MaxTransfer = min(i.MaxTransfer, g.maxTransfer)
	}
	i.MaxTransfer -= i.MaxTransfer % max(g.writeUnit, 1)
	if g.maxSegments != 0 {
		i.MaxSegments = min(i.MaxSegments, g.maxSegments)
	}
	i.Ops = bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpReset, bdev.OpAbort,
		bdev.OpZoneReset, bdev.OpZoneOpen, bdev.OpZoneClose, bdev.OpZoneFinish, bdev.OpZoneInfo)
	d.info = i
	return nil
}

// notice takes note of the state of a zone, and tells everybody of one that
// turned read-only or offline. Any goroutine may call it.
func (d *Driver) notice(i uint64, s bdev.ZoneState) {
	now := uint32(0)
	if s == bdev.ZoneReadOnly || s == bdev.ZoneOffline {
		now = uint32(s)
	}
	was := d.bad[i].Load() // read first: all but ever it is as it was
	if now == was || d.bad[i].Swap(now) == now || now == 0 {
		return
	}
	if b := d.self.Load(); b != nil {
		b.NotifyZones([]bdev.MediaExtent{{LBA: i * d.g.zoneBlocks, Blocks: d.g.zoneBlocks}})
	}
}

// reportZones fills in what the device says of zones from number first on.
func (d *Driver) reportZones(buf []byte, first uint64, zones []bdev.ZoneInfo) error {
	for n := 0; n < len(zones); {
		at := (first + uint64(n)) * d.g.zoneBlocks
		list, err := report(d.ctl, buf, at*blockSectors, len(zones)-n)
		if err != nil {
			return errnoOf(err)
		}
		if len(list) == 0 {
			return errShort
		}
		for _, r := range list {
			z, err := d.g.decode(r)
			if err != nil || z.LBA != at {
				return errReport
			}
			zones[n] = z
			d.notice(first+uint64(n), z.State)
			at += d.g.zoneBlocks
			n++
		}
	}
	return nil
}

// Errors of reports while the device is used.
var (
	errShort  error = bdev.NewError(unix.EIO, "zbd: the device reports fewer zones than it had")
	errReport error = bdev.NewError(unix.EIO, "zbd: the report of zones makes no sense")
)

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Close implements bdev.Driver.
func (d *Driver) Close() error {
	d.base.Close()
	return d.ctl.close()
}

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	ch, err := d.base.Desc.Channel(t)
	if err != nil {
		return nil, err
	}
	return newChannel(d, t, ch), nil
}
