package ftl

import (
	"fmt"

	"goftl/bdev"
	"goftl/ftl/record"
	"goftl/ftl/zoned"
)

// What the FTL does differently on a zoned base. The translation of slots to
// zones, their write pointers and states are the business of ftl/zoned; here
// are the zones of a band in its life: reset when it is opened, finished when
// it is closed, dropped or emptied first when they fail.

// stepDiscover reads the states of the zones of a zoned base.
func stepDiscover(p *process) {
	d := enter(p)
	if !d.base.info.Zoned {
		p.Skip()
		return
	}
	var err error
	d.zones, err = zoned.New(zoned.Config{
		Thread: d.th, Channel: d.base.ch, Info: d.base.info, Units: d.cfg.ZoneUnits, Append: d.cfg.ZoneAppend, Stripe: d.cfg.ZoneStripeBlocks,
		Logger: d.log, Changed: zoneChanged, Arg: d,
	})
	if err != nil {
		p.Fail(err)
		return
	}
	d.zones.Discover(func(arg any, err error) { next(arg.(*Device), err) }, d)
}

// layZones binds the zones to the layout, before segments are built.
func (d *Device) layZones() error {
	if d.lay.Zoned() != (d.zones != nil) {
		return fmt.Errorf("base device %s is %s, it was %s when the FTL was made: %w", d.base.name(),
			zonedOr(d.zones != nil), zonedOr(d.lay.Zoned()), zoned.ErrShape)
	}
	if d.zones == nil {
		return nil
	}
	if err := d.zones.Lay(d.lay); err != nil {
		return err
	}
	d.base.zones = d.zones
	return nil
}

func zonedOr(yes bool) string {
	if yes {
		return "zoned"
	}
	return "conventional"
}

// takeZones gives every band the slots that its zones have now, and takes bands
// without any out of use.
func (d *Device) takeZones() {
	for i := range d.segs {
		s := &d.segs[i]
		if !s.zoned() || s.state != segFree {
			continue
		}
		s.setCapacity(d.zones.Slots(uint64(s.id)))
		if s.body == 0 {
			s.setState(segBad)
		}
	}
}

// useZones brings back the zones with which a segment in use was opened.
func (s *segment) useZones(ds *record.Descriptor) error {
	if !s.zoned() || ds.State == record.StateFree {
		return nil
	}
	if err := s.d.zones.Use(uint64(s.id), ds.Zones, ds.Capacity); err != nil {
		return err
	}
	s.setCapacity(ds.Capacity)
	return nil
}

// zonesAllow says whether the device's limits of open zones let the stream open
// a band. Relocation always finds room for one.
func (d *Device) zonesAllow(t *stream) bool {
	if d.zones == nil {
		return true
	}
	if t == &d.gc.stream {
		return d.zones.MayWrite(0)
	}
	hold := 0
	if gc := &d.gc.stream; gc.cur == nil && gc.next == nil {
		hold = 1
	}
	if t.cur != nil {
		hold++ // opening ahead is a luxury
	}
	return d.zones.MayWrite(hold)
}

// openDisclaimed goes on with opening a band whose last descriptor, or a copy of
// it, may say OPEN on the media. It says FREE before the zones are reset: a reset
// that fails may take a zone along, and if the descriptor could not be written
// then either, a load would take the zone for lost records.
func openDisclaimed(arg any, err error) {
	s := arg.(*segment)
	s.describedFree(err)
	if err != nil {
		s.openFailed(err)
		return
	}
	s.d.zones.Reset(uint64(s.id), openReset, s)
}

// openReset goes on with opening a band when its zones are empty.
func openReset(arg any, err error) {
	s := arg.(*segment)
	d, t := s.d, s.owner
	if err == nil {
		s.setCapacity(d.zones.Slots(uint64(s.id)))
		if s.body > 0 {
			d.describeOpen(s)
			return
		}
		err = zoned.ErrNoZone
	}
	s.releaseZones()
	t.next = nil
	s.drop(err)
}

