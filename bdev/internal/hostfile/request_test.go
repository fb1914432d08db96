package hostfile

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

func write(n int) *bdev.IO {
	buf := make([]byte, n*BlockSize)
	for i := range buf {
		buf[i] = byte(i / BlockSize)
	}
	io := &bdev.IO{Op: bdev.OpWrite, LBA: 10, Count: uint64(n)}
	for i := 0; i < n; i++ {
		// Buffers in reverse, so that they are no neighbours.
		io.Bufs = append(io.Bufs, buf[(n-1-i)*BlockSize:][:BlockSize])
	}
	return io
}

func total(iov []Iovec) (n uint64) {
	for _, v := range iov {
		n += uint64(v.Len)
	}
	return n
}

func TestShortTransfersGoOn(t *testing.T) {
	for _, op := range []bdev.Op{bdev.OpRead, bdev.OpWrite} {
		io := write(4)
		io.Op = op
		var r Request
		require.NoError(t, r.begin(&File{}, io))
		require.Len(t, r.Call().Iov, 4)
		left := uint64(4 * BlockSize)
		for _, n := range []int{1, 4095, 100, 5000, BlockSize} {
			more, err := r.Step(n)
			require.True(t, more)
			require.NoError(t, err)
			left -= uint64(n)
			c := r.Call()
			require.Equal(t, left, total(c.Iov))
			require.Equal(t, 14*uint64(BlockSize)-left, c.Off)
		}
		v := r.Call().Iov[0]
		require.Equal(t, uintptr(unsafe.Pointer(&io.Bufs[3][BlockSize-int(left)])), v.Base)
		more, err := r.Step(int(left))
		require.False(t, more)
		require.NoError(t, err)
	}
}

func TestDirectGoesOnAtABlock(t *testing.T) {
	var r Request
	require.NoError(t, r.begin(&File{direct: true}, write(3)))
	more, err := r.Step(BlockSize + 512)
	require.True(t, more)
	require.NoError(t, err)
	require.EqualValues(t, 11*BlockSize, r.Call().Off)
	require.EqualValues(t, 2*BlockSize, total(r.Call().Iov))
	for i := 0; i < stallsMax-1; i++ {
		more, _ = r.Step(512)
		require.True(t, more)
	}
	more, err = r.Step(512)
	require.False(t, more)
	require.ErrorIs(t, err, unix.EIO)
}

func TestEndOfFileIsAnError(t *testing.T) {
	io := write(1)
	io.Op = bdev.OpRead
	for _, direct := range []bool{false, true} {
		var r Request
		require.NoError(t, r.begin(&File{direct: direct}, io))
		more, err := r.Step(0)
		require.False(t, more)
		require.ErrorIs(t, err, unix.EIO)
	}
}

func TestPassingErrorsAreRetriedAndOthersReported(t *testing.T) {
	var r Request
	require.NoError(t, r.begin(&File{}, write(2)))
	before := r.Call()
	for _, e := range []unix.Errno{unix.EAGAIN, unix.EINTR, unix.ECANCELED} {
		more, err := r.Step(-int(e))
		require.True(t, more)
		require.NoError(t, err)
		require.Equal(t, before, r.Call())
	}
	for _, e := range []unix.Errno{unix.ENOSPC, unix.EIO, unix.EDQUOT, unix.ENOMEM} {
		more, err := r.Step(-int(e))
		require.False(t, more)
		require.Equal(t, e, err)
	}
	r.retries = retriesMax - 1
	more, err := r.Step(-int(unix.EAGAIN))
	require.False(t, more)
	require.Equal(t, unix.EAGAIN, err)
}

func TestNeighboursBecomeOneSegment(t *testing.T) {
	buf := make([]byte, 4*BlockSize)
	io := &bdev.IO{Op: bdev.OpRead, Count: 4, Bufs: [][]byte{buf[:BlockSize], nil, buf[BlockSize : 3*BlockSize], buf[3*BlockSize:]}}
	var r Request
	require.NoError(t, r.begin(&File{}, io))
	require.Len(t, r.Call().Iov, 1)
	require.EqualValues(t, len(buf), r.Call().Iov[0].Len)
}

