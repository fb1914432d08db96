//go:build e2e

package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
	"goftl/nbd/proto"
)

var planMemory = regexp.MustCompile(`memory +mapping ([0-9.]+) MiB \([0-9]+ bytes a block\) \+ ([0-9.]+) MiB, and up to ([0-9.]+) MiB of checksums`)

// planned is the memory that plan promises, in MiB.
func planned(t *testing.T, size string) (always, checksums float64) {
	t.Helper()
	out, code := ftlnbd(t, "", "plan", "--size", size)
	require.Zero(t, code, out)
	m := planMemory.FindStringSubmatch(out)
	require.NotNil(t, m, out)
	var v [3]float64
	for i := range v {
		var err error
		v[i], err = strconv.ParseFloat(m[1+i], 64)
		require.NoError(t, err)
	}
	return v[0] + v[1], v[2]
}

// TestMemory compares what plan says with what the process of a big device takes beyond that of a small one: the
// program and its runtime, and buffers for clients, are the same in both.
func TestMemory(t *testing.T) {
	needOurs(t)
	const little, much = "64MiB", "128GiB"
	taken := func(size string) float64 {
		dir := shortDir(t)
		// In memory if possible: to remove a file of so many pieces takes ext4 many seconds.
		if d, err := os.MkdirTemp("/dev/shm", "goftl-e2e-"); err == nil { //nolint:usetesting // not where TempDir is
			dir = d
			t.Cleanup(func() { os.RemoveAll(d) })
		}
		s := serveIn(t, dir, size)
		c := s.dial(64)
		scatter(t, c, 150_000) // so that every page is touched, whatever its size
		c.Close()
		n := memory(t, s, "VmRSS")
		s.stop()
		return float64(n) / (1 << 20)
	}
	small, big := taken(little), taken(much)
	smallPlan, _ := planned(t, little)
	plan, checksums := planned(t, much)
	t.Logf("%s: %.1f MiB taken, %.1f planned; %s: %.1f MiB taken, %.1f planned and up to %.1f of checksums",
		little, small, smallPlan, much, big, plan, checksums)
	grown, promised := big-small, plan-smallPlan
	require.Greater(t, grown, 0.9*promised)
	require.Less(t, grown, 1.1*(promised+checksums))
}

// scatter writes and reads random blocks all over the device.
func scatter(t *testing.T, c *client.Conn, ops int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 9))
	done := make([]*client.Op, 64)
	free := make([]*client.Op, 64)
	for i := range free {
		free[i] = &client.Op{Buf: make([]byte, 4096)}
	}
	for i := 0; i < ops || c.InFlight() > 0; {
		for ; i < ops && len(free) > 0; i++ {
			op := free[len(free)-1]
			free = free[:len(free)-1]
			op.Command, op.Offset = proto.CmdWrite, r.Uint64N(c.Size()/4096)*4096
			if i%3 == 2 {
				op.Command = proto.CmdRead
			}
			require.NoError(t, c.Submit(op))
		}
		n, err := c.Wait(done)
		require.NoError(t, err)
		for _, op := range done[:n] {
			require.NoError(t, op.Err)
			free = append(free, op)
		}
	}
}

// TestIdle looks whether a device that nobody uses comes to rest: after work in the background has ended it neither
// reads nor writes, and hardly takes the processor.
func TestIdle(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	c := s.dial(64)
	scatter(t, c, 150_000)
	require.NoError(t, c.Flush())
	c.Close()
	rest(t, s)
	s.stop()
	s.check()
}

// rest waits until the server does no IO for two seconds, and looks at the processor time of these.
func rest(t *testing.T, s *server) {
	t.Helper()
	pid := strconv.Itoa(s.cmd.Process.Pid)
	io := func() string {
		b, err := os.ReadFile("/proc/" + pid + "/io")
		require.NoError(t, err)
		return ioBytes.FindString(string(b))
	}
	begin := time.Now()
	for {
		was, ticks := io(), cpuTicks(t, pid)
		time.Sleep(2 * time.Second)
		if io() == was {
			taken := time.Duration(cpuTicks(t, pid)-ticks) * 10 * time.Millisecond
			t.Logf("at rest after %v, %v of processor time in 2 s", time.Since(begin).Round(100*time.Millisecond), taken)
			require.Less(t, taken, 100*time.Millisecond)
			return
		}
		require.Less(t, time.Since(begin), 30*time.Second, "the idle device goes on reading and writing: %s, then %s", was, io())
	}
}

var ioBytes = regexp.MustCompile(`read_bytes: \d+\nwrite_bytes: \d+`)

// cpuTicks is the processor time of a process in hundredths of a second.
func cpuTicks(t *testing.T, pid string) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(t, err)
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	var n uint64
	for _, f := range fields[11:13] {
		v, err := strconv.ParseUint(f, 10, 64)
		require.NoError(t, err)
		n += v
	}
	return n
}
