package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"goftl/apps/internal/tune"
)

// flags is the command line as typed.
type flags struct {
	bdev, cache, base, nbd   string
	connections              int
	ftlSize, shmDir          string
	spare                    uint32
	noCache                  bool
	metadata                 string
	tune                     tune.Flags
	keep, force, fast, apart bool
	noChecksumVerify         bool
	volatileCache            bool
	writeBuffer              string
	crashAfter               string

	name, rw, bs, size, offset, offsetIncrement string
	ioSize, runtime, ramp, distribution         string
	depth, mixRead, mixWrite, numJobs           int
	timeBased, noRandomMap, endFsync, fua, fill bool
	fsync, fdatasync, numberIOs, seed           uint64
	continueOnError                             string

	verify, doVerify, verifyState string
	verifyOnly                    bool

	threads            int
	cpus, pollMode     string
	clock              string
	outputFormat       string
	output, eta        string
	histogram, grouped bool
	yardstick, debug   bool
	prefault           bool
}

// register declares every option. Dashes and underscores mean the same.
func (f *flags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.SortFlags = false
	s.SetNormalizeFunc(normalize)
	f.registerTarget(s)
	f.registerWorkload(s)
	f.registerOutput(s)
	f.tune.Register(s)
	for _, same := range []string{"thread", "direct", "ioengine", "unified_rw_reporting", "refill_buffers", "randrepeat"} {
		var ignored string
		s.StringVar(&ignored, same, "", "")
		s.Lookup(same).NoOptDefVal = "1"
		_ = s.MarkHidden(same) // it was just declared
	}
}

// normalize maps fio's underscores and synonyms to one name.
func normalize(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.ReplaceAll(name, "_", "-")
	switch name {
	case "readwrite":
		name = "rw"
	case "blocksize":
		name = "bs"
	case "cpus-allowed":
		name = "cpus"
	case "seed":
		name = "randseed"
	case "filename":
		name = "bdev"
	}
	return pflag.NormalizedName(name)
}

func (f *flags) registerTarget(s *pflag.FlagSet) {
	s.StringVar(&f.bdev, "bdev", "", "run on this block device `SPEC`; see \"ftlperf help specs\"")
	s.StringVar(&f.cache, "cache", "", "run on an FTL with this NV cache `SPEC`; needs --base")
	s.StringVar(&f.base, "base", "", "run on an FTL with this base device `SPEC`")
	s.BoolVar(&f.noCache, "no-cache", false, "FTL: without a cache; metadata lies on the base, or in its conventional zones")
	s.StringVar(&f.metadata, "metadata", "", "FTL: with --no-cache, a device `SPEC` for the metadata")
	s.StringVar(&f.nbd, "nbd", "", "run on an NBD export: `URI` like nbd+unix:///ftl0?socket=/run/nbd.sock or nbd://host/export")
	s.IntVar(&f.connections, "connections", 1, "NBD connections, each with --iodepth requests in flight")
	s.StringVar(&f.ftlSize, "ftl-size", "", "FTL: `SIZE` that its users see (default: all that the base device allows)")
	s.Uint32Var(&f.spare, "ftl-spare", 20, "FTL: spare space in per cent of the base device")
	s.StringVar(&f.shmDir, "shm-dir", "", "FTL: `DIR` for shared memory, for --fast-stop (default: none is used)")
	s.BoolVar(&f.keep, "keep", false, "FTL: load what is on the devices; create only where they are blank")
	s.BoolVar(&f.force, "force", false, "FTL: create it even where the devices hold something")
	s.BoolVar(&f.apart, "ftl-apart", false, "FTL: give it the first thread or CPU for itself, jobs run on the others")
	s.BoolVar(&f.fast, "fast-stop", false, "FTL: stop with the fast shutdown")
	s.BoolVar(&f.noChecksumVerify, "no-checksum-verify", false, "FTL: do not check the checksum of what is read")
	s.BoolVar(&f.volatileCache, "volatile-write-cache", false, "FTL: answer writes from a write buffer in memory; flushes are the barrier")
	s.StringVar(&f.writeBuffer, "write-buffer", "", "FTL: `SIZE` of that buffer, for each thread (default 6MiB)")
	s.StringVar(&f.crashAfter, "crash-after", "", "FTL: drop it after this `DURATION or number of IOs`, recover, say how long that took")
}

