package run

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/report"
	"goftl/apps/ftlperf/internal/target"
	"goftl/apps/ftlperf/internal/verify"
	"goftl/apps/ftlperf/internal/yardstick"
)

// Crasher is a target that can be dropped without a shutdown and started again.
type Crasher interface {
	// Crash drops the device and everything in flight, starts it again, and
	// says how long that took. No job uses it any more.
	Crash(after string) (*report.Recovery, error)
}

// Reporter is a target that adds a section of its own to the report.
type Reporter interface {
	// Mark is called when the measured phase begins.
	Mark()
	// Describe is called when it has ended, and again after Close.
	Describe(r *report.Run)
}

// Worker is a target whose threads know how busy they are.
type Worker interface {
	// Busy returns the time that all threads together have worked so far.
	Busy() time.Duration
}

// Do carries the measurement out.
func Do(ctx context.Context, c *Config) (*report.Run, error) {
	out := c.Report
	if c.Yardstick {
		out.Yardstick = &report.Yardstick{}
		if err := c.yardstick(&out.Yardstick.Before, "before"); err != nil {
			return nil, err
		}
	}
	t, err := c.Open()
	if err != nil {
		return nil, err
	}
	out.Target, out.Where = t.Info().Name, t.Where()
	err = c.phases(ctx, t, &out)
	started := time.Now()
	closed := t.Close()
	if out.FTL != nil {
		out.FTL.Stop = time.Since(started)
	}
	if err := errors.Join(err, closed); err != nil {
		return nil, err
	}
	if c.Yardstick {
		if err := c.yardstick(&out.Yardstick.After, "after"); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

func (c *Config) yardstick(into *yardstick.Result, when string) error {
	c.Progress.Note("measuring the yardstick %s the run", when)
	r, err := yardstick.Measure(yardstick.Options{CPU: c.YardstickCPU, Duration: time.Second})
	*into = r
	return err
}

func (c *Config) phases(ctx context.Context, t target.Target, out *report.Run) error {
	p, err := c.plan(t.Info())
	if err != nil {
		return err
	}
	if p.table != nil {
		defer func() { _ = p.table.Close() }() // memory or a file that the kernel keeps
	}
	if c.VerifyOnly {
		return c.finalPass(ctx, t, p, out, nil)
	}
	if c.Fill {
		if err := c.fill(ctx, t, p); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the jobs began: %w", ctx.Err())
	}
	stats, err := c.measure(ctx, t, p, out)
	if err != nil {
		return err
	}
	if c.crashes() {
		if err := c.crash(t, p, out); err != nil {
			return err
		}
	}
	if p.table == nil || !c.FinalPass {
		return nil
	}
	return c.finalPass(ctx, t, p, out, stats)
}

func (c *Config) fill(ctx context.Context, t target.Target, p *plan) error {
	ph, err := start("fill", p.fillSpecs(c, len(t.Lanes())), t)
	if err != nil {
		return err
	}
	for _, st := range ph.wait(ctx, c.Progress, nil) {
		if st.Err != nil {
			return fmt.Errorf("fill: %w", st.Err)
		}
	}
	return nil
}

// measure runs the jobs and accounts for them.
func (c *Config) measure(ctx context.Context, t target.Target, p *plan, out *report.Run) ([]*job.Stats, error) {
	if r, ok := t.(Reporter); ok {
		r.Mark()
	}
	out.Started = time.Now()
	before, busy := usageNow(), time.Duration(0)
	worker, works := t.(Worker)
	if works {
		busy = worker.Busy()
	}
	ph, err := start(c.Job.Mode.Name, p.jobs, t)
	if err != nil {
		return nil, err
	}
	var crash <-chan time.Time
	if c.CrashAfter > 0 {
		crash = time.After(c.CrashAfter)
	}
	stats := ph.wait(ctx, c.Progress, crash)
	now := usageNow()
	out.CPU = now.since(before)
	if works {
		out.CPU.Busy = 100 * float64(worker.Busy()-busy) / float64(now.at.Sub(before.at))
	}
	if r, ok := t.(Reporter); ok {
		r.Describe(out)
	}
	for i, st := range stats {
		out.Jobs = append(out.Jobs, report.Job{Name: p.jobs[i].Name, Spec: p.jobs[i], Count: 1, Stats: st})
	}
	if c.Grouped && len(out.Jobs) > 1 {
		out.Jobs = []report.Job{report.Group(out.Jobs)}
	}
	return stats, nil
}

func (c *Config) crash(t target.Target, p *plan, out *report.Run) error {
	crasher, ok := t.(Crasher)
	if !ok {
		return fmt.Errorf("--crash-after: only an FTL (--cache, --base) can be crashed: %w", unix.ENOTSUP)
	}
	after := fmt.Sprintf("after %v", c.CrashAfter)
	if c.CrashAtIOs > 0 {
		after = fmt.Sprintf("after %d IOs", c.CrashAtIOs)
	}
	if p.table != nil {
		p.table.Interrupted()
	}
	rec, err := crasher.Crash(after)
	if out.FTL != nil {
		out.FTL.Recovery = rec
	}
	return err
}

// finalPass reads everything back; stats are those of the jobs.
func (c *Config) finalPass(ctx context.Context, t target.Target, p *plan, out *report.Run, stats []*job.Stats) error {
	v := &report.Verify{}
	out.Verify = v
	if out.Started.IsZero() {
		out.Started = time.Now()
	}
	var all job.Stats
	for _, st := range stats {
		v.InRun += st.Verified
		all.Merge(st)
	}
	started := time.Now()
	ph, err := start("verify", p.verifySpecs(c, len(t.Lanes())), t)
	if err != nil {
		return err
	}
	for i, st := range ph.wait(ctx, c.Progress, nil) {
		v.Final += st.Verified
		all.Merge(st)
		if st.Err != nil || c.VerifyOnly {
			out.Jobs = append(out.Jobs, report.Job{Name: "verify", Spec: *ph.jobs[i].Spec(), Count: 1, Stats: st})
		}
	}
	v.Elapsed = time.Since(started)
	v.Mismatches = all.Mismatches
	v.First = texts(all.FirstMismatches)
	return nil
}

func texts(list []verify.Mismatch) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.String()
	}
	return out
}

// usage is what the process has used so far.
type usage struct {
	at  time.Time
	ru  unix.Rusage
	mem runtime.MemStats
}

func usageNow() *usage {
	u := &usage{at: time.Now()}
	runtime.ReadMemStats(&u.mem)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u.ru) // cannot fail for oneself
	return u
}

func (u *usage) since(before *usage) report.CPU {
	wall := float64(u.at.Sub(before.at).Microseconds())
	share := func(now, then unix.Timeval) float64 {
		return 100 * float64(now.Nano()-then.Nano()) / 1000 / max(wall, 1)
	}
	return report.CPU{
		User: share(u.ru.Utime, before.ru.Utime), System: share(u.ru.Stime, before.ru.Stime),
		ContextSwitches: u.ru.Nvcsw + u.ru.Nivcsw - before.ru.Nvcsw - before.ru.Nivcsw,
		MajorFaults:     u.ru.Majflt - before.ru.Majflt, MinorFaults: u.ru.Minflt - before.ru.Minflt,
		Mallocs: u.mem.Mallocs - before.mem.Mallocs, Collections: u.mem.NumGC - before.mem.NumGC,
	}
}
