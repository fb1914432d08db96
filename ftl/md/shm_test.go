package md

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
)

func shmFile(t *testing.T, dir, name string) string {
	t.Helper()
	p, err := ShmPath(dir, testUUID, name)
	require.NoError(t, err)
	return p
}

func TestM04ShmName(t *testing.T) {
	dir := t.TempDir()
	require.Equal(t, filepath.Join(dir, "ftl_"+testUUID.String()+"_sb"), shmFile(t, dir, "sb"))
	require.Equal(t, "/dev/shm/ftl_"+testUUID.String()+"_sb", shmFile(t, "", "sb"))
	for _, bad := range []string{"", "../x", "a/b", "a\x00b"} {
		_, err := OpenShm(dir, testUUID, bad, 4096, ShmNew)
		require.ErrorIs(t, err, unix.EINVAL, "%q", bad)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestM05ShmNew(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenShm(dir, testUUID, "a", 10000, ShmNew)
	require.NoError(t, err)
	require.Len(t, s.Bytes(), 10000)
	st, err := os.Stat(s.Path())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode())
	require.Equal(t, int64(12288), st.Size(), "whole pages")
	s.Bytes()[9999] = 7
	s.Close(true)
	s, err = OpenShm(dir, testUUID, "a", 10000, 0)
	require.NoError(t, err)
	require.Equal(t, byte(7), s.Bytes()[9999])
	s.Close(true)
	s, err = OpenShm(dir, testUUID, "a", 10000, ShmNew)
	require.NoError(t, err)
	require.Zero(t, s.Bytes()[9999], "made anew")
	s.Close(false)
	s.Close(false)
	_, err = OpenShm(dir, testUUID, "a", 10000, 0)
	require.ErrorIs(t, err, unix.ENOENT)

	// What cannot be removed is an error: a directory in its place.
	require.NoError(t, os.Mkdir(shmFile(t, dir, "d"), 0o700))
	_, err = OpenShm(dir, testUUID, "d", 4096, ShmNew)
	require.ErrorContains(t, err, "remove the old one")
	_, err = OpenShm(filepath.Join(dir, "nowhere"), testUUID, "a", 4096, ShmNew)
	require.ErrorIs(t, err, unix.ENOENT)
}

// TestM06ShmChecks: what is not exactly what this program would have made is
// refused and removed.
func TestM06ShmChecks(t *testing.T) {
	dir := t.TempDir()
	for name, spoil := range map[string]func(path string) error{
		"mode":     func(p string) error { return os.Chmod(p, 0o644) },
		"size":     func(p string) error { return os.Truncate(p, 4096) },
		"larger":   func(p string) error { return os.Truncate(p, 1<<20) },
		"size 0":   func(p string) error { return os.Truncate(p, 0) },
		"symlink":  func(p string) error { return swap(p, func() error { return os.Symlink(p+".real", p) }) },
		"hardlink": func(p string) error { return os.Link(p, p+".too") },
		"fifo":     func(p string) error { return swap(p, func() error { return unix.Mkfifo(p, 0o600) }) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenShm(dir, testUUID, "x", 8192, ShmNew)
			require.NoError(t, err)
			s.Close(true)
			require.NoError(t, spoil(s.Path()))
			_, err = OpenShm(dir, testUUID, "x", 8192, 0)
			var errno unix.Errno
			require.ErrorAs(t, err, &errno)
			require.NoFileExists(t, s.Path(), "removed")
		})
	}
	_, err := OpenShm(dir, testUUID, "x", 0, ShmNew)
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = OpenShm(dir, testUUID, "x", maxShmBytes+1, ShmNew)
	require.ErrorIs(t, err, unix.EINVAL)
}

func swap(p string, make func() error) error {
	if err := os.Rename(p, p+".real"); err != nil {
		return err
	}
	return make()
}

// TestM06ShmOwner needs root to give a file away.
func TestM06ShmOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	dir := t.TempDir()
	s, err := OpenShm(dir, testUUID, "x", 8192, ShmNew)
	require.NoError(t, err)
	s.Close(true)
	require.NoError(t, os.Chown(s.Path(), 12345, -1))
	_, err = OpenShm(dir, testUUID, "x", 8192, 0)
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorContains(t, err, "belongs to user 12345")
}

// TestM07MapAndLock: a refused lock is a warning.
func TestM07MapAndLock(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	log := &testLog{}
	o := r.object(t, func(c *Config) { c.Flags, c.ShmDir, c.Name, c.Logger = FlagShm|FlagShmNew, t.TempDir(), "md", log })
	require.NotNil(t, o.Shm())
	if o.Shm().LockErr() != nil {
		require.Contains(t, log.String(), "not locked")
	} else {
		require.Empty(t, log.String())
	}
	setBlock(o, 1, 'm')
	require.NoError(t, r.do(t, o.Persist))
	o.Destroy(false)
	require.Nil(t, o.Buffer())
}

