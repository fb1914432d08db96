package ftlsim

import (
	"fmt"

	"goftl/tests/sim"
)

// Plan is everything about a run that is drawn before it begins.
type Plan struct {
	ChunkBlocks, BandBlocks uint64
	CacheBlocks, BaseBlocks uint64
	SparePct                uint32
	SizeBytes               uint64 // of the device; 0: as large as it can be
	SumCacheBytes           uint64
	ID                      uint64
	Greedy                  bool
	NoVerify                bool
	RedoBytes               uint64
	Shm                     bool
	Lives                   int
	OpsMax                  int // operations of one phase of load

	Cache, Base sim.DiskOptions
	World       sim.WorldOptions
	Faults      FaultLevel
}

// FaultLevel says what else happens than crashes.
type FaultLevel uint8

// Fault levels.
const (
	FaultsNone      FaultLevel = iota
	FaultsNoMem                // IOs are refused for want of memory
	FaultsTransient            // reads, writes and flushes fail now and then
	FaultsRot                  // between lives, bits of what the disks hold flip; of what has two copies one stays good
)

// NewPlan draws a plan.
func NewPlan(r *sim.Rand) *Plan {
	p := &Plan{
		ChunkBlocks: 16 << r.IntN(6), BandBlocks: 16 << r.IntN(5),
		SparePct: uint32(10 + r.IntN(40)), ID: r.Uint64(), Greedy: r.IntN(4) == 0,
		Shm: r.IntN(3) == 0, Lives: 2 + r.IntN(5), OpsMax: 20 + int(r.Skewed(1500)),
		World: sim.RandomWorldOptions(r),
	}
	if r.IntN(2) == 0 {
		p.RedoBytes = 1 << 20
	}
	chunks, bands := 5+r.Uint64N(20), 14+r.Uint64N(40)
	// Metadata: two copies of a descriptor block for each segment, two slots for each page of the map, directories.
	p.CacheBlocks = chunks*p.ChunkBlocks + 2*(chunks+bands) + 128
	p.BaseBlocks = bands*p.BandBlocks + 256
	if r.IntN(3) == 0 {
		// Well below what fits: less than half of the base.
		p.SizeBytes = (1 + r.Uint64N(bands/4)) * p.BandBlocks * 4096
	}
	if r.IntN(2) == 0 {
		p.SumCacheBytes = 4096 << r.IntN(6)
	}
	p.Cache = randomDisk(r, "cache", p.CacheBlocks)
	p.Base = randomDisk(r, "base", p.BaseBlocks)
	if r.IntN(2) == 0 {
		p.Cache.MDSize = 64
	}
	if r.IntN(3) == 0 {
		p.Faults = FaultsNoMem
	}
	return p
}

func randomDisk(r *sim.Rand, name string, blocks uint64) sim.DiskOptions {
	o := sim.DiskOptions{
		Name: name, Blocks: blocks, Volatile: r.IntN(5) != 0, FUA: r.IntN(2) == 0, TearSectors: r.IntN(2) == 0,
		KeepOnTrim: r.IntN(3) == 0, Latency: sim.RandomLatency(r),
	}
	if r.IntN(3) == 0 {
		o.Latency.Flush = r.Range(0, 5_000_000)
	}
	if r.IntN(4) == 0 {
		o.MaxTransfer = uint32(4 + r.IntN(28))
	}
	return o
}

// faults sets the disks' faults for a life.
func (p *Plan) faults(r *sim.Rand, d *sim.Disk) {
	switch p.Faults {
	case FaultsNone, FaultsRot:
	case FaultsNoMem:
		d.Faults().NoMem = 0.1 * r.Float64()
	case FaultsTransient:
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
		*d.Faults() = f
	}
}

// String describes the plan in one line.
func (p *Plan) String() string {
	kind := func(o *sim.DiskOptions) string {
		return fmt.Sprintf("%d blocks md=%d volatile=%v tear=%v fua=%v", o.Blocks, o.MDSize, o.Volatile, o.TearSectors, o.FUA)
	}
	return fmt.Sprintf("cache %s; base %s; chunks of %d, bands of %d, spare %d %%, size %d, shm %v, faults %d, %d lives",
		kind(&p.Cache), kind(&p.Base), p.ChunkBlocks, p.BandBlocks, p.SparePct, p.SizeBytes, p.Shm, p.Faults, p.Lives)
}
