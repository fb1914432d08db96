//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/ftl/superblock"
	"goftl/tests/sim/model"
)

// stopped is a device that was written to and stopped cleanly, to make bad copies of.
type stopped struct {
	t   *testing.T
	dir string
}

func newStopped(t *testing.T, seed uint64) *stopped {
	t.Helper()
	d := &stopped{t: t, dir: shortDir(t)}
	s := serveIn(t, d.dir, "64MiB", "--shm", "off")
	w := newWriter(t, seed, 0, 64<<20/model.BlockSize)
	c := s.dial(32)
	w.run(c, 32, 2000)
	w.drain(c)
	require.NoError(t, c.Flush())
	c.Close()
	s.stop()
	return d
}

// copy makes a copy of the files, with their holes.
func (d *stopped) copy(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	for _, f := range []string{"cache.img", "base.img"} {
		run(t, "cp", "--sparse=always", "--reflink=auto", filepath.Join(d.dir, f), filepath.Join(dir, f))
	}
	return dir
}

// edit changes the block of a file that begins at a byte.
func edit(t *testing.T, path string, at int64, change func(block []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	buf := make([]byte, 4096)
	_, err = f.ReadAt(buf, at)
	require.NoError(t, err)
	change(buf)
	_, err = f.WriteAt(buf, at)
	require.NoError(t, err)
}

func noise(block []byte) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range block {
		block[i] = byte(r.Uint32())
	}
}

// future makes a superblock one of a version that does not exist yet, as its program would have written it.
func future(t *testing.T, role superblock.Role) func([]byte) {
	return func(block []byte) {
		require.EqualValues(t, superblock.Version, block[16], "the version stands elsewhere")
		block[16]++
		superblock.Seal(block, role)
	}
}

// TestBadDevices gives serve, check and inspect what they must refuse. Each says why, and none writes to the files.
func TestBadDevices(t *testing.T) {
	needOurs(t)
	good, other := newStopped(t, 1), newStopped(t, 2)
	cache := func(dir string) string { return filepath.Join(dir, "cache.img") }
	base := func(dir string) string { return filepath.Join(dir, "base.img") }
	specs := func(c, b string) []string { return []string{"--cache", "file:" + c, "--base", "file:" + b} }
	truncate := func(path string, n int64) { require.NoError(t, os.Truncate(path, n)) }
	for _, k := range []struct {
		name string
		bad  func(dir string) []string // makes the files bad; the arguments, if not --dir
		code int
		says []string
	}{
		{"swapped", func(d string) []string { return specs(base(d), cache(d)) }, 1, []string{"swapped"}},
		{"base twice", func(d string) []string { return specs(base(d), base(d)) }, -1, nil},
		{"cache of another device", func(d string) []string {
			return specs(cache(other.copy(t)), base(d))
		}, 1, []string{"another FTL"}},
		{"base is gone", func(d string) []string { require.NoError(t, os.Remove(base(d))); return nil }, 1, []string{"base.img is gone"}},
		{"cache is gone", func(d string) []string { require.NoError(t, os.Remove(cache(d))); return nil }, 1, []string{"cache.img is gone"}},
		{"cache is gone, specs", func(d string) []string {
			require.NoError(t, os.Remove(cache(d)))
			return specs(cache(d), base(d))
		}, 1, []string{"cache.img is not"}},
		{"base cut", func(d string) []string { truncate(base(d), 100<<20); return nil }, 1, []string{"shrunk"}},
		{"cache cut", func(d string) []string { truncate(cache(d), 10<<20); return nil }, 1, []string{"shrunk"}},
		{"cache empty", func(d string) []string { truncate(cache(d), 0); return nil }, 1, []string{"cache.img is gone or empty"}},
		{"base of an odd length", func(d string) []string { truncate(base(d), 256<<20+1000); return nil }, 1, []string{"multiple of 4096"}},
		{"foreign cache", func(d string) []string { edit(t, cache(d), 0, noise); return nil }, 1, []string{"cache", "foreign data"}},
		{"foreign base", func(d string) []string { edit(t, base(d), 0, noise); return nil }, 1, []string{"base", "foreign data"}},
		{"foreign both", func(d string) []string {
			edit(t, cache(d), 0, noise)
			edit(t, base(d), 0, noise)
			return nil
		}, 1, []string{"foreign data"}},
		{"blank cache", func(d string) []string { edit(t, cache(d), 0, func(b []byte) { clear(b) }); return nil }, 1, []string{"cache", "blank"}},
		{"blank base", func(d string) []string { edit(t, base(d), 0, func(b []byte) { clear(b) }); return nil }, 1, []string{"base", "blank"}},
		{"both superblocks rotten", func(d string) []string {
			edit(t, cache(d), 0, func(b []byte) { b[100] ^= 1 })
			edit(t, base(d), 0, func(b []byte) { b[2000] ^= 1 })
			return nil
		}, 1, []string{"damaged"}},
		{"newer cache", func(d string) []string { edit(t, cache(d), 0, future(t, superblock.RoleCache)); return nil }, 1, []string{"newer version"}},
		{"newer both", func(d string) []string {
			edit(t, cache(d), 0, future(t, superblock.RoleCache))
			edit(t, base(d), 0, future(t, superblock.RoleBase))
			return nil
		}, 1, []string{"newer version", "version 2"}},
		{"a directory", func(d string) []string {
			require.NoError(t, os.Remove(base(d)))
			require.NoError(t, os.Mkdir(base(d), 0o700))
			return nil
		}, 1, []string{"base.img", "directory"}},
		{"a character device", func(d string) []string { return specs("/dev/zero", base(d)) }, 1, []string{"/dev/zero", "neither a file nor a block device"}},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := good.copy(t)
			args := k.bad(dir)
			if args == nil {
				args = []string{"--dir", dir}
			}
			before := sums(t, dir)
			for _, command := range [][]string{{"serve", "--socket", filepath.Join(dir, "s"), "--shm", "off"}, {"check"}, {"inspect"}, {"inspect", "--json"}} {
				out, code := ftlnbd(t, "", append(command, args...)...)
				require.NotContains(t, out, "panic", "%v", command)
				require.NotContains(t, out, "goroutine", "%v", command)
				if k.code >= 0 {
					require.Equal(t, k.code, code, "%v: %s", command, out)
				} else {
					require.NotZero(t, code, "%v: %s", command, out)
				}
				for _, words := range k.says {
					require.Contains(t, out, words, "%v", command)
				}
			}
			require.Equal(t, before, sums(t, dir), "a refused device was written to")
		})
	}
}

