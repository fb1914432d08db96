package zoned

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// manage is one operation on the zones of a band.
type manage struct {
	b    *Base
	band uint64
	op   bdev.Op
	left int
	err  error // the first
	done func(arg any, err error)
	arg  any
}

// manageOne is its part for one zone.
type manageOne struct {
	m    *manage
	zone uint64
	err  error
	wait bdev.IOWait
}

// Reset empties the zones of a band and gives it those that can be written. Zones
// that are empty are reset too: their device then says whether they are still
// there. A zone whose reset fails is retired. The error is ErrNoZone when none is
// left; the band counts against the limits all the same as long as the device
// counts a retired zone as open.
func (b *Base) Reset(i uint64, done func(arg any, err error), arg any) {
	b.begin(i)
	b.bands[i].fresh = true
	m := &manage{b: b, band: i, op: bdev.OpZoneReset, done: done, arg: arg}
	m.run((*zone).usable)
}

// Finish makes the zones of a band full, so that the device does not count them
// as open any more. When one of them cannot be finished the band still counts
// against the limits, until Retry or Reset succeeds; done gets the error.
func (b *Base) Finish(i uint64, done func(arg any, err error), arg any) {
	b.bands[i].fresh = false
	m := &manage{b: b, band: i, op: bdev.OpZoneFinish, done: done, arg: arg}
	m.run(func(z *zone) bool {
		switch z.state {
		case bdev.ZoneImplicitOpen, bdev.ZoneExplicitOpen, bdev.ZoneClosed:
			return z.w == nil && b.info.Ops.Has(bdev.OpZoneFinish)
		default:
			return false
		}
	})
}

// Retry finishes zones again that could not be finished. done is called for each
// band, with the error if it still cannot.
func (b *Base) Retry(done func(arg any, err error), arg any) {
	list := b.unfinished
	b.unfinished = nil
	for _, i := range list {
		if b.bands[i].writing && !b.bands[i].fresh {
			b.Finish(i, done, arg)
		}
	}
}

// Unfinished says whether there is something for Retry.
func (b *Base) Unfinished() bool { return len(b.unfinished) > 0 }

// Idle says whether no zone of the band is open or active, as far as is known.
func (b *Base) Idle(i uint64) bool { return !b.active(i) }

func (m *manage) run(wanted func(z *zone) bool) {
	m.left = 1
	for u := range uint8(m.b.units) {
		i := m.b.zoneIndex(m.band, u)
		if !wanted(&m.b.zones[i]) {
			continue
		}
		o := &manageOne{m: m, zone: i}
		o.wait.Fn, o.wait.Arg = manageAgain, o
		m.left++
		o.submit()
	}
	m.b.cfg.Thread.Post(managePosted, m)
}

func managePosted(arg any) { arg.(*manage).oneDone() }
func manageAgain(arg any)  { arg.(*manageOne).submit() }

func (o *manageOne) submit() {
	b := o.m.b
	lba := o.zone * b.info.ZoneBlocks
	var err error
	if b.shut {
		return
	}
	if o.m.op == bdev.OpZoneReset {
		err = b.ch.ZoneReset(lba, manageDone, o)
	} else {
		err = b.ch.ZoneFinish(lba, manageDone, o)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		b.ch.QueueIOWait(&o.wait)
	default:
		o.err = err
		b.cfg.Thread.Post(manageRefused, o)
	}
}

func manageRefused(arg any) {
	o := arg.(*manageOne)
	o.finish(o.err)
}

func manageDone(io *bdev.IO) { io.Ctx.(*manageOne).finish(io.Err()) }

func (o *manageOne) finish(err error) {
	b := o.m.b
	z := &b.zones[o.zone]
	switch {
	case err != nil && o.m.op == bdev.OpZoneReset:
		b.cfg.Logger.Error("zone reset failed, the zone is retired", "device", b.info.Name, "zone", o.zone, "err", err)
		z.retired = true
	case err != nil:
		b.cfg.Logger.Warn("zone not finished", "device", b.info.Name, "zone", o.zone, "err", err)
		o.m.err = err
		b.Refresh(o.zone * b.info.ZoneBlocks)
	case o.m.op == bdev.OpZoneReset:
		z.state, z.wp, z.broken = bdev.ZoneEmpty, 0, false
	default:
		z.state, z.wp = bdev.ZoneFull, z.cap
	}
	o.m.oneDone()
}

func (m *manage) oneDone() {
	m.left--
	b, err := m.b, m.err
	if m.left != 0 || b.shut {
		return
	}
	switch {
	case m.op == bdev.OpZoneReset:
		b.setMask(m.band, b.goodMask(m.band))
		if b.Slots(m.band) == 0 {
			err = ErrNoZone
			b.Release(m.band)
		}
	case b.bands[m.band].fresh: // reset meanwhile: it counts for its new use
	case err == nil:
		b.end(m.band)
	default:
		b.unfinished = append(b.unfinished, m.band)
	}
	m.done(m.arg, err)
}

// TakeBack has zones of a band that were retired be reset again with the next
// Reset, and says whether there are any. It is for when no other is left.
func (b *Base) TakeBack(i uint64) (found bool) {
	for u := range uint8(b.units) {
		if z := b.zoneOf(i, u); z.retired {
			z.retired = false
			found = found || z.usable()
		}
	}
	return found
}

// Refresh asks the device for the state of the zone that holds block lba, after
// an error or when the device says that something changed. Config.Changed is
// told when the zone takes no writes any more.
func (b *Base) Refresh(lba uint64) {
	z := lba / b.info.ZoneBlocks
	if z >= uint64(len(b.zones)) || b.shut {
		return
	}
	if len(b.refreshes) > 1 && slices.Contains(b.refreshes[1:], z) {
		return // it will be looked at
	}
	b.refreshes = append(b.refreshes, z)
	if !b.looking {
		b.looking = true
		b.cfg.Thread.Post(refreshNext, b)
	}
}

func refreshNext(arg any) {
	b := arg.(*Base)
	if len(b.refreshes) == 0 || b.shut {
		b.looking = false
		return
	}
	lba := b.refreshes[0] * b.info.ZoneBlocks
	if err := b.ch.ZoneInfo(lba, b.look[:], refreshed, b); err != nil {
		b.refreshed(err) // it is looked at again when something else fails
	}
}

func refreshed(io *bdev.IO) { io.Ctx.(*Base).refreshed(io.Err()) }

func (b *Base) refreshed(err error) {
	i := b.refreshes[0]
	b.refreshes = b.refreshes[1:]
	z := &b.zones[i]
	if err == nil && !b.shut {
		was, now := z.state, b.look[0].State
		gone := now == bdev.ZoneOffline || now == bdev.ZoneReadOnly
		if gone && was != now {
			b.cfg.Logger.Error("zone takes no writes any more", "device", b.info.Name, "zone", i, "state", now.String())
			z.state = now
			if i >= b.first && b.cfg.Changed != nil {
				b.cfg.Changed(b.cfg.Arg, (i-b.first)/b.units, now)
			}
		}
	}
	b.cfg.Thread.Post(refreshNext, b)
}

// Close makes the channel free to be given back: what is under way with zones
// ends without telling anybody, and nothing follows it. Nothing else may be
// called any more.
func (b *Base) Close() { b.shut = true }
