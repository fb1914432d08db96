package ftlsim

import "goftl/tests/sim"

// fuse is a Fuse that burns.
type fuse struct {
	count func() uint64
	end   uint64
	stops bool // the life is not ended where it has burnt, but stopped
}

// forever is a fuse that does not burn.
var forever = fuse{end: sim.Forever}

// over is how a phase ends that the fuse has cut short.
func (f fuse) over() error {
	if f.stops {
		return errHasty
	}
	return errCrash
}

// light lights a fuse of the plan.
func (p *Play) light(f Fuse) fuse {
	switch {
	case !f.lit():
		return forever
	case f.First:
		return lit(p.firstWrites, f.After)
	case f.Meta:
		return lit(p.metaWrites, f.After)
	case f.Pages:
		return lit(p.pageWrites, f.After)
	}
	return lit(p.boundaries, f.After)
}

func lit(count func() uint64, n uint64) fuse { return fuse{count: count, end: count() + n} }

func (f fuse) burns() bool { return f.end != sim.Forever }

func (f fuse) burnt() bool { return f.burns() && f.count() >= f.end }

func (p *Play) boundaries() uint64 { return p.disks[Cache].Boundaries() + p.disks[Base].Boundaries() }

func (p *Play) metaWrites() uint64 { return p.disks[Cache].FrontWrites() + p.disks[Base].FrontWrites() }

func (p *Play) pageWrites() uint64 { return p.disks[Cache].PageWrites() + p.disks[Base].PageWrites() }

func (p *Play) firstWrites() uint64 {
	return p.disks[Cache].FirstWrites() + p.disks[Base].FirstWrites()
}
