package nbd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/nbd"
	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/reactor"
	"goftl/thread"
)

// served is a server over a malloc device on a reactor.
type served struct {
	srv    *nbd.Server
	sock   string
	re     *reactor.Reactor
	th     *thread.Thread
	dev    *malloc.Driver
	export nbd.Export
}

func serve(t testing.TB, blocks uint64, change ...func(c *nbd.Config)) *served {
	t.Helper()
	sys := thread.NewSystem()
	v := &served{th: sys.NewThread("core")}
	m := bdev.NewManager(sys, nil)
	var err error
	v.dev, err = malloc.New(malloc.Options{Name: "m0", UUID: uuid.New(), Blocks: blocks})
	require.NoError(t, err)
	_, err = m.Register(v.dev)
	require.NoError(t, err)
	v.re, err = reactor.New(reactor.Options{Name: "nbd", CPU: -1})
	require.NoError(t, err)
	desc, err := m.Open("m0", true, nil, nil, v.th)
	require.NoError(t, err)
	v.re.Add(v.th)
	v.re.Start()
	t.Cleanup(v.re.Stop)
	dir, err := os.MkdirTemp("", "nbds") //nolint:usetesting // TempDir is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	v.sock = filepath.Join(dir, "s")
	v.export = nbd.Export{Name: "disk", Description: "a malloc disk", Desc: desc, Thread: v.th}
	c := nbd.Config{
		Exports: []nbd.Export{v.export}, Default: "disk",
		Listen: []string{"unix:" + v.sock, "tcp:127.0.0.1:0"},
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, f := range change {
		f(&c)
	}
	v.srv, err = nbd.NewServer(c)
	require.NoError(t, err)
	require.NoError(t, v.srv.Start())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, v.srv.Stop(ctx))
	})
	return v
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (v *served) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + v.sock }

