package ftlsim

import (
	"cmp"
	"math"
	"slices"

	"goftl/bdev"
	"goftl/bdev/zone"
	"goftl/ftl"
	"goftl/tests/sim"
)

// zonesName is the device with the zones of the base.
const zonesName = "zones"

// bootZones puts zones over the base, if the plan wants some, as a device that keeps what it promised through crashes.
func (p *Play) bootZones() error {
	z := &p.plan.Geometry.Zones
	if z.Blocks == 0 {
		return nil
	}
	b, l := p.life.boot, p.life.plan
	o := zone.Options{
		Name: zonesName, Base: diskNames[Base], ZoneBlocks: z.Blocks, Capacity: z.Capacity, Units: uint32(z.Units),
		WriteUnit: z.WriteUnit, MaxOpen: z.MaxOpen, MaxActive: z.MaxOpen, ConvZones: z.Conv, Persist: true,
		ReadOnly: z.ReadOnly, Offline: z.Offline, FailReset: l.FailReset,
	}
	dev, err := zone.Create(b.Manager, b.Thread, o)
	if err != nil {
		return err
	}
	b.Zones = dev
	return nil
}

// turnZone makes a zone read-only, if the life has that in store.
func (p *Play) turnZone() {
	b, l := p.life.boot, p.life.plan
	if b.Zones == nil || l.ZoneTurns == 0 {
		return
	}
	z := b.Zones.Driver().(*zone.Driver)
	i := p.plan.Geometry.Zones.Conv + l.ZoneTurns
	state := bdev.ZoneReadOnly
	if l.ZoneGone {
		state = bdev.ZoneOffline
	}
	b.Thread.Send(func(any) {
		if err := z.SetZoneState(i, state); err == nil {
			p.count("zones turned "+state.String(), 1)
		}
	}, nil)
}

