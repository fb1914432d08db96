package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// bench is one run of one target.
type bench struct {
	bin     string // folder of ftlperf and ftlnbd
	rounds  int
	runtime time.Duration // of one measurement
	budget  time.Duration
	dir     string // for files
	big     bool
	fio     bool
	only    string
	began   time.Time
	temp    string // inside dir, removed in the end
	table   table
	servers []*server // all that were started
}

// target is what the first argument names.
type target struct {
	title  string
	budget time.Duration
	run    func(*bench) error
}

var targets = map[string]target{
	"yardstick": {"The machine", 2 * time.Minute, (*bench).yardstickTarget},
	"floor":     {"The floor", 9 * time.Minute, (*bench).floorTarget},
	"file":      {"Files through io_uring", 170 * time.Second, (*bench).fileTarget},
	"ftl":       {"The FTL", 170 * time.Second, (*bench).ftlTarget},
	"zoned":     {"Zoned bases, and operation without a cache", 5 * time.Minute, (*bench).zonedTarget},
	"nbd":       {"NBD servers in memory, over a unix socket", 170 * time.Second, (*bench).nbdTarget},
}

func main() {
	b := &bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built commands")
	flag.IntVar(&b.rounds, "rounds", 3, "how often each contestant is measured at most")
	flag.DurationVar(&b.runtime, "runtime", 0, "length of one measurement (default: as the target thinks best)")
	flag.DurationVar(&b.budget, "budget", 0, "begin no further round after this time (default: the target's)")
	flag.StringVar(&b.dir, "dir", "", "folder for files (default: a temporary one)")
	flag.BoolVar(&b.big, "big", false, "ftl: also recover after 14 GiB and 40 GiB were written; needs 70 GiB of disk and minutes")
	flag.BoolVar(&b.fio, "fio", false, "nbd: measure with fio's client too")
	flag.StringVar(&b.only, "only", "", "floor, ftl, zoned: measure only the part whose name begins with this")
	flag.Usage = usage
	flag.Parse()
	t, ok := targets[flag.Arg(0)]
	if !ok || flag.NArg() != 1 {
		usage()
		os.Exit(2)
	}
	if b.budget == 0 {
		b.budget = t.budget
	}
	if err := b.main(t); err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintf(os.Stderr, "usage: bench [options] yardstick|floor|file|ftl|zoned|nbd\n\n")
	flag.PrintDefaults()
}

// main measures and prints, also when it is interrupted.
func (b *bench) main(t target) error {
	var err error
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.temp, err = os.MkdirTemp(b.dir, "goftl-bench-"); err != nil {
		return err
	}
	b.began = time.Now()
	b.table.title = t.title + ": " + machine()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		b.cleanup()
		os.Exit(130)
	}()
	load := loadAverage()
	err = t.run(b)
	b.cleanup()
	b.table.note("load average %s before, %s after (%d CPUs); %.0f s; medians of up to %d rounds, contestants in turn",
		load, loadAverage(), runtime.NumCPU(), time.Since(b.began).Seconds(), b.rounds)
	b.table.print(os.Stdout)
	return err
}

// cleanup ends the servers that still run and removes the files.
func (b *bench) cleanup() {
	for _, s := range b.servers {
		s.kill()
	}
	_ = os.RemoveAll(b.temp) // what stays behind is in a temporary folder
}

// part is a section of a target.
type part struct {
	name string
	run  func() error
}

// parts runs the sections, or the one that -only names.
func (b *bench) parts(list ...part) error {
	for _, p := range list {
		if !strings.HasPrefix(p.name, b.only) {
			continue
		}
		if err := p.run(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// over reports whether the given part of the budget is used up.
func (b *bench) over(part float64) bool {
	return time.Since(b.began) > time.Duration(part*float64(b.budget))
}

// say shows progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// seconds is the length of a measurement, as an option of fio and ftlperf.
func (b *bench) seconds(def time.Duration) string {
	if b.runtime > 0 {
		def = b.runtime
	}
	return fmt.Sprintf("--runtime=%d", max(1, int(def.Seconds()+0.5)))
}

func machine() string {
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // for people only
	return fmt.Sprintf("%d x %s, Linux %s, %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)),
		runtime.Version(), time.Now().Format("2006-01-02 15:04"))
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // for people only
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

func (b *bench) yardstickTarget() error {
	var all []sample
	for range b.rounds {
		s, err := b.yardstick(2 * time.Second)
		if err != nil {
			return err
		}
		b.say("yardstick %s", rate(s.iops))
		all = append(all, s)
	}
	y := mid(all)
	b.table.add(row{
		what: "yardstick", figure: fmt.Sprintf("%s, %.0f ns a write, %.0f of them CPU", rate(y.iops), 1e9/y.iops, y.cpu),
		command: "ftlperf yardstick",
	})
	return nil
}
