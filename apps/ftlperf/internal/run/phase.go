package run

import (
	"context"
	"time"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/target"
)

// phase is a set of jobs that run at the same time.
type phase struct {
	name     string
	jobs     []*job.Job
	finished chan *job.Job
}

// start makes one job of each spec, job i on lane i modulo the number of lanes, and starts them.
func start(name string, specs []job.Spec, t target.Target) (*phase, error) {
	p := &phase{name: name, finished: make(chan *job.Job, len(specs))}
	lanes := t.Lanes()
	for i := range specs {
		j, err := job.New(specs[i], lanes[i%len(lanes)], func(j *job.Job) { p.finished <- j })
		if err != nil {
			return nil, err
		}
		p.jobs = append(p.jobs, j)
	}
	for i, j := range p.jobs {
		lane := i % len(lanes)
		where := t.On(lane)
		lanes[lane].Send(func(any) { j.Start(where) }, nil)
	}
	return p, nil
}

// wait returns when every job has ended. A cancelled context stops them; crash,
// unless nil, abandons them, as does a job that abandoned itself.
func (p *phase) wait(ctx context.Context, show *Progress, crash <-chan time.Time) []*job.Stats {
	ticks := time.NewTicker(progressPeriod)
	defer ticks.Stop()
	cancelled := ctx.Done()
	show.begin(p)
	defer show.end()
	for ended := 0; ended < len(p.jobs); {
		select {
		case j := <-p.finished:
			if ended++; j.Abandoned() {
				p.abandon()
			}
		case <-cancelled:
			cancelled = nil
			for _, j := range p.jobs {
				j.Stop()
			}
		case <-crash:
			p.abandon()
		case <-ticks.C:
			show.tick()
		}
	}
	stats := make([]*job.Stats, len(p.jobs))
	for i, j := range p.jobs {
		stats[i] = j.Stats()
	}
	return stats
}

func (p *phase) abandon() {
	for _, j := range p.jobs {
		j.Abandon()
	}
}

// progress sums up the jobs.
func (p *phase) progress() job.Progress {
	sum := job.Progress{Fraction: 1}
	for _, j := range p.jobs {
		one := j.Progress()
		for d := range job.NumDirs {
			sum.IOs[d] += one.IOs[d]
			sum.Bytes[d] += one.Bytes[d]
		}
		sum.Fraction = min(sum.Fraction, one.Fraction)
	}
	return sum
}
