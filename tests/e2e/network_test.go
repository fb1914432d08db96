//go:build e2e

package e2e

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
)

// TestTCP serves over TCP as well, under a name of its own, and lists what is there.
func TestTCP(t *testing.T) {
	needOurs(t)
	need(t, "nbdinfo", "nbdcopy", "qemu-img")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	dir := shortDir(t)
	s := launch(t, dir, "256MiB", "--listen", addr, "--export", "a disk/ä")
	s.name = "a%20disk%2F%C3%A4"
	s.ready()
	uri := "nbd://" + addr + "/" + s.name
	require.Contains(t, s.output(), "serving "+uri)
	list := run(t, "nbdinfo", "--list", "nbd://"+addr)
	require.Contains(t, list, "a disk/ä")
	for _, u := range []string{uri, "nbd://" + addr, s.uri(), "nbd+unix:///?socket=" + s.socket()} {
		info := run(t, "nbdinfo", "--json", u)
		for _, words := range []string{
			`"export-size": 268435456`, `"can_flush": true`, `"can_fua": true`, `"can_trim": true`, `"can_zero": true`,
			`"can_multi_conn": true`, `"is_read_only": false`, `"block_size_minimum": 1`, `"block_size_preferred": 4096`,
		} {
			require.Contains(t, info, words, u)
		}
	}
	_, err = try(t, "nbdinfo", "nbd://"+addr+"/other")
	require.Error(t, err, "an export that does not exist")
	src, back := image(t, dir), filepath.Join(dir, "back.img")
	run(t, "nbdcopy", "--connections=4", "--flush", src, uri)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, s.uri())
	run(t, "nbdcopy", "--connections=4", uri, back)
	sameFiles(t, src, back)
	s.stop()
	s.check()
}

// TestReadOnlyExport serves a device without writing to it.
func TestReadOnlyExport(t *testing.T) {
	needOurs(t)
	d := newStopped(t, 7)
	before := sums(t, d.dir)
	s := serveIn(t, d.dir, "", "--read-only", "--shm", "off")
	require.Contains(t, run(t, "nbdinfo", "--json", s.uri()), `"is_read_only": true`)
	c := s.dial(1)
	_, err := c.ReadAt(make([]byte, 4<<20), 0)
	require.NoError(t, err)
	_, err = c.WriteAt(make([]byte, 4096), 0)
	require.Error(t, err)
	require.Error(t, c.Trim(0, 4096, 0))
	s.stop()
	require.Equal(t, before, sums(t, d.dir))

	out, code := ftlnbd(t, "", "serve", "--read-only", "--dir", shortDir(t))
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "no device in")
}

// TestSocketTaken starts a server where something else is or the socket cannot be.
func TestSocketTaken(t *testing.T) {
	needOurs(t)
	s := serve(t, "64MiB")
	dir := shortDir(t)
	for socket, says := range map[string]string{
		s.socket():                         "in use",
		filepath.Join(dir, "none", "s"):    "no such file",
		"/tmp/" + strings.Repeat("x", 120): "",
	} {
		out, code := ftlnbd(t, "", "serve", "--dir", filepath.Join(dir, "d"), "--size", "64MiB", "--socket", socket)
		require.NotZero(t, code, out)
		require.Contains(t, out, says)
		require.NotContains(t, out, "goroutine")
	}
	_, err := client.Dial(s.uri())
	require.NoError(t, err, "the other server lost its socket")
	out, code := ftlnbd(t, "", "serve", "--dir", filepath.Join(dir, "new"), "--size", "64MiB", "--listen", "256.0.0.1:99999")
	require.NotZero(t, code, out)
	require.Contains(t, out, "created ftl0 (64MiB)", "the device was made although nobody can reach it: say so")
	require.NotContains(t, out, "serving")
	s.stop()
}
