package gen

import (
	"math"
	"math/bits"
)

// Zipf draws ranks 0..n-1 with probability proportional to (rank+1)^-theta,
// exactly, for any theta >= 0 (the common approximation of Gray et al. is off
// by several per cent in the middle ranks, and math/rand needs theta > 1).
//
// The ranks are cut into segments in which the probability hardly changes. A
// segment is drawn by Vose's alias table with the weight count * p(first), a
// rank inside it uniformly, and the rank is accepted with probability
// p(rank)/p(first), nearly always without computing a power. Rejection starts
// over with a new segment, so the result is exact. Memory does not depend on n
// except by its logarithm.
type Zipf struct {
	segments []zipfSegment
	theta    float64
}

type zipfSegment struct {
	first, count uint64
	sure         uint64  // accepted without a power when the 64-bit fraction is below
	threshold    uint64  // of the alias table, as a 64-bit fraction
	alias        uint64  // index of the other segment of this slot
	inverseFirst float64 // 1/(first+1)
}

const (
	zipfSingles = 64 // ranks that are a segment of their own
	zipfGrowth  = 32 // a later segment holds 1/32 of the ranks before it
)

// NewZipf prepares a generator for n > 0 ranks.
func NewZipf(n uint64, theta float64) *Zipf {
	z := &Zipf{theta: theta}
	weights := make([]float64, 0, 1024)
	for first := uint64(0); first < n; {
		count := uint64(1)
		if first >= zipfSingles {
			count = min(first/zipfGrowth, n-first)
		}
		low := math.Pow(float64(first+1)/float64(first+count), theta)
		z.segments = append(z.segments, zipfSegment{
			first: first, count: count, sure: fraction(low), inverseFirst: 1 / float64(first+1),
		})
		weights = append(weights, float64(count)*math.Pow(float64(first+1), -theta))
		first += count
	}
	thresholds, aliases := aliasTable(weights)
	for i := range z.segments {
		z.segments[i].threshold, z.segments[i].alias = thresholds[i], aliases[i]
	}
	return z
}

// Next returns a rank.
func (z *Zipf) Next(r *Rand) uint64 {
	for {
		slot, rest := bits.Mul64(r.Uint64(), uint64(len(z.segments)))
		s := &z.segments[slot]
		if rest >= s.threshold {
			s = &z.segments[s.alias]
		}
		if s.count == 1 {
			return s.first
		}
		offset, rest := bits.Mul64(r.Uint64(), s.count)
		if rest < s.sure || z.accept(s, offset, rest) {
			return s.first + offset
		}
	}
}

func (z *Zipf) accept(s *zipfSegment, offset, rest uint64) bool {
	ratio := 1 + float64(offset)*s.inverseFirst
	return float64(rest)*(1.0/(1<<32)/(1<<32)) < math.Pow(ratio, -z.theta)
}

// fraction converts a probability to a 64-bit fixed-point fraction.
func fraction(p float64) uint64 {
	if p >= 1 {
		return math.MaxUint64
	}
	return uint64(p * (1 << 32) * (1 << 32))
}

// aliasTable is Vose's method: slot i yields i below thresholds[i], else
// aliases[i], and a uniform slot then has the wanted weights.
func aliasTable(weights []float64) (thresholds, aliases []uint64) {
	n := len(weights)
	thresholds, aliases = make([]uint64, n), make([]uint64, n)
	total := 0.0
	for _, w := range weights {
		total += w
	}
	scaled := make([]float64, n)
	var small, large []int
	for i, w := range weights {
		scaled[i] = w / total * float64(n)
		if scaled[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		thresholds[s], aliases[s] = fraction(scaled[s]), uint64(l)
		if scaled[l] -= 1 - scaled[s]; scaled[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) {
		thresholds[i], aliases[i] = math.MaxUint64, uint64(i)
	}
	return thresholds, aliases
}
