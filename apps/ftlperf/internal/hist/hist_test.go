package hist

import (
	"math"
	"slices"
	"testing"
)

func TestBucketsTileTheRange(t *testing.T) {
	next := uint64(0)
	for i := range numBuckets {
		low, high := bounds(i)
		if low != next || index(low) != i || index(high) != i {
			t.Fatalf("bucket %d is [%d, %d], want it to start at %d (indexes %d, %d)", i, low, high, next, index(low), index(high))
		}
		next = high + 1
	}
	if next != maxValue+1 || index(math.MaxUint64) != numBuckets-1 {
		t.Fatalf("the buckets end at %d", next)
	}
}

// Percentiles of heavy-tailed values are within one per cent of the sorted truth.
func TestPercentilesAgainstSorting(t *testing.T) {
	var h Histogram
	values := make([]int64, 200_000)
	state := uint64(1)
	sum := 0.0
	for i := range values {
		state = state*6364136223846793005 + 1442695040888963407
		u := float64(state>>11) / (1 << 53)
		values[i] = int64(5000 / math.Pow(u, 0.7))
		sum += float64(values[i])
		h.Record(values[i])
	}
	slices.Sort(values)
	mean := sum / float64(len(values))
	for _, pct := range []float64{1, 50, 90, 99, 99.9, 99.99, 100} {
		want := float64(values[int(math.Ceil(float64(len(values))*pct/100))-1])
		if got := float64(h.Percentile(pct)); math.Abs(got-want) > want*0.01 {
			t.Errorf("p%v = %v, want %v", pct, got, want)
		}
	}
	if h.Min() != uint64(values[0]) || h.Max() != uint64(values[len(values)-1]) || math.Abs(h.Mean()-mean) > 1e-6*mean {
		t.Errorf("min %d max %d mean %v, want %d %d %v", h.Min(), h.Max(), h.Mean(), values[0], values[len(values)-1], mean)
	}
	variance := 0.0
	for _, v := range values {
		variance += (float64(v) - mean) * (float64(v) - mean)
	}
	if want := math.Sqrt(variance / float64(len(values)-1)); math.Abs(h.StdDev()-want) > want*0.02 {
		t.Errorf("standard deviation %v, want %v", h.StdDev(), want)
	}
}

func TestEmptyAndExtremes(t *testing.T) {
	var h Histogram
	if h.Min() != 0 || h.Max() != 0 || h.Mean() != 0 || h.StdDev() != 0 || h.Percentile(99) != 0 || h.Buckets() != nil {
		t.Error("an empty histogram reports values")
	}
	h.Record(-5)
	h.Record(math.MaxInt64)
	if h.Min() != 0 || h.Max() != math.MaxInt64 || h.Count() != 2 {
		t.Errorf("min %d max %d n %d", h.Min(), h.Max(), h.Count())
	}
}

func TestMergeEqualsRecordingTogether(t *testing.T) {
	var a, b, both Histogram
	for i := range int64(10_000) {
		v := i * i
		both.Record(v)
		if i%3 == 0 {
			a.Record(v)
		} else {
			b.Record(v)
		}
	}
	a.Merge(&b)
	if a != both {
		t.Error("merged differs from recorded together")
	}
	if n := both.Between(0, math.MaxUint64) + 1; n != both.Count() {
		t.Errorf("Between counts %d of %d", n, both.Count())
	}
}

func BenchmarkRecord(b *testing.B) {
	var h Histogram
	v := int64(1)
	for b.Loop() {
		v = (v*1103515245 + 12345) & 0xffff
		h.Record(v)
	}
	if a := testing.AllocsPerRun(100, func() { h.Record(7) }); a != 0 {
		b.Fatal("allocates")
	}
}
