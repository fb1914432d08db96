//go:build e2e

package e2e

import (
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const fillBytes = 256 << 20 // real files copied into each file system

// filesystem is a kind of file system, with the commands that make and verify it.
type filesystem struct {
	name       string
	mkfs, fsck []string
}

var (
	ext4 = filesystem{"ext4", []string{"mkfs.ext4", "-q", "-F"}, []string{"e2fsck", "-f", "-n"}}
	xfs  = filesystem{"xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}}
)

func (f filesystem) make(t *testing.T, dev string) {
	run(t, f.mkfs[0], append(f.mkfs[1:len(f.mkfs):len(f.mkfs)], dev)...)
}

func (f filesystem) check(t *testing.T, dev string) {
	run(t, f.fsck[0], append(f.fsck[1:len(f.fsck):len(f.fsck)], dev)...)
}

func TestExt4(t *testing.T) { testFilesystem(t, plain, ext4, "1GiB", fillBytes) }

func TestXFS(t *testing.T) { testFilesystem(t, plain, xfs, "1GiB", fillBytes) }

// TestFilesystemKinds has a file system on every other type of device, smaller.
func TestFilesystemKinds(t *testing.T) {
	needOurs(t)
	for i, k := range others {
		t.Run(k.slug(), func(t *testing.T) { testFilesystem(t, k, []filesystem{ext4, xfs}[i%2], "384MiB", fillBytes/4) })
	}
}

// testFilesystem makes a file system on the export, fills it with real files, and finds all of them again after a
// remount, a file system check and a restart of the server; half of them are then replaced and checked once more.
func testFilesystem(t *testing.T, k kind, f filesystem, size string, bytes int64) {
	needMounts(t)
	need(t, f.mkfs[0])
	s := k.serve(t, size)
	m := attach(t, s)
	f.make(t, m.loop)
	m.mount(f.name)
	sums := fill(t, m.at, bytes)
	m.unmount()
	f.check(t, m.loop)
	m.mount(f.name)
	compare(t, m.at, sums)
	replaced := replaceHalf(t, m.at, sums)
	m.unmount()
	m.detach()
	s.stop()
	s.check()

	if !peer() {
		s.bare() // --dir says it all
	}
	s = s.again()
	m = attach(t, s)
	f.check(t, m.loop)
	m.mount(f.name)
	compare(t, m.at, replaced)
	m.unmount()
	m.detach()
	s.stop()
}

// TestFilesystemKill kills the server while files are being copied to a mounted file system. What was synced before is
// there afterwards, and the file system is whole once its journal was replayed.
func TestFilesystemKill(t *testing.T) {
	for _, c := range []struct {
		k kind
		f filesystem
	}{{plain, ext4}, {plain, xfs}, {others[1], ext4}, {others[3], xfs}} {
		k, f := c.k, c.f
		t.Run(f.name+" "+k.slug(), func(t *testing.T) {
			needMounts(t)
			needOurs(t)
			need(t, f.mkfs[0])
			s := k.serve(t, "512MiB")
			m := attach(t, s)
			f.make(t, m.loop)
			m.mount(f.name)
			sums := fill(t, m.at, 48<<20)
			run(t, "sync", "-f", m.at)
			copied := make(chan int)
			go func() { copied <- copyUntilError("/usr/lib", filepath.Join(m.at, "more"), 300<<20) }()
			time.Sleep(700 * time.Millisecond)
			s.kill()
			t.Logf("%d more files went into the page cache", <-copied)
			m.detach()

			s = s.again()
			m = attach(t, s)
			m.mount(f.name)
			compare(t, m.at, sums)
			m.unmount()
			f.check(t, m.loop)
			m.detach()
			s.stop()
			s.check()
		})
	}
}

// copyUntilError copies files until one fails, or so many bytes are copied.
func copyUntilError(from, to string, most int64) (files int) {
	_ = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be read is left out
		}
		if _, err := copyFile(path, filepath.Join(to, path)); err != nil {
			return fs.SkipAll
		}
		files++
		if st, err := e.Info(); err == nil {
			most -= st.Size()
		}
		if most < 0 {
			return fs.SkipAll
		}
		return nil
	})
	return files
}