// TestForeignFilesystem is about files with a file system of somebody's on it: none is overwritten.
func TestForeignFilesystem(t *testing.T) {
	needOurs(t)
	need(t, "mkfs.ext4", "e2fsck")
	for _, which := range []string{"cache.img", "base.img"} {
		dir := shortDir(t)
		for f, size := range map[string]int64{"cache.img": 100 << 20, "base.img": 300 << 20} {
			path := filepath.Join(dir, f)
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			require.NoError(t, os.Truncate(path, size))
		}
		run(t, "mkfs.ext4", "-q", "-F", filepath.Join(dir, which))
		// The first block of ext4 is free for boot loaders: what tells it apart lies 1024 bytes in.
		out, code := ftlnbd(t, "", "serve", "--dir", dir, "--size", "64MiB", "--shm", "off")
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "foreign data", which)
		run(t, "e2fsck", "-f", "-n", filepath.Join(dir, which))
	}
}

// TestBlankFiles gives empty files of a fitting size: a device is made of them.
func TestBlankFiles(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	for f, size := range map[string]int64{"cache.img": 100 << 20, "base.img": 300 << 20} {
		path := filepath.Join(dir, f)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Truncate(path, size))
	}
	s := serveIn(t, dir, "64MiB")
	require.Contains(t, s.output(), "created ftl0 (64MiB)")
	require.Equal(t, uint64(64<<20), s.dial(1).Size())
	s.stop()
	s = s.again()
	require.Contains(t, s.output(), "loaded ftl0 (64MiB)")
	s.stop()
	s.check()
}

// TestHalfMade starts on what a server leaves that is killed while it makes its files: there is nothing to lose, so a
// device is made.
func TestHalfMade(t *testing.T) {
	needOurs(t)
	for name, sizes := range map[string][2]int64{
		"empty cache":                 {0, -1},
		"cache without data":          {200 << 20, -1},
		"base without data":           {-1, 400 << 20},
		"cache of some size, no base": {100 << 20, 0},
		"both empty":                  {0, 0},
	} {
		dir := shortDir(t)
		for i, f := range []string{"cache.img", "base.img"} {
			if sizes[i] >= 0 {
				require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o600))
				require.NoError(t, os.Truncate(filepath.Join(dir, f), sizes[i]))
			}
		}
		for _, command := range []string{"check", "inspect", "destroy"} {
			out, code := ftlnbd(t, "", command, "--dir", dir)
			require.Equal(t, 1, code, "%s, %s: %s", name, command, out)
		}
		s := serveIn(t, dir, "64MiB")
		require.Contains(t, s.output(), "created", name)
		s.stop()
		s.check()
	}
}

// TestRottenSuperblock damages one copy of two: the device is loaded from the other, which repairs the first.
func TestRottenSuperblock(t *testing.T) {
	needOurs(t)
	d := newStopped(t, 3)
	for _, f := range []string{"cache.img", "base.img"} {
		dir := d.copy(t)
		edit(t, filepath.Join(dir, f), 0, func(b []byte) { b[200] ^= 0x10 })
		s := serveIn(t, dir, "64MiB", "--shm", "off")
		require.Contains(t, s.output(), "superblock copy rewritten", f)
		s.stop()
		s.check()
		edit(t, filepath.Join(dir, f), 0, func(b []byte) {
			_, err := superblock.Decode(b)
			require.NoError(t, err, "the copy was to be repaired")
		})
	}
}

