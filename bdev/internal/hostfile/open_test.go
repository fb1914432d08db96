package hostfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func sparse(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	return path
}

func TestOpenRefusesBadInput(t *testing.T) {
	dir := t.TempDir()
	good := sparse(t, filepath.Join(dir, "good"), 1<<20)
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, c := range []struct {
		name, path string
		o          Options
		errno      unix.Errno
		says       string
	}{
		{"no path", "", Options{}, unix.EINVAL, "no path"},
		{"missing", filepath.Join(dir, "none"), Options{}, unix.ENOENT, "does not exist"},
		{"missing, read-only with create", filepath.Join(dir, "none"), Options{Create: true, ReadOnly: true, Size: 4096}, unix.ENOENT, "does not exist"},
		{"create without size", filepath.Join(dir, "none"), Options{Create: true}, unix.EINVAL, "no size"},
		{"create in a missing directory", filepath.Join(dir, "no/such"), Options{Create: true, Size: 4096}, unix.ENOENT, "cannot create"},
		{"create below a file", filepath.Join(good, "x"), Options{Create: true, Size: 4096}, unix.ENOTDIR, "not a directory"},
		{"a directory", dir, Options{}, unix.EISDIR, "is needed"},
		{"a fifo", fifo, Options{}, unix.EINVAL, "neither a file nor a block device"},
		{"a character device", "/dev/null", Options{}, unix.EINVAL, "neither a file nor a block device"},
		{"empty", sparse(t, filepath.Join(dir, "empty"), 0), Options{}, unix.EINVAL, "too small"},
		{"too small", sparse(t, filepath.Join(dir, "small"), 4095), Options{}, unix.EINVAL, "too small"},
		{"smaller than asked", good, Options{Size: 2 << 20, Create: true}, unix.EINVAL, "too small"},
		{"larger than asked", good, Options{Size: 1 << 19, Create: true}, unix.EINVAL, "leave size out"},
		{"not a multiple", sparse(t, filepath.Join(dir, "odd"), 8193), Options{}, unix.EINVAL, "truncate -s 12288"},
		{"odd size asked", good, Options{Size: 5000}, unix.EINVAL, "not a multiple"},
		{"absurd size", filepath.Join(dir, "none"), Options{Size: 1 << 63, Create: true}, unix.EINVAL, "below 8 EiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.path, c.o)
			require.ErrorIs(t, err, c.errno)
			require.Contains(t, err.Error(), c.says)
			require.Equal(t, 1, strings.Count(err.Error(), c.errno.Error()), err)
		})
	}
	_, err := os.Stat(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist, "a refused create left a file behind")
}

func TestCreateThatFailsLeavesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge")
	// More than ext4, xfs and tmpfs hold in one file.
	_, err := Open(path, Options{Create: true, Size: sizeMax &^ (1<<40 - 1)})
	if err == nil {
		t.Skip("this file system has files of 8 EiB")
	}
	_, err = os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestCreateIsSparseAndKeepsSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := Open(path, Options{Create: true, Size: 1 << 30})
	require.NoError(t, err)
	require.EqualValues(t, 1<<30, f.Size())
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	require.EqualValues(t, 1<<30, st.Size)
	require.Less(t, st.Blocks*512, int64(1<<20))
	id := f.Info("", "x").UUID
	require.NoError(t, f.Close())

	for _, o := range []Options{{}, {Size: 1 << 30}, {Size: 1 << 30, Create: true}, {ReadOnly: true}} {
		f, err = Open(path, o)
		require.NoError(t, err)
		info := f.Info("", "x")
		require.Equal(t, id, info.UUID)
		require.Equal(t, "f", info.Name)
		require.EqualValues(t, 1<<18, info.Blocks)
		require.Equal(t, o.ReadOnly, info.ReadOnly)
		require.NoError(t, f.Close())
	}
}

func TestEmptyFileIsGivenItsSize(t *testing.T) {
	path := sparse(t, filepath.Join(t.TempDir(), "f"), 0)
	f, err := Open(path, Options{Create: true, Size: 1 << 20})
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, f.Size())
	require.NoError(t, f.Close())
}

func TestSecondWriterIsRefused(t *testing.T) {
	path := sparse(t, filepath.Join(t.TempDir(), "f"), 1<<20)
	f, err := Open(path, Options{})
	require.NoError(t, err)
	_, err = Open(path, Options{})
	require.ErrorIs(t, err, unix.EBUSY)
	require.Contains(t, err.Error(), "in use by another process")
	r, err := Open(path, Options{ReadOnly: true})
	require.NoError(t, err, "a reader may look on")
	require.NoError(t, r.Close())
	require.NoError(t, f.Close())
	f, err = Open(path, Options{})
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestDirect(t *testing.T) {
	path := sparse(t, filepath.Join(t.TempDir(), "f"), 1<<20)
	for _, d := range []Direct{DirectAuto, DirectOn, DirectOff} {
		f, err := Open(path, Options{Direct: d})
		if d == DirectOn && err != nil {
			require.ErrorIs(t, err, unix.EINVAL)
			continue
		}
		require.NoError(t, err)
		flags, err := unix.FcntlInt(uintptr(f.FD()), unix.F_GETFL, 0)
		require.NoError(t, err)
		require.Equal(t, f.Direct(), flags&unix.O_DIRECT != 0)
		if d == DirectOff {
			require.False(t, f.Direct())
		}
		if align := f.Info("", "x").BufAlign; f.Direct() {
			require.Greater(t, align, 1)
		} else {
			require.Equal(t, 1, align)
		}
		require.NoError(t, f.Close())
	}
	_, err := ParseDirect("maybe")
	require.ErrorIs(t, err, unix.EINVAL)
}

func TestTmpfsIsServedInline(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "hostfile") //nolint:usetesting // it has to be tmpfs
	if err != nil {
		t.Skip("no tmpfs: ", err)
	}
	defer os.RemoveAll(dir)
	f, err := Open(filepath.Join(dir, "f"), Options{Create: true, Size: 1 << 20})
	require.NoError(t, err)
	require.True(t, f.InMemory())
	require.False(t, f.Direct())
	require.NoError(t, f.Close())
}
