package job

import (
	"math"
	"math/bits"

	"goftl/apps/ftlperf/internal/hist"
	"goftl/apps/ftlperf/internal/verify"
)

// DirStats is what was measured in one direction.
type DirStats struct {
	IOs, Bytes uint64
	Errors     uint64
	Submission hist.Histogram // ns from before Submit to after it; only when Precise
	Completion hist.Histogram // ns from Submit to Complete
	Rate       Samples        // IOs a second, every half second
}

// Stats is what a job measured since the end of its ramp.
type Stats struct {
	Dir    [NumDirs]DirStats
	Flush  hist.Histogram
	Depth  [32]uint64 // IOs submitted with 2^(i-1) .. 2^i-1 in flight, themselves included
	Parked uint64     // submissions that had to wait for room

	Elapsed         int64 // ns
	Verified        uint64
	Mismatches      uint64
	FirstMismatches []verify.Mismatch
	Err             error // the first one
	Interrupted     bool
}

const mismatchesKept = 8

// Merge adds what another job of the same group measured.
func (s *Stats) Merge(o *Stats) {
	for d := range s.Dir {
		a, b := &s.Dir[d], &o.Dir[d]
		a.IOs += b.IOs
		a.Bytes += b.Bytes
		a.Errors += b.Errors
		a.Submission.Merge(&b.Submission)
		a.Completion.Merge(&b.Completion)
		a.Rate.add(&b.Rate)
	}
	s.Flush.Merge(&o.Flush)
	for i := range s.Depth {
		s.Depth[i] += o.Depth[i]
	}
	s.Parked += o.Parked
	s.Elapsed = max(s.Elapsed, o.Elapsed)
	s.Verified += o.Verified
	s.Mismatches += o.Mismatches
	for _, m := range o.FirstMismatches {
		if len(s.FirstMismatches) < mismatchesKept {
			s.FirstMismatches = append(s.FirstMismatches, m)
		}
	}
	if s.Err == nil {
		s.Err = o.Err
	}
	s.Interrupted = s.Interrupted || o.Interrupted
}

// Samples accumulates rates (Welford's method).
type Samples struct {
	N              int
	Min, Max, Mean float64
	m2             float64
}

func (s *Samples) record(v float64) {
	if s.N == 0 || v < s.Min {
		s.Min = v
	}
	if s.N == 0 || v > s.Max {
		s.Max = v
	}
	s.N++
	delta := v - s.Mean
	s.Mean += delta / float64(s.N)
	s.m2 += delta * (v - s.Mean)
}

// add sums the rates of jobs that ran at the same time.
func (s *Samples) add(o *Samples) {
	variance := s.StdDev()*s.StdDev() + o.StdDev()*o.StdDev()
	s.N = max(s.N, o.N)
	s.Min += o.Min
	s.Max += o.Max
	s.Mean += o.Mean
	s.m2 = variance * float64(max(s.N-1, 0))
}

// StdDev returns the standard deviation.
func (s *Samples) StdDev() float64 {
	if s.N < 2 {
		return 0
	}
	return math.Sqrt(s.m2 / float64(s.N-1))
}

// depthLevel is the index into Stats.Depth.
func depthLevel(inflight uint32) int { return bits.Len32(inflight) & 31 }
