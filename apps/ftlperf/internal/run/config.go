package run

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/report"
	"goftl/apps/ftlperf/internal/target"
	"goftl/apps/ftlperf/internal/units"
	"goftl/apps/ftlperf/internal/verify"
)

// Amount is a size, or a part of the target.
type Amount struct {
	Bytes   uint64
	Percent float64
}

func (a Amount) of(total uint64) uint64 {
	if a.Percent > 0 {
		return uint64(float64(total) * a.Percent / 100)
	}
	return a.Bytes
}

// Config is everything that a measurement needs to know.
type Config struct {
	Open func() (target.Target, error)

	Job             job.Spec // what the jobs have in common; range and table are filled in
	Offset, Size    Amount   // Size zero: to the end
	NumJobs         int
	OffsetIncrement uint64
	Grouped         bool // report the jobs as one

	Fill        bool // write everything once before
	Verify      bool
	VerifyOnly  bool // only read back what VerifyState knows
	FinalPass   bool // of a verified run
	VerifyState string
	CrashAfter  time.Duration
	CrashAtIOs  uint64

	Yardstick    bool
	YardstickCPU int
	Progress     *Progress
	Report       report.Run // version, options and what to show
}

const (
	fillBlock   = 128 << 10
	fillDepth   = 16
	verifyBlock = 64 << 10
)

// crashes reports whether the target is to be dropped in the middle.
func (c *Config) crashes() bool { return c.CrashAfter > 0 || c.CrashAtIOs > 0 }

// plan is a Config fitted to a target.
type plan struct {
	jobs  []job.Spec
	table *verify.Table
	info  target.Info
	base  uint64
	size  uint64
	unit  uint64 // every offset and size is a multiple of it
}

func (c *Config) plan(info target.Info) (*plan, error) {
	p := &plan{info: info, unit: info.BlockSize, base: c.Offset.of(info.Bytes)}
	if err := c.checkAgainst(info); err != nil {
		return nil, err
	}
	if err := p.fit(c); err != nil {
		return nil, err
	}
	if c.Verify || c.VerifyOnly {
		if err := p.prepareTable(c); err != nil {
			return nil, err
		}
	}
	for i := range c.NumJobs {
		s := c.Job
		s.Name = c.Job.Name
		if c.NumJobs > 1 && !c.Grouped {
			s.Name = fmt.Sprintf("%s.%d", c.Job.Name, i)
		}
		s.Seed = c.Job.Seed + uint64(i)*0x9e3779b9
		s.Table = p.table
		s.Offset, s.Size = p.base+uint64(i)*c.OffsetIncrement, p.size
		if p.table != nil {
			s.Offset, s.Size = p.part(i, c.NumJobs, p.blockLCM(c))
		}
		if s.Offset+s.Size > info.Bytes {
			if s.Offset >= info.Bytes {
				return nil, fmt.Errorf("job %d would begin at %s, the end of the device is %s: %w",
					i, units.Bytes(float64(s.Offset)), units.Bytes(float64(info.Bytes)), unix.EINVAL)
			}
			s.Size = info.Bytes - s.Offset
		}
		if c.CrashAtIOs > 0 {
			s.AbandonAfter = max(c.CrashAtIOs/uint64(c.NumJobs), 1)
		}
		p.jobs = append(p.jobs, s)
	}
	return p, nil
}

// checkAgainst refuses what the target cannot do.
func (c *Config) checkAgainst(info target.Info) error {
	m := c.Job.Mode
	switch {
	case info.ReadOnly && (m.Dirs[job.Write] || m.Dirs[job.Trim] || c.Fill):
		return fmt.Errorf("--rw=%s: %s is read-only: %w", m.Name, info.Name, unix.EROFS)
	case m.Dirs[job.Trim] && !info.Trims:
		return fmt.Errorf("--rw=%s: %s cannot trim: %w", m.Name, info.Name, unix.ENOTSUP)
	case (c.Job.FlushEvery > 0 || c.Job.EndFlush) && !info.Flushes:
		return fmt.Errorf("--fsync: %s cannot flush: %w", info.Name, unix.ENOTSUP)
	case c.Job.FUA && !info.FUA:
		return fmt.Errorf("--fua: %s cannot: %w", info.Name, unix.ENOTSUP)
	case (c.Verify || c.VerifyOnly) && info.Forgets:
		return fmt.Errorf("--verify: %s returns nothing of what was written: %w", info.Name, unix.ENOTSUP)
	}
	return nil
}