// dropIfGone takes a free band out of use when none of its zones can be written
// any more: what counts as free must be there when it is needed.
func (s *segment) dropIfGone() {
	d := s.d
	if s.state != segFree || !s.zoned() || !d.running || d.quiesce || d.health != HealthOK || d.zones.Usable(uint64(s.id)) {
		return
	}
	d.freeList(s.band).remove(s.idx)
	s.setState(segOpening)
	s.owner = nil
	s.drop(zoned.ErrNoZone)
}

// drop takes a band, which is being opened, out of use.
func (s *segment) drop(err error) {
	d := s.d
	d.log.Error("band dropped: none of its zones can be written", "id", s.id, "err", err)
	s.describeFree(dropped)
}

func dropped(arg any, err error) {
	s := arg.(*segment)
	d := s.d
	s.describedFree(err)
	s.setState(segBad)
	if s.owner != nil {
		s.owner.ready(d)
	}
	d.wake()
}

// claimsLog says whether a load would take the band for one that may hold records
// of users, and for lost ones when its zones are gone.
func (s *segment) claimsLog() bool { return s.claims && s.zoned() && s.holdsLog() }

// disclaims has a band that becomes free say so on the media first, if its
// descriptor says OPEN, because its last use ended without a summary. A load that
// cannot read its zones any more would take that for lost records.
func (s *segment) disclaims() bool {
	d := s.d
	if !s.claimsLog() || !d.running || d.quiesce || d.health != HealthOK {
		return false
	}
	s.setState(segOpening)
	s.describeFree(disclaimed)
	return true
}

func disclaimed(arg any, err error) {
	s := arg.(*segment)
	d := s.d
	s.describedFree(err)
	s.setState(segFree)
	d.freeList(s.band).push(s.idx)
	s.dropIfGone()
	d.wake()
}

// describeFree makes it durable that a band holds nothing.
func (s *segment) describeFree(done func(arg any, err error)) {
	s.next, s.firstU, s.lastU, s.maxG, s.maxD = 0, 0, 0, 0, 0
	s.d.putDescriptor(s, record.StateFree)
	s.entry.Arg, s.entry.Done = s, done
	s.d.persistDescriptor(s)
}

func (s *segment) describedFree(err error) {
	s.d.checkMDFlush(err)
	if err != nil {
		s.d.log.Warn("descriptor of a free band not written", "id", s.id, "err", err)
		return
	}
	s.claims = false
}

// releaseZones lets the limits of open zones forget a band that was not written.
func (s *segment) releaseZones() {
	if !s.zoned() {
		return
	}
	s.d.zones.Release(uint64(s.id))
	if s.d.zones.Unfinished() {
		s.d.retryLater()
	}
}

// finishZones ends the closing of a segment, with its zones finished.
func (s *segment) finishZones(err error) {
	if !s.zoned() {
		s.closed(err)
		return
	}
	s.closing, s.closeErr = closeZones, err
	s.d.zones.Finish(uint64(s.id), zonesFinished, s)
}

func zonesFinished(arg any, err error) {
	s := arg.(*segment)
	s.d.zonesTold(err)
	s.closed(s.closeErr)
}

// zonesRetried goes on with what the limits of open zones held up.
func zonesRetried(arg any, err error) {
	d := arg.(*Device)
	d.zonesTold(err)
	d.wake()
	d.wakeUser()
}

// zonesTold books whether the zones of a band were finished: they count as open
// until it works, and it is tried again.
func (d *Device) zonesTold(err error) {
	d.zoneErr = err
	if err == nil || isNoSpace(err) { // a full host file system is not a broken device
		d.zoneFails = 0
	} else {
		d.zoneFails++
	}
	if err != nil {
		d.retryLater()
	}
}

