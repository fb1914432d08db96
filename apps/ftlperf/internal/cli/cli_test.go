package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"goftl/apps/ftlperf/internal/gen"
	"goftl/apps/ftlperf/internal/run"
	"goftl/bdev"
	"goftl/bdev/spec"
	"goftl/nbd"
	"goftl/reactor"
	"goftl/thread"
)

// parse turns a command line into a config without running it.
func parse(args ...string) (*run.Config, error) {
	var f flags
	var c *run.Config
	cmd := &cobra.Command{
		Use: "ftlperf", SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err = f.config(cmd.Flags())
			return err
		},
	}
	f.register(cmd)
	cmd.SetArgs(args)
	return c, cmd.Execute()
}

// What a user of fio types means the same here.
func TestFioOptions(t *testing.T) {
	c, err := parse(strings.Fields(`--bdev=null:1GiB --name=x --readwrite=randrw --blocksize=8k,16k --iodepth=32 --rwmixread=70
		--size=25% --offset=1m --runtime=3 --time_based --ramp_time=500ms --numjobs=2 --norandommap --random_distribution=zipf:1.2
		--fsync=32 --end_fsync=1 --randseed=7 --group_reporting --thread --direct=1 --ioengine=libaio --eta=never`)...)
	if err != nil {
		t.Fatal(err)
	}
	s := c.Job
	if s.Mode.Name != "randrw" || s.BlockSize != [3]uint64{8192, 16384, 16384} || s.Depth != 32 || s.MixRead != 70 ||
		s.Runtime != 3*time.Second || s.Ramp != 500*time.Millisecond || !s.TimeBased || s.FlushEvery != 32 || !s.EndFlush ||
		s.Seed != 7 || s.Once || s.Distribution.Kind != gen.ZipfLaw || s.Name != "x" {
		t.Errorf("%+v", s)
	}
	if c.Size.Percent != 25 || c.Offset.Bytes != 1<<20 || c.NumJobs != 2 || !c.Grouped || c.Progress != nil {
		t.Errorf("%+v", c)
	}
}

func TestDefaults(t *testing.T) {
	c, err := parse("--bdev=null:1GiB", "--rw=randwrite")
	if err != nil {
		t.Fatal(err)
	}
	if c.Job.Runtime != defaultRuntime || c.Job.TimeBased || !c.Job.Once || c.NumJobs != 1 || c.Job.Depth != 1 {
		t.Errorf("%+v", c.Job)
	}
	if c, err = parse("--bdev=null:1GiB", "--rwmixwrite=30", "--threads=3", "--size=1g", "--verify=crc32c", "--rw=randrw"); err != nil {
		t.Fatal(err)
	}
	if c.Job.MixRead != 70 || c.NumJobs != 3 || !c.Grouped || c.Job.Runtime != 0 || !c.Verify || !c.FinalPass || c.Job.Once {
		t.Errorf("%+v %+v", c, c.Job)
	}
	if c, err = parse("--cache=malloc:1g", "--base=malloc:2g", "--crash-after=1000"); err != nil || c.CrashAtIOs != 1000 || !c.Job.TimeBased {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = parse("--cache=malloc:1g", "--base=malloc:2g", "--crash-after=2s"); err != nil || c.CrashAfter != 2*time.Second {
		t.Errorf("%+v %v", c, err)
	}
}

// Every bad command line is refused with a word about the option.
func TestBadCommandLines(t *testing.T) {
	for line, word := range map[string]string{
		"--rw=read":                                                "exactly one of",
		"--bdev=null:1g --nbd=nbd://x":                             "exactly one of",
		"--cache=malloc:1g":                                        "--base",
		"--bdev=null:1g --rw=sideways":                             "--rw",
		"--bdev=null:1g --bs=0":                                    "--bs",
		"--bdev=null:1g --bs=x":                                    "--bs",
		"--bdev=null:1g --bs=4k,4k,4k,4k":                          "--bs",
		"--bdev=null:1g --size=ten":                                "--size",
		"--bdev=null:1g --size=120%":                               "--size",
		"--bdev=null:1g --runtime=-1":                              "--runtime",
		"--bdev=null:1g --time_based --size=1g":                    "--time_based",
		"--bdev=null:1g --rwmixread=101":                           "--rwmixread",
		"--bdev=null:1g --random_distribution=zipf":                "zipf",
		"--bdev=null:1g --iodepth=0":                               "--iodepth",
		"--bdev=null:1g --iodepth=60000 --bs=4m":                   "buffers",
		"--bdev=null:1g --numjobs=-1":                              "--numjobs",
		"--bdev=null:1g --threads=0":                               "--threads",
		"--bdev=null:1g --cpus=a":                                  "--cpus",
		"--bdev=null:1g --poll-mode=fast":                          "--poll-mode",
		"--bdev=null:1g --output-format=xml":                       "--output-format",
		"--bdev=null:1g --eta=maybe":                               "--eta",
		"--bdev=null:1g --clock=sun":                               "--clock",
		"--bdev=null:1g --verify_only":                             "--verify-state",
		"--bdev=null:1g --verify-state=/x":                         "--verify",
		"--bdev=null:1g --crash-after=1s":                          "--crash-after",
		"--cache=malloc:1g --base=malloc:2g --crash-after=0":       "--crash-after",
		"--cache=malloc:1g --base=malloc:2g --ftl-spare=100":       "--ftl-spare",
		"--no-cache --base=malloc:2g --cache=malloc:1g":            "--metadata",
		"--cache=malloc:1g --base=malloc:2g --metadata=malloc:1g":  "--no-cache",
		"--no-cache --base=malloc:2g --limit-user=1":               "--limit-user",
		"--cache=malloc:1g --base=malloc:2g --limit-critical=99":   "--limit-critical",
		"--cache=malloc:1g --base=malloc:2g --ftl-size=x":          "--ftl-size",
		"--bdev=null:1g --connections=2":                           "--connections",
		"--nbd=nbd://h/x --connections=0":                          "--connections",
		"--bdev=null:1g --continue_on_error=maybe":                 "--continue_on_error",
		"--bdev=null:1g --verify --offset_increment=1m --size=10m": "--offset_increment",
		"--bdev=null:1g --nonsense":                                "nonsense",
	} {
		if _, err := parse(strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v; want a word about %s", line, err, word)
		}
	}
}

// TestBadWriteBuffer is about the options of the volatile write cache.
func TestBadWriteBuffer(t *testing.T) {
	for _, c := range []struct{ args, word string }{
		{"--write-buffer=4m", "--volatile-write-cache"},
		{"--volatile-write-cache --write-buffer=0", "--write-buffer"},
		{"--volatile-write-cache --write-buffer=4097", "--write-buffer"},
		{"--volatile-write-cache --write-buffer=1g", "--write-buffer"},
		{"--volatile-write-cache --verify --crash-after=1s", "--volatile-write-cache"},
	} {
		_, err := parse(strings.Fields("--cache=malloc:1g --base=malloc:2g " + c.args)...)
		if err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v; want a word about %s", c.args, err, c.word)
		}
	}
}

