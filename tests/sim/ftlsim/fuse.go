package ftlsim

import "goftl/tests/sim"

// fuse says when a phase is cut short by a crash.
type fuse struct {
	count func() uint64
	end   uint64
}

// forever is a fuse that does not burn.
var forever = fuse{end: sim.Forever}

// fuse lights one of at most so many boundaries of IOs of both disks, or of so many writes of metadata: those are few,
// and the moments around them are where most can go wrong.
func (p *Play) fuse(most int64) fuse {
	if p.c.Rand.IntN(3) == 0 {
		return lit(p.metaWrites, uint64(p.c.Rand.Skewed(max(1, most/30))))
	}
	return lit(p.boundaries, uint64(p.c.Rand.Skewed(most)))
}

func lit(count func() uint64, n uint64) fuse { return fuse{count: count, end: count() + n} }

func (f fuse) burns() bool { return f.end != sim.Forever }

func (f fuse) burnt() bool { return f.burns() && f.count() >= f.end }

func (p *Play) boundaries() uint64 { return p.cache.Boundaries() + p.base.Boundaries() }

func (p *Play) metaWrites() uint64 { return p.cache.FrontWrites() + p.base.FrontWrites() }