// zonesHold says whether users, or compaction for them, need a band that the
// limits of open zones do not let them open, because zones could not be finished,
// and nothing is under way that would help.
func (d *Device) zonesHold() bool {
	t := &d.log_.cur
	if !t.band {
		t = &d.compaction.stream
	}
	return d.zoneErr != nil && !d.zonesAllow(t) && d.bands[segClosing] == 0 && d.gc.waits() && d.compaction.waits()
}

// settleZones finishes or empties zones that an earlier life left open in bands
// that are not in use: the device counts them against its limits.
func (d *Device) settleZones(done func(d *Device, err error)) {
	left := 1
	oneDone := func(d *Device) {
		if left--; left == 0 {
			done(d, nil)
		}
	}
	finished := func(arg any, err error) {
		d := arg.(*Device)
		d.zonesTold(err)
		oneDone(d)
	}
	emptied := func(arg any, err error) {
		s := arg.(*segment)
		s.releaseZones()
		if err != nil {
			s.d.retryLater()
		}
		oneDone(s.d)
	}
	for i := range d.segs {
		s := &d.segs[i]
		if !s.zoned() || s.state == segOpen || d.zones.Idle(uint64(s.id)) {
			continue
		}
		left++
		if s.state == segFree {
			d.zones.Reset(uint64(s.id), emptied, s)
			continue
		}
		d.zones.Finish(uint64(s.id), finished, d)
	}
	d.th.Post(func(arg any) { oneDone(arg.(*Device)) }, d)
}

// zoneChanged hears that a zone takes no writes any more. What it holds is
// moved away while it can be read; the band does without it in its next use.
func zoneChanged(arg any, band uint64, state bdev.ZoneState) {
	d := arg.(*Device)
	if d.lay == nil || band >= d.lay.Bands || d.segs == nil {
		return
	}
	s := &d.segs[d.lay.Chunks+band]
	d.log.Warn("band has a zone that takes no writes", "id", s.id, "state", s.state.String(), "zone", state.String())
	d.evacuateSegment(s)
	s.dropIfGone()
}

// mediaEvents takes what a device says of blocks that are failing, though they
// can still be read: the segments that they are in are emptied before others.
func (d *Device) mediaEvents(v *dev) {
	var batch [bdev.MediaBatch]bdev.MediaExtent
	for {
		n := v.desc.MediaEvents(batch[:])
		if n == 0 {
			return
		}
		d.mediaBatch(v, batch[:n])
	}
}

func (d *Device) mediaBatch(v *dev, extents []bdev.MediaExtent) {
	if d.lay == nil || d.segs == nil {
		return
	}
	for _, e := range extents {
		for i := range d.segs {
			s := &d.segs[i]
			from, to := s.off, s.off+uint64(s.slots)
			if s.zoned() {
				from, to = d.zones.Extent(uint64(s.id))
			}
			if s.dev == v && e.LBA < to && e.LBA+e.Blocks > from {
				d.log.Info("the device asks for relocation", "kind", s.kindName(), "id", s.id, "lba", e.LBA, "blocks", e.Blocks)
				d.stats.MediaEvents++
				d.evacuateSegment(s)
			}
		}
	}
}

// markUrgent puts a segment in front of those to be emptied.
func (d *Device) markUrgent(s *segment) {
	if !s.evacuate {
		s.evacuate = true
		d.urgent[kindIndex(s.band)]++
	}
}

func (d *Device) unmarkUrgent(s *segment) {
	if s.evacuate {
		s.evacuate = false
		d.urgent[kindIndex(s.band)]--
	}
}

// evacuateSegment has a segment emptied before others.
func (d *Device) evacuateSegment(s *segment) {
	switch s.state {
	case segFull, segClosing:
		d.markUrgent(s)
	case segOpen:
		d.markUrgent(s)
		if t := s.owner; t.next == s { // opened ahead of need
			t.next = nil
		}
		d.seal(s)
	default:
	}
	d.wake()
}
