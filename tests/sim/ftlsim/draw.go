package ftlsim

import (
	"goftl/tests/sim"
)

// NewPlan draws the plan of a seed for a kind of world.
func NewPlan(seed uint64, kind *Kind) *Plan {
	r := sim.Stream(seed, "plan", 0)
	p := &Plan{
		Kind: kind.Name, Seed: seed,
		Geometry: drawGeometry(r), Config: drawConfig(r), World: sim.RandomWorldOptions(r),
	}
	for i := range p.Disks {
		p.Disks[i] = drawDisk(r)
	}
	p.Disks[Cache].MDSize = []int{0, 64, 128}[r.Pick(5, 4, 1)]
	p.Disks[Base].MDSize = []int{0, 8, 64}[r.Pick(8, 1, 1)]
	most := 20 + r.Skewed(1500)
	relapse := r.IntN(8) == 0 // recoveries are interrupted again and again
	noMem := 0.0
	if r.IntN(3) == 0 {
		noMem = 0.1 * r.Float64()
	}
	for range 2 + r.IntN(5) {
		l := drawLife(r, uint64(len(p.Lives))+1, most)
		if relapse && r.IntN(4) != 0 {
			l.Start = drawFuse(r, 200)
		}
		for i := range l.Faults {
			l.Faults[i].NoMem = noMem
		}
		p.Lives = append(p.Lives, l)
	}
	for range 2 { // everything must come good, and stay
		l := drawLife(r, uint64(len(p.Lives))+1, most)
		l.Calm, l.Kill = true, true
		l.Start, l.Work, l.Stop = Fuse{}, Fuse{}, Fuse{}
		p.Lives = append(p.Lives, l)
	}
	p.Lives[len(p.Lives)-1].Fill = r.IntN(4) == 0
	if kind.Draw != nil {
		kind.Draw(r, p)
	}
	drawDetours(p)
	drawInside(p)
	drawHasty(p)
	drawLull(p)
	drawTorn(p)
	if p.Geometry.Zones.Blocks > 0 {
		p.Lives[len(p.Lives)-1].Fill = false // zones that were lost may have taken the room for it
	}
	return p
}

// Shrink makes the device of a plan small, and its requests of at most so many blocks.
func (p *Plan) Shrink(most int64) {
	for i := range p.Lives {
		for k := range p.Lives[i].Phases {
			ph := &p.Lives[i].Phases[k]
			ph.Most = min(ph.Most, most)
		}
	}
	g := &p.Geometry
	g.ChunkBlocks, g.CacheRest = min(g.ChunkBlocks, 64), min(g.CacheRest, 15)
	if z := &g.Zones; z.Blocks > 0 {
		z.shrink(32)
		g.moveZones()
		g.spare(g.padding())
		return
	}
	g.BandBlocks, g.SizeBlocks, g.BaseRest = min(g.BandBlocks, 64), 0, min(g.BaseRest, 15)
}

func drawGeometry(r *sim.Rand) Geometry {
	g := Geometry{
		ChunkBlocks: 16 << r.IntN(6), BandBlocks: 16 << r.IntN(5), Chunks: 5 + r.Uint64N(20), Bands: 14 + r.Uint64N(40),
		SparePct: uint32(10 + r.IntN(40)),
	}
	if r.IntN(3) == 0 {
		// Well below what fits: less than half of the base.
		g.SizeBlocks = (1 + r.Uint64N(g.Bands/4)) * g.BandBlocks
	}
	if r.IntN(3) == 0 {
		g.CacheRest, g.BaseRest = r.Uint64N(g.ChunkBlocks), r.Uint64N(g.BandBlocks)
	}
	return g
}

func drawConfig(r *sim.Rand) Config {
	c := Config{Greedy: r.IntN(4) == 0, Shm: r.IntN(3) == 0, NoVerify: r.IntN(8) == 0}
	if r.IntN(2) == 0 {
		c.RedoBytes = 1 << 20 << r.IntN(3)
	}
	if r.IntN(2) == 0 {
		c.SumCacheBytes = 4096 << r.IntN(6)
	}
	if r.IntN(3) == 0 {
		l := &c.Limits
		l.ThrottlePct, l.RelocatePct = 1+r.IntN(40), 1+r.IntN(30)
		l.CompactPct = 1 + r.IntN(80)
		l.CheckpointPct = 1 + r.IntN(l.CompactPct)
		l.CriticalPct = 1 + r.IntN(l.CheckpointPct)
	}
	return c
}

func drawDisk(r *sim.Rand) sim.DiskOptions {
	o := sim.DiskOptions{
		Volatile: r.IntN(5) != 0, FUA: r.IntN(2) == 0, TearSectors: r.IntN(2) == 0, KeepOnTrim: r.IntN(3) == 0,
		Latency: sim.RandomLatency(r),
	}
	if r.IntN(3) == 0 {
		o.Latency.Flush = r.Range(0, 5_000_000)
	}
	if r.IntN(4) == 0 {
		o.MaxTransfer = uint32(1 + r.IntN(32))
	}
	return o
}

func drawFuse(r *sim.Rand, most int64) Fuse {
	if r.IntN(3) == 0 {
		return Fuse{After: uint64(r.Skewed(max(1, most/30))), Meta: true}
	}
	return Fuse{After: uint64(r.Skewed(most))}
}