// freeGone has the free bands lose their zones whenever there are few enough of them: nothing maps to them, so users must
// not notice, but relocation may have no band to begin with. It looks so many times, and takes no more than left bands.
func (p *Play) freeGone(left, looks int) {
	l := p.life
	zones := p.dev.FreeZones(left)
	z := l.boot.Zones.Driver().(*zone.Driver)
	for _, i := range zones {
		if err := z.SetZoneState(i, bdev.ZoneOffline); err != nil {
			p.failf("a zone of a free band: %w", err)
		}
	}
	if len(zones) > 0 {
		p.count("free bands lost", 1)
		left -= len(zones) / int(p.plan.Geometry.Zones.Units)
	}
	if left > 0 && looks > 0 {
		l.events = append(l.events, event{p.boundaries() + 20, func() { p.freeGone(left, looks-1) }})
		slices.SortStableFunc(l.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	}
}

// zonesToLose is how many zones of a kind may be lost without more bands than drawZones gives.
const zonesToLose = 2

// spare adds n bands that users get nothing of.
func (g *Geometry) spare(n uint64) {
	if n == 0 {
		return
	}
	users := (100 - uint64(g.SparePct)) * g.Bands
	g.Bands += n
	g.SparePct = uint32(100 - users/g.Bands)
	g.moveZones()
}

// shrink makes zones of at most so many blocks.
func (z *Zones) shrink(blocks uint64) {
	if z.Blocks <= blocks {
		return
	}
	z.Capacity = z.Capacity * blocks / z.Blocks
	z.Capacity -= z.Capacity % max(uint64(z.WriteUnit), 1)
	z.Blocks = blocks
}

// moveZones makes room for the conventional zones that the metadata takes now.
func (g *Geometry) moveZones() {
	z := &g.Zones
	was := z.Conv
	z.Conv = g.convZones()
	for _, list := range [][]uint64{z.ReadOnly, z.Offline} {
		for i := range list {
			list[i] += z.Conv - was
		}
	}
}

// padding is how many bands write units cost when each band is of two records, which lose almost a unit each. That is
// much in bands as small as these.
func (g *Geometry) padding() uint64 {
	z := &g.Zones
	if z.WriteUnit < 2 {
		return 0
	}
	return g.Bands * 2 * uint64(z.WriteUnit) / (z.Capacity * z.Units)
}

// convZones is how many conventional zones the metadata takes.
func (g *Geometry) convZones() uint64 {
	if !g.Alone {
		return 0
	}
	return (2*g.Bands+400)/g.Zones.Blocks + 1
}

// drawBases puts the device on zones, or does without a cache, or both.
func drawBases(r *sim.Rand, p *Plan) {
	g := &p.Geometry
	g.NoCache = r.IntN(2) == 0
	if g.NoCache {
		g.Chunks, g.ChunkBlocks, g.CacheRest = 0, 0, r.Uint64N(64)
		g.Alone = r.IntN(2) == 0
		if r.IntN(2) == 0 {
			p.Config.Limits = ftl.Limits{}
		}
	}
	if !g.NoCache || r.IntN(3) != 0 {
		drawZones(r, g)
		p.Disks[Base].MDSize = 0
		turns, fails := 0, 0
		for i := range p.Lives {
			l := &p.Lives[i]
			l.Look = false // the emulation of zones writes when it begins
			if !l.Calm && r.IntN(3) == 0 {
				turns++
				l.ZoneTurns = r.Uint64N(g.Bands * g.Zones.Units)
			}
			if !l.Calm && r.IntN(3) == 0 {
				fails++
				l.FailReset = uint64(r.Skewed(40))
			}
		}
		g.spare(uint64(max(0, turns-zonesToLose)+max(0, fails-zonesToLose)+drawFreeGone(p)) + g.padding())
	}
	for i := range p.Lives {
		p.Lives[i].Faults = [2]sim.Faults{{NoMem: p.Lives[i].Faults[0].NoMem}, {NoMem: p.Lives[i].Faults[1].NoMem}}
	}
}

// drawFreeGone has the free bands of some plans be lost, while the device is full, and returns how many bands that may
// cost.
func drawFreeGone(p *Plan) int {
	r := sim.Stream(p.Seed, "free bands", 0)
	l := &p.Lives[r.IntN(len(p.Lives)-2)]
	if r.IntN(3) == 0 {
		return 0
	}
	l.FreeGone = 3 + r.IntN(20)
	l.Phases = append([]Phase{
		{Seed: l.Seed<<8 | 0xe0, All: true, Ops: math.MaxInt32, Depth: 16, Most: 40, Weights: [NumKinds]int{Write: 1}},
		{Seed: l.Seed<<8 | 0xe1, Ops: 100 + r.IntN(400), Depth: 1 + r.IntN(64), Most: 16, Mode: Mode(r.IntN(int(numModes))), Weights: [NumKinds]int{Write: 1}},
	}, l.Phases...)
	return l.FreeGone
}

// drawLostZones has zones go offline in the middle of the work, with all that they hold.
func drawLostZones(r *sim.Rand, p *Plan) {
	for drawn := p.Geometry; p.Geometry.Zones.Blocks == 0; {
		p.Geometry = drawn
		drawBases(r, p)
	}
	p.Config.NoVerify = false
	for i := range p.Lives {
		l := &p.Lives[i]
		l.ZoneGone = l.ZoneTurns > 0 && r.IntN(2) == 0
	}
}

// drawFailingBases has the devices of such worlds fail now and then. Free bands keep their zones, for where descriptors
// cannot be written nobody can tell that a band was free.
func drawFailingBases(r *sim.Rand, p *Plan) {
	drawBases(r, p)
	drawFaults(r, p)
	for i := range p.Lives {
		p.Lives[i].FreeGone = 0
	}
}

func drawZones(r *sim.Rand, g *Geometry) {
	z := &g.Zones
	z.Units = []uint64{1, 2, 3, 4}[r.IntN(4)]
	z.Blocks = 16 << r.IntN(4)
	z.Capacity = z.Blocks
	if r.IntN(2) == 0 {
		z.Capacity -= r.Uint64N(z.Blocks / 4)
	}
	if r.IntN(3) == 0 {
		z.WriteUnit = []uint32{2, 4}[r.IntN(2)]
		z.Capacity -= z.Capacity % uint64(z.WriteUnit)
	}
	if z.Blocks*z.Units < 32 {
		z.Units = 2
	}
	z.Append = r.IntN(2) == 0
	if r.IntN(2) == 0 {
		z.MaxOpen = uint32(z.Units) * uint32(2+r.IntN(4))
	}
	g.BandBlocks, g.SizeBlocks, g.BaseRest = 0, 0, 0
	g.Bands = 26 + r.Uint64N(30)
	if g.Alone {
		z.WriteUnit = 0
	}
	z.Conv = g.convZones()
	g.SparePct = uint32(30 + r.IntN(30)) // zones may be lost
	if r.IntN(3) == 0 {
		z.ReadOnly = []uint64{z.Conv + r.Uint64N(g.Bands*z.Units)}
		z.Offline = []uint64{z.Conv + r.Uint64N(g.Bands*z.Units)}
	}
}
