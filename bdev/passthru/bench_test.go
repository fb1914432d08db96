package passthru_test

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/spec"
)

// BenchmarkRead4KQD32 is a 4 KiB read at queue depth 32 through one passthru
// device over a null device.
func BenchmarkRead4KQD32(b *testing.B) {
	e := devtest.New(b)
	if _, err := spec.Create(e.M, e.Main, "passthru:null:1GiB", spec.Options{Name: "p"}); err != nil {
		b.Fatal(err)
	}
	_, ch := e.Open("p", e.Main)
	buf := make([]byte, 4096)
	left := b.N
	var done bdev.DoneFunc
	done = func(*bdev.IO) {
		if left--; left > 0 {
			if err := ch.Read(buf, 1, 1, done, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range 32 {
		if err := ch.Read(buf, 1, 1, done, nil); err != nil {
			b.Fatal(err)
		}
	}
	for left > 0 {
		e.Turn(1)
	}
}
