package units

import (
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzUnits: every text is read by each of the readers, or refused as one that is none.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"4k", "1.5GiB", "25%", "100.1%", "0x1000", "10s", "1h30m", "500usec", "0,2,4-7", "9-1", "0-99999999", "inf", "nan", "1e30p", "-1", "_1", ".5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<10 {
			t.Skip("longer than an argument is")
		}
		refused := func(err error) {
			if !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%q: %v", text, err)
			}
		}
		if n, err := Size(text); err != nil {
			refused(err)
		} else if n > math.MaxInt64 {
			t.Fatalf("%q is %d", text, n)
		}
		if n, p, err := SizeOrPercent(text); err != nil {
			refused(err)
		} else if !(p >= 0 && p <= 100) || n != 0 && p != 0 {
			t.Fatalf("%q is %d and %v %%", text, n, p)
		}
		if d, err := Duration(text); err != nil {
			refused(err)
		} else if d < 0 {
			t.Fatalf("%q is %v", text, d)
		}
		list, err := IntList(text)
		if err != nil {
			refused(err)
		}
		for _, i := range list {
			if i < 0 {
				t.Fatalf("%q is %v", text, list)
			}
		}
	})
}