func (f *flags) registerWorkload(s *pflag.FlagSet) {
	s.StringVar(&f.name, "name", "", "`NAME` of the job in the output (default: the value of --rw)")
	s.StringVar(&f.rw, "rw", "read", "read, write, rw, trim, trimwrite, and rand... of each")
	s.StringVar(&f.bs, "bs", "4k", "block `SIZE`, or SIZE,SIZE,SIZE of reads, writes, trims")
	s.IntVar(&f.depth, "iodepth", 1, "IOs in flight, per job")
	s.IntVar(&f.mixRead, "rwmixread", 50, "`PERCENT` of reads of rw and randrw")
	s.IntVar(&f.mixWrite, "rwmixwrite", 50, "`PERCENT` of writes; the other way to say it")
	s.StringVar(&f.size, "size", "", "`SIZE` of the range, or 25% (default: the device from --offset on)")
	s.StringVar(&f.offset, "offset", "0", "where the range begins, `SIZE` or PERCENT%")
	s.StringVar(&f.offsetIncrement, "offset_increment", "0", "each further job begins this `SIZE` later")
	s.StringVar(&f.ioSize, "io_size", "", "how much to transfer, `SIZE` (default: as much as the range)")
	s.Uint64Var(&f.numberIOs, "number_ios", 0, "stop after so many IOs, per job")
	s.StringVar(&f.runtime, "runtime", "", "stop after this `TIME` (default 10s when nothing else ends the run)")
	s.BoolVar(&f.timeBased, "time_based", false, "go on until --runtime is over")
	s.StringVar(&f.ramp, "ramp_time", "", "run this `TIME` before measuring")
	s.IntVar(&f.numJobs, "numjobs", 0, "jobs that run at the same time (default: one per thread or connection)")
	s.StringVar(&f.distribution, "random_distribution", "random", "random, uniform, zipf:THETA, pareto:H, zoned:ACCESS/SIZE:...")
	s.BoolVar(&f.noRandomMap, "norandommap", false, "independent random blocks; else every block once a pass, in random order")
	s.Uint64Var(&f.seed, "randseed", 1, "seed of everything random; the same `NUMBER` repeats the run")
	s.Uint64Var(&f.fsync, "fsync", 0, "flush after every `N` writes")
	s.Uint64Var(&f.fdatasync, "fdatasync", 0, "the same as --fsync")
	s.BoolVar(&f.endFsync, "end_fsync", false, "flush at the end of each job")
	s.BoolVar(&f.fua, "fua", false, "each write is durable before it completes")
	s.BoolVar(&f.fill, "fill", false, "first write the whole range once, sequentially, unmeasured")
	s.BoolVar(&f.prefault, "prefault", false, "write malloc devices once before, so that no page faults are measured")
	s.StringVar(&f.continueOnError, "continue_on_error", "none", "all: count IO errors and go on; none: stop at the first")
	s.StringVar(&f.verify, "verify", "", "stamp blocks with address, generation and checksum; check every read, and everything in a final pass")
	s.Lookup("verify").NoOptDefVal = "stamp"
	s.StringVar(&f.doVerify, "do_verify", "1", "0: no final pass")
	s.StringVar(&f.verifyState, "verify-state", "", "keep what is expected in this `FILE`, so that a later --verify_only can check it")
	s.BoolVar(&f.verifyOnly, "verify_only", false, "only check the target against --verify-state")
	s.IntVar(&f.threads, "threads", 1, "OS threads to run jobs on, not pinned")
	s.StringVar(&f.cpus, "cpus", "", "pin one thread to each CPU of this `LIST`, as in 0,2-3")
	s.StringVar(&f.pollMode, "poll-mode", "poll", "poll never sleeps; adaptive sleeps when idle; interrupt sleeps at once")
}

func (f *flags) registerOutput(s *pflag.FlagSet) {
	s.StringVar(&f.outputFormat, "output-format", "normal", "normal, json (fio's shape), json+ (with latency bins)")
	s.StringVar(&f.output, "output", "", "write the result to this `FILE`")
	s.StringVar(&f.eta, "eta", "auto", "progress on stderr: auto (on a terminal), always, never")
	s.BoolVar(&f.histogram, "latency-histogram", false, "show the whole distribution of latencies")
	s.BoolVar(&f.grouped, "group_reporting", false, "report all jobs as one")
	s.StringVar(&f.clock, "clock", "turn", "turn: latencies by the time of the reactor's turn, nearly free; precise: the clock is read for every IO")
	s.BoolVar(&f.debug, "debug", false, "FTL: log what it does to stderr")
	s.BoolVar(&f.yardstick, "yardstick", false, "measure the machine before and after, and say what multiple of it the IOPS are")
}