// attachment is an export as a loop device: nbdfuse makes a file of it, losetup a device of the file.
type attachment struct {
	t       *testing.T
	fuse    *exec.Cmd
	file    string
	loop    string
	at      string // mount point
	mounted bool
}

func attach(t *testing.T, s *server) *attachment {
	t.Helper()
	dir := shortDir(t)
	m := &attachment{t: t, file: filepath.Join(dir, "nbd.img"), at: filepath.Join(dir, "mnt")}
	require.NoError(t, os.Mkdir(m.at, 0o700))
	require.NoError(t, os.WriteFile(m.file, nil, 0o600))
	m.fuse = exec.Command("nbdfuse", m.file, s.uri())
	require.NoError(t, m.fuse.Start())
	t.Cleanup(m.detach)
	require.Eventually(t, func() bool {
		st, err := os.Stat(m.file)
		return err == nil && st.Size() > 0
	}, 20*time.Second, 20*time.Millisecond, "nbdfuse does not mount")
	m.loop = strings.TrimSpace(run(t, "losetup", "-f", "--show", m.file))
	return m
}

func (m *attachment) mount(kind string) {
	m.t.Helper()
	run(m.t, "mount", "-t", kind, m.loop, m.at)
	m.mounted = true
}

func (m *attachment) unmount() {
	m.t.Helper()
	run(m.t, "umount", m.at)
	m.mounted = false
}

// detach undoes attach; it may be called again.
func (m *attachment) detach() {
	if m.mounted {
		_ = exec.Command("umount", "-l", m.at).Run()
		m.mounted = false
	}
	if m.loop != "" {
		_ = exec.Command("losetup", "-d", m.loop).Run()
		m.loop = ""
	}
	if m.fuse == nil {
		return
	}
	// The loop device lets go of the file a moment after losetup -d.
	for range 50 {
		if exec.Command("umount", m.file).Run() == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	ended := make(chan struct{})
	go func(c *exec.Cmd) { _ = c.Wait(); close(ended) }(m.fuse)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = exec.Command("umount", "-l", m.file).Run()
		_ = m.fuse.Process.Kill()
		<-ended
	}
	m.fuse = nil
}

// fill copies real files below dir until they have that many bytes; it returns the sum of each by its name below dir.
func fill(t *testing.T, dir string, most int64) map[string][32]byte {
	t.Helper()
	sums := make(map[string][32]byte)
	for _, source := range []string{"/usr/share", "/root/go/pkg/mod", "/usr/local/go/src", "/usr/lib"} {
		_ = filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // what cannot be read is left out
			}
			info, err := e.Info()
			if err != nil || info.Size() > most {
				return nil //nolint:nilerr // likewise
			}
			sum, err := copyFile(path, filepath.Join(dir, path))
			require.NoError(t, err)
			sums[path] = sum
			if most -= info.Size() + 512; most < 1<<20 {
				return fs.SkipAll
			}
			return nil
		})
		if most < 1<<20 {
			break
		}
	}
	require.Greater(t, len(sums), 100, "too few files to copy")
	t.Logf("%d files", len(sums))
	return sums
}

func copyFile(from, to string) (sum [32]byte, err error) {
	src, err := os.Open(from)
	if err != nil {
		return sum, err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return sum, err
	}
	dst, err := os.Create(to)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, h), src)
	if e := dst.Close(); err == nil {
		err = e
	}
	h.Sum(sum[:0])
	return sum, err
}

func fileSum(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	h.Sum(sum[:0])
	return sum, err
}

// compare reads every file again.
func compare(t *testing.T, dir string, sums map[string][32]byte) {
	t.Helper()
	for name, want := range sums {
		got, err := fileSum(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, got, "content of %s", name)
	}
}

// replaceHalf deletes every other file and writes a part of those anew with the content of another.
func replaceHalf(t *testing.T, dir string, sums map[string][32]byte) map[string][32]byte {
	t.Helper()
	left := make(map[string][32]byte)
	n := 0
	last := ""
	for name, sum := range sums {
		n++
		if n%2 == 0 {
			left[name] = sum
			last = name
			continue
		}
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
		if n%4 == 1 && last != "" {
			got, err := copyFile(filepath.Join(dir, last), filepath.Join(dir, name))
			require.NoError(t, err)
			left[name] = got
		}
	}
	return left
}
