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
	{Name: "faults", Test: "TestFTLFaults", Count: 50, Scale: 2, Draw: drawFaults, Errors: true},
	{Name: "rot", Test: "TestFTLRot", Count: 50, Scale: 2, Draw: drawRot, Rot: true},
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
	}
}
