package uring

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/tests/filetest"
	"goftl/thread"
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

// spy keeps the channel that it hands out.
type spy struct {
	bdev.Driver
	c *channel
}

func (s *spy) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	c, err := s.Driver.NewChannel(t)
	s.c, _ = c.(*channel)
	return c, err
}

// Small IOs wait for the end of the turn, so that one system call does for all of them; large ones are given to the kernel
// when there is enough, whatever else the turn has to do.
func TestLargeIOsDoNotWait(t *testing.T) {
	needRing(t)
	d, err := New(filepath.Join(t.TempDir(), "f"), Options{Size: 64 << 20, Create: true})
	require.NoError(t, err)
	s := &spy{Driver: d}
	h := filetest.Open(t, s)
	if s.c == nil {
		t.Skip("files here are not served by a ring")
	}
	buf := filetest.Buffer(t, 1<<20, 1)
	left := 0
	write := func(at, n uint64, queued int) { // in KiB
		t.Helper()
		left++
		require.NoError(t, h.Ch.Write(buf[:n<<10], at>>2, n>>2, func(io *bdev.IO) {
			require.NoError(t, io.Err())
			left--
		}, nil))
		require.EqualValues(t, queued, s.c.ring.Queued())
	}
	for turn := range uint64(2) {
		at := turn * 4096
		write(at, 4, 1)
		write(at+4, 124, 2)
		write(at+128, 124, 3)
		write(at+252, 4, 0)
		write(at+256, 1024, 0)
		write(at+1280, 4, 1)
		h.Drive(func() bool { return left == 0 })
	}
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
