package units

import (
	"slices"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"4096": 4096, "4k": 4096, "4K": 4096, "4KiB": 4096, "4kb": 4096, "1.5g": 3 << 29, "400GiB": 400 << 30,
		"0": 0, "0x1000": 4096, "1b": 1, "2T": 2 << 40,
	} {
		if got, err := Size(text); err != nil || got != want {
			t.Errorf("Size(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "-1", "4x", "1e3", "nan", "99999999999g", "1.5.5m", "9999999999.5g", "4 4k"} {
		if got, err := Size(text); err == nil {
			t.Errorf("Size(%q) = %d, want an error", text, got)
		}
	}
}

func TestSizeOrPercent(t *testing.T) {
	if _, p, err := SizeOrPercent("25%"); err != nil || p != 25 {
		t.Errorf("25%% = %v, %v", p, err)
	}
	if b, p, err := SizeOrPercent("1m"); err != nil || p != 0 || b != 1<<20 {
		t.Errorf("1m = %v %v, %v", b, p, err)
	}
	for _, text := range []string{"101%", "-1%", "%", "x%"} {
		if _, _, err := SizeOrPercent(text); err == nil {
			t.Errorf("%q accepted", text)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10": 10 * time.Second, "10s": 10 * time.Second, "500ms": 500 * time.Millisecond, "2m": 2 * time.Minute,
		"1.5": 1500 * time.Millisecond, "1h30m": 90 * time.Minute, "100us": 100 * time.Microsecond, "1d": 24 * time.Hour,
	} {
		if got, err := Duration(text); err != nil || got != want {
			t.Errorf("Duration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "s", "-5", "ten", "1e400", "inf"} {
		if got, err := Duration(text); err == nil {
			t.Errorf("Duration(%q) = %v, want an error", text, got)
		}
	}
}

func TestIntList(t *testing.T) {
	if got, err := IntList("0,2,4-7"); err != nil || !slices.Equal(got, []int{0, 2, 4, 5, 6, 7}) {
		t.Errorf("%v %v", got, err)
	}
	for _, text := range []string{"", "a", "3-1", "-1", "1,,2", "0-99999"} {
		if got, err := IntList(text); err == nil {
			t.Errorf("IntList(%q) = %v, want an error", text, got)
		}
	}
}

func TestWriting(t *testing.T) {
	for got, want := range map[string]string{
		Count(11_234_000): "11.2M", Count(850): "850", Count(1_049_000): "1.05M", Count(63_100): "63.1k", Count(0): "0",
		Bytes(42.66 * (1 << 30)): "42.7GiB", Bytes(512): "512B", Bytes(4096): "4KiB",
		Nanos(850): "850ns", Nanos(12_345): "12.3us", Nanos(1_050_000): "1.05ms", Nanos(2e9): "2s",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