func dial(t testing.TB, uri string, o client.Options) *client.Conn {
	t.Helper()
	o.Timeout = 10 * time.Second
	c, err := client.DialOptions(uri, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestServerRoundTrip(t *testing.T) {
	v := serve(t, 4096)
	var tcp string
	for _, a := range v.srv.Addrs() {
		if a.Network() == "tcp" {
			tcp = "nbd://" + a.String() + "/disk"
		}
	}
	data := make([]byte, 5<<20+77)
	rand.New(rand.NewSource(1)).Read(data)
	for _, uri := range []string{v.uri("disk"), v.uri(""), tcp} {
		for _, o := range []client.Options{{}, {ExportName: true}, {Structured: true}} {
			c := dial(t, uri, o)
			require.EqualValues(t, 16<<20, c.Size())
			if !o.ExportName {
				require.Equal(t, proto.BlockSizes{Min: 1, Preferred: 4096, MaxPayload: 32 << 20}, c.Info().Sizes)
				require.Equal(t, "disk", c.Info().Name)
				require.Equal(t, "a malloc disk", c.Info().Description)
			}
			for _, off := range []int64{0, 1, 12345, 4096} {
				n, err := c.WriteAt(data, off)
				require.NoError(t, err)
				require.Equal(t, len(data), n)
				got := make([]byte, len(data))
				_, err = c.ReadAt(got, off)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
			}
			require.NoError(t, c.Flush())
			require.NoError(t, c.WriteZeroes(3, 10000, 0))
			require.NoError(t, c.Trim(0, 65536, 0))
			require.NoError(t, c.Cache(0, 65536))
			_, err := c.WriteAt(data[:10], int64(c.Size())-5)
			require.ErrorIs(t, err, unix.ENOSPC)
			require.NoError(t, c.Close())
		}
	}
	_, err := client.Dial(v.uri("nothere"))
	require.ErrorIs(t, err, unix.ENOENT)
	waitFor(t, func() bool { st := v.srv.Stats(); return st.Transmitting == 0 && st.Negotiating == 0 && st.Failed == 1 })
	st := v.srv.Stats()
	require.EqualValues(t, 10, st.Accepted)
	require.EqualValues(t, 1, st.Failed)
	require.EqualValues(t, 9*4+9, st.Exports[0].Requests[proto.CmdWrite])
	require.EqualValues(t, 9, st.Exports[0].Errors)
	require.Zero(t, st.Negotiating)
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not happen in time")
}

// TestManyClients has connections with random work each on its own part of the
// disk, some of which die without a word.
func TestManyClients(t *testing.T) {
	v := serve(t, 16<<10)
	const each = 4 << 20
	errs := make(chan error, 12)
	for i := range 12 {
		go func() { errs <- worker(v.uri("disk"), int64(i)*each, each, i) }()
	}
	for range 12 {
		require.NoError(t, <-errs)
	}
	waitFor(t, func() bool { return v.srv.Stats().Transmitting == 0 })
}

func worker(uri string, base, size int64, seed int) error {
	rnd := rand.New(rand.NewSource(int64(seed)))
	model := make([]byte, size)
	for range 3 {
		c, err := client.DialOptions(uri, client.Options{Timeout: 20 * time.Second})
		if err != nil {
			return err
		}
		for range 60 {
			off := rnd.Int63n(size - 300_000)
			n := 1 + rnd.Int63n(300_000)
			if rnd.Intn(2) == 0 {
				rnd.Read(model[off : off+n])
				if _, err := c.WriteAt(model[off:off+n], base+off); err != nil {
					return err
				}
				continue
			}
			got := make([]byte, n)
			if _, err := c.ReadAt(got, base+off); err != nil {
				return err
			}
			if seed != 0 && !bytes.Equal(got, model[off:off+n]) {
				return fmt.Errorf("client %d: read %d at %d is wrong", seed, n, off)
			}
			if seed == 0 {
				copy(model[off:], got)
			}
		}
		if rnd.Intn(2) == 0 {
			// Dies with requests in flight.
			for i := range 20 {
				_ = c.Submit(&client.Op{Command: proto.CmdRead, Offset: uint64(base) + uint64(i), Length: 100_000})
			}
			_ = c.Push()
			err = c.Abort()
		} else {
			err = c.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestStopFinishesRequests(t *testing.T) {
	v := serve(t, 4096)
	c := dial(t, v.uri("disk"), client.Options{Depth: 64})
	ops := make([]client.Op, 64)
	for i := range ops {
		ops[i] = client.Op{Command: proto.CmdWrite, Offset: uint64(i) * 65536, Buf: bytes.Repeat([]byte{byte(i + 1)}, 65536)}
		require.NoError(t, c.Submit(&ops[i]))
	}
	require.NoError(t, c.Push())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, v.srv.Stop(ctx))
	done := make([]*client.Op, 64)
	acked := 0
	for {
		n, err := c.Wait(done)
		for _, op := range done[:n] {
			require.NoError(t, op.Err)
			require.Equal(t, op.Buf[:10], v.dev.Data()[op.Offset:op.Offset+10])
			acked++
		}
		if err != nil || n == 0 {
			break
		}
	}
	t.Logf("%d of 64 were answered before the connection closed", acked)
	_, err := client.Dial(v.uri("disk"))
	require.Error(t, err)
	_, err = os.Stat(v.sock)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestStopCutsAStuckClient(t *testing.T) {
	v := serve(t, 4096)
	c := dial(t, v.uri("disk"), client.Options{Depth: 512})
	for range 500 { // 125 MiB of replies that nobody reads
		require.NoError(t, c.Submit(&client.Op{Command: proto.CmdRead, Length: 256 << 10}))
	}
	require.NoError(t, c.Push())
	waitFor(t, func() bool { return v.srv.Stats().Exports[0].Requests[proto.CmdRead] > 10 })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, v.srv.Stop(ctx), context.DeadlineExceeded)
	waitFor(t, func() bool { return v.srv.Stats().Transmitting == 0 })
}

// TestStalledClientsMakeWay: clients that never read hold all memory of the
// thread; they are cut, with a word in the log, and others are served.
func TestStalledClientsMakeWay(t *testing.T) {
	var words lockedBuffer
	v := serve(t, 64<<10, func(c *nbd.Config) {
		c.Limits.ThreadBytes = 128 << 20
		c.Limits.Stall = time.Second
		c.Logger = slog.New(slog.NewTextHandler(&words, nil))
	})
	writer := dial(t, v.uri("disk"), client.Options{})
	_, err := writer.WriteAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	for range 2 {
		c := dial(t, v.uri("disk"), client.Options{Depth: 128})
		for range 128 {
			require.NoError(t, c.Submit(&client.Op{Command: proto.CmdRead, Length: 1 << 20}))
		}
		require.NoError(t, c.Push())
	}
	// Once the replies that fit into the sockets are gone, nothing is left.
	c := dial(t, v.uri("disk"), client.Options{})
	for range 3 {
		_, err = c.ReadAt(make([]byte, 32<<20), 0)
		require.NoError(t, err)
	}
	_, err = writer.WriteAt(make([]byte, 1<<20), 0)
	require.NoError(t, err, "it holds nothing")
	waitFor(t, func() bool {
		return strings.Contains(words.String(), "level=WARN msg=\"nbd: connection cut\" export=disk")
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestExportsComeAndGo(t *testing.T) {
	v := serve(t, 4096)
	second := v.export
	second.Name, second.ReadOnly = "second", true
	require.NoError(t, v.srv.AddExport(second))
	require.ErrorIs(t, v.srv.AddExport(second), unix.EEXIST)
	c := dial(t, v.uri("second"), client.Options{})
	_, err := c.WriteAt(make([]byte, 4096), 0)
	require.ErrorIs(t, err, unix.EPERM)
	_, err = c.ReadAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, v.srv.RemoveExport(ctx, "second"))
	_, err = c.ReadAt(make([]byte, 4096), 0)
	require.Error(t, err)
	_, err = client.Dial(v.uri("second"))
	require.ErrorIs(t, err, unix.ENOENT)
	require.ErrorIs(t, v.srv.RemoveExport(ctx, "second"), unix.ENOENT)
	_, err = dial(t, v.uri("disk"), client.Options{}).ReadAt(make([]byte, 1), 0)
	require.NoError(t, err)
}

func TestConnectionLimits(t *testing.T) {
	v := serve(t, 64, func(c *nbd.Config) {
		c.MaxConns = 2
		c.Limits.HandshakeTicks = 1
	})
	a, b := dial(t, v.uri("disk"), client.Options{}), dial(t, v.uri("disk"), client.Options{})
	_, err := client.Dial(v.uri("disk"))
	require.Error(t, err)
	require.NoError(t, a.Close())
	waitFor(t, func() bool { return v.srv.Stats().Transmitting == 1 })
	// One that says nothing does not keep its place.
	nc, err := net.Dial("unix", v.sock)
	require.NoError(t, err)
	require.NoError(t, nc.SetDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 100)
	n, err := nc.Read(buf)
	require.NoError(t, err)
	require.Equal(t, proto.GreetingSize, n)
	_, err = nc.Read(buf)
	require.Error(t, err)
	require.False(t, os.IsTimeout(err))
	_, err = b.ReadAt(make([]byte, 10), 0)
	require.NoError(t, err)
}

func TestGarbageOnTheSocket(t *testing.T) {
	v := serve(t, 64)
	for _, s := range []string{"", "G", "GET / HTTP/1.0\r\n\r\n", strings.Repeat("x", 100_000), "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"} {
		nc, err := net.Dial("unix", v.sock)
		require.NoError(t, err)
		_, _ = nc.Write([]byte(s))
		require.NoError(t, nc.Close())
	}
	waitFor(t, func() bool { st := v.srv.Stats(); return st.Failed == 5 && st.Negotiating == 0 })
	_, err := dial(t, v.uri("disk"), client.Options{}).ReadAt(make([]byte, 10), 0)
	require.NoError(t, err)
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	start := func(l string) error {
		s, err := nbd.NewServer(nbd.Config{Listen: []string{l}})
		if err != nil {
			return err
		}
		if err := s.Start(); err != nil {
			return err
		}
		return s.Stop(context.Background())
	}
	require.ErrorIs(t, start("x"), unix.EINVAL)
	require.ErrorIs(t, start("tcp:localhost"), unix.EINVAL)
	require.ErrorIs(t, start("unix:"+strings.Repeat("x", 108)), unix.ENAMETOOLONG)
	require.ErrorIs(t, start("unix:/nonexistent/dir/s"), unix.ENOENT)
	t.Chdir(dir)

	require.NoError(t, os.WriteFile("file", []byte("precious"), 0o600))
	require.ErrorIs(t, start("unix:"+dir+"/file"), unix.EEXIST)
	require.NoError(t, os.Mkdir("dir", 0o700))
	require.ErrorIs(t, start("unix:"+dir+"/dir"), unix.EEXIST)
	require.FileExists(t, "file")
	require.DirExists(t, "dir")

	l, err := net.Listen("unix", "live")
	require.NoError(t, err)
	require.ErrorIs(t, start("unix:"+dir+"/live"), unix.EADDRINUSE)
	require.FileExists(t, "live")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.NoError(t, start("unix:"+dir+"/live"), "a stale socket makes way")
	require.NoFileExists(t, "live")

	tl, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer tl.Close()
	require.Error(t, start("tcp:"+tl.Addr().String()))
}

// command runs a client of others and fails the test when it fails.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("GOFTL_E2E_STRICT") != "" {
		t.Fatalf("%s is not installed", name)
	}
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func TestNbdinfo(t *testing.T) {
	v := serve(t, 4096)
	out := command(t, "nbdinfo", v.uri("disk"))
	for _, want := range []string{
		"export-size: 16777216", "can_multi_conn: true", "can_trim: true", "can_zero: true", "can_fua: true",
		"can_flush: true", "can_fast_zero: true", "can_cache: true", "is_read_only: false", "block_size_minimum: 1",
		"block_size_preferred: 4096", "block_size_maximum: 33554432", "a malloc disk",
	} {
		require.Contains(t, out, want)
	}
	out = command(t, "nbdinfo", "--list", "nbd+unix://?socket="+v.sock)
	require.Contains(t, out, `export="disk"`)
	require.Equal(t, "16777216\n", command(t, "nbdinfo", "--size", v.uri("")))
}

func TestNbdcopy(t *testing.T) {
	v := serve(t, 16<<10)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	data := make([]byte, 64<<20)
	rand.New(rand.NewSource(4)).Read(data[:48<<20])
	require.NoError(t, os.WriteFile(src, data, 0o600))
	command(t, "nbdcopy", "--flush", src, v.uri("disk"))
	require.True(t, bytes.Equal(data, v.dev.Data()))
	command(t, "nbdcopy", v.uri("disk"), dst)
	got, err := os.ReadFile(dst)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

func TestQemu(t *testing.T) {
	v := serve(t, 16<<10)
	out := command(t, "qemu-img", "info", v.uri("disk"))
	require.Contains(t, out, "64 MiB")
	cmds := []string{
		"write -P 0x11 0 1M", "write -P 0x22 513 100", "read -P 0x11 0 513", "read -P 0x22 513 100",
		"read -P 0x11 613 1000", "write -z 4000 10000", "read -P 0 4000 10000", "read -P 0x11 14000 100",
		"discard 1M 2M", "write -f -P 0x33 65535 2", "read -P 0x33 65535 2", "flush", "aio_write -P 0x44 10 20",
		"aio_write -P 0x55 100 4000", "aio_flush", "read -P 0x44 10 20", "read -P 0x55 100 4000",
	}
	args := []string{"-f", "raw"}
	for _, c := range cmds {
		args = append(args, "-c", c)
	}
	out = command(t, "qemu-io", append(args, v.uri("disk"))...)
	require.NotContains(t, out, "failed")

	dir := t.TempDir()
	img := filepath.Join(dir, "a.raw")
	data := make([]byte, 64<<20)
	rand.New(rand.NewSource(5)).Read(data[8<<20 : 40<<20])
	require.NoError(t, os.WriteFile(img, data, 0o600))
	command(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", img, v.uri("disk"))
	require.Contains(t, command(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", img, v.uri("disk")), "identical")
}

func TestFio(t *testing.T) {
	v := serve(t, 64<<10)
	for _, job := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=32"},
		{"--rw=write", "--bs=128k", "--iodepth=8"},
		{"--rw=randrw", "--bsrange=512-64k", "--iodepth=16"},
	} {
		args := append([]string{
			"--name=j", "--thread", "--ioengine=nbd", "--uri=" + v.uri("disk"), "--size=64M", "--verify=crc32c",
			"--io_size=64M", "--output-format=terse", "--verify_state_save=0",
		}, job...)
		command(t, "fio", args...)
	}
}
