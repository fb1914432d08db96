// Package hist is the latency histogram of ftlperf: an index and an increment
// per IO, percentiles within 1 %.
//
// A Histogram has one owner, the job's thread; a copy taken there may be
// merged and read anywhere.
package hist

import (
	"math"
	"math/bits"
)

const (
	subBits    = 6 // 64 buckets an octave: half a bucket is 0.8 %
	exactBelow = 1 << (subBits + 1)
	maxShift   = 34
	numBuckets = (maxShift + 2) << subBits
	maxValue   = 1<<(maxShift+subBits+1) - 1 // 36 minutes in ns; longer counts as this
)

// Histogram counts values in nanoseconds. Its zero value is empty.
type Histogram struct {
	counts [numBuckets]uint64
	sum    uint64
	max    uint64
	invMin uint64 // ^min, so that the zero value means "none yet"
}

// Record counts v; a negative value counts as zero.
func (h *Histogram) Record(v int64) {
	u := uint64(max(v, 0))
	h.counts[index(u)]++
	h.sum += u
	h.max = max(h.max, u)
	h.invMin = max(h.invMin, ^u)
}

// index maps v to its bucket: exact below 128, then 64 buckets an octave.
func index(v uint64) int {
	v = min(v, maxValue)
	shift := bits.Len64(v|(exactBelow-1)) - (subBits + 1)
	return shift<<subBits + int(v>>shift)
}

// bounds returns the smallest and the largest value of a bucket.
func bounds(i int) (low, high uint64) {
	if i < exactBelow {
		return uint64(i), uint64(i)
	}
	shift := i>>subBits - 1
	low = uint64(i-shift<<subBits) << shift
	return low, low + 1<<shift - 1
}

// Reset forgets everything.
func (h *Histogram) Reset() { *h = Histogram{} }

// Merge adds what other counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.sum += other.sum
	h.max = max(h.max, other.max)
	h.invMin = max(h.invMin, other.invMin)
}

// Count returns how many values were recorded.
func (h *Histogram) Count() uint64 {
	n := uint64(0)
	for _, c := range h.counts {
		n += c
	}
	return n
}

// Min returns the smallest value, exactly, as Max and Mean are; 0 when nothing was recorded.
func (h *Histogram) Min() uint64 {
	if h.invMin == 0 {
		return 0
	}
	return ^h.invMin
}

// Max returns the largest value.
func (h *Histogram) Max() uint64 { return h.max }

// Mean returns the average.
func (h *Histogram) Mean() float64 {
	if n := h.Count(); n > 0 {
		return float64(h.sum) / float64(n)
	}
	return 0
}

// StdDev returns the standard deviation, from the middles of the buckets.
func (h *Histogram) StdDev() float64 {
	n, mean, sum := h.Count(), h.Mean(), 0.0
	if n < 2 {
		return 0
	}
	for i, c := range h.counts {
		if c > 0 {
			d := float64(h.middle(i)) - mean
			sum += float64(c) * d * d
		}
	}
	return math.Sqrt(sum / float64(n-1))
}

// Percentile returns the value below or at which pct per cent of the values
// lie, as the middle of its bucket and never outside [Min, Max].
func (h *Histogram) Percentile(pct float64) uint64 {
	n := h.Count()
	if n == 0 {
		return 0
	}
	want := uint64(math.Ceil(float64(n) * pct / 100))
	want = min(max(want, 1), n)
	seen := uint64(0)
	for i, c := range h.counts {
		if seen += c; seen >= want {
			return h.middle(i)
		}
	}
	return h.max
}

func (h *Histogram) middle(i int) uint64 {
	low, high := bounds(i)
	return min(max(low+(high-low)/2, h.Min()), h.max)
}

// Bucket is a range of values and how often it was hit.
type Bucket struct{ Low, High, Count uint64 }

// Buckets returns the buckets that were hit, in order.
func (h *Histogram) Buckets() []Bucket {
	var out []Bucket
	for i, c := range h.counts {
		if c > 0 {
			low, high := bounds(i)
			out = append(out, Bucket{low, high, c})
		}
	}
	return out
}

// Between counts the values in (above, upTo], to the precision of a bucket.
func (h *Histogram) Between(above, upTo uint64) uint64 {
	n := uint64(0)
	for i, c := range h.counts {
		if m := h.middle(i); c > 0 && m > above && m <= upTo {
			n += c
		}
	}
	return n
}
