// Package units reads and writes sizes, times, counts and lists the way fio's
// users type and read them. Pure functions.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var sizeSuffixes = []struct {
	suffix string
	factor uint64
}{
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"tib", 1 << 40},
	{"pib", 1 << 50},
	{"kb", 1 << 10},
	{"mb", 1 << 20},
	{"gb", 1 << 30},
	{"tb", 1 << 40},
	{"pb", 1 << 50},
	{"k", 1 << 10},
	{"m", 1 << 20},
	{"g", 1 << 30},
	{"t", 1 << 40},
	{"p", 1 << 50},
	{"b", 1},
	{"", 1},
}

// Size reads bytes: 4096, 4k, 4KiB, 1.5g. As in fio, k, kb and kib are all 1024.
func Size(text string) (uint64, error) {
	lower := strings.ToLower(strings.TrimSpace(text))
	for _, s := range sizeSuffixes {
		number, ok := strings.CutSuffix(lower, s.suffix)
		if !ok {
			continue
		}
		number = strings.TrimSpace(number)
		if n, err := strconv.ParseUint(number, 0, 64); err == nil {
			if n > math.MaxInt64/s.factor {
				return 0, fmt.Errorf("size %q is too large: %w", text, unix.EINVAL)
			}
			return n * s.factor, nil
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(f) || f < 0 || strings.ContainsAny(number, "xpe") {
			break
		}
		if f*float64(s.factor) > math.MaxInt64/2 {
			return 0, fmt.Errorf("size %q is too large: %w", text, unix.EINVAL)
		}
		return uint64(f * float64(s.factor)), nil
	}
	return 0, fmt.Errorf("%q is not a size; write it like 4096, 4k, 64KiB, 1.5GiB: %w", text, unix.EINVAL)
}

// SizeOrPercent also reads "25%", which needs to know what of.
func SizeOrPercent(text string) (bytes uint64, percent float64, err error) {
	if number, ok := strings.CutSuffix(strings.TrimSpace(text), "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return 0, 0, fmt.Errorf("%q is not a percentage of 0%% to 100%%: %w", text, unix.EINVAL)
		}
		return 0, p, nil
	}
	bytes, err = Size(text)
	return bytes, 0, err
}

var durationSuffixes = []struct {
	suffix string
	unit   time.Duration
}{
	{"us", time.Microsecond},
	{"usec", time.Microsecond},
	{"ms", time.Millisecond},
	{"msec", time.Millisecond},
	{"s", time.Second},
	{"m", time.Minute},
	{"h", time.Hour},
	{"d", 24 * time.Hour},
	{"", time.Second},
}

// Duration reads a time: 10 and 10s are seconds; 500ms, 2m, 1h, 1h30m.
func Duration(text string) (time.Duration, error) {
	lower := strings.ToLower(strings.TrimSpace(text))
	for _, s := range durationSuffixes {
		number, ok := strings.CutSuffix(lower, s.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(number, 64)
		if err == nil && f >= 0 && f*float64(s.unit) < math.MaxInt64/4 {
			return time.Duration(f * float64(s.unit)), nil
		}
	}
	if d, err := time.ParseDuration(lower); err == nil && d >= 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%q is not a time; write it like 10, 10s, 500ms, 2m: %w", text, unix.EINVAL)
}

// IntList reads 0,2,4-7.
func IntList(text string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(last)
		}
		if err != nil || a < 0 || b < a || b-a > 4096 {
			return nil, fmt.Errorf("%q is not a list like 0,2,4-7: %w", text, unix.EINVAL)
		}
		for i := a; i <= b; i++ {
			out = append(out, i)
		}
	}
	return out, nil
}

// Count writes a number in three digits: 11.2M, 850, 1.05M, 63.1k.
func Count(v float64) string {
	switch {
	case v >= 1e9:
		return digits(v/1e9) + "G"
	case v >= 1e6:
		return digits(v/1e6) + "M"
	case v >= 1e3:
		return digits(v/1e3) + "k"
	}
	return digits(v)
}

// Bytes writes a size in binary units: 42.7GiB.
func Bytes(v float64) string {
	for _, u := range []struct {
		factor float64
		name   string
	}{{1 << 50, "PiB"}, {1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if v >= u.factor {
			return digits(v/u.factor) + u.name
		}
	}
	return digits(v) + "B"
}

// Nanos writes a latency with its unit: 850ns, 12.3us, 1.05ms.
func Nanos(v float64) string {
	switch {
	case v >= 1e9:
		return digits(v/1e9) + "s"
	case v >= 1e6:
		return digits(v/1e6) + "ms"
	case v >= 1e3:
		return digits(v/1e3) + "us"
	}
	return digits(v) + "ns"
}

func digits(v float64) string {
	switch {
	case v >= 99.95 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