// fit checks sizes and alignment and sets the range.
func (p *plan) fit(c *Config) error {
	if p.base >= p.info.Bytes {
		return fmt.Errorf("--offset=%d is behind the end of %s (%d bytes): %w", p.base, p.info.Name, p.info.Bytes, unix.EINVAL)
	}
	p.size = c.Size.of(p.info.Bytes)
	if p.size == 0 {
		p.size = p.info.Bytes - p.base
	}
	if p.base+p.size > p.info.Bytes {
		return fmt.Errorf("--size=%s from offset %d: %s has %s: %w", units.Bytes(float64(p.size)), p.base, p.info.Name,
			units.Bytes(float64(p.info.Bytes)), unix.EINVAL)
	}
	if c.Offset.Percent > 0 {
		p.base -= p.base % p.unit
	}
	p.size -= p.size % p.unit
	for what, v := range map[string]uint64{"--offset": p.base, "--offset_increment": c.OffsetIncrement} {
		if v%p.unit != 0 {
			return fmt.Errorf("%s=%d is not a multiple of %d, the block size of %s: %w", what, v, p.unit, p.info.Name, unix.EINVAL)
		}
	}
	for d := range job.NumDirs {
		if bs := c.Job.BlockSize[d]; c.Job.Mode.Dirs[d] && bs%p.unit != 0 {
			return fmt.Errorf("--bs=%d is not a multiple of %d, the block size of %s: %w", bs, p.unit, p.info.Name, unix.EINVAL)
		}
	}
	return nil
}

// part is the i-th of n ranges, none smaller than a block.
func (p *plan) part(i, n int, block uint64) (offset, size uint64) {
	each := p.size / uint64(n) / block * block
	offset = p.base + uint64(i)*each
	if i == n-1 {
		return offset, p.base + p.size - offset
	}
	return offset, each
}

// blockLCM is the largest block size; the parts of a verified run begin on a multiple of it.
func (p *plan) blockLCM(c *Config) uint64 {
	block := p.unit
	for d := range job.NumDirs {
		if c.Job.Mode.Dirs[d] {
			block = max(block, c.Job.BlockSize[d])
		}
	}
	return block
}

// prepareTable chooses the unit that carries a stamp, the largest power of two
// up to 4 KiB that divides everything, and opens the table.
func (p *plan) prepareTable(c *Config) error {
	all := p.base | verify.MaxUnit
	for d := range job.NumDirs {
		if c.Job.Mode.Dirs[d] {
			all |= c.Job.BlockSize[d]
		}
	}
	unit := uint64(1) << bits.TrailingZeros64(all)
	if unit < verify.MinUnit {
		return fmt.Errorf("--verify needs block sizes and offsets that are multiples of %d: %w", verify.MinUnit, unix.EINVAL)
	}
	var err error
	count := p.info.Bytes / unit
	if c.VerifyState != "" {
		p.table, err = verify.OpenTable(c.VerifyState, count, unit, c.Job.Seed)
	} else {
		p.table, err = verify.NewTable(count, unit, c.Job.Seed)
	}
	if err != nil {
		return err
	}
	p.table.TrimZeroes = p.info.TrimZeroes
	if c.VerifyOnly && p.table.KnownUnits() == 0 {
		return errors.Join(fmt.Errorf("--verify_only: the state %q knows of nothing that was written: %w", c.VerifyState, unix.EINVAL),
			p.table.Close())
	}
	return nil
}

// fillSpecs write the whole range once, a part on each lane.
func (p *plan) fillSpecs(c *Config, lanes int) []job.Spec {
	mode, err := job.ParseMode("write")
	if err != nil {
		return nil
	}
	block := uint64(fillBlock)
	for block > p.unit && p.size%block != 0 {
		block /= 2
	}
	if p.table != nil {
		block = max(block, p.table.Unit())
	}
	block = max(block-block%p.unit, p.unit)
	lanes = min(lanes, int(max(p.size/block, 1)))
	specs := make([]job.Spec, lanes)
	for i := range specs {
		offset, size := p.part(i, lanes, block)
		specs[i] = job.Spec{
			Name: "fill", Mode: mode, BlockSize: [job.NumDirs]uint64{block, block, block}, Depth: fillDepth,
			Offset: offset, Size: size, Seed: c.Job.Seed ^ uint64(i+1), Table: p.table,
		}
	}
	return specs
}

// verifySpecs read back what the table knows, in the parts of the jobs.
func (p *plan) verifySpecs(c *Config, lanes int) []job.Spec {
	specs := make([]job.Spec, lanes)
	block := max(verifyBlock, p.table.Unit())
	for i := range specs {
		offset, size := p.part(i, lanes, p.table.Unit())
		specs[i] = job.Spec{
			Name: "verify", Mode: job.VerifyMode, BlockSize: [job.NumDirs]uint64{block, 0, 0},
			Depth: min(max(c.Job.Depth, 8), 64), Offset: offset, Size: size, Seed: c.Job.Seed, Table: p.table,
			ContinueOnError: true,
		}
	}
	return specs
}
