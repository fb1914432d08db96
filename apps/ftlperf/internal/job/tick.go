package job

import (
	"fmt"
	"math"
	"time"

	"goftl/poller"
)

const minTime = math.MinInt64

func ioError(io *IO, err error) error {
	what := [...]string{"read", "write", "write with FUA", "trim", "flush"}[io.Op]
	if io.Op == OpFlush {
		return fmt.Errorf("flush: %w", err)
	}
	return fmt.Errorf("%s of %d bytes at offset %d: %w", what, io.Length, io.Offset, err)
}

// rampOver forgets what was measured so far.
func rampOver(arg any) poller.Result {
	j := arg.(*Job)
	j.rampEnd.Unregister()
	j.rampEnd = nil
	j.ramping = false
	parked, err := j.stats.Parked, j.stats.Err
	verified, wrong, first := j.stats.Verified, j.stats.Mismatches, j.stats.FirstMismatches
	j.stats = Stats{Parked: parked, Err: err, Verified: verified, Mismatches: wrong, FirstMismatches: first}
	j.begin, j.sampleAt = j.clock(), j.clock()
	j.sampled = [NumDirs]uint64{}
	return poller.Busy
}

// tick publishes the progress, takes a sample of the rate every half second,
// and ends a job whose time is over while its IOs are parked.
func tick(arg any) poller.Result {
	j := arg.(*Job)
	now := j.clock()
	j.publish(j.fraction(now))
	if elapsed := now - j.sampleAt; elapsed >= samplePeriodNs && !j.ramping {
		for d := range NumDirs {
			s := &j.stats.Dir[d]
			s.Rate.record(float64(s.IOs-j.sampled[d]) * float64(time.Second) / float64(elapsed))
			j.sampled[d] = s.IOs
		}
		j.sampleAt = now
	}
	if now >= j.deadline && (j.waiting.n > 0 || j.blocked.n > 0) {
		j.wind()
	}
	return poller.Busy
}

// fraction estimates how much of the job is done.
func (j *Job) fraction(now int64) float64 {
	if j.spec.Mode.Verify {
		return float64(max(j.scan, j.base/j.spec.Table.Unit())*j.spec.Table.Unit()-j.base) / float64(j.spec.Size)
	}
	done := 0.0
	if j.spec.Runtime > 0 {
		total := int64(j.spec.Runtime + j.spec.Ramp)
		done = float64(total-(j.deadline-now)) / float64(total)
	}
	if total := j.spec.budget(); total > 0 && !j.spec.TimeBased {
		done = max(done, 1-float64(j.left)/float64(total))
	}
	if j.spec.Count > 0 {
		done = max(done, 1-float64(j.leftIOs)/float64(j.spec.Count))
	}
	return min(max(done, 0), 1)
}

func (s *Spec) budget() uint64 {
	if s.Bytes > 0 {
		return s.Bytes
	}
	return s.Size
}

func (j *Job) publish(fraction float64) {
	for d := range NumDirs {
		s := &j.stats.Dir[d]
		j.shared.ios[d].Store(s.IOs)
		j.shared.bytes[d].Store(s.IOs * j.size[d])
	}
	j.shared.doneFrac.Store(math.Float64bits(fraction))
}

// Progress is a snapshot of a running job, at most a tick old.
type Progress struct {
	IOs, Bytes [NumDirs]uint64
	Fraction   float64
}

// Progress may be called by any goroutine.
func (j *Job) Progress() Progress {
	var p Progress
	for d := range NumDirs {
		p.IOs[d] = j.shared.ios[d].Load()
		p.Bytes[d] = j.shared.bytes[d].Load()
	}
	p.Fraction = math.Float64frombits(j.shared.doneFrac.Load())
	return p
}