// TestRewriteSuperblock writes over the first block of one device. TestBadDevices shows that it is refused; the remedy that
// the error names brings the device back, whole, and need not be given twice.
func TestRewriteSuperblock(t *testing.T) {
	needOurs(t)
	d := newStopped(t, 4)
	for _, f := range []string{"cache.img", "base.img"} {
		for what, spoil := range map[string]func([]byte){"foreign": noise, "blank": func(b []byte) { clear(b) }} {
			t.Run(what+" "+f, func(t *testing.T) {
				dir := d.copy(t)
				edit(t, filepath.Join(dir, f), 0, spoil)
				out, code := ftlnbd(t, "", "check", "--dir", dir)
				require.Equal(t, 1, code, out)
				require.Contains(t, out, "--rewrite-superblock")
				serveIn(t, dir, "64MiB", "--shm", "off", "--rewrite-superblock").stop()
				s := serveIn(t, dir, "64MiB", "--shm", "off")
				require.Equal(t, 1, strings.Count(s.output(), "superblock copy rewritten"), "once is enough")
				s.stop()
				s.check()
			})
		}
	}
}

// TestTooSmall asks for devices that cannot be; the answer says what would do.
func TestTooSmall(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	socket := []string{"--socket", filepath.Join(dir, "s")}
	for _, k := range []struct {
		args []string
		says string
	}{
		{[]string{"--cache", "malloc:4MiB", "--base", "malloc:256MiB"}, "it needs"},
		{[]string{"--cache", "malloc:64MiB", "--base", "malloc:16MiB"}, "it needs"},
		{[]string{"--cache", "malloc:64MiB", "--base", "malloc:256MiB", "--size", "250MiB"}, "would do"},
	} {
		out, code := ftlnbd(t, "", append(append([]string{"serve"}, k.args...), socket...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, k.says)
		out, code = ftlnbd(t, "", append([]string{"plan"}, k.args...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, k.says)
	}
	// The smallest of all: the default files for one block.
	s := serve(t, "4KiB")
	c := s.dial(1)
	require.Equal(t, uint64(4096), c.Size())
	_, err := c.WriteAt(bytes.Repeat([]byte{7}, 4096), 0)
	require.NoError(t, err)
	c.Close()
	s.stop()
	s.check()
}

// TestReadOnlyFiles puts the files where nothing can be written, after a clean stop and after a kill.
func TestReadOnlyFiles(t *testing.T) {
	needOurs(t)
	needMounts(t)
	for i, k := range kinds()[:5] { // the last one has a file that its settings name by its path
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,kill=%v", k.slug(), kill), func(t *testing.T) {
				s := k.serve(t, "64MiB", "--shm", "off")
				w := newWriter(t, uint64(4+i), 0, 64<<20/model.BlockSize)
				c := s.dial(32)
				w.run(c, 32, 1000)
				w.drain(c)
				require.NoError(t, c.Flush())
				c.Close()
				if kill {
					s.kill()
				} else {
					s.stop()
				}
				testReadOnlyFiles(t, s.dir)
			})
		}
	}
}

func testReadOnlyFiles(t *testing.T, files string) {
	dir := shortDir(t)
	mnt := filepath.Join(dir, "m")
	require.NoError(t, os.Mkdir(mnt, 0o700))
	run(t, "mount", "--bind", files, mnt)
	t.Cleanup(func() { unmountSoon(mnt) })
	run(t, "mount", "-o", "remount,bind,ro", mnt)
	before := sums(t, files)
	out, code := ftlnbd(t, "", "serve", "--dir", mnt, "--socket", filepath.Join(dir, "s"))
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "read-only file system")
	require.Contains(t, out, ".img")
	for _, command := range []string{"check", "inspect"} {
		out, code = ftlnbd(t, "", command, "--dir", mnt)
		require.Zero(t, code, "%s reads only: %s", command, out)
	}
	s := serveApart(t, mnt, dir, "64MiB", "--read-only", "--shm", "off")
	c := s.dial(1)
	_, err := c.ReadAt(make([]byte, 1<<20), 0)
	require.NoError(t, err)
	_, err = c.WriteAt(make([]byte, 4096), 0)
	require.Error(t, err)
	c.Close()
	s.stop()
	require.Equal(t, before, sums(t, files))
}

// sums are the contents of the device's files in dir, as far as they are files.
func sums(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	m := make(map[string][32]byte)
	for _, f := range []string{"cache.img", "base.img"} {
		path := filepath.Join(dir, f)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			m[f] = sparseSum(t, path)
		}
	}
	return m
}

// sparseSum is the sum of the blocks of a file that are not zero, and where they are. Holes are not read.
func sparseSum(t *testing.T, path string) (sum [32]byte) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 64<<10)
	zero := make([]byte, len(buf))
	for at := int64(0); ; {
		at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		require.NoError(t, err)
		at -= at % int64(len(buf))
		n, err := f.ReadAt(buf, at)
		if !errors.Is(err, io.EOF) {
			require.NoError(t, err)
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			fmt.Fprintln(h, at)
			h.Write(buf[:n])
		}
		at += int64(len(buf))
	}
	h.Sum(sum[:0])
	return sum
}
