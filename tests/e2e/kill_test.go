//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
	"goftl/tests/sim/model"
)

const (
	smallCache = "64MiB"
	smallBase  = "256MiB"
	smallSize  = "128MiB"
	smallBytes = 128 << 20
)

// small are the arguments for a device so small that compaction and relocation are always at work.
func small(dir string) []string {
	return []string{"--cache", "file:" + dir + "/cache.img,size=" + smallCache, "--base", "file:" + dir + "/base.img,size=" + smallBase}
}

// TestKill kills the server in the middle of fio on one half of the device and of random writes with flushes on the
// other, 20 times; after each restart everything that was acknowledged is there, and the device is consistent.
func TestKill(t *testing.T) {
	needFio(t)
	rounds := 20
	if n, err := strconv.Atoi(os.Getenv("GOFTL_E2E_KILLS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	half := uint64(smallBytes / 2 / model.BlockSize)
	w := newWriter(t, seed, half, half)
	for round := range rounds {
		fio := startFio(t, s, r.IntN(2) == 0)
		c := s.dial(64)
		fuse := time.AfterFunc(time.Duration(100+r.IntN(700))*time.Millisecond, s.kill)
		n, gone := w.run(c, 1+r.IntN(48), 1<<30)
		fuse.Stop()
		require.True(t, gone, "the server was to be killed")
		<-s.end
		fio()
		c.Close()
		if round%5 == 4 {
			s.check()
		}
		begin := time.Now()
		s = s.again()
		t.Logf("round %d: %d requests before the kill, back after %v", round+1, n, time.Since(begin).Round(time.Millisecond))
		c = s.dial(8)
		w.verify(c)
		readAll(t, c, smallBytes/2)
		c.Close()
	}
	t.Logf("%v", w)
	s.stop()
	s.check()
}

// startFio starts fio on the first half of the device; the function returned waits for its end, which the death of
// the server brings about.
func startFio(t *testing.T, s *server, random bool) (wait func()) {
	t.Helper()
	rw, bs := "write", "64k"
	if random {
		rw, bs = "randwrite", "4k"
	}
	cmd := exec.Command("fio", "--name=load", "--thread", "--ioengine=nbd", "--uri="+s.uri(), "--rw="+rw, "--bs="+bs,
		"--iodepth=32", "--size="+strconv.Itoa(smallBytes/2), "--time_based", "--runtime=60", "--fsync=64", "--output-format=terse")
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return func() {
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
}

// readAll reads the first bytes of the device: nothing may fail.
func readAll(t *testing.T, c *client.Conn, bytes int64) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < bytes; at += int64(len(buf)) {
		_, err := c.ReadAt(buf, at)
		require.NoError(t, err, "read at %d", at)
	}
}

// TestKillWhileStarting kills the server again and again before it is ready, also while it creates the device.
func TestKillWhileStarting(t *testing.T) {
	needOurs(t)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	dir := shortDir(t)
	for range 5 {
		s := launch(t, dir, smallSize, small(dir)...)
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		s.kill()
	}
	s := serveIn(t, dir, smallSize, small(dir)...)
	w := newWriter(t, r.Uint64(), 0, smallBytes/model.BlockSize)
	c := s.dial(32)
	w.run(c, 32, 20_000)
	s.kill()
	for range 10 {
		s = launch(t, dir, smallSize, small(dir)...)
		time.Sleep(time.Duration(r.IntN(80)) * time.Millisecond)
		s.kill()
	}
	s = serveIn(t, dir, smallSize, small(dir)...)
	c = s.dial(8)
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
}

// TestOverwrite writes five times the size of the device, so that compaction and relocation run through all of it.
func TestOverwrite(t *testing.T) {
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	w := newWriter(t, 1, 0, smallBytes/model.BlockSize)
	w.maxLen, w.trim, w.read = 32, 200, 50
	c := s.dial(64)
	begin := time.Now()
	// Half of the ops are one block, the others 16 on average.
	ops := 5 * smallBytes / model.BlockSize / 8
	_, gone := w.run(c, 64, ops)
	require.False(t, gone)
	w.drain(c)
	require.NoError(t, c.Flush())
	t.Logf("%v in %v", w, time.Since(begin).Round(time.Millisecond))
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
	s = s.again()
	c = s.dial(8)
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
}
