//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
)

const (
	readyLimit = 60 * time.Second // until a server answers
	stopLimit  = 60 * time.Second // until it has stopped after SIGTERM
	toolLimit  = 10 * time.Minute // for any one command
)

// bin is the folder with the binaries that TestMain builds.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "goftl-bin-")
	if err != nil {
		panic(err)
	}
	bin = dir
	for _, app := range []string{"ftlnbd", "ftlperf"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(bin, app), "../../apps/"+app)
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", app, err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// need skips the test when one of the programs is missing, or fails it when everything must be there.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, p+" is not installed")
		}
	}
}

// needMounts skips the test when file systems cannot be mounted here.
func needMounts(t *testing.T) {
	t.Helper()
	need(t, "nbdfuse", "losetup", "mount", "umount")
	if os.Geteuid() != 0 {
		missing(t, "mounting needs root")
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			missing(t, dev+" is missing")
		}
	}
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("GOFTL_E2E_STRICT") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// seedOf is the seed of everything random in a test: always the same, or GOFTL_E2E_SEED (0: a fresh one).
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(1)
	if v, err := strconv.ParseUint(os.Getenv("GOFTL_E2E_SEED"), 10, 64); err == nil {
		if seed = v; seed == 0 {
			seed = uint64(time.Now().UnixNano())
		}
	}
	t.Logf("GOFTL_E2E_SEED=%d", seed)
	return seed
}

func peer() bool { return os.Getenv("GOFTL_E2E_PEER") == "nbdkit" }

// needOurs skips a test that makes no sense with a peer's server.
func needOurs(t *testing.T) {
	t.Helper()
	if peer() {
		t.Skip("about our server only")
	}
}

// run runs a command to its end and returns what it printed; it must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	require.NoError(t, err, "%s %s:\n%s", name, strings.Join(args, " "), out)
	return out
}

// try runs a command to its end, which must come in time.
func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "%s took too long:\n%s", name, out.String())
	return out.String(), err
}

// server is a running NBD server over files in dir.
type server struct {
	t    *testing.T
	dir  string
	args []string
	aux  string // where socket and log are, if not in dir
	name string // of the export, as in a URI; ftl0 if empty
	cmd  *exec.Cmd
	log  *os.File
	at   int64 // where in the log, which servers of one device share, this one's begins
	end  chan struct{}
	err  error // of the process, after end is closed
}

// serve starts a server with the device in a new folder.
func serve(t *testing.T, size string, args ...string) *server {
	t.Helper()
	return serveIn(t, shortDir(t), size, args...)
}

// serveIn starts a server on the device in dir and waits until it answers.
func serveIn(t *testing.T, dir, size string, args ...string) *server {
	t.Helper()
	s := launch(t, dir, size, args...)
	s.ready()
	return s
}

// serveApart is serveIn with socket and log elsewhere than the device.
func serveApart(t *testing.T, dir, aux, size string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: dir, aux: aux}
	s.args = append([]string{"serve", "--dir", dir, "--size", size, "--socket", s.socket()}, args...)
	s.spawn(filepath.Join(bin, "ftlnbd"))
	s.ready()
	return s
}

// shortDir is a temporary folder whose path is short enough for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-") //nolint:usetesting // TempDir's paths are too long for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// launch starts a server and does not wait.
func launch(t *testing.T, dir, size string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: dir, args: append([]string{"serve", "--dir", dir}, args...)}
	if size != "" {
		s.args = append(s.args, "--size", size)
	}
	s.spawn(filepath.Join(bin, "ftlnbd"))
	return s
}

