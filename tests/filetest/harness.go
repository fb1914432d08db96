// Package filetest holds what the drivers of host files are tested with, so that
// all of them pass the same tests.
package filetest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/reactor"
	"goftl/thread"
)

// Timeout bounds every wait of a test.
const Timeout = 30 * time.Second

// Harness is a driver with a thread that the test's goroutine drives.
type Harness struct {
	T       testing.TB
	Sys     *thread.System
	Thread  *thread.Thread
	Manager *bdev.Manager
	Bdev    *bdev.Bdev
	Desc    *bdev.Desc
	Ch      *bdev.Channel

	pending int
	err     error
}

// Open registers d and opens a channel to it. Everything is taken down, and the
// driver closed, when the test ends.
func Open(t testing.TB, d bdev.Driver) *Harness {
	t.Helper()
	h := &Harness{T: t, Sys: thread.NewSystem()}
	h.Thread = h.Sys.NewThread("test")
	reactor.Attach(h.Thread)
	h.Manager = bdev.NewManager(h.Sys, nil)
	var err error
	h.Bdev, err = h.Manager.Register(d)
	require.NoError(t, err)
	h.Desc, err = h.Manager.Open(h.Bdev.Name(), !d.Info().ReadOnly, nil, nil, h.Thread)
	require.NoError(t, err)
	h.Ch, err = h.Desc.Channel(h.Thread)
	require.NoError(t, err)
	t.Cleanup(h.close)
	return h
}

func (h *Harness) close() {
	h.Ch.Put()
	h.Desc.Close()
	done := false
	h.Bdev.Unregister(h.Thread, func(_ any, err error) {
		require.NoError(h.T, err)
		done = true
	}, nil)
	h.Drive(func() bool { return done })
}

// Drive runs the thread until cond.
func (h *Harness) Drive(cond func() bool) {
	h.T.Helper()
	require.True(h.T, reactor.Drive(h.Thread, cond, Timeout), "timed out")
}

// Do submits one IO and returns how it ended.
func (h *Harness) Do(submit func(done bdev.DoneFunc) error) error {
	h.T.Helper()
	h.pending, h.err = 1, nil
	err := submit(func(io *bdev.IO) {
		h.pending--
		h.err = io.Err()
	})
	require.NoError(h.T, err)
	h.Drive(func() bool { return h.pending == 0 })
	return h.err
}

// Write writes buf at lba.
func (h *Harness) Write(buf []byte, lba uint64) error {
	return h.Do(func(done bdev.DoneFunc) error {
		return h.Ch.Write(buf, lba, uint64(len(buf))/4096, done, nil)
	})
}

// Read reads into buf from lba.
func (h *Harness) Read(buf []byte, lba uint64) error {
	return h.Do(func(done bdev.DoneFunc) error {
		return h.Ch.Read(buf, lba, uint64(len(buf))/4096, done, nil)
	})
}

// Flush flushes.
func (h *Harness) Flush() error {
	return h.Do(func(done bdev.DoneFunc) error { return h.Ch.Flush(done, nil) })
}

// WriteZeroes writes zeroes.
func (h *Harness) WriteZeroes(lba, count uint64) error {
	return h.Do(func(done bdev.DoneFunc) error { return h.Ch.WriteZeroes(lba, count, done, nil) })
}

// Unmap unmaps.
func (h *Harness) Unmap(lba, count uint64) error {
	return h.Do(func(done bdev.DoneFunc) error { return h.Ch.Unmap(lba, count, done, nil) })
}

// Buffer returns aligned memory for the length of the test, filled with fill.
func Buffer(t testing.TB, size int, fill byte) []byte {
	b := iobuf.Alloc(size)
	require.NotNil(t, b)
	for i := range b {
		b[i] = fill
	}
	t.Cleanup(func() { iobuf.Free(b) })
	return b
}

// Dir is a place for files.
type Dir struct{ Name, Path string }

// Dirs returns a directory on disk and one in memory, where there is one.
func Dirs(t testing.TB) []Dir {
	dirs := []Dir{{"disk", t.TempDir()}}
	if shm, err := os.MkdirTemp("/dev/shm", "goftl"); err == nil { //nolint:usetesting // it has to be tmpfs
		t.Cleanup(func() { _ = os.RemoveAll(shm) })
		dirs = append(dirs, Dir{"memory", shm})
	}
	return dirs
}

// File names a file in the directory.
func (d Dir) File(name string) string { return filepath.Join(d.Path, name) }
