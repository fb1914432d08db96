package sim

import "slices"

// Survival is what a power loss does to what a device had not made durable.
type Survival uint8

// The ways in which unflushed writes survive.
const (
	SurviveAny     Survival = iota // one of the others, drawn for this loss
	SurviveNone                    // nothing
	SurviveAll                     // everything, also what was in flight
	SurvivePrefix                  // what reached the cache first
	SurviveWrites                  // whole writes at random
	SurviveBlocks                  // blocks at random
	SurviveSectors                 // sectors at random, on a device that tears them
	numSurvivals
)

// RandomSurvival draws one of the ways.
func RandomSurvival(r *Rand) Survival { return Survival(1 + r.IntN(int(numSurvivals)-1)) }

// PowerLoss ends the life of the device's host and of its cache: of what was not durable a part survives that the
// device chooses, block by block, each with any content that it had since it was last made durable.
func (d *Disk) PowerLoss(at int64, how Survival) {
	if how == SurviveAny {
		how = Survival(1 + d.r.IntN(int(numSurvivals)-1))
	}
	if how == SurviveSectors && (!d.opt.TearSectors || d.opt.MDSize != 0) {
		how = SurviveBlocks
	}
	d.stats.PowerLosses++
	d.note(at, "power loss", uint64(how), 0, uint64(len(d.dirty)), nil)
	d.losing = true
	d.interrupt(how)
	d.losing = false
	cut := uint64(0)
	if how == SurvivePrefix && d.transfers > 0 {
		oldest := d.transfers
		for _, lba := range d.dirty {
			for v := d.cached[lba]; v != nil; v = v.prev {
				oldest = min(oldest, v.by.id)
			}
		}
		cut = oldest - 1 + d.r.Uint64N(d.transfers-oldest+2)
	}
	salt := d.r.Uint64()
	p := d.r.Float64()
	for _, lba := range d.dirty {
		d.settle(lba, how, cut, salt, p)
	}
	d.dirty = d.dirty[:0]
}

// Kill ends the host's process: the device and its cache live on, what was in flight arrives or does not.
func (d *Disk) Kill(at int64) {
	d.stats.Kills++
	d.note(at, "kill", 0, 0, uint64(len(d.dirty)), nil)
	d.interrupt(SurviveWrites)
	// Whatever arrived is complete for the next process: a flush of it covers everything.
	for _, lba := range d.dirty {
		for v := d.cached[lba]; v != nil; v = v.prev {
			if v.by.delivered == 0 {
				d.deliver(v.by)
			}
		}
	}
}

// Unplug takes the device away from a host that lives on: its cache loses power, what is in flight fails, and so does
// everything from then on, until the faults are mended.
func (d *Disk) Unplug(at int64, how Survival) {
	flying := slices.Clone(d.inflight)
	d.PowerLoss(at, how)
	d.opt.Faults.Gone = true
	for _, q := range flying {
		q.dead = false
		if !q.applied { // the others have their answer on its way
			q.gone, q.err = true, errGone
			q.ch.t.Send(deliver, q)
		}
	}
}

// interrupt lets the writes in flight arrive in the cache in part, in random order.
func (d *Disk) interrupt(how Survival) {
	flying := d.inflight
	d.inflight = nil
	d.r.Shuffle(len(flying), func(i, j int) { flying[i], flying[j] = flying[j], flying[i] })
	for _, q := range flying {
		q.dead = true
		if !q.arrives() || q.applied || how == SurviveNone {
			continue
		}
		d.stats.Interrupted++
		t := d.newTransfer()
		lo, hi := uint64(0), q.count
		if how != SurviveAll {
			lo, hi = d.part(q.count)
		}
		holes := how != SurviveAll && d.r.IntN(3) == 0
		for i := lo; i < hi; i++ {
			if !holes || d.r.IntN(4) != 0 {
				d.apply(q, i, q.lba+i, t, false)
			}
		}
	}
}

// part chooses which blocks of an interrupted write may arrive: none, the beginning, the end, all.
func (d *Disk) part(count uint64) (lo, hi uint64) {
	switch d.r.IntN(6) {
	case 0, 1:
		return 0, 0
	case 2, 3:
		return 0, d.r.Uint64N(count + 1)
	case 4:
		return d.r.Uint64N(count + 1), count
	}
	return 0, count
}

// settle chooses what the medium has of one block after a power loss.
func (d *Disk) settle(lba uint64, how Survival, cut, salt uint64, p float64) {
	newest := d.cached[lba]
	d.cached[lba] = nil
	var take *version
	switch how {
	case SurviveAll:
		take = newest
	case SurvivePrefix:
		for take = newest; take != nil && take.by.id > cut; {
			take = take.prev
		}
	case SurviveWrites:
		for take = newest; take != nil && !kept(take.by.id, salt, p); {
			take = take.prev
		}
	case SurviveBlocks:
		for take = newest; take != nil && !d.r.Chance(p); {
			take = take.prev
		}
	case SurviveSectors:
		d.tear(lba, newest, p)
		return
	default: // SurviveNone
	}
	for v := newest; v != nil; v = v.prev {
		if v == take {
			d.setStable(lba, v.page)
			d.stats.Kept++
			continue
		}
		d.freePage(v.page)
		d.stats.Lost++
	}
}

// kept is a coin that falls the same way for every block of one write.
func kept(id, salt uint64, p float64) bool {
	x := (id ^ salt) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return float64(x>>11)/(1<<53) < p
}

// garble spoils a sector of a torn block: the power failed in the middle of it.
func (d *Disk) garble(block []byte) {
	d.stats.Garbled++
	at := d.r.IntN(len(block)/SectorSize) * SectorSize
	for i := range SectorSize {
		block[at+i] ^= byte(d.r.Uint64())
	}
}

// tear builds the block from sectors of any of its versions. Often one of them is of none.
func (d *Disk) tear(lba uint64, newest *version, p float64) {
	out := d.newPage()
	if s := d.stable[lba]; s != nil {
		copy(out.data, s.data)
	} else {
		clear(out.data)
	}
	mixed := false
	for at := 0; at < len(out.data); at += SectorSize {
		for v := newest; v != nil; v = v.prev {
			if d.r.Chance(p) {
				if v.page == nil {
					clear(out.data[at : at+SectorSize])
				} else {
					copy(out.data[at:at+SectorSize], v.page.data[at:])
				}
				mixed = true
				break
			}
		}
	}
	if mixed {
		d.stats.Torn++
		if d.r.IntN(2) == 0 {
			d.garble(out.data)
		}
	}
	for v := newest; v != nil; v = v.prev {
		d.freePage(v.page)
	}
	d.setStable(lba, out)
}
