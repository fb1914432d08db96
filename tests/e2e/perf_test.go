//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// perfReport is the part of ftlperf's JSON that tests look at; it has fio's shape.
type perfReport struct {
	Ours struct {
		Errors int
	} `json:"ftlperf"`
	Jobs []struct {
		Error int `json:"error"`
		Read  perfSide
		Write perfSide
	}
}

type perfSide struct {
	IOBytes  uint64  `json:"io_bytes"`
	TotalIOs uint64  `json:"total_ios"`
	IOPS     float64 `json:"iops"`
}

// ftlperf runs the command and returns its report and its exit code.
func ftlperf(t *testing.T, args ...string) (rep perfReport, text string, code int) {
	t.Helper()
	report := filepath.Join(shortDir(t), "report")
	text, err := try(t, filepath.Join(bin, "ftlperf"), append(args, "--output-format=json", "--output="+report)...)
	code = exitCode(err)
	if code == 2 {
		return rep, text, code
	}
	raw, err := exec.Command("cat", report).Output()
	require.NoError(t, err, text)
	require.NoError(t, json.Unmarshal(raw, &rep), "%s\n%s", text, raw)
	require.NotEmpty(t, rep.Jobs)
	return rep, string(raw), code
}

// TestPerfSpecs runs ftlperf for a moment on every kind of device that can be named, and on FTLs made of them.
func TestPerfSpecs(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	file := func(name string) string { return "file:" + filepath.Join(dir, name) + ",size=64MiB" }
	for _, k := range []struct {
		name string
		spec string // or two, of an FTL
		args string
		code int
	}{
		{"null", "null:1GiB", "--rw=randrw --number-ios=20000", 0},
		{"malloc", "malloc:64MiB", "--rw=randrw --io-size=64MiB --verify", 0},
		{"malloc with metadata", "malloc:64MiB,md=64", "--rw=randrw --io-size=64MiB --verify", 0},
		{"malloc, sequential, big blocks", "malloc:64MiB", "--rw=write --bs=128k --verify", 0},
		{"malloc, several threads", "malloc:64MiB", "--rw=randwrite --threads=2 --verify --io-size=64MiB", 0},
		{"file, io_uring", file("u") + ",driver=uring", "--rw=randrw --io-size=32MiB --verify --fsync=32", 0},
		{"file, io_uring, page cache", file("c") + ",driver=uring,direct=off", "--rw=randrw --io-size=32MiB --verify", 0},
		{"file, worker pool", file("a") + ",driver=aio", "--rw=randrw --io-size=16MiB --verify --fsync=32", 0},
		{"delay", "delay:100us:malloc:64MiB", "--rw=randwrite --number-ios=5000 --verify", 0},
		{"passthru", "passthru:malloc:64MiB", "--rw=randrw --io-size=32MiB --verify", 0},
		{"errinj, slow at times", "errinj:delay=1ms,op=write,every=100:malloc:64MiB", "--rw=randwrite --number-ios=5000 --verify", 0},
		{"errinj, writes are corrupted", "errinj:corrupt,op=write,every=1000:malloc:64MiB", "--rw=randwrite --number-ios=5000 --verify", 1},
		{"errinj, reads are corrupted", "errinj:corrupt,op=read,every=1000:malloc:64MiB", "--rw=randwrite --number-ios=5000 --verify", 1},
		{"errinj, writes are dropped", "errinj:drop,op=write,every=1000:malloc:64MiB", "--rw=randwrite --number-ios=5000 --verify", 1},
		{"errinj, writes are torn", "errinj:tear,op=write,every=100:malloc:64MiB", "--rw=randwrite --bs=64k --number-ios=1000 --verify", 1},
		{"errinj, a write fails", "errinj:fail=EIO,op=write,prob=0.01:malloc:64MiB", "--rw=randwrite --number-ios=5000", 1},
		{"errinj, going on", "errinj:fail=EIO,op=write,prob=0.01:malloc:64MiB", "--rw=randwrite --number-ios=5000 --continue-on-error=all", 1},
		{"zone, in order", "zone:16MiB,units=4:malloc:256MiB", "--rw=write --bs=128k", 0},
		{"zone, out of order", "zone:16MiB:malloc:256MiB", "--rw=randwrite --number-ios=100", 1},
		{"everything at once", "passthru:delay:20us:errinj:delay=1ms,op=write,every=100:malloc:64MiB", "--rw=randrw --io-size=16MiB --verify", 0},
		{"FTL in memory", "malloc:64MiB,md=64 malloc:256MiB", "--rw=randwrite --norandommap --io-size=256MiB --verify", 0},
		{"FTL without metadata a block", "malloc:64MiB malloc:256MiB", "--rw=randrw --norandommap --io-size=256MiB --verify", 0},
		{"FTL, crash", "malloc:64MiB malloc:256MiB", "--rw=randwrite --norandommap --number-ios=60000 --verify --crash-after=20000", 0},
		{"FTL, crash, metadata a block", "malloc:64MiB,md=64 malloc:256MiB", "--rw=randwrite --norandommap --number-ios=60000 --verify --crash-after=20000", 0},
		{"FTL on files", file("fc") + " " + strings.Replace(file("fb"), "64MiB", "256MiB", 1), "--rw=randwrite --norandommap --io-size=64MiB --verify --fsync=64", 0},
		{"unknown kind", "tape:1GiB", "--rw=read", 2},
		{"wrong size", "malloc:1furlong", "--rw=read", 2},
		{"missing file", "file:" + filepath.Join(dir, "missing"), "--rw=read", 2},
		{"zones of a file", "zbd:" + filepath.Join(dir, "u"), "--rw=read", 2},
		{"zones of nothing", "zbd:" + filepath.Join(dir, "missing"), "--rw=read", 2},
		{"zones, an odd unit", "zone:16MiB,unit=5KiB:malloc:256MiB", "--rw=write", 2},
		{"zones, one that is not there", "zone:16MiB,offline=99:malloc:256MiB", "--rw=write", 2},
		{"wrong option", "malloc:64MiB", "--rw=sideways", 2},
	} {
		t.Run(k.name, func(t *testing.T) {
			args := append([]string{"--iodepth=32"}, strings.Fields(k.args)...)
			if cache, base, ftl := strings.Cut(k.spec, " "); ftl {
				args = append(args, "--cache", cache, "--base", base)
			} else {
				args = append(args, k.spec)
			}
			rep, text, code := ftlperf(t, args...)
			require.Equal(t, k.code, code, text)
			require.NotContains(t, text, "goroutine")
			if code == 2 {
				require.Contains(t, text, "ftlperf: ")
				return
			}
			job := rep.Jobs[0]
			require.Equal(t, code != 0, job.Error != 0 || rep.Ours.Errors != 0, text)
			if code == 0 {
				require.NotZero(t, job.Read.TotalIOs+job.Write.TotalIOs, text)
			}
		})
	}
}

