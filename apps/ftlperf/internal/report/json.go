package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/hist"
	"goftl/apps/ftlperf/internal/job"
)

// fioPercentiles are the ones of fio's default list.
var fioPercentiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

type fioOutput struct {
	Version     string            `json:"fio version"`
	Timestamp   int64             `json:"timestamp"`
	TimestampMs int64             `json:"timestamp_ms"`
	Time        string            `json:"time"`
	Global      map[string]string `json:"global options"`
	Jobs        []fioJob          `json:"jobs"`
	Ftlperf     extras            `json:"ftlperf"` // what fio does not have
}

type fioJob struct {
	Name          string             `json:"jobname"`
	Group         int                `json:"groupid"`
	Error         int                `json:"error"`
	Eta           int                `json:"eta"`
	Elapsed       int64              `json:"elapsed"`
	Options       map[string]string  `json:"job options"`
	Read          fioDir             `json:"read"`
	Write         fioDir             `json:"write"`
	Trim          fioDir             `json:"trim"`
	Sync          fioSync            `json:"sync"`
	Runtime       int64              `json:"job_runtime"`
	UserCPU       float64            `json:"usr_cpu"`
	SystemCPU     float64            `json:"sys_cpu"`
	Switches      int64              `json:"ctx"`
	MajorFaults   int64              `json:"majf"`
	MinorFaults   int64              `json:"minf"`
	DepthLevel    map[string]float64 `json:"iodepth_level"`
	LatencyNs     map[string]float64 `json:"latency_ns"`
	LatencyUs     map[string]float64 `json:"latency_us"`
	LatencyMs     map[string]float64 `json:"latency_ms"`
	LatencyDepth  int                `json:"latency_depth"`
	LatencyTarget int                `json:"latency_target"`
	LatencyPct    float64            `json:"latency_percentile"`
	LatencyWindow int                `json:"latency_window"`
}

type fioDir struct {
	IOBytes    uint64  `json:"io_bytes"`
	IOKBytes   uint64  `json:"io_kbytes"`
	BWBytes    uint64  `json:"bw_bytes"`
	BW         uint64  `json:"bw"` // KiB/s
	IOPS       float64 `json:"iops"`
	Runtime    int64   `json:"runtime"` // ms
	TotalIOs   uint64  `json:"total_ios"`
	Short      uint64  `json:"short_ios"`
	Dropped    uint64  `json:"drop_ios"`
	Slat       fioLat  `json:"slat_ns"`
	Clat       fioLat  `json:"clat_ns"`
	Lat        fioLat  `json:"lat_ns"`
	BWMin      uint64  `json:"bw_min"`
	BWMax      uint64  `json:"bw_max"`
	BWAgg      float64 `json:"bw_agg"`
	BWMean     float64 `json:"bw_mean"`
	BWDev      float64 `json:"bw_dev"`
	BWSamples  int     `json:"bw_samples"`
	IOPSMin    uint64  `json:"iops_min"`
	IOPSMax    uint64  `json:"iops_max"`
	IOPSMean   float64 `json:"iops_mean"`
	IOPSStddev float64 `json:"iops_stddev"`
	IOPSSample int     `json:"iops_samples"`
}

type fioLat struct {
	Min        uint64            `json:"min"`
	Max        uint64            `json:"max"`
	Mean       float64           `json:"mean"`
	StdDev     float64           `json:"stddev"`
	N          uint64            `json:"N"`
	Percentile map[string]uint64 `json:"percentile,omitempty"`
	Bins       map[string]uint64 `json:"bins,omitempty"`
}

type fioSync struct {
	TotalIOs uint64 `json:"total_ios"`
	Lat      fioLat `json:"lat_ns"`
}

