package iouring

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func newRing(t testing.TB, entries uint32) *Ring {
	t.Helper()
	r, err := New(entries)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skip("no io_uring here: ", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func closeFDs(t *testing.T, fds []int) {
	for _, fd := range fds {
		require.NoError(t, unix.Close(fd))
	}
}

func TestABISizes(t *testing.T) {
	require.EqualValues(t, 64, unsafe.Sizeof(SQE{}))
	require.EqualValues(t, 16, unsafe.Sizeof(CQE{}))
	require.EqualValues(t, 120, unsafe.Sizeof(params{}))
	require.EqualValues(t, 8, unsafe.Sizeof(probeOp{}))
}

func TestEntriesOutOfRange(t *testing.T) {
	for _, n := range []uint32{0, EntriesMax + 1} {
		_, err := New(n)
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

func TestNopsWrapAroundTheRing(t *testing.T) {
	r := newRing(t, 8)
	next, want := uint64(0), uint64(0)
	for round := 0; round < 50; round++ {
		n := uint32(round%8) + 1
		for i := uint32(0); i < n; i++ {
			e := r.Next()
			require.NotNil(t, e)
			e.Opcode, e.UserData = OpNop, next
			next++
		}
		got, err := r.Submit(EntriesMax)
		require.NoError(t, err)
		require.Equal(t, n, got)
		require.NoError(t, r.Wait(n))
		require.Equal(t, n, r.Ready())
		for i := uint32(0); i < n; i++ {
			require.Equal(t, want, r.At(i).UserData)
			want++
		}
		r.Advance(n)
	}
	require.Zero(t, r.Ready())
	require.Zero(t, r.Queued())
}

func TestFullRingHandsOutNothing(t *testing.T) {
	r := newRing(t, 4)
	for i := uint32(0); i < r.Entries(); i++ {
		require.NotNil(t, r.Next())
	}
	require.Nil(t, r.Next())
	n, err := r.Submit(EntriesMax)
	require.NoError(t, err)
	require.Equal(t, r.Entries(), n)
	require.NotNil(t, r.Next())
}

func TestWriteThenReadAFile(t *testing.T) {
	r := newRing(t, 4)
	require.True(t, r.Supports(OpRead, OpWrite, OpFsync, OpFallocate))
	require.False(t, r.Supports(255))
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	run := func(op uint8, buf []byte) int32 {
		e := r.Next()
		e.Opcode, e.FD, e.Off = op, int32(f.Fd()), 100
		e.Addr, e.Len = uint64(uintptr(unsafe.Pointer(&buf[0]))), uint32(len(buf))
		_, err := r.Submit(EntriesMax)
		require.NoError(t, err)
		require.NoError(t, r.Wait(1))
		res := r.At(0).Res
		r.Advance(1)
		return res
	}
	out, in := []byte("something to keep"), make([]byte, 17)
	require.EqualValues(t, 17, run(OpWrite, out))
	require.EqualValues(t, 17, run(OpRead, in))
	require.Equal(t, out, in)
}

// A ring is entered from one OS thread after another; what the first one
// submitted completes.
func TestRingMovesBetweenThreads(t *testing.T) {
	r := newRing(t, 8)
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer closeFDs(t, pipe[:])
	buf := make([]byte, 4)
	on := func(fn func()) {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread() // for good: the OS thread ends with the goroutine
			fn()
			close(done)
		}()
		<-done
	}
	parked, release := make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		e := r.Next()
		e.Opcode, e.FD, e.Addr, e.Len, e.UserData = OpRead, int32(pipe[0]), uint64(uintptr(unsafe.Pointer(&buf[0]))), 4, 7
		e.Off = ^uint64(0)
		_, err := r.Submit(EntriesMax)
		require.NoError(t, err)
		close(parked)
		<-release
	}()
	<-parked
	on(func() {
		r.Next().Opcode = OpNop
		_, err := r.Submit(EntriesMax)
		require.NoError(t, err)
		require.NoError(t, r.Wait(1))
		r.Advance(1)
		_, err = unix.Write(pipe[1], []byte("moin"))
		require.NoError(t, err)
		require.NoError(t, r.Wait(1))
		require.EqualValues(t, 7, r.At(0).UserData)
		require.EqualValues(t, 4, r.At(0).Res)
		r.Advance(1)
	})
	close(release)
	require.Equal(t, "moin", string(buf))
}

func TestEventFDIsSignalled(t *testing.T) {
	r := newRing(t, 4)
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	require.NoError(t, err)
	defer closeFDs(t, []int{fd})
	require.NoError(t, r.RegisterEventFD(fd))
	r.Next().Opcode = OpNop
	_, err = r.Submit(EntriesMax)
	require.NoError(t, err)
	var b [8]byte
	_, err = unix.Read(fd, b[:])
	require.NoError(t, err)
	r.MuteEventFD(true)
	r.Next().Opcode = OpNop
	_, err = r.Submit(EntriesMax)
	require.NoError(t, err)
	_, err = unix.Read(fd, b[:])
	require.ErrorIs(t, err, unix.EAGAIN)
	r.MuteEventFD(false)
	require.NoError(t, r.UnregisterEventFD())
}

func TestWorkersAreSpread(t *testing.T) {
	r := newRing(t, 4)
	var set unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &set))
	if err := r.SpreadWorkers(&set); err != nil {
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

func TestNoAllocationPerEntry(t *testing.T) {
	r := newRing(t, 4)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		r.Next().Opcode = OpNop
		_, _ = r.Submit(EntriesMax)
		r.Advance(r.Ready())
	}))
}

func BenchmarkNop(b *testing.B) {
	r := newRing(b, 64)
	for i := 0; i < b.N; i += 32 {
		for range 32 {
			r.Next().Opcode = OpNop
		}
		_, _ = r.Submit(EntriesMax)
		r.Advance(r.Ready())
	}
}
