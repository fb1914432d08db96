package ftlsim

import "goftl/tests/sim"

// Kind is a kind of world.
type Kind struct {
	Name  string
	Test  string // the test that plays it
	Count int    // seeds that the test plays by default
	Scale int    // one seed of it for so many that are asked for
	// Draw changes a plan that was drawn for worlds in which nothing fails.
	Draw func(r *sim.Rand, p *Plan)
	// Errors: devices fail now and then. Requests, starts and stops may fail too, but not in calm lives.
	Errors bool
	// Rot: what is on the devices may change or be lost behind everybody's back. Reads may fail at any time, and the
	// device may say that it has lost something; what it returns is right all the same.
	Rot bool
}

// Kinds are all kinds of worlds.
var Kinds = []Kind{
	{Name: "plain", Test: "TestFTL", Count: 200, Scale: 1},
	{Name: "restless", Test: "TestFTLRestless", Count: 50, Scale: 2, Draw: drawRestless},
	{Name: "faults", Test: "TestFTLFaults", Count: 50, Scale: 2, Draw: drawFaults, Errors: true},
	{Name: "bases", Test: "TestFTLBases", Count: 100, Scale: 1, Draw: drawBases},
	{Name: "failing bases", Test: "TestFTLFailingBases", Count: 50, Scale: 2, Draw: drawFailingBases, Errors: true},
	{Name: "buffered", Test: "TestFTLBuffered", Count: 50, Scale: 2, Draw: drawBuffered},
	{Name: "buffered-faults", Test: "TestFTLBufferedFaults", Count: 50, Scale: 2, Draw: drawBufferedFaults, Errors: true},
	{Name: "rot", Test: "TestFTLRot", Count: 50, Scale: 2, Draw: drawRot, Rot: true},
	{Name: "stray", Test: "TestFTLStray", Count: 50, Scale: 4, Draw: drawStray, Rot: true},
	{Name: "lost zones", Test: "TestFTLLostZones", Count: 50, Scale: 4, Draw: drawLostZones, Rot: true},
	{Name: "gone", Test: "TestFTLGone", Count: 50, Scale: 4, Draw: drawGone, Errors: true},
}

// drawRestless makes a small world of many short lives in which little is written and most starts are cut short: in a
// large one too few crashes meet the writing of descriptors, superblocks and checkpoints, and what recovery itself does.
func drawRestless(r *sim.Rand, p *Plan) {
	p.Geometry = Geometry{
		ChunkBlocks: 16 << r.IntN(2), BandBlocks: 16 << r.IntN(2), Chunks: 5 + r.Uint64N(5), Bands: 14 + r.Uint64N(6),
		SparePct: uint32(10 + r.IntN(40)),
	}
	p.Config.Shm = r.IntN(3) != 0
	p.Disks[Cache].Volatile, p.Disks[Base].Volatile = true, r.IntN(4) != 0
	for i := range p.Disks {
		p.Disks[i].TearSectors = r.IntN(8) != 0
		if r.IntN(3) != 0 {
			p.Disks[i].MDSize = 0 // such a block can be torn
		}
	}
	last := len(p.Lives) - 2 // and the calm ones
	most, noMem := 5+r.Skewed(100), p.Lives[0].Faults[Cache].NoMem
	lives := make([]Life, 0, 32)
	for range 10 + r.IntN(20) {
		l := drawLife(r, uint64(len(lives))+1, most)
		if r.IntN(3) != 0 {
			l.Start = drawFuse(r, 600)
		}
		if r.IntN(3) == 0 {
			l.Work, l.Stop, l.Fast = Fuse{}, drawFuse(r, 300), false
		}
		if r.IntN(2) == 0 {
			l.Keep = [numDisks]sim.Survival{sim.SurviveSectors, sim.SurviveSectors}
		}
		for i := range l.Faults {
			l.Faults[i].NoMem = noMem
		}
		lives = append(lives, l)
	}
	for _, l := range p.Lives[last:] {
		l.Seed = uint64(len(lives)) + 1
		for i := range l.Phases {
			l.Phases[i].Seed = l.Seed<<8 | uint64(i) + 1
			l.Phases[i].Ops = 1 + l.Phases[i].Ops%int(most)
		}
		lives = append(lives, l)
	}
	p.Lives = lives
}