type extras struct {
	Target       string     `json:"target"`
	Where        string     `json:"where"`
	Errors       uint64     `json:"errors"`
	Messages     []string   `json:"messages,omitempty"`
	Busy         float64    `json:"threads_busy_percent"`
	Mallocs      uint64     `json:"go_allocations"`
	GCCycles     uint32     `json:"gc_cycles"`
	CPUPerIO     float64    `json:"cpu_ns_per_io"`
	OfByCPU      float64    `json:"iops_of_yardstick_by_cpu_time,omitempty"`
	Yardstick    float64    `json:"yardstick_per_second,omitempty"`
	OfYardstick  float64    `json:"iops_of_yardstick,omitempty"`
	YardstickRun []float64  `json:"yardstick_measurements,omitempty"`
	Verify       *verifyOut `json:"verify,omitempty"`
	FTL          *ftlOut    `json:"ftl,omitempty"`
}

type verifyOut struct {
	InRun      uint64   `json:"checked_while_reading"`
	Final      uint64   `json:"checked_in_final_pass"`
	Mismatches uint64   `json:"mismatches"`
	First      []string `json:"first_mismatches,omitempty"`
	Seconds    float64  `json:"final_pass_s"`
}

type ftlOut struct {
	Bytes      uint64               `json:"bytes"`
	Created    bool                 `json:"created"`
	StartS     float64              `json:"start_s"`
	StopS      float64              `json:"stop_s"`
	UserWrites uint64               `json:"user_write_blocks"`
	UserReads  uint64               `json:"user_read_blocks"`
	Trims      uint64               `json:"trim_blocks"`
	Flushes    uint64               `json:"flushes"`
	WAFBase    float64              `json:"waf_base"`
	WAFTotal   float64              `json:"waf_total"`
	Sources    map[string]sourceOut `json:"sources"`
	Gauges     map[string]uint64    `json:"state,omitempty"`
	Recovery   *recoveryOut         `json:"recovery,omitempty"`
}

type sourceOut struct {
	CacheRead  uint64  `json:"cache_read_blocks"`
	CacheWrite uint64  `json:"cache_write_blocks"`
	BaseRead   uint64  `json:"base_read_blocks"`
	BaseWrite  uint64  `json:"base_write_blocks"`
	Share      float64 `json:"writes_per_user_write"`
	Media      uint64  `json:"errors_media"`
	Checksum   uint64  `json:"errors_crc"`
	Other      uint64  `json:"errors_other"`
}

type recoveryOut struct {
	After  string             `json:"after"`
	TotalS float64            `json:"total_s"`
	Redone uint64             `json:"redone_records"`
	Gaps   uint64             `json:"unreadable_durable_records"`
	Rotten uint64             `json:"damaged_pages"`
	Memory bool               `json:"from_shared_memory"`
	Phases map[string]float64 `json:"phases_s,omitempty"`
}

