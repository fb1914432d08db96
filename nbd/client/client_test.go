package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/client"
	"goftl/nbd/proto"
)

// nbdkit starts a server of others, so that the client is not only right in
// the eyes of our own.
func nbdkit(t testing.TB, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("nbdkit")
	if err != nil && os.Getenv("GOFTL_E2E_STRICT") != "" {
		t.Fatal("nbdkit is not installed")
	}
	if err != nil {
		t.Skip("nbdkit is not installed")
	}
	dir, err := os.MkdirTemp("", "nbdc") //nolint:usetesting // TempDir is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command(bin, append([]string{"-f", "-U", sock}, args...)...)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for range 200 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "nbd+unix:///?socket=" + sock
}

func TestAgainstNbdkit(t *testing.T) {
	uri := nbdkit(t, "memory", "16M")
	for _, o := range []client.Options{{}, {ExportName: true}, {Structured: true}, {ReadBuffer: 4096}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			o.Timeout = 10 * time.Second
			c, err := client.DialOptions(uri, o)
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
			require.EqualValues(t, 16<<20, c.Size())
			roundTrip(t, c)
		})
	}
}

func roundTrip(t *testing.T, c *client.Conn) {
	rnd := rand.New(rand.NewSource(1))
	data := make([]byte, 3<<20)
	rnd.Read(data)
	_, err := c.WriteAt(data, 4096)
	require.NoError(t, err)
	got := make([]byte, len(data))
	_, err = c.ReadAt(got, 4096)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))

	require.NoError(t, c.Flush())
	require.NoError(t, c.WriteZeroes(8192, 65536, 0))
	require.NoError(t, c.Trim(1<<20, 4096, 0))
	n, err := c.ReadAt(got[:4096], 8192)
	require.NoError(t, err)
	require.Equal(t, 4096, n)
	require.Equal(t, make([]byte, 4096), got[:4096])

	n, err = c.ReadAt(got[:8192], int64(c.Size())-4096)
	require.Equal(t, io.EOF, err)
	require.Equal(t, 4096, n)
	_, err = c.WriteAt(got[:4096], int64(c.Size()))
	require.ErrorIs(t, err, unix.ENOSPC)
	_, err = c.ReadAt(got[:512], 0) // the connection is still good
	require.NoError(t, err)
}

// TestQueue keeps many requests of many sizes in flight, more bytes than the
// socket's buffers hold in both directions.
func TestQueue(t *testing.T) {
	uri := nbdkit(t, "memory", "64M")
	c, err := client.DialOptions(uri, client.Options{Depth: 64, Timeout: 20 * time.Second})
	require.NoError(t, err)
	defer c.Close()
	const slot = 1 << 20
	ops := make([]client.Op, 64)
	ref := make([][]byte, len(ops))
	rnd := rand.New(rand.NewSource(2))
	for i := range ops {
		ref[i] = make([]byte, 1+rnd.Intn(300_000))
		rnd.Read(ref[i])
		ops[i] = client.Op{Command: proto.CmdWrite, Offset: uint64(i) * slot, Buf: ref[i], Ctx: i}
	}
	run(t, c, ops)
	for i := range ops {
		ops[i] = client.Op{Command: proto.CmdRead, Offset: uint64(i) * slot, Buf: make([]byte, len(ref[i])), Ctx: i}
	}
	run(t, c, ops)
	for i := range ops {
		require.True(t, bytes.Equal(ref[i], ops[i].Buf), "op %d", i)
	}
}

func run(t *testing.T, c *client.Conn, ops []client.Op) {
	for i := range ops {
		require.NoError(t, c.Submit(&ops[i]))
	}
	if len(ops) == c.Depth() {
		require.ErrorIs(t, c.Submit(&client.Op{Command: proto.CmdFlush}), unix.EAGAIN)
	}
	done := make([]*client.Op, 7)
	for left := len(ops); left > 0; {
		n, err := c.Wait(done)
		require.NoError(t, err)
		require.Positive(t, n)
		for _, op := range done[:n] {
			require.NoError(t, op.Err)
		}
		left -= n
	}
	n, err := c.Wait(done)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Zero(t, c.InFlight())
}

func TestAllocsPerOp(t *testing.T) {
	uri := nbdkit(t, "memory", "16M")
	c, err := client.Dial(uri)
	require.NoError(t, err)
	defer c.Close()
	ops := make([]client.Op, 32)
	for i := range ops {
		ops[i] = client.Op{Command: proto.Command(i % 2), Offset: uint64(i) * 4096, Buf: make([]byte, 4096)}
	}
	done := make([]*client.Op, len(ops))
	avg := testing.AllocsPerRun(100, func() {
		for i := range ops {
			if err := c.Submit(&ops[i]); err != nil {
				t.Fatal(err)
			}
		}
		for left := len(ops); left > 0; {
			n, err := c.Wait(done)
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
	})
	require.Zero(t, avg)
}

func TestDialErrors(t *testing.T) {
	for _, uri := range []string{"", "nbds://h/x", "nbd+unix:///x", "nbd:///x", "://", "http://h/"} {
		_, err := client.Dial(uri)
		require.ErrorIs(t, err, unix.EINVAL, uri)
	}
	_, err := client.Dial("nbd+unix:///?socket=/nonexistent/s")
	require.ErrorIs(t, err, unix.ENOENT)
	uri := nbdkit(t, "--exportname=only", "eval", "get_size=echo 4096", "pread=dd if=/dev/zero bs=$3 count=1",
		`open=test "$3" = only`, `list_exports=echo only`)
	_, err = client.DialOptions(uri, client.Options{Timeout: 5 * time.Second})
	require.Error(t, err)
	require.False(t, errors.Is(err, client.ErrProtocol), "%v", err)
}

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]client.Target{
		"nbd+unix:///ftl0?socket=/run/a b.sock": {Network: "unix", Address: "/run/a b.sock", Export: "ftl0"},
		"nbd+unix:///a%2Fb/c?socket=%2Ftmp%2Fx": {Network: "unix", Address: "/tmp/x", Export: "a/b/c"},
		"nbd+unix://?socket=s":                  {Network: "unix", Address: "s"},
		"nbd://localhost":                       {Network: "tcp", Address: "localhost:10809"},
		"nbd://[::1]:99/e":                      {Network: "tcp", Address: "[::1]:99", Export: "e"},
	} {
		got, err := client.ParseURI(uri)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}
