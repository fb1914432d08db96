package uring

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/filetest"
)

func needRing(t testing.TB) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
}

func open(path string, o filetest.Options) (bdev.Driver, error) { return openAs(path, o, false) }

func openPinned(path string, o filetest.Options) (bdev.Driver, error) { return openAs(path, o, true) }

func openAs(path string, o filetest.Options, pinned bool) (bdev.Driver, error) {
	d := DirectAuto
	switch {
	case o.Direct:
		d = DirectOn
	case o.Cache:
		d = DirectOff
	}
	return New(path, Options{
		Size: o.Size, Create: o.Create, Direct: d, ReadOnly: o.ReadOnly, Depth: o.Depth, Pinned: pinned,
	})
}

func TestSuite(t *testing.T) {
	needRing(t)
	filetest.Run(t, open)
}

func TestSuitePinned(t *testing.T) {
	needRing(t)
	filetest.Run(t, openPinned)
}

func TestDepthOutOfRange(t *testing.T) {
	for _, n := range []int{-1, DepthMax + 1} {
		_, err := New(t.TempDir(), Options{Depth: n})
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

// go test -run xxx -bench AgainstFio -benchtime 9x: each round is half a second of
// each side.
func BenchmarkAgainstFio(b *testing.B) {
	needRing(b)
	for _, m := range []struct {
		name string
		open filetest.OpenFunc
	}{{"shared", open}, {"pinned", openPinned}} {
		b.Run(m.name, func(b *testing.B) { filetest.AgainstFio(b, m.open) })
	}
}
