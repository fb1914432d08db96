package filetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mount mounts a file system for the length of the test, which is skipped where
// that is not allowed.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", dir).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return dir
}

// loop makes a block device of a file.
func loop(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append(args, "--find", "--show", path)...).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		out, err := exec.Command("losetup", "--detach", dev).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return dev
}

func image(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "image")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	return path
}

// RunDevices runs tests that need file systems and block devices of their own,
// and so a privileged user.
func RunDevices(t *testing.T, open OpenFunc) {
	s := suite{open: open}
	t.Run("BlockDevice", s.blockDevice)
	t.Run("FlushFailure", s.flushFailure)
	t.Run("FullDisk", func(t *testing.T) {
		img := image(t, t.TempDir(), 32*mib)
		if out, err := exec.Command("mkfs.ext4", "-q", "-m0", img).CombinedOutput(); err != nil {
			t.Skipf("mkfs: %v: %s", err, out)
		}
		s.fullDisk(t, mount(t, "-o", "loop", img))
	})
	t.Run("FullMemory", func(t *testing.T) { s.fullDisk(t, mount(t, "-t", "tmpfs", "-o", "size=8m", "tmpfs")) })
}

// fullDisk: ENOSPC comes out as such, and writing goes on when there is space.
func (s *suite) fullDisk(t *testing.T, dir string) {
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 2*mib), 0o600))
	h := s.openFile(t, filepath.Join(dir, "f"), Options{Size: 64 * mib, Create: true})
	buf := Buffer(t, mib, 0x11)
	var err error
	lba := uint64(0)
	for ; err == nil && lba < 64*256; lba += 256 {
		err = h.Write(buf, lba)
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	lba -= 256
	require.ErrorIs(t, h.WriteZeroes(lba, 64*256-lba), unix.ENOSPC)
	require.NoError(t, os.Remove(ballast))
	require.NoError(t, h.Write(buf, lba))
	require.NoError(t, h.Flush())
	got := Buffer(t, mib, 0)
	require.NoError(t, h.Read(got, lba))
	require.Equal(t, buf, got)
}

func (s *suite) blockDevice(t *testing.T) {
	dev := loop(t, image(t, t.TempDir(), 16*mib))
	h := s.openFile(t, dev, Options{})
	require.EqualValues(t, 16*mib, h.Bdev.Info().Bytes())
	_, err := s.open(dev, Options{})
	require.ErrorIs(t, err, unix.EBUSY)
	buf, got := Buffer(t, mib, 0x22), Buffer(t, mib, 0)
	require.NoError(t, h.Write(buf, 100))
	require.NoError(t, h.Flush())
	require.NoError(t, h.WriteZeroes(110, 10))
	if err := h.Unmap(130, 10); err == nil {
		clear(buf[30*4096 : 40*4096])
	} else {
		require.ErrorIs(t, err, unix.ENOTSUP)
	}
	clear(buf[10*4096 : 20*4096])
	require.NoError(t, h.Read(got, 100))
	require.Equal(t, buf, got)

	_, err = s.open(dev, Options{Size: 32 * mib})
	require.Error(t, err)
}

// flushFailure: data that the page cache took and the device then refuses.
func (s *suite) flushFailure(t *testing.T) {
	img := image(t, mount(t, "-t", "tmpfs", "-o", "size=4m", "tmpfs"), 16*mib)
	s = &suite{open: s.open, cache: true}
	h := s.openFile(t, loop(t, img), Options{})
	require.NoError(t, h.Write(Buffer(t, 8*mib, 0x33), 0))
	require.Error(t, h.Flush())
	// Nothing is written since, so that the next one has nothing to fail with.
	require.NoError(t, h.Flush())
}