func drawLife(r *sim.Rand, seed uint64, most int64) Life {
	l := Life{Seed: seed, Look: r.IntN(6) == 0, Fast: r.IntN(3) == 0, Check: r.IntN(2) == 0}
	if r.IntN(8) == 0 {
		l.Clock = []int64{1, r.Range(1, 2e9), r.Range(1e12, 1e17)}[r.IntN(3)]
	}
	if r.IntN(3) == 0 {
		l.Start = drawFuse(r, 600)
	}
	if r.IntN(4) != 0 {
		l.Work = drawFuse(r, 20_000)
	}
	switch r.IntN(6) {
	case 0:
		l.Stop = drawFuse(r, 300)
	case 1:
		l.Stop = Fuse{After: 1 + r.Uint64N(20), Meta: true}
	}
	l.Kill = r.IntN(3) == 0
	for i := range l.Keep {
		l.Keep[i] = sim.RandomSurvival(r)
	}
	for range 1 + r.IntN(4) {
		l.Phases = append(l.Phases, drawPhase(r, seed<<8|uint64(len(l.Phases))+1, most))
	}
	return l
}

// drawInside has half of the kills come in the middle of a poll, where the process leaves something behind that changes
// from one instruction to the next: shared memory. What disks have after a crash is the same either way, because
// whatever was submitted in a poll may be there or not. These are draws of their own, so that older plans stay as they
// were.
func drawInside(p *Plan) {
	if !p.Config.Shm {
		return
	}
	r := sim.Stream(p.Seed, "inside", 0)
	for i := range p.Lives {
		p.Lives[i].Inside = r.IntN(2) == 0 && p.Lives[i].Kill
	}
}

// drawHasty has a third of the lives that would end in the middle of their work be stopped there, and half of these stops
// be cut short. Devices that have come to rest do nothing in a fast stop.
func drawHasty(p *Plan) {
	r := sim.Stream(p.Seed, "hasty", 0)
	for i := range p.Lives {
		l := &p.Lives[i]
		if !l.Work.lit() || r.IntN(3) != 0 {
			continue
		}
		l.Hasty = true
		l.Fast = r.IntN(2) == 0
		if r.IntN(2) == 0 {
			l.Stop = drawFuse(r, 150)
		}
	}
}

// drawLull has users fall silent, in half of the lives whose log rots afterwards, in the middle of a checkpoint: what they
// wrote last is durable by its flush, and no later record says so.
func drawLull(p *Plan) {
	r := sim.Stream(p.Seed, "lull", 0)
	for i := range p.Lives {
		if i == 0 || !p.Lives[i].RotLog || r.IntN(2) == 0 {
			continue
		}
		l := &p.Lives[i-1]
		l.Lull, l.Hasty = true, false
		l.Work, l.Stop, l.Fast = Fuse{After: uint64(r.Skewed(50)), Pages: true}, Fuse{}, true
	}
}

// drawDetours has relocation, in some plans, go through the log though it need not.
func drawDetours(p *Plan) {
	r := sim.Stream(p.Seed, "detours", 0)
	if r.IntN(6) == 0 {
		p.Config.DetourEvery = 1 + int(r.Skewed(20))
	}
}

// drawTorn has the power fail, in some plans, at the last update of the superblock in a clean stop, and then at the first
// ones of the next life, or the next two. Nothing else is flushed between them: both copies can be lost there, if the
// repair of the one is not on the medium before the other is written.
func drawTorn(p *Plan) {
	r := sim.Stream(p.Seed, "torn", 0)
	i := r.IntN(len(p.Lives))
	if r.IntN(8) != 0 || i+1 >= len(p.Lives)-2 {
		return
	}
	l := &p.Lives[i]
	l.Start, l.Work, l.Hasty, l.Lull, l.Kill, l.Inside, l.Fast = Fuse{}, Fuse{}, false, false, false, false, false
	l.Stop = Fuse{After: min(4, 1+r.Uint64N(8)), First: true}
	for n := range 1 + r.IntN(2) {
		if l = &p.Lives[i+1+n]; l.Calm {
			return
		}
		l.Start, l.Look, l.Kill, l.Inside = Fuse{After: 1 + r.Uint64N(3), First: true}, false, false, false
	}
}

func drawPhase(r *sim.Rand, seed uint64, most int64) Phase {
	l := Phase{Seed: seed, Ops: 1 + int(r.Int64N(most)), Depth: int(r.Skewed(64)), Again: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		l.LowPct, l.Span = r.IntN(100), uint64(r.Skewed(20_000))
	}
	l.Most = []int64{1, 4, 16, 64, 300}[r.Pick(2, 4, 4, 2, 1)]
	l.Mode = Mode(r.Pick(4, 2, 1, 1))
	l.Weights = [NumKinds]int{Read: r.IntN(4), Write: 1 + r.IntN(10), Trim: r.IntN(3), Flush: r.IntN(3), Zero: r.IntN(2)}
	if r.IntN(4) == 0 {
		l.Weights = [NumKinds]int{Write: 1}
	}
	if r.IntN(2) == 0 {
		l.FUA = 1 + r.IntN(20)
	}
	switch r.IntN(6) {
	case 0:
		l.Rest = r.Range(1e5, 2e9)
	case 1:
		l.Verify = true
	}
	return l
}
