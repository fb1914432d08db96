package ftlsim

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/tests/sim"
)

// event is something that happens to the devices while the process works.
type event struct {
	at uint64 // boundary
	do func()
}

// plant prepares what is to happen in the work of this life.
func (p *Play) plant() {
	l := p.life
	at := p.boundaries()
	if x := l.plan.Loss; x != nil {
		l.events = append(l.events, event{at + x.After, func() { p.lose(x) }})
	}
	if l.plan.FreeGone > 0 && l.boot.Zones != nil {
		l.events = append(l.events, event{at, func() { p.freeGone(l.plan.FreeGone, 2000) }})
	}
	for _, f := range l.plan.Full {
		at += f.After
		l.events = append(l.events, event{at, func() { p.full(f.Disk, 1) }})
		at += f.For
		l.events = append(l.events, event{at, func() { p.full(f.Disk, 0) }})
	}
	p.aim()
}

// happen lets happen what is due.
func (p *Play) happen() {
	l := p.life
	for len(l.events) > 0 && p.boundaries() >= l.events[0].at {
		e := l.events[0]
		l.events = l.events[1:]
		e.do()
	}
}

// mend ends what the devices do to the process, which must come good then, unless it has given up or a device is lost.
func (p *Play) mend() error {
	l := p.life
	l.events = nil
	for i, d := range p.disks {
		d.SetAim(nil)
		f := d.Faults()
		if !f.Gone {
			*f = sim.Faults{NoMem: l.plan.Faults[i].NoMem}
		}
	}
	if l.behind && !p.dev.ReadOnly() {
		return p.load(&Phase{Seed: l.plan.Seed, Ops: 60, Depth: 8, Most: 16, Weights: [NumKinds]int{Write: 8, Flush: 1}}, forever)
	}
	if !p.failing() || l.lost || p.dev.ReadOnly() {
		return nil
	}
	// Errors are tried again after a pause. While threads were not scheduled nobody tried anything.
	awake := func() int64 { return l.w.Now() - l.w.Stalled() }
	for end := awake() + 200e6; awake() < end; {
		rest := end - awake()
		until := l.w.Now() + rest
		l.w.After(rest, func(any) {}, nil)
		if err := p.phase("rest", stepsLoad, forever, func() bool { return l.w.Now() >= until }); err != nil {
			return err
		}
	}
	if p.dev.ReadOnly() {
		return nil
	}
	l.mended = true
	p.count("writes after the faults", 1)
	err := p.load(&Phase{Seed: l.plan.Seed, Ops: 30, Depth: 8, Most: 16, Weights: [NumKinds]int{Write: 8, Flush: 1}}, forever)
	l.mended = false
	return err
}

func (p *Play) full(disk int, chance float64) {
	p.disks[disk].Faults().NoSpace = chance
	p.life.w.Note(diskNames[disk], "no space", 0, 0, uint64(chance), nil)
}

// lose takes a device away.
func (p *Play) lose(x *Loss) {
	l := p.life
	l.lost = true
	p.count("device lost: "+diskNames[x.Disk], 1)
	p.disks[x.Disk].Unplug(l.w.Now(), x.Keep)
	if !x.Told {
		return
	}
	l.removals++
	l.boot.Thread.Send(func(any) {
		l.boot.Manager.Lookup(diskNames[x.Disk]).Unregister(l.boot.Thread, func(_ any, err error) {
			if err != nil {
				p.failf("removal: %w", err)
			}
			l.removals--
		}, nil)
	}, nil)
}

