package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"goftl/apps/ftlperf/internal/hist"
	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/units"
)

var shownPercentiles = []float64{1, 50, 90, 95, 99, 99.9, 99.99}

// Text writes the summary that people read.
func (r *Run) Text(w io.Writer) error {
	p := &printer{w: w}
	p.line("ftlperf on %s, %s", r.Target, r.Where)
	for i := range r.Jobs {
		r.job(p, &r.Jobs[i])
	}
	if len(r.Jobs) > 1 {
		all := Group(r.Jobs)
		all.Name = "all jobs"
		r.job(p, &all)
	}
	r.verify(p)
	if r.FTL != nil {
		r.FTL.text(p)
	}
	c := r.CPU
	busy := ""
	if c.Busy > 0 {
		busy = fmt.Sprintf("threads busy %.1f%%, ", c.Busy)
	}
	perIO := r.cpuPerIO()
	if perIO > 0 {
		p.line("  cpu: %.4g ns of CPU time for an IO, so %s IOPS of a whole core%s", perIO, units.Count(1e9/perIO), r.comparedCPU(perIO))
	}
	p.line("  cpu: %susr=%.1f%%, sys=%.1f%% of one core, ctx=%d, majf=%d, minf=%d, Go allocations=%d, GC cycles=%d",
		busy, c.User, c.System, c.ContextSwitches, c.MajorFaults, c.MinorFaults, c.Mallocs, c.Collections)
	if y := r.Yardstick; y != nil {
		p.line("  yardstick: %v before, %v after", y.Before, y.After)
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (r *Run) job(p *printer, j *Job) {
	jobs := ""
	if j.Count > 1 {
		jobs = fmt.Sprintf(", %d jobs", j.Count)
	}
	p.line("%s: rw=%s, bs=%s, iodepth=%d%s%s", j.Name, j.Spec.Mode.Name, blockSizes(&j.Spec), j.Spec.Depth, jobs, r.clockNote())
	total := 0.0
	for d := range job.NumDirs {
		s := &j.Stats.Dir[d]
		if s.IOs == 0 && !j.Spec.Mode.Dirs[d] {
			continue
		}
		total += j.IOPS(d)
		p.line("  %5s: IOPS=%s, BW=%s/s (%s in %s)", d, units.Count(j.IOPS(d)), units.Bytes(j.Bandwidth(d)),
			units.Bytes(float64(s.Bytes)), time.Duration(j.Stats.Elapsed).Round(time.Millisecond))
		latencies(p, "clat", &s.Completion, r.Buckets)
		if s.Submission.Count() > 0 {
			latencies(p, "slat", &s.Submission, false)
		}
	}
	if n := j.Stats.Flush.Count(); n > 0 {
		p.line("  flush: %d", n)
		latencies(p, "lat", &j.Stats.Flush, r.Buckets)
	}
	p.line("  total: %s", r.compared(total))
	if j.Stats.Parked > 0 {
		p.line("  note: %d submissions waited for room in the device's pool", j.Stats.Parked)
	}
	for d := range job.NumDirs {
		if n := j.Stats.Dir[d].Errors; n > 0 {
			p.line("  ERRORS: %d of %s", n, d)
		}
	}
	if j.Stats.Err != nil {
		p.line("  ERROR: %v", j.Stats.Err)
	}
	if j.Stats.Interrupted {
		p.line("  note: stopped early")
	}
}

func (r *Run) clockNote() string {
	if r.Precise {
		return ", latencies by the exact clock"
	}
	return ""
}

// compared is the line that figures of different machines are compared by.
func (r *Run) compared(iops float64) string {
	line := fmt.Sprintf("%.3g M IOPS", iops/1e6)
	if r.Yardstick != nil {
		line += fmt.Sprintf(" = %.3g of yardstick", iops/r.Yardstick.PerSecond())
	}
	return line
}

// comparedCPU compares the CPU time of an IO with that of a yardstick's write: what
// the figure would be without others on the machine.
func (r *Run) comparedCPU(perIO float64) string {
	if r.Yardstick == nil || perIO == 0 {
		return ""
	}
	return fmt.Sprintf(" = %.3g of yardstick by CPU time", r.Yardstick.CPUNanoseconds()/perIO)
}

func blockSizes(s *job.Spec) string {
	var sizes []string
	for d := range job.NumDirs {
		if s.Mode.Dirs[d] {
			sizes = append(sizes, units.Bytes(float64(s.BlockSize[d])))
		}
	}
	if slices.Min(sizes) == slices.Max(sizes) {
		return sizes[0]
	}
	return strings.Join(sizes, "/")
}

func latencies(p *printer, what string, h *hist.Histogram, buckets bool) {
	if h.Count() == 0 {
		return
	}
	p.line("    %s: min=%s, avg=%s, max=%s, stdev=%s", what, units.Nanos(float64(h.Min())), units.Nanos(h.Mean()),
		units.Nanos(float64(h.Max())), units.Nanos(h.StdDev()))
	var parts []string
	for _, pct := range shownPercentiles {
		parts = append(parts, fmt.Sprintf("p%g=%s", pct, units.Nanos(float64(h.Percentile(pct)))))
	}
	p.line("     %s", strings.Join(parts, ", "))
	if buckets {
		histogram(p, h)
	}
}

// histogram draws the distribution, four rows an octave.
func histogram(p *printer, h *hist.Histogram) {
	const width = 50
	type row struct{ low, high, n uint64 }
	var rows []row
	for _, b := range h.Buckets() {
		if n := len(rows); n > 0 && rows[n-1].low > 0 && b.Low*4 < rows[n-1].low*5 {
			rows[n-1].high = b.High
			rows[n-1].n += b.Count
			continue
		}
		rows = append(rows, row{b.Low, b.High, b.Count})
	}
	most, total, seen := uint64(1), h.Count(), uint64(0)
	for _, r := range rows {
		most = max(most, r.n)
	}
	for _, r := range rows {
		seen += r.n
		bar := strings.Repeat("#", int((r.n*width+most-1)/most))
		p.line("     %9s..%-9s %-*s %8.4f%% %9.5f%%", units.Nanos(float64(r.low)), units.Nanos(float64(r.high)), width, bar,
			100*float64(r.n)/float64(total), 100*float64(seen)/float64(total))
	}
}

func (r *Run) verify(p *printer) {
	v := r.Verify
	if v == nil {
		return
	}
	verdict := "all as expected"
	if v.Mismatches > 0 {
		verdict = fmt.Sprintf("%d WRONG", v.Mismatches)
	}
	p.line("  verify: %d blocks checked while reading, %d in the final pass (%s): %s",
		v.InRun, v.Final, v.Elapsed.Round(time.Millisecond), verdict)
	for _, m := range v.First {
		p.line("    %s", m)
	}
}

func (f *FTL) text(p *printer) {
	how := "loaded"
	if f.Created {
		how = "created"
	}
	p.line("  ftl: %s for its users, %s in %s", units.Bytes(float64(f.Bytes)), how, f.Create.Round(100*time.Microsecond))
	p.line("    user: %s written, %s read, %s trimmed, %d flushes", blocks(f.UserWrites), blocks(f.UserReads), blocks(f.Trims), f.Flushes)
	p.line("    write amplification: base %.3f, base and cache %.3f", f.WAFBase, f.WAFTotal)
	p.line("    %-12s %10s %10s %10s %10s %10s %10s", "source", "cache read", "written", "base read", "written", "per user", "of writes")
	all := uint64(0)
	for _, s := range f.Sources {
		all += s.CacheWrite + s.BaseWrite
	}
	for _, s := range f.Sources {
		written := s.CacheWrite + s.BaseWrite
		p.line("    %-12s %10s %10s %10s %10s %10s %10s", s.Name, blocks(s.CacheRead), blocks(s.CacheWrite), blocks(s.BaseRead),
			blocks(s.BaseWrite), percent(written, f.UserWrites), percent(written, all))
		if e := s.Errors; e != (DeviceErrors{}) {
			p.line("    %-12s device errors: %d media, %d checksum, %d other", "", e.Media, e.Checksum, e.Other)
		}
	}
	var gauges []string
	for name := range f.Gauges {
		gauges = append(gauges, name)
	}
	slices.Sort(gauges)
	for i, name := range gauges {
		gauges[i] = fmt.Sprintf("%s=%d", name, f.Gauges[name])
	}
	if len(gauges) > 0 {
		p.line("    state: %s", strings.Join(gauges, ", "))
	}
	if rec := f.Recovery; rec != nil {
		p.line("  recovery: %s after a crash (%s), %d records redone", rec.Elapsed.Round(10*time.Microsecond), rec.After, rec.Redone)
		if rec.Gaps+rec.RottenPages > 0 {
			p.line("    LOST: %d durable records cannot be read, %d pages of the mapping are damaged", rec.Gaps, rec.RottenPages)
		}
		for _, ph := range rec.Phases {
			p.line("    %-32s %s", ph.Name, ph.Elapsed.Round(time.Microsecond))
		}
	}
}

func percent(part, all uint64) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(all))
}

func blocks(n uint64) string { return units.Bytes(float64(n) * 4096) }
