//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/tests/sim/model"
)

// TestUsage is about arguments that are wrong: exit code 2, and a hint.
func TestUsage(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	for _, args := range []string{
		"serve", "serve --dir", "unknown", "serve --size 12345", "serve --size abc", "plan --size 0", "serve extra", "check --unknown",
		"serve --mode fast", "plan --write-buffer 4MiB", "plan --volatile-write-cache --write-buffer 0",
		"plan --volatile-write-cache --write-buffer 5000", "plan --volatile-write-cache --write-buffer 1GiB", "serve --cache malloc:64MiB --base malloc:256MiB",
	} {
		words := strings.Fields(args)
		if strings.Contains(args, "--mode") || strings.Contains(args, "extra") {
			words = append(words, "--dir", dir)
		}
		out, code := ftlnbd(t, "", words...)
		require.Equal(t, 2, code, "%s: %s", args, out)
		require.Contains(t, out, "--help", args)
	}
	out, code := ftlnbd(t, "", "--help")
	require.Zero(t, code)
	for _, command := range []string{"serve", "plan", "inspect", "check", "destroy"} {
		require.Contains(t, out, command)
		_, code := ftlnbd(t, "", command, "--help")
		require.Zero(t, code)
	}
	for _, command := range []string{"check", "inspect", "destroy"} {
		out, code := ftlnbd(t, "yes\n", command, "--dir", filepath.Join(dir, "nothing"))
		require.Equal(t, 1, code, "%s: %s", command, out)
		require.Contains(t, out, "no device in")
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "commands that failed left something behind")
}

// TestRunTwice starts everything else on a device that is being served: exit code 4, and the server does not notice.
func TestRunTwice(t *testing.T) {
	needOurs(t)
	s := serve(t, "64MiB")
	c := s.dial(4)
	_, err := c.WriteAt(bytes.Repeat([]byte{1}, 8192), 0)
	require.NoError(t, err)
	aside := filepath.Join(shortDir(t), "s")
	var all sync.WaitGroup
	for _, args := range [][]string{
		{"serve", "--dir", s.dir},
		{"serve", "--dir", s.dir, "--socket", aside},
		{"serve", "--dir", s.dir, "--read-only", "--socket", aside},
		{"check", "--dir", s.dir},
		{"inspect", "--dir", s.dir},
		{"destroy", "--yes", "--dir", s.dir},
	} {
		all.Go(func() { // each waits a while before it gives up
			out, err := exec.Command(filepath.Join(bin, "ftlnbd"), args...).CombinedOutput()
			assert.Equal(t, 4, exitCode(err), "%v: %s", args, out)
			assert.Contains(t, string(out), "in use", "%v", args)
		})
	}
	all.Wait()
	buf := make([]byte, 8192)
	_, err = c.ReadAt(buf, 0)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{1}, 8192), buf)
	s.dial(1) // the socket is still ours
	s.kill()
	s = s.again() // what the killed one left behind, its socket too, is no obstacle
	s.stop()
	s.check()
	_, err = os.Stat(s.socket())
	require.ErrorIs(t, err, os.ErrNotExist, "the socket is left behind")
}

