//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
func small(dir string, more ...string) []string { return plain.small(dir, "", more...) }

// TestKill kills the server in the middle of fio on one half of the device and of random writes with flushes on the
// other, 20 times in a row on the same device; after each restart everything that was acknowledged is there, and the
// device is consistent. Once with the mapping kept in shared memory, which a restart takes over, and once without. The
// other types of device go through it less often.
func TestKill(t *testing.T) {
	needFio(t)
	for i, k := range kinds() {
		for _, shm := range []string{"auto", "off"} {
			rounds := kills(t)
			if k.name != plain.name {
				if rounds = max(rounds*3/10, 1); (i%2 == 0) != (shm == "off") {
					continue
				}
			}
			t.Run(k.slug()+" shm "+shm, func(t *testing.T) {
				k.only(t)
				t.Parallel()
				testKill(t, k, shm, rounds)
			})
		}
	}
}

func testKill(t *testing.T, k kind, shm string, rounds int) {
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 1))
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, k.small(dir, "", "--shm", shm)...)
	half := uint64(smallBytes / 2 / model.BlockSize)
	w := newWriter(t, seed, half, half)
	kept := 0
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
		log := s.output()
		if strings.Contains(lastReady(log), "shm=true") {
			kept++
		}
		t.Logf("round %d: %d requests before the kill, back after %v: %s", round+1, n, time.Since(begin).Round(time.Millisecond), readyFields(log))
		c = s.dial(8)
		w.verify(c)
		readAll(t, c, smallBytes/2)
		c.Close()
	}
	t.Logf("%v", w)
	if shm == "off" {
		require.Zero(t, kept)
	} else if _, err := os.Stat("/dev/shm"); err == nil {
		require.Equal(t, rounds, kept, "starts that took the mapping from shared memory")
	}
	s.stop()
	s.check()
}

// kills is the number of rounds: 20, or GOFTL_E2E_KILLS.
func kills(t *testing.T) int {
	t.Helper()
	n := 20
	if v, err := strconv.Atoi(os.Getenv("GOFTL_E2E_KILLS")); err == nil {
		n = v
	}
	return n
}

// lastReady is the line of the log that says how the device came up the last time.
func lastReady(log string) string {
	at := strings.LastIndex(log, "device ready")
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(log[at:], "\n")
	return line
}

// readyFields are the fields of that line that differ from start to start.
func readyFields(log string) string {
	line := lastReady(log)
	if at := strings.Index(line, "redone="); at >= 0 {
		return line[at:]
	}
	return line
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
		"--iodepth=32", "--size="+strconv.Itoa(smallBytes/2), "--time_based", "--runtime=60", "--fsync=64", "--verify_state_save=0", "--output-format=terse")
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

// TestKillWhileStarting kills the server again and again before it is ready.
func TestKillWhileStarting(t *testing.T) {
	needOurs(t)
	for _, k := range kinds() {
		t.Run(k.slug(), func(t *testing.T) {
			t.Parallel()
			testKillWhileStarting(t, k)
		})
	}
}

func testKillWhileStarting(t *testing.T, k kind) {
	r := rand.New(rand.NewPCG(seedOf(t), 1))
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, k.small(dir, "")...)
	w := newWriter(t, r.Uint64(), 0, smallBytes/model.BlockSize)
	ops, rounds := 20_000, 10
	if k.name != plain.name {
		ops, rounds = 5000, 5
	}
	c := s.dial(32)
	w.run(c, 32, ops)
	s.kill()
	for range rounds {
		s = launch(t, dir, smallSize, k.small(dir, "")...)
		time.Sleep(time.Duration(r.IntN(80)) * time.Millisecond)
		s.kill()
	}
	s = serveIn(t, dir, smallSize, k.small(dir, "")...)
	c = s.dial(8)
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
}

// TestKillWhileCreating kills the first start of a device at every stage of it: the next start makes the device, or
// finds it made.
func TestKillWhileCreating(t *testing.T) {
	needOurs(t)
	for _, k := range kinds() {
		every := 20 * time.Millisecond
		if k.name != plain.name {
			every = 60 * time.Millisecond
		}
		t.Run(k.slug(), func(t *testing.T) {
			t.Parallel()
			testKillWhileCreating(t, k, every)
		})
	}
}

func testKillWhileCreating(t *testing.T, k kind, every time.Duration) {
	for wait := time.Duration(0); wait < 400*time.Millisecond; wait += every {
		dir := shortDir(t)
		// Devices that take their time, so that the stages are far apart.
		s := launch(t, dir, smallSize, k.small(dir, "delay:10ms:")...)
		time.Sleep(wait)
		s.kill()
		how := s.output()
		s = s.unwrapped().again()
		c := s.dial(1)
		_, err := c.WriteAt(make([]byte, 4096), 0)
		require.NoError(t, err)
		if strings.Contains(how, "created") {
			require.Contains(t, s.output(), "loaded")
		}
		c.Close()
		s.stop()
		s.check()
	}
}

// TestOverwrite fills the device and writes five times its size over it, so that compaction and relocation run through
// all of it while every block is valid.
func TestOverwrite(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.slug(), func(t *testing.T) {
			k.only(t)
			t.Parallel()
			testOverwrite(t, k)
		})
	}
}

func testOverwrite(t *testing.T, k kind) {
	const size, bytes = "160MiB", 160 << 20
	dir := shortDir(t)
	s := serveIn(t, dir, size, k.small(dir, "")...)
	w := newWriter(t, seedOf(t), 0, bytes/model.BlockSize)
	w.maxLen, w.trim, w.read = 32, 0, 50
	c := s.dial(64)
	begin := time.Now()
	w.sweep(c, 32)
	w.verify(c)
	for w.blocks < 6*bytes/model.BlockSize {
		_, gone := w.run(c, 64, 1000)
		require.False(t, gone)
		w.drain(c)
	}
	require.NoError(t, c.Flush())
	t.Logf("%v, %d blocks in %v", w, w.blocks, time.Since(begin).Round(time.Millisecond))
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
	s = s.again()
	w.verify(s.dial(8))
	s.stop()
	s.check()
}
