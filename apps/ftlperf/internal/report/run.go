package report

import (
	"time"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/yardstick"
)

// Run is one finished run.
type Run struct {
	Version   string
	Started   time.Time
	Target    string // what it ran on, in words
	Where     string // on how many cores, in words
	Options   map[string]string
	Jobs      []Job
	Yardstick *Yardstick // nil: not measured
	CPU       CPU
	FTL       *FTL // nil: not on an FTL
	Verify    *Verify
	Buckets   bool // show the whole latency histogram
	Precise   bool
}

// Job is one job, or a group of them.
type Job struct {
	Name  string
	Spec  job.Spec
	Count int // jobs merged into this one
	Stats *job.Stats
}

// Yardstick holds the measurements before and after a run; see that package.
type Yardstick struct{ Before, After yardstick.Result }

// PerSecond is what figures are compared with: the mean of both.
func (y *Yardstick) PerSecond() float64 { return (y.Before.PerSecond() + y.After.PerSecond()) / 2 }

// CPUNanoseconds is the CPU time of one write, the mean of both.
func (y *Yardstick) CPUNanoseconds() float64 {
	return (y.Before.CPUNanoseconds() + y.After.CPUNanoseconds()) / 2
}

// CPU is the process's use of processors while the jobs ran, in per cent of one.
type CPU struct {
	User, System    float64
	Busy            float64 // of the threads that ran jobs or the FTL; 0: not known
	ContextSwitches int64
	MajorFaults     int64
	MinorFaults     int64
	Mallocs         uint64 // Go allocations while the jobs ran, of the whole process
	Collections     uint32
}

// Verify is the result of a verified run.
type Verify struct {
	InRun      uint64 // units checked when they were read by the jobs
	Final      uint64 // units checked by the final pass
	Mismatches uint64
	First      []string
	Elapsed    time.Duration // of the final pass
}

// Source is a row of the table of device IO.
type Source struct {
	Name                                       string
	CacheRead, CacheWrite, BaseRead, BaseWrite uint64 // blocks
	Errors                                     DeviceErrors
}

// DeviceErrors counts failed device IOs; not all of them reach a user.
type DeviceErrors struct{ Media, Checksum, Other uint64 }

// Recovery is what --crash-after measured.
type Recovery struct {
	After   string        // what the crash came after
	Elapsed time.Duration // from starting the device again until it serves
	Phases  []Phase

	Redone      uint64 // user records applied
	Gaps        uint64 // durable user records that could not be read
	RottenPages uint64
	FromMemory  bool // the mapping came from shared memory
}

// Phase is one timed step.
type Phase struct {
	Name    string
	Elapsed time.Duration
}

// FTL is what the translation layer says of the run.
type FTL struct {
	Bytes      uint64
	Create     time.Duration // creating or loading it
	Created    bool
	Stop       time.Duration
	UserWrites uint64 // blocks
	UserReads  uint64
	Trims      uint64
	Flushes    uint64
	WAFBase    float64
	WAFTotal   float64
	Sources    []Source
	Gauges     map[string]uint64
	Recovery   *Recovery
}

// Sum computes the write amplification from the sources.
func (f *FTL) Sum() {
	base, cache := uint64(0), uint64(0)
	for _, s := range f.Sources {
		base += s.BaseWrite
		cache += s.CacheWrite
	}
	if f.UserWrites > 0 {
		f.WAFBase = float64(base) / float64(f.UserWrites)
		f.WAFTotal = float64(base+cache) / float64(f.UserWrites)
	}
}

// Errors counts what makes a run fail.
func (r *Run) Errors() uint64 {
	n := uint64(0)
	for i := range r.Jobs {
		st := r.Jobs[i].Stats
		for d := range st.Dir {
			n += st.Dir[d].Errors
		}
		if st.Err != nil && n == 0 {
			n = 1
		}
	}
	if r.Verify != nil {
		n += r.Verify.Mismatches
	}
	return n
}

// cpuPerIO is the CPU time, in ns, that the process used for each IO of all jobs.
func (r *Run) cpuPerIO() float64 {
	ios, elapsed := uint64(0), int64(0)
	for i := range r.Jobs {
		st := r.Jobs[i].Stats
		elapsed = max(elapsed, st.Elapsed)
		for d := range st.Dir {
			ios += st.Dir[d].IOs
		}
	}
	if ios == 0 {
		return 0
	}
	return (r.CPU.User + r.CPU.System) / 100 * float64(elapsed) / float64(ios)
}

// IOPS returns the rate of a job in one direction.
func (j *Job) IOPS(d job.Dir) float64 {
	if j.Stats.Elapsed == 0 {
		return 0
	}
	return float64(j.Stats.Dir[d].IOs) * float64(time.Second) / float64(j.Stats.Elapsed)
}

// Bandwidth returns bytes a second.
func (j *Job) Bandwidth(d job.Dir) float64 {
	if j.Stats.Elapsed == 0 {
		return 0
	}
	return float64(j.Stats.Dir[d].Bytes) * float64(time.Second) / float64(j.Stats.Elapsed)
}

// Group merges jobs that ran together into one.
func Group(jobs []Job) Job {
	all := Job{Name: jobs[0].Name, Spec: jobs[0].Spec, Stats: &job.Stats{}}
	for i := range jobs {
		all.Count += max(jobs[i].Count, 1)
		all.Stats.Merge(jobs[i].Stats)
	}
	return all
}
