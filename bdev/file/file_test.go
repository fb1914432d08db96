package file

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/uring"
	"goftl/tests/filetest"
)

func open(t *testing.T, o Options) (bdev.Driver, error) {
	t.Helper()
	o.Size, o.Create = 1<<20, true
	return New(filepath.Join(t.TempDir(), "f"), o)
}

func TestDriverIsChosen(t *testing.T) {
	for driver, product := range map[string]string{"uring": "URING bdev", "": "URING bdev", "aio": "AIO disk"} {
		if product != "AIO disk" && uring.Supported() != nil {
			continue
		}
		d, err := open(t, Options{Driver: driver})
		require.NoError(t, err)
		require.Equal(t, product, d.Info().Product)
		require.NoError(t, d.Close())
	}
	_, err := open(t, Options{Driver: "floppy"})
	require.ErrorIs(t, err, unix.EINVAL)
	require.Contains(t, err.Error(), "uring, aio")
}

func TestFallsBackAndSaysSoOnce(t *testing.T) {
	old := allowed
	defer func() { allowed = old; toldOnce.Store(false) }()
	allowed = func() error { return errors.Join(errors.New("forbidden"), unix.EPERM) }
	toldOnce.Store(false)
	var log bytes.Buffer
	for range 3 {
		d, err := open(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		require.Equal(t, "AIO disk", d.Info().Product)
		require.NoError(t, d.Close())
	}
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "io_uring cannot be used")
}

const forbidden = "GOFTL_TEST_FORBID_URING"

// In a process of its own that really may not use io_uring.
func TestForbiddenByTheKernel(t *testing.T) {
	if os.Getenv(forbidden) != "" {
		inForbiddenProcess(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestForbiddenByTheKernel$", "-test.v")
	cmd.Env = append(os.Environ(), forbidden+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip(string(out))
	}
	require.Equal(t, 1, bytes.Count(out, []byte("WARN io_uring cannot be used")), string(out))
}

func inForbiddenProcess(t *testing.T) {
	if err := forbidSetup(); err != nil {
		t.Skip("seccomp: ", err)
	}
	_, err := open(t, Options{Driver: "uring"})
	require.ErrorIs(t, err, unix.EPERM)
	for range 2 {
		d, err := open(t, Options{})
		require.NoError(t, err)
		require.Equal(t, "AIO disk", d.Info().Product)
		h := filetest.Open(t, d)
		buf, got := filetest.Buffer(t, 4096, 9), filetest.Buffer(t, 4096, 0)
		require.NoError(t, h.Write(buf, 3))
		require.NoError(t, h.Flush())
		require.NoError(t, h.Read(got, 3))
		require.Equal(t, buf, got)
	}
}

// forbidSetup has io_uring_setup answer EPERM on every thread of the process, as
// container runtimes do.
func forbidSetup() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_IO_URING_SETUP},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	const setModeFilter, tsync = 1, 1
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, tsync, uintptr(unsafe.Pointer(&fprog)))
	if e != 0 {
		return e
	}
	return nil
}
