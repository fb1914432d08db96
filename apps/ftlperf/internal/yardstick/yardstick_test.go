package yardstick

import (
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	r, err := Measure(Options{CPU: -1, Duration: 20 * time.Millisecond, Runs: 1, LogBytes: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if r.PerSecond() < 1e4 || r.Elapsed < 20*time.Millisecond {
		t.Fatalf("implausible: %v", r)
	}
}

func TestMedian(t *testing.T) {
	runs := []Result{{Writes: 3, Elapsed: 1}, {Writes: 1, Elapsed: 1}, {Writes: 2, Elapsed: 1}}
	if m := median(runs); m.Writes != 2 {
		t.Fatalf("median is %d", m.Writes)
	}
}