// TestStop stops the server by signals, with clients that are idle, busy, or stuck.
func TestStop(t *testing.T) {
	needOurs(t)
	for name, sig := range map[string]syscall.Signal{"SIGINT": unix.SIGINT, "SIGTERM": unix.SIGTERM} {
		t.Run(name+" with an idle client", func(t *testing.T) {
			s := serve(t, "64MiB")
			s.dial(1)
			s.raw()
			begin := time.Now()
			require.NoError(t, s.cmd.Process.Signal(sig))
			s.wait(10 * time.Second)
			require.NoError(t, s.err, s.output())
			require.Less(t, time.Since(begin), 5*time.Second)
			require.NotContains(t, s.output(), "connections were cut", "idle clients are not waited for")
			require.Contains(t, s.output(), "clean=true")
			require.True(t, inspect(t, s.dir).Clean)
		})
	}
	for _, k := range kinds() {
		t.Run("with a busy client, "+k.slug(), func(t *testing.T) { testStopBusy(t, k) })
	}
	t.Run("twice", func(t *testing.T) {
		dir := shortDir(t)
		s := serveIn(t, dir, smallSize, small(dir)...)
		w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
		c := s.dial(64)
		_, gone := w.run(c, 64, 2000)
		require.False(t, gone)
		w.drain(c)
		c.Close()
		s.stop()
		// On slow devices a stop takes a while, so that the second signal comes in the middle of it.
		fast := s.args
		s.args = nil
		for _, a := range fast {
			s.args = append(s.args, strings.Replace(a, "file:", "delay:200ms:file:", 1))
		}
		s = s.again()
		c = s.dial(64)
		_, gone = w.run(c, 16, 100)
		require.False(t, gone)
		w.drain(c)
		// Signals that come close together count as one, so on a busy machine the second one may have to be repeated.
		for begin, more := time.Now(), true; more; {
			_ = s.cmd.Process.Signal(unix.SIGTERM)
			select {
			case <-s.end:
				more = false
			case <-time.After(300 * time.Millisecond):
				require.Less(t, time.Since(begin), 5*time.Second, s.output())
			}
		}
		require.Equal(t, 1, exitCode(s.err), s.output())
		require.Contains(t, s.output(), "stopped at once")
		s.args = fast
		s = s.again()
		w.verify(s.dial(8))
		s.stop()
		s.check()
	})
}

func testStopBusy(t *testing.T, k kind) {
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, k.small(dir, "")...)
	w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
	c := s.dial(64)
	fuse := time.AfterFunc(500*time.Millisecond, func() { _ = s.cmd.Process.Signal(unix.SIGTERM) })
	defer fuse.Stop()
	_, gone := w.run(c, 64, 1<<30)
	require.True(t, gone)
	s.wait(stopLimit)
	require.NoError(t, s.err, s.output())
	s.check()
	s = s.again()
	require.Contains(t, lastReady(s.output()), "redone=0")
	w.verify(s.dial(8))
	s.stop()
}

// TestFastStop stops without a checkpoint; the next start takes the mapping from shared memory or from the log.
func TestFastStop(t *testing.T) {
	needOurs(t)
	for _, k := range kinds() {
		t.Run(k.slug(), func(t *testing.T) {
			t.Parallel()
			testFastStop(t, k)
		})
	}
}

func testFastStop(t *testing.T, k kind) {
	for _, shm := range []string{"auto", "off"} {
		dir := shortDir(t)
		s := serveIn(t, dir, smallSize, k.small(dir, "", "--shm", shm, "--fast-stop")...)
		w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
		for range 2 {
			c := s.dial(64)
			_, gone := w.run(c, 64, 2000)
			require.False(t, gone)
			w.drain(c)
			c.Close()
			s.stop()
			s.check()
			s = s.again()
			t.Logf("shm %s: %s", shm, readyFields(s.output()))
			w.verify(s.dial(8))
		}
		s.stop()
	}
}

// inspection is the part of inspect --json that tests look at.
type inspection struct {
	Name, UUID string
	Clean      bool
	Size       uint64
	Mapped     uint64
	Layout     struct {
		LBAs    uint64
		Regions []struct {
			Name           string
			Dev            int
			Offset, Blocks uint64
		}
	}
	Load struct {
		Redone uint64
	}
	States   map[string]map[string]int
	Segments []map[string]any
}

func inspect(t *testing.T, dir string, more ...string) (in inspection) {
	t.Helper()
	out, code := ftlnbd(t, "", append([]string{"inspect", "--json", "--dir", dir}, more...)...)
	require.Zero(t, code, out)
	require.NoError(t, json.Unmarshal([]byte(out), &in), out)
	return in
}

