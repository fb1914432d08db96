//go:build e2e

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/tests/sim/model"
)

// TestDiskFull serves sparse files from a file system that is smaller than they are. When it is full, clients are told
// ENOSPC; what was acknowledged stays readable, also across a kill while it is full; and when somebody makes space,
// writing goes on.
func TestDiskFull(t *testing.T) {
	needOurs(t)
	needMounts(t)
	for _, k := range []struct {
		name string
		disk func(t *testing.T) (dir string, makeSpace func())
	}{
		{"tmpfs", tmpfsDisk},
		{"ext4", ext4Disk},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir, makeSpace := k.disk(t)
			testDiskFull(t, dir, makeSpace)
		})
	}
}

// tmpfsDisk is a file system of 120 MiB, which can grow.
func tmpfsDisk(t *testing.T) (dir string, makeSpace func()) {
	t.Helper()
	mnt := filepath.Join(shortDir(t), "m")
	require.NoError(t, os.Mkdir(mnt, 0o700))
	run(t, "mount", "-t", "tmpfs", "-o", "size=120m", "goftl-e2e", mnt)
	t.Cleanup(func() { unmountSoon(mnt) })
	return mnt, func() { run(t, "mount", "-o", "remount,size=800m", mnt) }
}

// ext4Disk is a file system of 800 MiB, full but for 120 MiB with a file that can be removed.
func ext4Disk(t *testing.T) (dir string, makeSpace func()) {
	t.Helper()
	need(t, "mkfs.ext4")
	aside := shortDir(t)
	image, mnt := filepath.Join(aside, "disk.img"), filepath.Join(aside, "m")
	require.NoError(t, os.Mkdir(mnt, 0o700))
	run(t, "truncate", "-s", "800M", image)
	run(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	run(t, "mount", "-o", "loop", image, mnt)
	t.Cleanup(func() { unmountSoon(mnt) })
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(mnt, &st))
	ballast := filepath.Join(mnt, "ballast")
	run(t, "fallocate", "-l", uitoa(st.Bavail*uint64(st.Bsize)-120<<20), ballast)
	return mnt, func() { require.NoError(t, os.Remove(ballast)) }
}

func testDiskFull(t *testing.T, dir string, makeSpace func()) {
	const size, bytes = "160MiB", 160 << 20
	aux := shortDir(t)
	s := serveApart(t, dir, aux, size, small(dir, "--shm", "off")...)
	w := newWriter(t, seedOf(t), 0, bytes/model.BlockSize)
	w.maxLen, w.trim = 64, 0
	full := false
	w.mayFail = func(op *client.Op) bool {
		full = full || errors.Is(op.Err, unix.ENOSPC)
		return errors.Is(op.Err, unix.ENOSPC) && op.Command == proto.CmdWrite
	}
	c := s.dial(32)
	begin := time.Now()
	for !full {
		_, gone := w.run(c, 32, 200)
		require.False(t, gone, s.output())
		w.drain(c)
		require.Less(t, w.blocks, uint64(4*bytes/model.BlockSize), "the disk never gets full")
		require.Less(t, time.Since(begin), time.Minute, "neither full nor going on")
	}
	w.drain(c)
	t.Logf("full after %d MiB, %d requests failed", w.blocks>>8, w.failed)
	w.verify(c)

	// It stays full: more of the same, and reads go on.
	for range 3 {
		_, gone := w.run(c, 32, 100)
		require.False(t, gone, s.output())
		w.drain(c)
	}
	w.verify(c)
	c.Close()

	// A kill while it is full: the device comes back, with all of it.
	s.kill()
	s = s.again()
	c = s.dial(32)
	w.verify(c)

	// Space is made: within moments writing goes on, and thousands of writes do not fail.
	makeSpace()
	begin = time.Now()
	for {
		full = false
		_, gone := w.run(c, 32, 3000)
		require.False(t, gone, s.output())
		w.drain(c)
		if !full {
			break
		}
		require.Less(t, time.Since(begin), 20*time.Second, "the device does not go on although there is space: %s", s.output())
	}
	t.Logf("went on and wrote %v after space was made", time.Since(begin).Round(time.Millisecond))
	require.NoError(t, c.Flush())
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
	s = s.again()
	w.verify(s.dial(8))
	s.stop()
}
