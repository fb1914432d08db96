//go:build e2e

package e2e

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOneCPU has a server and a load on it share one CPU, with as many processors of the Go scheduler as there are CPUs
// and with one more: whatever the reactors do, neither side may starve, and both end when they should.
func TestOneCPU(t *testing.T) {
	needOurs(t)
	need(t, "taskset")
	cpu := strconv.Itoa(lastCPU(t))
	ftlperf := []string{"-c", cpu, filepath.Join(bin, "ftlperf")}
	for _, procs := range []string{"1", "2"} {
		for _, mode := range []string{"adaptive", "poll", "interrupt"} {
			t.Run(procs+" procs, "+mode, func(t *testing.T) {
				t.Setenv("GOMAXPROCS", procs)
				s := &server{t: t, dir: shortDir(t)}
				s.args = []string{
					"-c", cpu, filepath.Join(bin, "ftlnbd"),
					"serve", "--dir", s.dir, "--size", "64MiB", "--shm", "off", "--mode", mode,
				}
				s.spawn("taskset")
				s.ready()
				run(t, "taskset", append(ftlperf, "--nbd", s.uri(), "--connections=3", "--rw=randrw", "--iodepth=32",
					"--io-size=32MiB", "--verify")...)
				s.stop()
				// And everything in one process, jobs apart from the FTL.
				run(t, "taskset", append(ftlperf, "--cache", "malloc:64MiB,md=64", "--base", "malloc:256MiB", "--ftl-apart", "--threads=2",
					"--poll-mode="+mode, "--rw=randrw", "--iodepth=32", "--io-size=32MiB", "--verify")...)
			})
		}
	}
}

func lastCPU(t *testing.T) int {
	var set unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &set))
	last := -1
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		if set.IsSet(cpu) {
			last = cpu
			left--
		}
	}
	return last
}
