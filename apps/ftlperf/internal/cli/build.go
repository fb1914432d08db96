package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/gen"
	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/run"
	"goftl/apps/ftlperf/internal/target"
	"goftl/apps/ftlperf/internal/units"
	"goftl/ftl"
	"goftl/reactor"
)

const (
	defaultRuntime = 10 * time.Second
	jobsMax        = 4096
)

// usageError is an error of the command line; its cause is EINVAL.
func usageError(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, unix.EINVAL)...)
}

// config checks the flags and makes a run of them.
func (f *flags) config(set *pflag.FlagSet) (*run.Config, error) {
	c := &run.Config{NumJobs: f.numJobs, Grouped: f.grouped, Fill: f.fill, Yardstick: f.yardstick}
	var errs []error
	for _, step := range []func(*pflag.FlagSet, *run.Config) error{
		f.workload, f.amounts, f.verification, f.display, f.target,
	} {
		errs = append(errs, step(set, c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func (f *flags) workload(set *pflag.FlagSet, c *run.Config) error {
	mode, err := job.ParseMode(f.rw)
	if err != nil {
		return err
	}
	s := &c.Job
	s.Mode, s.Depth, s.Seed, s.EndFlush, s.FUA, s.TimeBased = mode, f.depth, f.seed, f.endFsync, f.fua, f.timeBased
	s.Name = f.name
	if s.Name == "" {
		s.Name = mode.Name
	}
	s.MixRead = f.mixRead
	if set.Changed("rwmixwrite") {
		s.MixRead = 100 - f.mixWrite
	}
	if s.MixRead < 0 || s.MixRead > 100 {
		return usageError("--rwmixread and --rwmixwrite are per cent")
	}
	s.FlushEvery = max(f.fsync, f.fdatasync)
	s.Count = f.numberIOs
	if s.Distribution, err = gen.ParseDistribution(f.distribution); err != nil {
		return err
	}
	// A verified mix with a random map would read only what it never writes.
	mixedVerify := f.verifies() && mode.Dirs[job.Read] && mode.Dirs[job.Write]
	s.Once = mode.Random && !f.noRandomMap && s.Distribution.Kind == gen.Uniform && !mixedVerify
	switch f.continueOnError {
	case "all", "io", "1", "true":
		s.ContinueOnError = true
	case "none", "0", "false":
	default:
		return usageError("--continue_on_error=%s: it is all or none", f.continueOnError)
	}
	switch f.clock {
	case "precise":
		s.Precise = true
	case "turn":
	default:
		return usageError("--clock=%s: it is turn or precise", f.clock)
	}
	return f.blockSizes(s)
}

func (f *flags) blockSizes(s *job.Spec) error {
	parts := strings.Split(f.bs, ",")
	if len(parts) > int(job.NumDirs) {
		return usageError("--bs=%s: at most three sizes, of reads, writes and trims", f.bs)
	}
	last := uint64(0)
	for d := range job.NumDirs {
		if int(d) < len(parts) && parts[d] != "" {
			v, err := units.Size(parts[d])
			if err != nil {
				return fmt.Errorf("--bs: %w", err)
			}
			if v == 0 || v > 64<<20 {
				return usageError("--bs=%s: it must be 512 bytes to 64 MiB", parts[d])
			}
			last = v
		}
		if last == 0 {
			return usageError("--bs=%s: no size for reads", f.bs)
		}
		s.BlockSize[d] = last
	}
	return nil
}

func (f *flags) amounts(_ *pflag.FlagSet, c *run.Config) error {
	var errs []error
	size := func(name, text string) (v uint64) {
		if text != "" {
			var err error
			if v, err = units.Size(text); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			}
		}
		return v
	}
	amount := func(name, text string) (a run.Amount) {
		if text != "" {
			var err error
			if a.Bytes, a.Percent, err = units.SizeOrPercent(text); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			}
		}
		return a
	}
	duration := func(name, text string) (d time.Duration) {
		if text != "" {
			var err error
			if d, err = units.Duration(text); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			}
		}
		return d
	}
	c.Size, c.Offset = amount("size", f.size), amount("offset", f.offset)
	c.OffsetIncrement, c.Job.Bytes = size("offset_increment", f.offsetIncrement), size("io_size", f.ioSize)
	c.Job.Runtime, c.Job.Ramp = duration("runtime", f.runtime), duration("ramp_time", f.ramp)
	if f.runtime == "" && f.size == "" && f.ioSize == "" && f.numberIOs == 0 && f.crashAfter == "" {
		c.Job.Runtime = defaultRuntime
	}
	if f.timeBased && c.Job.Runtime == 0 {
		errs = append(errs, usageError("--time_based needs --runtime"))
	}
	if f.crashAfter != "" {
		errs = append(errs, f.crash(c))
	}
	return errors.Join(errs...)
}

// crash reads --crash-after: a plain number counts IOs, one with a unit is a time.
func (f *flags) crash(c *run.Config) error {
	if n, err := strconv.ParseUint(f.crashAfter, 10, 64); err == nil {
		c.CrashAtIOs = n
	} else if c.CrashAfter, err = units.Duration(f.crashAfter); err != nil {
		return fmt.Errorf("--crash-after: %w", err)
	}
	if c.CrashAtIOs == 0 && c.CrashAfter == 0 {
		return usageError("--crash-after=%s: at least one IO, or a time like 5s", f.crashAfter)
	}
	if f.cache == "" && f.base == "" {
		return usageError("--crash-after: only an FTL (--cache, --base) can be crashed")
	}
	if c.Job.Runtime == 0 {
		c.Job.TimeBased = true // the crash ends it
	}
	return nil
}

func (f *flags) verification(_ *pflag.FlagSet, c *run.Config) error {
	c.VerifyState, c.VerifyOnly = f.verifyState, f.verifyOnly
	c.Verify = f.verifies()
	c.FinalPass = f.doVerify != "0" && f.doVerify != "false"
	switch {
	case f.verifyOnly && f.verifyState == "":
		return usageError("--verify_only needs the --verify-state of an earlier run")
	case f.verifyState != "" && !c.Verify && !f.verifyOnly:
		return usageError("--verify-state needs --verify")
	case c.Verify && f.offsetIncrement != "0":
		return usageError("--verify gives each job a part of its own; it does not go with --offset_increment")
	}
	if f.verifyOnly {
		c.Job.Mode, _ = job.ParseMode("read")
	}
	return nil
}

// verifies accepts fio's names of checksums and means its own stamps by all of them.
func (f *flags) verifies() bool { return f.verify != "" && f.verify != "0" && f.verify != "none" }

func (f *flags) display(_ *pflag.FlagSet, c *run.Config) error {
	c.Report.Buckets, c.Report.Precise = f.histogram, c.Job.Precise
	switch f.outputFormat {
	case "normal", "json", "json+":
	default:
		return usageError("--output-format=%s: it is normal, json or json+", f.outputFormat)
	}
	switch f.eta {
	case "auto":
		if terminal(os.Stderr) {
			c.Progress = &run.Progress{Out: os.Stderr, Terminal: true}
		}
	case "always":
		c.Progress = &run.Progress{Out: os.Stderr, Terminal: terminal(os.Stderr)}
	case "never":
	default:
		return usageError("--eta=%s: it is auto, always or never", f.eta)
	}
	return nil
}

func terminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// target decides what to run on, and where.
func (f *flags) target(set *pflag.FlagSet, c *run.Config) error {
	chosen := 0
	for _, given := range []bool{f.bdev != "", f.nbd != "", f.cache != "" || f.base != ""} {
		if given {
			chosen++
		}
	}
	if chosen != 1 {
		return usageError("give exactly one of --bdev SPEC, --cache SPEC --base SPEC, --nbd URI")
	}
	p := target.Placement{Threads: f.threads, Prefault: f.prefault}
	var err error
	if p.Mode, err = reactor.ParseMode(f.pollMode); err != nil {
		return fmt.Errorf("--poll-mode: %w", err)
	}
	if f.cpus != "" {
		if p.CPUs, err = units.IntList(f.cpus); err != nil {
			return fmt.Errorf("--cpus: %w", err)
		}
		p.Threads = len(p.CPUs)
	}
	if p.Threads < 1 || p.Threads > 1024 {
		return usageError("--threads=%d: it must be 1 to 1024", p.Threads)
	}
	c.YardstickCPU = -1
	if len(p.CPUs) > 0 {
		c.YardstickCPU = p.CPUs[0]
	}
	if f.nbd != "" {
		return f.nbdTarget(c)
	}
	if set.Changed("connections") {
		return usageError("--connections goes with --nbd")
	}
	f.spreadJobs(c, p.Threads)
	writes := c.Job.Mode.Dirs[job.Write] || c.Job.Mode.Dirs[job.Trim] || c.Fill
	if f.bdev != "" {
		c.Open = func() (target.Target, error) { return opened(target.OpenBdev(f.bdev, writes, p)) }
		return checkJobs(c)
	}
	return errors.Join(f.ftlTarget(c, p), checkJobs(c))
}

func (f *flags) ftlTarget(c *run.Config, p target.Placement) error {
	cache := f.cache
	switch {
	case f.noCache && f.cache != "":
		return usageError("--no-cache and --cache: a device that only holds metadata is named by --metadata")
	case f.metadata != "" && !f.noCache:
		return usageError("--metadata goes with --no-cache")
	case f.noCache:
		cache = f.metadata
	case f.cache == "":
		return usageError("an FTL needs both --cache SPEC and --base SPEC, or --no-cache")
	}
	if f.base == "" {
		return usageError("an FTL needs a base: --base SPEC")
	}
	if f.spare >= 100 {
		return usageError("--ftl-spare=%d: it must be 0 to 99", f.spare)
	}
	o := target.FTLOptions{
		Cache: cache, Base: f.base, SparePct: f.spare, ShmDir: f.shmDir, Keep: f.keep, Force: f.force,
		FastStop: f.fast, NoVerify: f.noChecksumVerify, Apart: f.apart, Crash: f.crashAfter != "",
		OnHealth: func(h ftl.Health, err error) {
			_, _ = fmt.Fprintf(os.Stderr, "ftlperf: the FTL is %v: %v\n", h, err) // nobody else to tell
		},
	}
	if f.debug {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if err := f.buffer(c, &o); err != nil {
		return err
	}
	o.Config.NoCache = f.noCache
	if err := f.tune.Apply(&o.Config); err != nil {
		return err
	}
	if f.ftlSize != "" {
		var err error
		if o.SizeBytes, err = units.Size(f.ftlSize); err != nil {
			return fmt.Errorf("--ftl-size: %w", err)
		}
	}
	c.Open = func() (target.Target, error) { return opened(target.OpenFTL(o, p)) }
	return nil
}

// buffer reads the options of the volatile write cache.
func (f *flags) buffer(c *run.Config, o *target.FTLOptions) error {
	o.Buffered = f.volatileCache
	if f.volatileCache && c.Verify && f.crashAfter != "" {
		return usageError("--volatile-write-cache: a crash loses writes that were answered; that does not go with --verify")
	}
	if f.writeBuffer == "" {
		return nil
	}
	if !f.volatileCache {
		return usageError("--write-buffer needs --volatile-write-cache")
	}
	var err error
	if o.BufferBytes, err = units.Size(f.writeBuffer); err != nil {
		return fmt.Errorf("--write-buffer: %w", err)
	}
	if o.BufferBytes == 0 || o.BufferBytes%4096 != 0 || o.BufferBytes > ftl.MaxWriteBuffer {
		return usageError("--write-buffer=%s: it must be a multiple of 4096, up to 256 MiB, and not 0", f.writeBuffer)
	}
	return nil
}

// opened keeps a nil pointer from becoming a Target that is not nil.
func opened[T target.Target](t T, err error) (target.Target, error) {
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (f *flags) nbdTarget(c *run.Config) error {
	if f.connections < 1 || f.connections > 1024 {
		return usageError("--connections=%d: it must be 1 to 1024", f.connections)
	}
	f.spreadJobs(c, f.connections)
	perConnection := (c.NumJobs + f.connections - 1) / f.connections * c.Job.Depth
	c.Open = func() (target.Target, error) { return opened(target.OpenNBD(f.nbd, f.connections, perConnection)) }
	return checkJobs(c)
}

// spreadJobs makes one job for each lane unless told otherwise.
func (f *flags) spreadJobs(c *run.Config, lanes int) {
	if c.NumJobs == 0 {
		c.NumJobs = lanes
		c.Grouped = c.Grouped || lanes > 1
	}
}

func checkJobs(c *run.Config) error {
	if c.NumJobs < 1 || c.NumJobs > jobsMax {
		return usageError("--numjobs=%d: it must be 1 to %d", c.NumJobs, jobsMax)
	}
	if c.Job.Depth < 1 || c.Job.Depth > 1<<16 {
		return usageError("--iodepth=%d: it must be 1 to 65536", c.Job.Depth)
	}
	need := new(big.Int).Mul(big.NewInt(int64(c.NumJobs*c.Job.Depth)), new(big.Int).SetUint64(c.Job.BlockSize[0]))
	if need.Cmp(big.NewInt(64<<30)) > 0 {
		return usageError("--numjobs, --iodepth and --bs together need %s of buffers", units.Bytes(float64(need.Uint64())))
	}
	return nil
}