// TestPerfNBD runs ftlperf as a client of ftlnbd, with verification; then again with a kill between writing and
// checking.
func TestPerfNBD(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	for _, connections := range []int{1, 4} {
		for _, depth := range []int{1, 32} {
			n := connections * depth * 400
			rep, text, code := ftlperf(t, "--nbd", s.uri(), "--connections", strconv.Itoa(connections), "--iodepth", strconv.Itoa(depth),
				"--rw=randrw", "--number-ios", strconv.Itoa(min(n, 20_000)), "--verify", "--fsync=64")
			require.Zero(t, code, text)
			var ios uint64
			var iops float64
			for _, job := range rep.Jobs {
				require.Zero(t, job.Error)
				ios += job.Read.TotalIOs + job.Write.TotalIOs
				iops += job.Read.IOPS + job.Write.IOPS
			}
			require.NotZero(t, ios)
			t.Logf("%d connections, depth %d: %d IOs, %.0f a second", connections, depth, ios, iops)
		}
	}
	state := filepath.Join(dir, "expected")
	_, text, code := ftlperf(t, "--nbd", s.uri(), "--rw=randwrite", "--iodepth=32", "--number-ios=20000", "--verify", "--do-verify=0", "--verify-state="+state)
	require.Zero(t, code, text)
	s.kill()
	_, text, code = ftlperf(t, "--nbd", s.uri(), "--verify-only", "--verify-state="+state)
	require.Equal(t, 2, code, "nobody serves: %s", text)
	s = s.again()
	_, text, code = ftlperf(t, "--nbd", s.uri(), "--verify-only", "--verify-state="+state)
	require.Zero(t, code, text)
	// And it notices when something is wrong.
	_, err := s.dial(1).WriteAt(make([]byte, smallBytes/2), 0)
	require.NoError(t, err)
	_, text, code = ftlperf(t, "--nbd", s.uri(), "--verify-only", "--verify-state="+state)
	require.Equal(t, 1, code, text)
	s.stop()
	s.check()
}