// perf runs the command as main does.
func perf(t *testing.T, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	status = Main(context.Background(), "test", append(args, "--eta=never"), &o, &e)
	return status, o.String(), e.String()
}

type document struct {
	Jobs []struct {
		Read, Write, Trim struct {
			Total uint64 `json:"total_ios"`
			IOPS  float64
			Clat  struct {
				N uint64
			} `json:"clat_ns"`
		}
		Sync struct {
			Total uint64 `json:"total_ios"`
		}
	}
	Ftlperf struct {
		Errors uint64
		Verify *struct {
			InRun      uint64 `json:"checked_while_reading"`
			Final      uint64 `json:"checked_in_final_pass"`
			Mismatches uint64
		}
		FTL *struct {
			Bytes    uint64
			WAF      float64 `json:"waf_total"`
			Recovery *struct {
				Total float64 `json:"total_s"`
			}
		}
	}
}

func perfJSON(t *testing.T, want int, line string, more ...string) *document {
	t.Helper()
	status, out, errOut := perf(t, append(strings.Fields(line), append(more, "--output-format=json", "--poll-mode=adaptive")...)...)
	if status != want {
		t.Fatalf("%s: status %d, %s%s", line, status, errOut, out)
	}
	d := &document{}
	if err := json.Unmarshal([]byte(out), d); err != nil {
		t.Fatalf("%s: %v in %s", line, err, out)
	}
	return d
}

func TestRunsOnBlockDevices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.img")
	for _, dev := range []string{"null:64MiB", "malloc:16MiB", "malloc:16MiB --prefault", "passthru:malloc:16MiB --prefault", "file:" + path + ",size=16MiB"} {
		for _, rw := range []string{"read", "randwrite", "randrw", "trim", "randtrimwrite"} {
			d := perfJSON(t, 0, dev+" --size=8m --iodepth=16 --fsync=64 --rw="+rw)
			j := &d.Jobs[0]
			if n := j.Read.Total + j.Write.Total + max(j.Trim.Total, j.Write.Total) - j.Write.Total; n != 2048 {
				t.Errorf("%s %s: %d IOs", dev, rw, n)
			}
			if strings.Contains(rw, "write") && j.Sync.Total == 0 {
				t.Errorf("%s %s: no flushes", dev, rw)
			}
		}
	}
}

func TestVerifiedRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.img")
	for _, dev := range []string{"malloc:16MiB", "file:" + path + ",size=16MiB"} {
		for _, opts := range []string{
			"--rw=randrw --io_size=32m", "--rw=write --bs=64k", "--rw=randwrite --numjobs=3 --bs=12k --io_size=4m",
			"--rw=randtrimwrite --fill", "--rw=randrw --random_distribution=zipf:1.3 --io_size=16m --threads=2",
		} {
			d := perfJSON(t, 0, dev+" --verify --iodepth=32 "+opts)
			v := d.Ftlperf.Verify
			if v.Mismatches != 0 || v.Final == 0 || (strings.Contains(opts, "rw=randrw") && v.InRun == 0) {
				t.Errorf("%s %s: %+v", dev, opts, *v)
			}
		}
	}
}

// What one run wrote, a later one can check, and finds what changed meanwhile.
func TestVerifyStateOutlivesTheRun(t *testing.T) {
	dir := t.TempDir()
	dev, state := "file:"+filepath.Join(dir, "f.img"), "--verify-state="+filepath.Join(dir, "state")
	perfJSON(t, 0, dev+",size=8MiB --rw=randwrite --verify --do_verify=0 --iodepth=8 "+state)
	if d := perfJSON(t, 0, dev+" --verify_only "+state); d.Ftlperf.Verify.Final != 2048 {
		t.Errorf("%+v", d.Ftlperf.Verify)
	}
	f, err := os.OpenFile(filepath.Join(dir, "f.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3}, 5*4096+100); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if d := perfJSON(t, 1, dev+" --verify_only "+state); d.Ftlperf.Verify.Mismatches != 1 {
		t.Errorf("%+v", d.Ftlperf.Verify)
	}
}

func TestRefusalsOfTheTarget(t *testing.T) {
	for line, word := range map[string]string{
		"null:1GiB --verify --rw=write":                 "nothing of what was written",
		"null:1GiB --bs=512 --rw=write":                 "--bs",
		"null:1GiB --size=2g":                           "--size",
		"null:1GiB --offset=1g":                         "--offset",
		"null:1GiB --offset=100":                        "--offset",
		"null:1GiB --numjobs=4 --offset_increment=512m": "end of the device",
		"nosuch:1GiB":                                   "nosuch",
		"file:/no/such/file":                            "does not exist",
		"malloc:1MiB null:1MiB":                         "accepts at most",
		"null:1GiB --bdev=null:2GiB":                    "two devices",
		"--nbd=nbd+unix:///?socket=/no/such/socket":     "no such file",
	} {
		status, _, errOut := perf(t, strings.Fields(line)...)
		if status != 2 || !strings.Contains(errOut, word) {
			t.Errorf("%s: status %d, %q; want a word about %s", line, status, errOut, word)
		}
	}
}

func TestInterruptedRunReports(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	var o, e bytes.Buffer
	began := time.Now()
	status := Main(ctx, "test", strings.Fields("null:1GiB --rw=randread --time_based --runtime=1h --eta=always --poll-mode=adaptive"), &o, &e)
	if status != 0 || time.Since(began) > 10*time.Second || !strings.Contains(o.String(), "stopped early") {
		t.Errorf("status %d after %v: %s%s", status, time.Since(began), o.String(), e.String())
	}
}

func TestOnAnFTL(t *testing.T) {
	const devices = "--cache malloc:64MiB,md=64 --base malloc:256MiB "
	d := perfJSON(t, 0, devices+"--rw=randrw --iodepth=32 --io_size=64m --verify --fsync=64")
	f := d.Ftlperf.FTL
	if f == nil || f.Bytes < 128<<20 || f.WAF < 1 || d.Ftlperf.Verify.Final == 0 {
		t.Errorf("%+v", d.Ftlperf)
	}
	for _, after := range []string{"500ms", "5000"} {
		d = perfJSON(t, 0, devices+"--prefault --rw=randwrite --iodepth=64 --verify --crash-after="+after)
		if r := d.Ftlperf.FTL.Recovery; r == nil || r.Total <= 0 || d.Ftlperf.Verify.Final == 0 || d.Ftlperf.Verify.Mismatches != 0 {
			t.Errorf("crash after %s: %+v %+v", after, r, d.Ftlperf.Verify)
		}
	}
}

// An FTL on files is created once, kept, loaded, and not overwritten by mistake.
// TestRecoveryThatFails crashes an FTL whose base forgets everything: the run ends and says why.
func TestRecoveryThatFails(t *testing.T) {
	status, _, errOut := perf(t, "--cache=malloc:512MiB", "--base=null:4GiB", "--rw=randwrite", "--crash-after=100")
	if status != 2 || !strings.Contains(errOut, "holds nothing") {
		t.Fatalf("status %d: %s", status, errOut)
	}
}

func TestKeepAndForce(t *testing.T) {
	dir := t.TempDir()
	devices := "--cache file:" + filepath.Join(dir, "c") + ",size=64MiB --base file:" + filepath.Join(dir, "b") + ",size=256MiB --rw=randwrite --io_size=4m "
	state := "--verify-state=" + filepath.Join(dir, "state")
	perfJSON(t, 0, devices+"--keep --verify --do_verify=0 "+state)
	if d := perfJSON(t, 0, devices+"--keep --verify_only "+state); d.Ftlperf.Verify.Final != 1024 {
		t.Errorf("%+v", d.Ftlperf.Verify)
	}
	status, _, errOut := perf(t, strings.Fields(devices)...)
	if status != 2 || !strings.Contains(errOut, "--force") {
		t.Errorf("status %d: %s", status, errOut)
	}
	perfJSON(t, 0, devices+"--force")
}

// serve exports 64 MiB of memory over a unix socket until cut is called.
func serve(t *testing.T) (uri string, cut func()) {
	t.Helper()
	sys := thread.NewSystem()
	th, manager := sys.NewThread("server"), bdev.NewManager(sys, nil)
	group, err := reactor.NewGroup(reactor.GroupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	group.Add(th)
	group.Start()
	socket := filepath.Join(t.TempDir(), "s")
	ready := make(chan error, 1)
	var server *nbd.Server
	th.Send(func(any) {
		_, err := spec.Create(manager, th, "malloc:64MiB", spec.Options{Name: "m"})
		if err == nil {
			var desc *bdev.Desc
			if desc, err = manager.Open("m", true, nil, nil, th); err == nil {
				server, err = nbd.NewServer(nbd.Config{
					Exports: []nbd.Export{{Name: "m", Desc: desc, Thread: th}}, Listen: []string{"unix:" + socket},
				})
			}
		}
		ready <- err
	}, nil)
	if err := errors.Join(<-ready, server.Start()); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	cut = func() {
		once.Do(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = server.Stop(ctx) // it says that it was cut
			group.Stop()
		})
	}
	t.Cleanup(cut)
	return "--nbd=nbd+unix:///m?socket=" + socket, cut
}

func TestNBD(t *testing.T) {
	uri, cut := serve(t)
	d := perfJSON(t, 0, uri+" --rw=randrw --iodepth=32 --io_size=64m --verify --fsync=64")
	if v := d.Ftlperf.Verify; v.Final == 0 || v.InRun == 0 || v.Mismatches != 0 {
		t.Errorf("%+v", v)
	}
	d = perfJSON(t, 0, uri+" --rw=randtrimwrite --bs=64k --iodepth=8 --verify --fua --size=8m")
	if v := d.Ftlperf.Verify; v.Final != 2048 || v.Mismatches != 0 || d.Jobs[0].Trim.Total != 128 {
		t.Errorf("%+v %+v", v, d.Jobs[0])
	}
	d = perfJSON(t, 0, uri+" --rw=randread --connections=4 --iodepth=8 --number_ios=500")
	if d.Jobs[0].Read.Total != 2000 {
		t.Errorf("%d IOs", d.Jobs[0].Read.Total)
	}
	// The connection is lost in the middle: an error, not a hang.
	time.AfterFunc(time.Second, cut)
	perfJSON(t, 1, uri+" --rw=randread --iodepth=8 --time_based --runtime=1h")
}

func TestYardstickCommand(t *testing.T) {
	var o, e bytes.Buffer
	args := strings.Fields("yardstick --runs=1 --duration=10ms --log-size=8m")
	if status := Main(context.Background(), "test", args, &o, &e); status != 0 || !strings.Contains(o.String(), "M/s") {
		t.Errorf("status %d: %s%s", status, o.String(), e.String())
	}
}

func TestHelpShowsExamples(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {}, {"help", "specs"}} {
		var o, e bytes.Buffer
		if status := Main(context.Background(), "test", args, &o, &e); status != 0 || !strings.Contains(o.String(), "malloc:") {
			t.Errorf("%v: status %d: %s", args, status, o.String()+e.String())
		}
	}
}
