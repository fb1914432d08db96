package uring

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/tests/filetest"
)

func needRing(t testing.TB) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
}

func open(path string, o filetest.Options) (bdev.Driver, error) {
	d := DirectAuto
	switch {
	case o.Direct:
		d = DirectOn
	case o.Cache:
		d = DirectOff
	}
	return New(path, Options{
		Size: o.Size, Create: o.Create, Direct: d, ReadOnly: o.ReadOnly, Depth: o.Depth,
	})
}

func TestSuite(t *testing.T) {
	needRing(t)
	filetest.Run(t, open)
}

func TestThreads(t *testing.T) {
	needRing(t)
	filetest.RunThreads(t, open)
}

func TestDevices(t *testing.T) {
	needRing(t)
	filetest.RunDevices(t, open)
}

func TestDepthOutOfRange(t *testing.T) {
	for _, n := range []int{-1, DepthMax + 1} {
		_, err := New(t.TempDir(), Options{Depth: n})
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

// go test -run xxx -bench AgainstFio -benchtime 9x: each round is half a second
// of each side.
func BenchmarkAgainstFio(b *testing.B) {
	needRing(b)
	filetest.AgainstFio(b, open)
}