func TestFUAWritesAskForDSync(t *testing.T) {
	io := write(1)
	io.FUA = true
	var r Request
	require.NoError(t, r.begin(&File{}, io))
	require.EqualValues(t, unix.RWF_DSYNC, r.Call().Flags)
}

// Zeroes: the way that a file system lacks is tried once per file.
func TestWriteZeroesFallsBack(t *testing.T) {
	f := &File{}
	io := &bdev.IO{Op: bdev.OpWriteZeroes, LBA: 3, Count: 700}
	var r Request
	require.NoError(t, r.begin(f, io))
	require.EqualValues(t, modeZero, r.Call().Flags)
	more, err := r.Step(-int(unix.EOPNOTSUPP))
	require.True(t, more)
	require.NoError(t, err)
	require.EqualValues(t, modePunch, r.Call().Flags)
	more, _ = r.Step(0)
	require.True(t, more, "a hole is not allocated")
	require.EqualValues(t, modeAlloc, r.Call().Flags)
	require.EqualValues(t, 3*BlockSize, r.Call().Off)
	require.EqualValues(t, 700*BlockSize, r.Call().Length)
	more, err = r.Step(-int(unix.EOPNOTSUPP))
	require.True(t, more)
	require.NoError(t, err)

	// Plain writes, in pieces.
	written := uint64(0)
	for more {
		c := r.Call()
		require.Equal(t, CallWritev, c.Kind)
		require.Equal(t, 3*BlockSize+written, c.Off)
		n := total(c.Iov)
		require.LessOrEqual(t, n, uint64(len(zeroes())))
		written += n
		more, err = r.Step(int(n))
		require.NoError(t, err)
	}
	require.EqualValues(t, 700*BlockSize, written)

	require.NoError(t, r.begin(f, io))
	require.Equal(t, CallWritev, r.Call().Kind, "what does not work was forgotten")
	_, err = r.Step(-int(unix.ENOSPC))
	require.Equal(t, unix.ENOSPC, err)
}

func TestUnmapThatIsNotSupportedSaysSo(t *testing.T) {
	var r Request
	require.NoError(t, r.begin(&File{}, &bdev.IO{Op: bdev.OpUnmap, Count: 1}))
	require.EqualValues(t, modePunch, r.Call().Flags)
	more, err := r.Step(-int(unix.EOPNOTSUPP))
	require.False(t, more)
	require.ErrorIs(t, err, unix.ENOTSUP)
	require.ErrorIs(t, r.begin(&File{}, &bdev.IO{Op: bdev.OpZoneReset}), unix.ENOTSUP)
}

func TestFifoKeepsOrderWhileItGrows(t *testing.T) {
	var q fifo
	ios := make([]bdev.IO, 300)
	next := 0
	for i := range ios {
		q.push(&ios[i])
		if i%3 == 0 {
			require.Same(t, &ios[next], q.pop())
			next++
		}
	}
	for ; q.n > 0; next++ {
		require.Same(t, &ios[next], q.pop())
	}
	require.Equal(t, len(ios), next)
}

// Every channel hears of every failure to flush, once.
func TestFlushFailureReachesEveryChannel(t *testing.T) {
	f := &File{}
	var a, b, late Window
	a.Reset(f, nil, 1)
	b.Reset(f, nil, 1)
	require.NoError(t, a.flushed(nil))
	require.Equal(t, unix.EIO, a.flushed(unix.EIO))
	late.Reset(f, nil, 1)
	require.NoError(t, a.flushed(nil))
	require.Equal(t, unix.EIO, b.flushed(nil))
	require.NoError(t, b.flushed(nil))
	require.NoError(t, late.flushed(nil))
}