// drawBuffered gives the device a volatile write cache and several users, on any base.
func drawBuffered(r *sim.Rand, p *Plan) {
	if r.IntN(2) == 0 {
		drawBases(r, p)
	}
	drawBuffer(r, p)
}

// drawBufferedFaults does so where devices fail.
func drawBufferedFaults(r *sim.Rand, p *Plan) {
	drawFaults(r, p)
	drawBuffer(r, p)
}

func drawBuffer(r *sim.Rand, p *Plan) {
	p.Config.WriteBuffer, p.Config.Channels = uint64(r.Skewed(300)), r.IntN(5)
}

// drawFaults has reads, writes and flushes fail now and then.
func drawFaults(r *sim.Rand, p *Plan) {
	for i := range p.Lives {
		l := &p.Lives[i]
		for k := range l.Faults {
			l.Faults[k] = sim.Faults{}
			if l.Calm {
				continue
			}
			l.Faults[k] = drawDiskFaults(r)
		}
		l.Look = l.Look && l.Calm
		if !l.Calm && r.IntN(3) == 0 {
			for range 1 + r.IntN(3) {
				l.Full = append(l.Full, Full{Disk: r.IntN(numDisks), After: uint64(r.Skewed(3000)), For: uint64(r.Skewed(2000))})
			}
		}
	}
}

func drawDiskFaults(r *sim.Rand) sim.Faults {
	f := sim.Faults{NoMem: 0.02}
	if r.IntN(2) == 0 {
		f.ReadEIO = 0.02 * r.Float64()
	}
	if r.IntN(2) == 0 {
		f.WriteEIO = 0.01 * r.Float64()
	}
	if r.IntN(4) == 0 {
		f.FlushEIO = 0.002 * r.Float64()
	}
	if r.IntN(4) == 0 {
		f.NoSpace = 0.02 * r.Float64()
	}
	return f
}

// drawRot flips bits of what the disks hold while the device is down.
func drawRot(r *sim.Rand, p *Plan) {
	p.Config.NoVerify = false
	for i := range p.Lives {
		l := &p.Lives[i]
		l.Look = false
		l.Faults = [2]sim.Faults{}
		if r.IntN(2) == 0 {
			l.Rot = int(r.Skewed(16))
		}
		if i > 0 && r.IntN(4) == 0 {
			// The life before stops and leaves records to redo.
			before := &p.Lives[i-1]
			before.Work, before.Stop, before.Fast = Fuse{}, Fuse{}, true
			l.Rot, l.RotLog = 1, true
		}
	}
}

// drawStray has writes land elsewhere. A device cannot know that the last of them are missing after a crash, so lives
// in which that happens come to rest before they end.
func drawStray(r *sim.Rand, p *Plan) {
	p.Config.NoVerify = false
	for i := range p.Lives {
		l := &p.Lives[i]
		l.Look = false
		l.Faults = [2]sim.Faults{}
		if !l.Calm && r.IntN(2) == 0 {
			l.Strays = int(r.Skewed(8))
			l.Work, l.Stop = Fuse{}, Fuse{}
		}
	}
}

// drawGone takes a device away, for a life or for good.
func drawGone(r *sim.Rand, p *Plan) {
	n := r.IntN(len(p.Lives) - 2)
	forGood := r.IntN(2) == 0
	for i := range p.Lives {
		p.Lives[i].Look = false
	}
	l := &p.Lives[n]
	l.Loss = &Loss{Disk: r.IntN(numDisks), After: uint64(r.Skewed(5000)), Told: r.IntN(2) == 0, Keep: sim.RandomSurvival(r)}
	if r.IntN(3) != 0 {
		l.Work = Fuse{}
	}
	for i := n + 1; i < len(p.Lives); i++ {
		if forGood || i == n+1 && r.IntN(3) == 0 {
			p.Lives[i].Gone[l.Loss.Disk] = true
		}
	}
}
