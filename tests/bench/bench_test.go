//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
)

// rounds is how often every measurement is repeated, the contestants taking turns; the median counts.
var rounds = envInt("BENCH_ROUNDS", 3)

// runtime is the length of one measurement in seconds.
var runtime = envInt("BENCH_RUNTIME", 3)

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

const bin = "../../bin/"

// report is what fio prints with --output-format=json, and ftlperf too.
type report struct {
	Jobs []struct {
		Read, Write struct {
			IOPS float64 `json:"iops"`
			BW   float64 `json:"bw_bytes"`
			Lat  struct {
				Percentile map[string]float64 `json:"percentile"`
			} `json:"clat_ns"`
		}
	} `json:"jobs"`
}

// measure runs a load generator and returns the IOs of a second.
func measure(t *testing.T, name string, args ...string) float64 {
	t.Helper()
	cmd := exec.Command(name, append(args, "--output-format=json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s %v:\n%s%s", name, args, out.String(), errs.String())
	text := out.Bytes()
	if i := bytes.IndexByte(text, '{'); i > 0 {
		text = text[i:] // fio says things before the JSON
	}
	var r report
	require.NoError(t, json.Unmarshal(text, &r), "%s", text)
	iops := 0.0
	for _, j := range r.Jobs {
		iops += j.Read.IOPS + j.Write.IOPS
	}
	return iops
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// TestFile compares ftlperf on a file with fio's io_uring engine on the same file.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.img")
	spec := "file:" + path + ",size=2GiB,driver=uring"
	common := []string{"--bs=4k", "--time_based", fmt.Sprintf("--runtime=%d", runtime), "--norandommap"}
	// Every block is written once, so that nobody measures allocation.
	run(t, "fio", "--name=fill", "--filename="+path, "--size=2g", "--rw=write", "--bs=1m", "--ioengine=io_uring", "--iodepth=8", "--direct=1")
	t.Logf("%-10s %6s %12s %12s %7s", "load", "depth", "fio IOPS", "ftlperf IOPS", "ratio")
	for _, rw := range []string{"randwrite", "randread"} {
		for _, depth := range []int{1, 32} {
			load := append([]string{"--rw=" + rw, fmt.Sprintf("--iodepth=%d", depth)}, common...)
			var theirs, ours []float64
			for range rounds {
				theirs = append(theirs, measure(t, "fio", append([]string{
					"--name=b", "--thread", "--filename=" + path, "--size=2g", "--ioengine=io_uring", "--direct=1",
				}, load...)...))
				ours = append(ours, measure(t, bin+"ftlperf", append([]string{spec}, load...)...))
			}
			a, b := median(theirs), median(ours)
			t.Logf("%-10s %6d %12.0f %12.0f %7.2f", rw, depth, a, b, b/a)
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v:\n%s", name, args, out)
}

// contestant is an NBD server.
type contestant struct {
	name    string
	command func(dir, sock string) []string
}

var contestants = []contestant{
	{"ftlnbd", func(_, sock string) []string {
		return []string{bin + "ftlnbd", "serve", "--cache", "malloc:1GiB,md=64", "--base", "malloc:3GiB", "--size", "1GiB", "--socket", sock, "--shm", "off"}
	}},
	{"nbdkit memory", func(_, sock string) []string { return []string{"nbdkit", "-f", "-U", sock, "memory", "1G"} }},
	{"nbdkit file", func(dir, sock string) []string {
		return []string{"nbdkit", "-f", "-U", sock, "file", ramFile(dir)}
	}},
	{"qemu-nbd", func(dir, sock string) []string {
		return []string{"qemu-nbd", "-t", "-f", "raw", "-e", "16", "-k", sock, ramFile(dir)}
	}},
}

// ramFile is a file of 1 GiB in memory.
func ramFile(dir string) string {
	path := filepath.Join(dir, "ram.img")
	if f, err := os.Create(path); err == nil {
		_ = f.Truncate(1 << 30)
		_ = f.Close()
	}
	return path
}

// TestNBD compares the servers under the same loads from the same client, ftlperf, and, with BENCH_FIO=1, from fio.
func TestNBD(t *testing.T) {
	loads := []struct {
		rw          string
		bs          string
		depth, conn int
	}{
		{"randwrite", "4k", 1, 1}, {"randwrite", "4k", 32, 1}, {"randwrite", "4k", 128, 1}, {"randwrite", "4k", 32, 4},
		{"randread", "4k", 1, 1}, {"randread", "4k", 32, 1}, {"randread", "4k", 128, 1}, {"randread", "4k", 32, 4},
		{"write", "128k", 16, 1}, {"read", "128k", 16, 1},
	}
	results := make(map[string][]float64)
	var names []string
	for _, c := range contestants {
		uri, stop, ok := start(t, c)
		if !ok {
			t.Logf("%s: not here", c.name)
			continue
		}
		names = append(names, c.name)
		// Once over everything, so that pages exist.
		measure(t, bin+"ftlperf", "--nbd", uri, "--rw=write", "--bs=1m", "--iodepth=8", "--size=1GiB")
		for _, l := range loads {
			args := []string{
				"--rw=" + l.rw, "--bs=" + l.bs, fmt.Sprintf("--iodepth=%d", l.depth), "--norandommap", "--time_based",
				fmt.Sprintf("--runtime=%d", runtime), "--size=1GiB",
			}
			results[c.name] = append(results[c.name], measure(t, bin+"ftlperf", append([]string{
				"--nbd", uri, fmt.Sprintf("--connections=%d", l.conn),
			}, args...)...))
			if os.Getenv("BENCH_FIO") != "" && l.conn == 1 {
				args[len(args)-1] = "--size=1g"
				t.Logf("%s, fio: %s %s depth %d: %.0f IOPS", c.name, l.rw, l.bs, l.depth,
					measure(t, "fio", append([]string{"--name=j", "--thread", "--ioengine=nbd", "--uri=" + uri}, args...)...))
			}
		}
		stop()
	}
	t.Logf("thousands of IOs a second (ratio to %s)", "nbdkit memory")
	for i, l := range loads {
		line := fmt.Sprintf("%-9s %5s q%-3d x%d", l.rw, l.bs, l.depth, l.conn)
		for _, n := range names {
			ratio := 0.0
			if base := results["nbdkit memory"]; base != nil {
				ratio = results[n][i] / base[i]
			}
			line += fmt.Sprintf(" | %s %.1f (%.2f)", n, results[n][i]/1000, ratio)
		}
		t.Log(line)
	}
}

// start starts a server and waits until it answers.
func start(t *testing.T, c contestant) (uri string, stop func(), ok bool) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "bench-")
	if err != nil {
		dir = t.TempDir()
	}
	sock := filepath.Join(dir, "s")
	args := c.command(dir, sock)
	cmd := exec.Command(args[0], args[1:]...)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.Start() != nil {
		os.RemoveAll(dir)
		return "", nil, false
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		os.RemoveAll(dir)
	}
	t.Cleanup(stop)
	uri = "nbd+unix:///?socket=" + sock
	for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		if conn, err := client.Dial(uri); err == nil {
			conn.Close()
			return uri, stop, true
		}
	}
	text, _ := os.ReadFile(log.Name())
	require.Fail(t, "does not answer", "%s:\n%s", c.name, text)
	return "", nil, false
}
