//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/tests/sim/model"
)

// behind puts a wrapper in front of the files of a small device.
func behind(dir, cache, base string) []string {
	args := small(dir)
	args[1], args[3] = cache+args[1], base+args[3]
	return args
}

// TestFailingWrites lets some writes of the devices fail: clients do not notice, since the log goes elsewhere.
func TestFailingWrites(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	s.stop()
	s.args = append([]string{"serve", "--dir", dir}, behind(dir,
		"errinj:fail=EIO,op=write,prob=0.003,seed=3:", "errinj:fail=EIO,op=write,prob=0.003,seed=4:")...)
	s = s.again()
	w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
	w.maxLen = 32
	c := s.dial(64)
	// How many writes of the devices that makes depends on what goes together; one of them must have been of records.
	for i := 0; i < 10 || i < 100 && !strings.Contains(s.output(), "sealed"); i++ {
		_, gone := w.run(c, 48, 1000)
		require.False(t, gone)
		w.drain(c)
	}
	w.verify(c)
	t.Log(w)
	require.Contains(t, s.output(), "sealed", "no write has failed")
	c.Close()
	s.kill()
	s = s.unwrapped().again()
	w.verify(s.dial(8))
	s.stop()
	s.check()
}

// TestFailingReads lets some reads fail: clients get an error for them or the right content, and nothing is lost.
func TestFailingReads(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	s.stop()
	s.args = append([]string{"serve", "--dir", dir}, behind(dir,
		"errinj:fail=EIO,op=read,prob=0.1,seed=3,after=3000:", "errinj:fail=EIO,op=read,prob=0.1,seed=4,after=3000:")...)
	s = s.again()
	w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
	w.read = 2
	w.mayFail = func(op *client.Op) bool { return op.Command == proto.CmdRead && errors.Is(op.Err, unix.EIO) }
	c := s.dial(64)
	for range 15 {
		_, gone := w.run(c, 48, 2000)
		require.False(t, gone)
		w.drain(c)
	}
	t.Logf("%v, %d reads failed", w, w.failed)
	c.Close()
	s.kill()
	s = s.unwrapped().again()
	w.verify(s.dial(8))
	s.stop()
	s.check()
}

// TestBrokenDevice breaks a device for good while it is being written to: writes fail from then on and say so, what
// can be read is right, the server stops in order, and with the device whole again everything acknowledged is there.
func TestBrokenDevice(t *testing.T) {
	needOurs(t)
	for name, k := range map[string]struct{ cache, base string }{
		"cache writes":  {"errinj:fail=EIO,op=write+flush,after=1500:", ""},
		"cache flushes": {"errinj:fail=EIO,op=flush,after=100:", ""},
		"base writes":   {"", "errinj:fail=EIO,op=write+flush,after=300:"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			s := serveIn(t, dir, smallSize, small(dir)...)
			s.stop()
			s.args = append([]string{"serve", "--dir", dir, "--shm", "off"}, behind(dir, k.cache, k.base)...)
			s = s.again()
			w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
			w.mayFail = func(op *client.Op) bool { return op.Command != proto.CmdRead }
			c := s.dial(64)
			for range 40 {
				_, gone := w.run(c, 32, 500)
				require.False(t, gone, "the connection is to stay: %s", s.output())
				w.drain(c)
				if w.failed > 200 {
					break
				}
			}
			t.Logf("%v, %d failed", w, w.failed)
			require.NotZero(t, w.failed, s.output())
			w.verify(c)
			c.Close()
			require.NoError(t, s.cmd.Process.Signal(unix.SIGTERM))
			s.wait(stopLimit)
			t.Logf("exit code %d", exitCode(s.err))
			require.NotContains(t, s.output(), "goroutine ")
			s = s.unwrapped().again()
			w.verify(s.dial(8))
			s.stop()
			s.check()
		})
	}
}