// TestM08Invalidate: whoever said that shared memory is ready is told when it
// is not, so that it starts from the devices.
func TestM08Invalidate(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	dir := t.TempDir()
	ready, retry := true, false
	cfg := r.config()
	cfg.Flags, cfg.ShmDir, cfg.Name = FlagShm, dir, "md"
	cfg.ShmFailed = func() { ready, retry = false, true }
	_, err := New(cfg)
	require.ErrorIs(t, err, unix.ENOENT)
	require.True(t, retry)
	require.False(t, ready)

	retry = false
	cfg.Flags |= FlagShmNew
	o, err := New(cfg)
	require.NoError(t, err)
	require.False(t, retry)
	o.Destroy(true)
	require.NoError(t, os.Truncate(shmFile(t, dir, "md"), 4096))
	cfg.Flags = FlagShm
	_, err = New(cfg)
	require.ErrorIs(t, err, unix.EINVAL)
	require.True(t, retry)
	require.NoFileExists(t, shmFile(t, dir, "md"))

	cfg.ShmDir, cfg.Flags = filepath.Join(dir, "nowhere"), FlagShm|FlagShmNew
	retry = false
	_, err = New(cfg)
	require.Error(t, err)
	require.True(t, retry)
}

func TestM11Unlink(t *testing.T) {
	dir := t.TempDir()
	cfg := &Config{UUID: testUUID, ShmDir: dir, Name: "md"}
	require.ErrorIs(t, Unlink(cfg), unix.EINVAL)
	cfg.Flags = FlagShm
	require.ErrorIs(t, Unlink(cfg), unix.ENOENT)
	s, err := OpenShm(dir, testUUID, "md", 4096, ShmNew)
	require.NoError(t, err)
	require.NoError(t, Unlink(cfg))
	s.Bytes()[0] = 1 // the mapping lives on
	s.Close(false)
	require.ErrorIs(t, UnlinkShm(dir, uuid.Nil, ""), unix.EINVAL)
}

// TestM31Flags, M32, M33: what is shared, what is made anew, what is kept.
func TestM31Flags(t *testing.T) {
	none, create := Start{}, Start{Create: true}
	fast, recovery := Start{FastStartup: true}, Start{FastRecovery: true}
	require.Equal(t, FlagShm|FlagShmNew, RegionFlags(layout.RegionSB, create))
	require.Equal(t, FlagShm, RegionFlags(layout.RegionSB, none))
	for _, g := range []layout.RegionType{layout.RegionChunkMD, layout.RegionBandMD} {
		require.Equal(t, FlagShm|FlagShmNew, RegionFlags(g, none))
		require.Equal(t, FlagShm|FlagShmNew, RegionFlags(g, recovery), "descriptors come from the devices after a kill")
		require.Equal(t, FlagShm, RegionFlags(g, fast))
	}
	require.Zero(t, RegionFlags(layout.RegionL2PSlot0, create))
	require.Equal(t, ShmNew, SharedFlags(none))
	require.Zero(t, SharedFlags(fast))
	require.Zero(t, SharedFlags(recovery))
}

func TestM32Keep(t *testing.T) {
	for _, g := range []layout.RegionType{layout.RegionSB, layout.RegionChunkMD, layout.RegionBandMD} {
		require.True(t, KeepRegion(g, true))
		require.False(t, KeepRegion(g, false))
	}
	require.False(t, KeepRegion(layout.RegionChunks, true))
	require.True(t, KeepShared(true)) // M33
	require.False(t, KeepShared(false))

	// And kept it is: a new object finds the content without reading a device.
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	dir := t.TempDir()
	o := r.object(t, func(c *Config) { c.Flags, c.ShmDir, c.Name = RegionFlags(layout.RegionChunkMD, Start{}), dir, "md" })
	setBlock(o, 3, 'k')
	o.Destroy(KeepRegion(layout.RegionChunkMD, true))
	o = r.object(t, func(c *Config) {
		c.Flags, c.ShmDir, c.Name = RegionFlags(layout.RegionChunkMD, Start{FastStartup: true}), dir, "md"
	})
	require.Equal(t, "...k", letters(4, o.Payload))
	o.Destroy(false)
	require.NoFileExists(t, shmFile(t, dir, "md"))
}

func TestShmDir(t *testing.T) {
	mounts := "tmpfs /run tmpfs rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw 0 0\nnone /mnt/huge hugetlbfs rw 0 0\n\nbroken\n"
	free := func(dir string) uint64 {
		if dir == "/mnt/huge" {
			return 100
		}
		return 10
	}
	require.Equal(t, "/dev/hugepages", chooseShmDir(mounts, 10, free))
	require.Equal(t, "/mnt/huge", chooseShmDir(mounts, 50, free))
	require.Equal(t, DefaultShmDir, chooseShmDir(mounts, 500, free))
	require.Equal(t, DefaultShmDir, chooseShmDir("", 0, free))
	require.Equal(t, "/x", ShmDir("/x", 1<<60))
	require.NotEmpty(t, ShmDir("", 1))
	require.Zero(t, hugetlbfsFree(t.TempDir()), "not a hugetlbfs")
}
