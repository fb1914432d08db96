package bdev

import "math/bits"

const (
	histSub     = 5  // 2^5 linear buckets per power of two: 3 % resolution
	histMaxBits = 40 // longer than 18 minutes counts as 18 minutes
	histBuckets = (histMaxBits - histSub + 1) << histSub
)

// Histogram counts durations in log2-linear buckets.
type Histogram struct {
	buckets [histBuckets]uint64
}

func histIndex(ns int64) int {
	v := uint64(ns)
	if v < 1<<histSub {
		return int(v)
	}
	if v >= 1<<histMaxBits { // negative ones too
		return histClamp(ns)
	}
	e := bits.Len64(v) - histSub - 1
	return e<<histSub + int(v>>e)
}

func histClamp(ns int64) int {
	if ns < 0 {
		return 0
	}
	return histBuckets - 1
}

// histLow returns the smallest duration of bucket i.
func histLow(i int) int64 {
	if i < 2<<histSub {
		return int64(i)
	}
	e := i>>histSub - 1
	return int64(i-e<<histSub) << e
}

// Record counts one duration in nanoseconds.
func (h *Histogram) Record(ns int64) { h.buckets[histIndex(ns)]++ }

// Merge adds the counts of o.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range &o.buckets {
		h.buckets[i] += n
	}
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, c := range &h.buckets {
		n += c
	}
	return n
}

// Quantile returns the duration in nanoseconds that a share q (0 to 1) of the
// recorded ones does not exceed, with the resolution of the buckets.
func (h *Histogram) Quantile(q float64) int64 {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	if rank >= total {
		rank = total - 1
	}
	var n uint64
	for i, c := range &h.buckets {
		if n += c; n > rank {
			return (histLow(i) + histLow(i+1) - 1) / 2
		}
	}
	return histLow(histBuckets - 1)
}

// Each calls f for every bucket that is not empty, shortest first, with the
// shortest duration that belongs to it and the shortest that does not any more.
func (h *Histogram) Each(f func(from, to int64, count uint64)) {
	for i, c := range &h.buckets {
		if c != 0 {
			f(histLow(i), histLow(i+1), c)
		}
	}
}
