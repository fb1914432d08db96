package sim

import "math/rand/v2"

// Rand is the one source of randomness of a run.
type Rand struct{ *rand.Rand }

// NewRand returns the generator of a seed.
func NewRand(seed uint64) *Rand {
	return &Rand{rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))}
}

// Chance is true with probability p. It draws nothing when p is 0, so that a fault that is switched off leaves the
// rest of the run as it was.
func (r *Rand) Chance(p float64) bool { return p > 0 && r.Float64() < p }

// Range returns a number in [lo, hi].
func (r *Rand) Range(lo, hi int64) int64 {
	if hi <= lo {
		return lo
	}
	return lo + r.Int64N(hi-lo+1)
}

// Pick returns an index in proportion to its weight; the weights must not all be 0.
func (r *Rand) Pick(weights ...int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := r.IntN(sum)
	for i, w := range weights {
		if n < w {
			return i
		}
		n -= w
	}
	return len(weights) - 1
}

// Skewed returns a number in [1, limit], small ones far more often: half of them at most the square root.
func (r *Rand) Skewed(limit int64) int64 {
	v := limit
	for v > 1 && r.IntN(2) == 0 {
		v = v/4 + 1
		if v == 1 {
			break
		}
	}
	return 1 + r.Int64N(v)
}