// TestInspect looks at a device before and after a clean stop and a kill; looking changes nothing.
func TestInspect(t *testing.T) {
	needOurs(t)
	s := serve(t, "64MiB", "--shm", "off")
	c := s.dial(32)
	_, err := c.WriteAt(make([]byte, 4<<20), 1<<20)
	require.NoError(t, err)
	s.stop()
	in := inspect(t, s.dir)
	require.True(t, in.Clean)
	require.Equal(t, uint64(64<<20), in.Size)
	require.Equal(t, uint64(4<<20/4096), in.Mapped)
	require.Equal(t, "ftl0", in.Name)
	require.NoError(t, uuid.Validate(in.UUID))
	require.Empty(t, in.Segments)
	require.NotEmpty(t, in.Layout.Regions)
	segs := inspect(t, s.dir, "--segments").Segments
	n := 0
	for _, states := range in.States {
		for _, k := range states {
			n += k
		}
	}
	require.Len(t, segs, n)
	s = s.again()
	_, err = s.dial(1).WriteAt(make([]byte, 1<<20), 8<<20)
	require.NoError(t, err)
	s.kill()
	before := sums(t, s.dir)
	in = inspect(t, s.dir)
	require.False(t, in.Clean)
	require.Equal(t, uint64(5<<20/4096), in.Mapped)
	require.NotZero(t, in.Load.Redone)
	text, code := ftlnbd(t, "", "inspect", "--dir", s.dir, "--segments")
	require.Zero(t, code)
	for _, words := range []string{in.UUID, "not stopped cleanly", "1280 of 16384", "l2p_slot0", "chunk", "band"} {
		require.Contains(t, text, words)
	}
	s.check()
	require.Equal(t, before, sums(t, s.dir), "inspect or check wrote to the device")
	s = s.again()
	s.stop()
	require.True(t, inspect(t, s.dir).Clean)
}

// TestPlan compares what plan says with what serve then makes; plan itself makes nothing.
func TestPlan(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	cache, base := filepath.Join(dir, "c"), filepath.Join(dir, "b")
	args := []string{"--cache", "file:" + cache + ",size=64MiB", "--base", "file:" + base + ",size=256MiB"}
	out, code := ftlnbd(t, "", append([]string{"plan"}, args...)...)
	require.Zero(t, code, out)
	for _, words := range []string{"usable capacity", "memory", "write amplification", "mapping", "l2p_slot1", "chunks", "bands"} {
		require.Contains(t, out, words)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "plan made something")
	s := serveIn(t, dir, "", args...) // as much as fits
	c := s.dial(1)
	require.Contains(t, out, "("+uitoa(c.Size()/4096)+" blocks")
	s.stop()
	for _, size := range []string{"1MiB", "64MiB", "1GiB", "1TiB", "100TiB"} {
		out, code := ftlnbd(t, "", "plan", "--size", size)
		require.Zero(t, code, out)
		require.Contains(t, out, "usable capacity")
	}
}

// TestDestroy removes a device only when told so twice.
func TestDestroy(t *testing.T) {
	needOurs(t)
	s := serve(t, "64MiB")
	id := inspectRunning(t, s)
	s.kill() // leaves shared memory behind
	s.log.Close()
	require.NoError(t, os.Remove(s.log.Name()))
	for _, answer := range []string{"", "\n", "no\n", "y\n", "YES\n"} {
		out, code := ftlnbd(t, answer, "destroy", "--dir", s.dir)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "Type yes")
		require.Contains(t, out, "not destroyed")
	}
	s.check()
	out, code := ftlnbd(t, "yes\n", "destroy", "--dir", s.dir)
	require.Zero(t, code, out)
	_, err := os.Stat(s.dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	left, _ := filepath.Glob("/dev/shm/*" + id + "*")
	require.Empty(t, left)

	// Devices given by specs stay, and hold nothing any more.
	dir := shortDir(t)
	s = serveIn(t, dir, "", small(dir)...)
	s.stop()
	args := append([]string{"destroy", "--yes"}, s.specs()...)
	out, code = ftlnbd(t, "", args...)
	require.Zero(t, code, out)
	out, code = ftlnbd(t, "", append([]string{"inspect"}, s.specs()...)...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "blank")
	s = s.again()
	require.Contains(t, s.output(), "created")
	s.stop()
	s.check()

	// One file alone is what a failed removal leaves: destroy removes it too.
	half := newStopped(t, 5).copy(t)
	require.NoError(t, os.Remove(filepath.Join(half, "cache.img")))
	out, code = ftlnbd(t, "", "destroy", "--yes", "--dir", half)
	require.Zero(t, code, out)
	_, err = os.Stat(half)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// inspectRunning is the UUID of the device that a server has, from its log.
func inspectRunning(t *testing.T, s *server) string {
	t.Helper()
	_, rest, ok := strings.Cut(s.output(), "uuid=")
	require.True(t, ok, s.output())
	return rest[:36]
}
