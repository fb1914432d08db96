package ftlsim

import "slices"

// rot flips bits of some blocks while the device is down. Of what was written last at most one block rots: the last
// record of the log says what was durable before it, and when it goes together with one of those, nobody can tell
// that anything is missing.
func (p *Play) rot(blocks int) {
	if p.life.plan.RotLog {
		p.rotLog()
		return
	}
	tail := false
	for range blocks {
		for range 50 {
			i, lba, last := p.rotten()
			if last && tail || !p.mayRot(i, lba) {
				continue
			}
			tail = tail || last
			d := p.disks[i]
			d.Rot(lba)
			p.life.w.Note(d.Options().Name, "rots", 0, lba, 1, nil)
			p.count("blocks rotten", 1)
			break
		}
	}
}

// rotLog flips a bit of the metadata of a block of the log that was written last: it says which block of which record
// it is, and of which LBA.
func (p *Play) rotLog() {
	r, d := p.life.r, p.disks[Cache]
	recent := d.Recent()
	if p.lulled {
		recent = p.tail()
	}
	for range min(50, 50*len(recent)) {
		lba := recent[r.IntN(len(recent))]
		if lba < p.known.Front(true) || !p.mayRot(Cache, lba) {
			continue
		}
		d.RotMetadata(lba)
		p.life.w.Note(d.Options().Name, "rots", 0, lba, 1, nil)
		p.count("blocks rotten", 1)
		return
	}
}

// tail returns the last blocks of the log, a few records.
func (p *Play) tail() []uint64 {
	list := p.disks[Cache].Latest()
	list = slices.DeleteFunc(list, func(lba uint64) bool { return lba < p.known.Front(true) })
	return list[:min(len(list), 12)]
}

// rotten draws a block: from anywhere, from what was written last, from the metadata, from the mapping.
func (p *Play) rotten() (i int, lba uint64, last bool) {
	r := p.life.r
	i = r.IntN(numDisks)
	d := p.disks[i]
	front := p.known.Front(i == Cache)
	switch r.IntN(4) {
	case 0:
		lba = r.Uint64N(d.Options().Blocks)
	case 1:
		recent := d.Recent()
		if len(recent) == 0 {
			return i, 0, false
		}
		lba = recent[r.IntN(len(recent))]
	case 2:
		lba = r.Uint64N(front)
	default:
		first := p.firstPage(i)
		if first == front {
			return i, 0, false
		}
		lba = first + r.Uint64N(front-first)
	}
	for _, x := range d.Recent() {
		last = last || x == lba
	}
	return i, lba, last
}

// firstPage is where the mapping begins: what is in front of the log and has no second copy.
func (p *Play) firstPage(i int) uint64 {
	first := p.known.Front(i == Cache)
	for first > 0 && p.known.Body(i == Cache, first-1) {
		first--
	}
	return first
}

// mayRot says whether a block holds something, and has no second copy that is bad already: a power loss may have torn
// that of metadata.
func (p *Play) mayRot(i int, lba uint64) bool {
	return !p.disks[i].Blank(lba) && p.known.Sole(i == Cache, lba) && (!p.powered || p.known.Body(i == Cache, lba))
}