// aim lets writes go astray: never both copies of something.
func (p *Play) aim() {
	left := p.life.plan.Strays
	if left == 0 {
		return
	}
	r := p.stream("aim", p.life.plan.Seed)
	// Descriptors are few among what is written, and most that are lost are soon written again. In some lives only those
	// go astray, many of them, and land where they harm nothing: what is left of them is the copy before.
	descriptors := r.IntN(3) == 0
	var bad *spot
	if !descriptors {
		bad = p.spot()
	}
	chance := 0.02
	switch {
	case descriptors:
		left, chance = 100*left, 0.3
	case bad != nil:
		left, chance = 100*left, 0.7
	}
	for i, d := range p.disks {
		d.Faults().Stray = chance
		d.SetAim(func(lba, count uint64) (uint64, bool) {
			descriptor := p.dev.Descriptor(i == Cache, lba)
			if left == 0 || !p.sole(i, lba, count) || descriptors && !descriptor || bad != nil && !bad.holds(i, lba) {
				return 0, false
			}
			to := p.target(r, d, descriptors || bad != nil)
			if to+count > d.Options().Blocks || to < lba+count && lba < to+count || !p.sole(i, to, count) {
				return 0, false
			}
			left--
			p.strayed = true
			p.count("write gone astray", 1)
			if descriptor {
				p.count("write of a descriptor gone astray", 1)
			}
			if bad != nil {
				p.count("write of a bad spot gone astray", 1)
			}
			return to, true
		})
	}
}

// spot is a part of a device that takes few of the writes sent to it.
type spot struct {
	disk     int
	from, to uint64
}

func (s *spot) holds(disk int, lba uint64) bool { return disk == s.disk && lba >= s.from && lba < s.to }

// spot draws, in some lives, one segment or a few: bodies and the summaries that tell of them miss their writes together,
// and what is left of them is of the use before. Of a log that was lost in one piece with its end nothing could tell, so
// something is written behind it before such a life ends.
func (p *Play) spot() *spot {
	r := p.stream("spot", p.life.plan.Seed)
	g := &p.plan.Geometry
	if r.IntN(2) == 0 || g.Zones.Blocks > 0 {
		return nil
	}
	s := &spot{disk: r.IntN(numDisks)}
	size, n := g.BandBlocks, g.Bands
	if s.disk == Cache {
		size, n = g.ChunkBlocks, g.Chunks
		p.life.behind = true
	}
	s.from = p.dev.Front(s.disk == Cache) + r.Uint64N(n)*size
	s.to = s.from + (1+r.Uint64N(3))*size
	return s
}

// target draws where a write goes that strays: often to what was written last, or else to where nobody uses at least
// the first block.
func (p *Play) target(r *sim.Rand, d *sim.Disk, unused bool) uint64 {
	to := r.Uint64N(d.Options().Blocks)
	for tries := 0; unused && !d.Blank(to) && tries < 100; tries++ {
		to = r.Uint64N(d.Options().Blocks)
	}
	if recent := d.Recent(); !unused && r.IntN(2) == 0 && len(recent) > 0 {
		to = recent[r.IntN(len(recent))]
	}
	return to
}

func (p *Play) sole(i int, lba, count uint64) bool {
	for n := range count {
		if !p.dev.Sole(i == Cache, lba+n) {
			return false
		}
	}
	return true
}

// without judges the start of a process that does not find one of its devices: it must fail cleanly.
func (p *Play) without(failed error) error {
	if !errors.Is(failed, unix.ENODEV) {
		return fmt.Errorf("start without one of the devices: %w", failed)
	}
	p.count("start refused without a device", 1)
	if err := p.leaks(); err != nil {
		return fmt.Errorf("after a start without one of the devices: %w", err)
	}
	p.kill()
	return errOver
}

// register makes the devices of a life.
func (p *Play) register(b *Boot) error {
	l := p.life
	b.Manager = bdev.NewManager(b.World.System(), nil)
	b.Thread = b.World.System().NewThread("core")
	for i, d := range p.disks {
		d.SetAim(nil)
		d.Reseed(p.stream(diskNames[i], l.plan.Seed))
		*d.Faults() = l.plan.Faults[i]
		if l.plan.Gone[i] {
			continue
		}
		if _, err := b.Manager.Register(sim.Attach(b.World, d)); err != nil {
			return err
		}
	}
	return nil
}
