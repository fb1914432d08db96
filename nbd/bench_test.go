package nbd_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sort"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/nbd"
	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/reactor"
	"goftl/thread"
)

// The environment variable that turns the test binary into a server, so that
// it is measured in a process of its own, as others are.
const serveEnv = "GOFTL_NBD_BENCH_SOCKET"

// profileEnv names a file for a CPU profile of the server.
const profileEnv = "GOFTL_NBD_BENCH_PROFILE"

const benchBytes = 512 << 20

func TestMain(m *testing.M) {
	if sock := os.Getenv(serveEnv); sock != "" {
		if err := serveForBench(sock); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveForBench serves a malloc device until standard input ends.
func serveForBench(sock string) error {
	runtime.GOMAXPROCS(3) // reactors + 1, at least 3
	sys := thread.NewSystem()
	th := sys.NewThread("core")
	m := bdev.NewManager(sys, nil)
	dev, err := malloc.New(malloc.Options{Name: "m", UUID: uuid.New(), Blocks: benchBytes / 4096})
	if err != nil {
		return err
	}
	if _, err = m.Register(dev); err != nil {
		return err
	}
	re, err := reactor.New(reactor.Options{Name: "nbd", CPU: -1})
	if err != nil {
		return err
	}
	desc, err := m.Open("m", true, nil, nil, th)
	if err != nil {
		return err
	}
	re.Add(th)
	re.Start()
	srv, err := nbd.NewServer(nbd.Config{
		Exports: []nbd.Export{{Name: "m", Desc: desc, Thread: th}}, Listen: []string{"unix:" + sock},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	if prof := os.Getenv(profileEnv); prof != "" {
		f, err := os.Create(prof)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// peer starts a server in a process and returns its URI and its pid.
func peer(b *testing.B, name string) (string, int) {
	b.Helper()
	dir, err := os.MkdirTemp("", "nbdb") //nolint:usetesting // TempDir is too long for a socket
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	var cmd *exec.Cmd
	if name == "goftl" {
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), serveEnv+"="+sock)
	} else {
		path, err := exec.LookPath("nbdkit")
		if err != nil {
			b.Skip("nbdkit is not installed")
		}
		cmd = exec.Command(path, "-f", "-U", sock, "memory", fmt.Sprint(benchBytes))
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		if name != "goftl" {
			_ = cmd.Process.Signal(os.Interrupt)
		}
		_ = cmd.Wait()
	})
	for range 500 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "nbd+unix:///?socket=" + sock, cmd.Process.Pid
}

// BenchmarkNBD compares this server with nbdkit's memory plugin, both through
// the lean client over a unix socket on one device in RAM: one op is one
// request; kIOPS, the median latency and its p99, and the server's CPU time per
// request are reported.
func BenchmarkNBD(b *testing.B) {
	for _, name := range []string{"goftl", "nbdkit"} {
		b.Run(name, func(b *testing.B) {
			uri, pid := peer(b, name)
			fill(b, uri)
			for _, c := range []struct {
				cmd       proto.Command
				bs, depth int
			}{
				{proto.CmdWrite, 4096, 1},
				{proto.CmdRead, 4096, 1},
				{proto.CmdWrite, 4096, 32},
				{proto.CmdRead, 4096, 32},
				{proto.CmdWrite, 4096, 128},
				{proto.CmdRead, 4096, 128},
				{proto.CmdWrite, 128 << 10, 16},
				{proto.CmdRead, 128 << 10, 16},
			} {
				b.Run(fmt.Sprintf("%v/bs=%d/qd=%d", c.cmd, c.bs, c.depth), func(b *testing.B) {
					benchClient(b, uri, pid, c.cmd, c.bs, c.depth)
				})
			}
		})
	}
}

// fill writes the whole device once, so that no run pays for first touches.
func fill(b *testing.B, uri string) {
	c, err := client.Dial(uri)
	require.NoError(b, err)
	defer c.Close()
	buf := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(buf)
	for off := int64(0); off < benchBytes; off += int64(len(buf)) {
		_, err := c.WriteAt(buf, off)
		require.NoError(b, err)
	}
}

func benchClient(b *testing.B, uri string, pid int, cmd proto.Command, bs, depth int) {
	c, err := client.Dial(uri)
	require.NoError(b, err)
	defer c.Close()
	rnd := rand.New(rand.NewSource(2))
	ops := make([]client.Op, depth)
	began := make([]int64, depth)
	for i := range ops {
		ops[i] = client.Op{Command: cmd, Buf: make([]byte, bs), Ctx: &began[i]}
	}
	lat := make([]int64, 0, 1<<16)
	done := make([]*client.Op, depth)
	submit := func(op *client.Op, now int64) {
		op.Offset = uint64(rnd.Int63n(int64(benchBytes/bs))) * uint64(bs)
		*op.Ctx.(*int64) = now
		if err := c.Submit(op); err != nil {
			b.Fatal(err)
		}
	}
	cpu := cpuTime(pid)
	b.SetBytes(int64(bs))
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	left := b.N
	for i := 0; i < min(depth, b.N); i++ {
		submit(&ops[i], 0)
		left--
	}
	for c.InFlight() > 0 {
		n, err := c.Wait(done)
		if err != nil {
			b.Fatal(err)
		}
		now := time.Since(start).Nanoseconds()
		for _, op := range done[:n] {
			if op.Err != nil {
				b.Fatal(op.Err)
			}
			if len(lat) < cap(lat) {
				lat = append(lat, now-*op.Ctx.(*int64))
			}
			if left > 0 {
				left--
				submit(op, now)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1000, "kIOPS")
	b.ReportMetric((cpuTime(pid)-cpu)*1e6/float64(b.N), "srv-us/op")
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	b.ReportMetric(float64(lat[len(lat)/2])/1000, "p50-us")
	b.ReportMetric(float64(lat[len(lat)*99/100])/1000, "p99-us")
}

// cpuTime returns the seconds that a process has used.
func cpuTime(pid int) float64 {
	total := 0.0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range tasks {
		var ns int64
		if data, err := os.ReadFile(f); err == nil {
			_, _ = fmt.Sscan(string(data), &ns)
			total += float64(ns) / 1e9
		}
	}
	return total
}