func (s *server) spawn(program string) {
	t := s.t
	t.Helper()
	args := s.args
	if peer() {
		program, args = peerCommand(t, s)
	}
	log, err := os.OpenFile(filepath.Join(s.side(), "server.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	require.NoError(t, err)
	s.log = log
	s.at, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	s.cmd = exec.Command(program, args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	require.NoError(t, s.cmd.Start())
	s.end = make(chan struct{})
	go func(cmd *exec.Cmd, end chan struct{}) {
		s.err = cmd.Wait()
		close(end)
	}(s.cmd, s.end)
	t.Cleanup(s.finish)
}

// peerCommand serves a sparse file of the same size.
func peerCommand(t *testing.T, s *server) (program string, args []string) {
	t.Helper()
	disk := filepath.Join(s.dir, "disk.img")
	if _, err := os.Stat(disk); err != nil {
		size := s.args[slices.Index(s.args, "--size")+1]
		run(t, "truncate", "-s", strings.TrimSuffix(size, "iB"), disk)
	}
	os.Remove(s.socket())
	return "nbdkit", []string{"-f", "-e", "ftl0", "-U", s.socket(), "file", disk}
}

func (s *server) side() string {
	if s.aux != "" {
		return s.aux
	}
	return s.dir
}

func (s *server) socket() string { return filepath.Join(s.side(), "nbd.sock") }

func (s *server) uri() string {
	name := s.name
	if name == "" {
		name = "ftl0"
	}
	return "nbd+unix:///" + name + "?socket=" + s.socket()
}

// ready waits until the export can be opened and the server has said so: it listens first, so that what it prints is true,
// and a client may be faster than the line.
func (s *server) ready() {
	s.t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := client.Dial(s.uri())
		if err == nil {
			c.Close()
			if s.greeted() {
				return
			}
			err = errors.New("it listens, and has not said so")
		}
		select {
		case <-s.end:
			require.Fail(s.t, "the server ended", "%v\n%s", s.err, s.output())
		default:
		}
		require.Less(s.t, time.Since(begin), readyLimit, "the server does not answer: %v\n%s", err, s.output())
	}
}

// greeted says whether this server has said all that it says before it waits for a signal.
func (s *server) greeted() bool {
	text, err := os.ReadFile(s.log.Name())
	require.NoError(s.t, err)
	return peer() || bytes.Contains(text[s.at:], []byte("SIGINT or SIGTERM stops cleanly"))
}

// output is what the servers of this device have printed, the end of it.
func (s *server) output() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// finish kills the server if it still runs; its own log is shown when the test failed.
func (s *server) finish() {
	s.kill()
	if s.t.Failed() {
		s.t.Logf("log of the server:\n%s", s.output())
	}
	s.log.Close()
	s.forgetShm()
}

// forgetShm removes what a killed server left in shared memory.
func (s *server) forgetShm() {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return
	}
	for _, m := range shmID.FindAllSubmatch(text, -1) {
		left, _ := filepath.Glob("/dev/shm/ftl_" + string(m[1]) + "_*")
		for _, f := range left {
			os.RemoveAll(f)
		}
	}
}

var shmID = regexp.MustCompile(`uuid=([0-9a-f-]{36})`)

// kill ends the server at once.
func (s *server) kill() {
	select {
	case <-s.end:
		return
	default:
	}
	_ = s.cmd.Process.Kill()
	<-s.end
}

// stop ends the server in order.
func (s *server) stop() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.wait(stopLimit)
	require.NoError(s.t, s.err, "the server did not stop cleanly:\n%s", s.output())
	require.NotContains(s.t, s.output(), "panic", "the server panicked")
}

// wait waits for the end of the process.
func (s *server) wait(limit time.Duration) {
	s.t.Helper()
	select {
	case <-s.end:
	case <-time.After(limit):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // a dump of the goroutines for the log
		time.Sleep(500 * time.Millisecond)
		require.Fail(s.t, "the server does not end", "%s", s.output())
	}
}

// again starts the server on the same device, and waits until it answers.
func (s *server) again() *server {
	s.t.Helper()
	n := &server{t: s.t, dir: s.dir, args: s.args, aux: s.aux, name: s.name}
	n.spawn(filepath.Join(bin, "ftlnbd"))
	n.ready()
	return n
}

// check runs the offline verification of a stopped device; it must find nothing.
func (s *server) check() {
	s.t.Helper()
	if peer() {
		return
	}
	run(s.t, filepath.Join(bin, "ftlnbd"), append([]string{"check", "--dir", s.dir}, s.specs()...)...)
}

// dial connects to the server.
func (s *server) dial(depth int) *client.Conn {
	s.t.Helper()
	c, err := client.DialOptions(s.uri(), client.Options{Depth: depth, Timeout: time.Minute})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// raw opens a bare connection to the server's socket.
func (s *server) raw() net.Conn {
	s.t.Helper()
	c, err := net.DialTimeout("unix", s.socket(), 10*time.Second)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// exitCode is the exit status of a command, or -1 when it was killed or did not run.
func exitCode(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -1
}

// ftlnbd runs the command with that input; it must end by itself. It returns what was printed and the exit code.
func ftlnbd(t *testing.T, stdin string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "ftlnbd"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	text, err := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "ftlnbd %s does not end:\n%s", strings.Join(args, " "), text)
	return string(text), exitCode(err)
}

func uitoa(n uint64) string { return strconv.FormatUint(n, 10) }

// unmountSoon unmounts; the files of a process that was killed are let go of a moment after its end.
func unmountSoon(mnt string) {
	for range 100 {
		if exec.Command("umount", mnt).Run() == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = exec.Command("umount", "-l", mnt).Run()
}
