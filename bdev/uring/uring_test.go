package uring

import (
	"path/filepath"
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

// With IO in flight and nothing to do for it, and when all is done, the thread
// does not keep its host from sleeping.
func TestHostMaySleep(t *testing.T) {
	needRing(t)
	d, err := New(filepath.Join(t.TempDir(), "f"), Options{Size: 64 << 20, Create: true})
	require.NoError(t, err)
	h := filetest.Open(t, d)
	if h.Bdev.Info().BufAlign == 1 {
		t.Skip("without direct IO a write does not wait for the disk")
	}
	buf := filetest.Buffer(t, 16<<20, 1)
	left, asleep := 1, 0
	require.NoError(t, h.Ch.Write(buf, 0, 4096, func(*bdev.IO) { left-- }, nil))
	require.True(t, h.Thread.HasWork())
	h.Drive(func() bool {
		if left > 0 && !h.Thread.HasWork() {
			asleep++
		}
		return left == 0
	})
	require.Positive(t, asleep)
	h.Thread.Poll(0, h.Thread.Now())
	require.False(t, h.Thread.HasWork())
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
