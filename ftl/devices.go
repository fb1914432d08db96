package ftl

import (
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/record"
)

// The devices under the FTL: opened and claimed, judged, listened to, closed.

func stepOpenDevices(p *process) {
	d := enter(p)
	for _, v := range d.devices() {
		name := d.cfg.Cache
		if v == &d.base {
			name = d.cfg.Base
		}
		if err := v.open(d, name); err != nil {
			d.closeDevices()
			p.Fail(err)
			return
		}
	}
	if err := d.checkDevices(); err != nil {
		d.closeDevices()
		p.Fail(err)
		return
	}
	p.Next()
}

// devices are those that the device stands on.
func (d *Device) devices() []*dev {
	if d.cfg.Cache == "" {
		return []*dev{&d.base}
	}
	return []*dev{&d.cache, &d.base}
}

// open opens and claims one of the devices.
func (v *dev) open(d *Device, name string) error {
	write := !d.cfg.ReadOnly
	desc, err := d.cfg.Manager.Open(name, write, devEvent, d, d.th)
	if err != nil {
		return fmt.Errorf("%s device %s: %w", v.kind, name, err)
	}
	v.desc, v.th, v.stats = desc, d.th, &d.stats
	v.gone = func() { d.deviceRemoved(name) }
	v.info = desc.Bdev().Info()
	if write {
		if err := desc.Claim(bdev.ClaimExclusiveWrite, "ftl"); err != nil {
			return fmt.Errorf("%s device %s: %w", v.kind, name, err)
		}
	}
	if v.ch, err = desc.Channel(d.th); err != nil {
		return fmt.Errorf("%s device %s: %w", v.kind, name, err)
	}
	return nil
}

// checkDevices refuses devices that cannot carry an FTL.
func (d *Device) checkDevices() error {
	for _, v := range d.devices() {
		if v.info.ReadOnly && !d.cfg.ReadOnly {
			return fmt.Errorf("%s device %s is read-only; use the read-only mode or make it writable: %w", v.kind, v.info.Name, unix.EROFS)
		}
	}
	return CheckDevices(d.cache.info, d.base.info)
}

// CheckDevices refuses devices that cannot carry an FTL. cache is that of the
// metadata where there is no other, and nil when there is neither.
func CheckDevices(cache, base *bdev.Info) error {
	meta := cache
	if cache == nil {
		meta = base
	}
	for _, i := range []*bdev.Info{cache, base} {
		if i == nil {
			continue
		}
		kind := devBase
		if i == cache {
			kind = devCache
		}
		switch {
		case i.BlockSize != blockSize:
			return fmt.Errorf("%s device %s has blocks of %d bytes, 4096 are needed: %w", kind, i.Name, i.BlockSize, unix.EINVAL)
		case i.Zoned && i == cache:
			return fmt.Errorf("%s device %s is zoned, it has to be a conventional one: %w", kind, i.Name, unix.ENOTSUP)
		case i.WriteUnit > 1 && !i.Zoned:
			return fmt.Errorf("%s device %s has a write unit of %d blocks, this version needs 1: %w", kind, i.Name, i.WriteUnit, unix.ENOTSUP)
		case i.WriteUnit > 1 && i == meta:
			return fmt.Errorf("%s device %s has a write unit of %d blocks, metadata needs 1; name a small device for the metadata: %w",
				kind, i.Name, i.WriteUnit, unix.ENOTSUP)
		case i == cache && i.MDSize != 0 && i.MDSize < record.VSSSize:
			return fmt.Errorf("%s device %s has %d bytes of metadata a block: 0 or at least %d are needed: %w",
				kind, i.Name, i.MDSize, record.VSSSize, unix.EINVAL)
		}
	}
	return nil
}

// devEvent hears what happens to the devices.
func devEvent(arg any, ev bdev.Event, b *bdev.Bdev, extents []bdev.MediaExtent) {
	d := arg.(*Device)
	for _, v := range d.devices() {
		if v.desc == nil || v.desc.Bdev() != b {
			continue
		}
		switch ev {
		case bdev.Remove:
			v.remove()
		case bdev.MediaManagement:
			d.mediaEvents(v)
		case bdev.ZoneChange:
			if d.zones != nil && v == &d.base {
				for _, e := range extents {
					d.zones.Refresh(e.LBA)
				}
			}
		default:
		}
	}
}

// deviceRemoved stops writing, and the mapping in shared memory is not taken over
// any more: what the device had not flushed may be missing when it comes back.
// Without both devices nothing can be served.
func (d *Device) deviceRemoved(name string) {
	d.fail(HealthReadOnly, "device "+name+" was removed", unix.ENODEV)
	for _, v := range d.devices() {
		if !v.removed {
			return
		}
	}
	d.fail(HealthFaulted, "all devices were removed", unix.ENODEV)
}

func stepCloseDevices(p *process) {
	d := enter(p)
	d.closeDevices()
	p.Next()
}

func (d *Device) closeDevices() {
	if d.zones != nil {
		d.zones.Close()
	}
	for _, v := range d.devices() {
		if v.ch != nil {
			v.ch.Put()
		}
		if v.desc != nil {
			v.desc.Close()
		}
		v.ch, v.desc = nil, nil
	}
}