// JSON writes the run in the shape of fio's --output-format=json; plus adds the bins of json+.
func (r *Run) JSON(w io.Writer, plus bool) error {
	out := fioOutput{
		Version: "ftlperf-" + r.Version, Timestamp: r.Started.Unix(), TimestampMs: r.Started.UnixMilli(),
		Time: r.Started.Format(time.ANSIC), Global: r.Options, Ftlperf: r.extras(),
	}
	for i := range r.Jobs {
		out.Jobs = append(out.Jobs, r.fioJob(&r.Jobs[i], plus))
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}

func (r *Run) fioJob(j *Job, plus bool) fioJob {
	ms := j.Stats.Elapsed / int64(time.Millisecond)
	all := &hist.Histogram{}
	for d := range j.Stats.Dir {
		all.Merge(&j.Stats.Dir[d].Completion)
	}
	out := fioJob{
		Name: j.Name, Error: errno(j.Stats.Err), Elapsed: (ms + 999) / 1000, Options: jobOptions(&j.Spec),
		Read: fioDirection(j, job.Read, plus), Write: fioDirection(j, job.Write, plus), Trim: fioDirection(j, job.Trim, plus),
		Sync: fioSync{TotalIOs: j.Stats.Flush.Count(), Lat: latency(&j.Stats.Flush, true, plus)}, Runtime: ms,
		UserCPU: r.CPU.User, SystemCPU: r.CPU.System, Switches: r.CPU.ContextSwitches,
		MajorFaults: r.CPU.MajorFaults, MinorFaults: r.CPU.MinorFaults,
		DepthLevel: depthLevels(j.Stats), LatencyDepth: j.Spec.Depth, LatencyPct: 100,
	}
	if out.Error == 0 && r.Verify != nil && r.Verify.Mismatches > 0 {
		out.Error = int(unix.EILSEQ) // what fio calls it
	}
	out.LatencyNs = shares(all, 1, 0, []uint64{2, 4, 10, 20, 50, 100, 250, 500, 750, 1000})
	out.LatencyUs = shares(all, 1000, 1000, []uint64{2, 4, 10, 20, 50, 100, 250, 500, 750, 1000})
	out.LatencyMs = shares(all, 1e6, 1e6, []uint64{2, 4, 10, 20, 50, 100, 250, 500, 750, 1000, 2000})
	if n := all.Count(); n > 0 {
		out.LatencyMs[">=2000"] = 100 * float64(all.Between(2000e6, 1<<62)) / float64(n)
	} else {
		out.LatencyMs[">=2000"] = 0
	}
	return out
}

func errno(err error) int {
	if err == nil {
		return 0
	}
	var no unix.Errno
	if errors.As(err, &no) {
		return int(no)
	}
	return int(unix.EIO)
}

func jobOptions(s *job.Spec) map[string]string {
	return map[string]string{
		"name": s.Name, "rw": s.Mode.Name, "bs": blockSizes(s), "iodepth": fmt.Sprint(s.Depth),
		"size": fmt.Sprint(s.Size), "offset": fmt.Sprint(s.Offset), "randseed": fmt.Sprint(s.Seed),
	}
}

func fioDirection(j *Job, d job.Dir, plus bool) fioDir {
	s := &j.Stats.Dir[d]
	bw := j.Bandwidth(d)
	bs := float64(j.Spec.BlockSize[d]) / 1024
	return fioDir{
		IOBytes: s.Bytes, IOKBytes: s.Bytes >> 10, BWBytes: uint64(bw), BW: uint64(bw / 1024), IOPS: j.IOPS(d),
		Runtime: j.Stats.Elapsed / int64(time.Millisecond), TotalIOs: s.IOs,
		Slat: latency(&s.Submission, false, false), Clat: latency(&s.Completion, true, plus), Lat: totalLatency(s),
		BWMin: uint64(s.Rate.Min * bs), BWMax: uint64(s.Rate.Max * bs), BWAgg: 100, BWMean: s.Rate.Mean * bs,
		BWDev: s.Rate.StdDev() * bs, BWSamples: s.Rate.N,
		IOPSMin: uint64(s.Rate.Min), IOPSMax: uint64(s.Rate.Max), IOPSMean: s.Rate.Mean,
		IOPSStddev: s.Rate.StdDev(), IOPSSample: s.Rate.N,
	}
}

// totalLatency is from before the submission; the completion is measured from there too.
func totalLatency(s *job.DirStats) fioLat { return latency(&s.Completion, false, false) }

func latency(h *hist.Histogram, percentiles, bins bool) fioLat {
	l := fioLat{Min: h.Min(), Max: h.Max(), Mean: h.Mean(), StdDev: h.StdDev(), N: h.Count()}
	if l.N == 0 {
		return l
	}
	if percentiles {
		l.Percentile = map[string]uint64{}
		for _, p := range fioPercentiles {
			l.Percentile[fmt.Sprintf("%.6f", p)] = h.Percentile(p)
		}
	}
	if bins {
		l.Bins = map[string]uint64{}
		for _, b := range h.Buckets() {
			l.Bins[fmt.Sprint(b.Low+(b.High-b.Low)/2)] = b.Count
		}
	}
	return l
}

func depthLevels(st *job.Stats) map[string]float64 {
	names := []string{"1", "1", "2", "4", "8", "16", "32"}
	out := map[string]float64{">=64": 0}
	for _, n := range names {
		out[n] = 0
	}
	total := 0.0
	for _, n := range st.Depth {
		total += float64(n)
	}
	for i, n := range st.Depth {
		if total == 0 {
			break
		}
		name := ">=64"
		if i < len(names) {
			name = names[i]
		}
		out[name] += 100 * float64(n) / total
	}
	return out
}

// shares returns what part of the IOs took up to each limit and more than the one before.
func shares(h *hist.Histogram, unit, above uint64, limits []uint64) map[string]float64 {
	out := make(map[string]float64, len(limits)+1)
	n := float64(max(h.Count(), 1))
	for i, l := range limits {
		count := h.Between(above, l*unit)
		if i == 0 && above == 0 {
			count = h.Count() - h.Between(l*unit, 1<<62)
		}
		out[fmt.Sprint(l)] = 100 * float64(count) / n
		above = l * unit
	}
	return out
}

func (r *Run) extras() extras {
	e := extras{
		Target: r.Target, Where: r.Where, Errors: r.Errors(), Busy: r.CPU.Busy, Mallocs: r.CPU.Mallocs, GCCycles: r.CPU.Collections,
	}
	iops := 0.0
	for i := range r.Jobs {
		for d := range job.NumDirs {
			iops += r.Jobs[i].IOPS(d)
		}
		if err := r.Jobs[i].Stats.Err; err != nil {
			e.Messages = append(e.Messages, r.Jobs[i].Name+": "+err.Error())
		}
	}
	e.CPUPerIO = r.cpuPerIO()
	if y := r.Yardstick; y != nil {
		if e.CPUPerIO > 0 {
			e.OfByCPU = y.CPUNanoseconds() / e.CPUPerIO
		}
		e.Yardstick, e.OfYardstick = y.PerSecond(), iops/y.PerSecond()
		e.YardstickRun = []float64{y.Before.PerSecond(), y.After.PerSecond()}
	}
	if v := r.Verify; v != nil {
		e.Verify = &verifyOut{v.InRun, v.Final, v.Mismatches, v.First, v.Elapsed.Seconds()}
	}
	if r.FTL != nil {
		e.FTL = r.FTL.out()
	}
	return e
}

func (f *FTL) out() *ftlOut {
	o := &ftlOut{
		Bytes: f.Bytes, Created: f.Created, StartS: f.Create.Seconds(), StopS: f.Stop.Seconds(),
		UserWrites: f.UserWrites, UserReads: f.UserReads, Trims: f.Trims, Flushes: f.Flushes,
		WAFBase: f.WAFBase, WAFTotal: f.WAFTotal, Sources: map[string]sourceOut{}, Gauges: f.Gauges,
	}
	for _, s := range f.Sources {
		out := sourceOut{
			CacheRead: s.CacheRead, CacheWrite: s.CacheWrite, BaseRead: s.BaseRead, BaseWrite: s.BaseWrite,
			Media: s.Errors.Media, Checksum: s.Errors.Checksum, Other: s.Errors.Other,
		}
		if f.UserWrites > 0 {
			out.Share = float64(s.CacheWrite+s.BaseWrite) / float64(f.UserWrites)
		}
		o.Sources[s.Name] = out
	}
	if rec := f.Recovery; rec != nil {
		o.Recovery = &recoveryOut{
			After: rec.After, TotalS: rec.Elapsed.Seconds(), Phases: map[string]float64{},
			Redone: rec.Redone, Gaps: rec.Gaps, Rotten: rec.RottenPages, Memory: rec.FromMemory,
		}
		for _, p := range rec.Phases {
			o.Recovery.Phases[p.Name] = p.Elapsed.Seconds()
		}
	}
	return o
}
