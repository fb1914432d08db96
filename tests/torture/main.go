package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// options are the command line, and what a test sets.
type options struct {
	bin       string        // folder of ftlnbd
	dir       string        // for files
	limit     time.Duration // begin no life after this
	campaigns int           // 0: as many as there is time for
	lives     int           // of each campaign; 0: as the seed says
	lanes     int           // campaigns side by side
	seed      uint64
	world     string
	lie       bool // the volatile caches ignore flushes: the run must fail
	keep      bool
	verbose   bool
	out       io.Writer
}

// run is one run of the command.
type run struct {
	options
	stats stats
	began time.Time
	next  atomic.Uint64 // campaigns begun
	print sync.Mutex

	mu       sync.Mutex
	findings []*finding
	skipped  map[string]string
}

// finding is a promise that was broken.
type finding struct {
	seed  uint64
	world string
	what  string // in a word: lost, damage, dies, no start, no stop, error (of a request, or of the run itself)
	err   error
	spot  spot // of the device, which is kept
}

func (f *finding) Error() string {
	return fmt.Sprintf("campaign %d (%s): %s: %v", f.seed, f.world, f.what, f.err)
}

func main() {
	o := options{out: os.Stdout}
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built commands")
	flag.StringVar(&o.dir, "dir", "", "folder for the devices' files (default: a temporary one)")
	flag.DurationVar(&o.limit, "time", time.Minute, "begin no further life of a device after this time")
	flag.IntVar(&o.campaigns, "campaigns", 0, "end after so many devices, whatever the time (0: when the time is up)")
	flag.IntVar(&o.lives, "lives", 0, "lives of each device (0: as the seed says)")
	flag.IntVar(&o.lanes, "lanes", min(max(runtime.NumCPU(), 2), 8), "devices side by side")
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the first device; the next ones count up (0: a fresh one)")
	flag.StringVar(&o.world, "world", "", "only this world: kill, power, zoned, full or alone")
	flag.BoolVar(&o.lie, "lie", false, "devices that ignore flushes: data must be lost, and the exit code be 1")
	flag.BoolVar(&o.keep, "keep", true, "keep the files of a device that lost something")
	flag.BoolVar(&o.verbose, "v", false, "a line for every life")
	flag.Parse()
	if flag.NArg() > 0 || worldNamed(o.world) == nil && o.world != "" {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	_, code := o.main(ctx)
	stop()
	os.Exit(code)
}

// main runs and reports; it returns the exit code.
func (o *options) main(ctx context.Context) (r *run, code int) {
	r, err := o.run(ctx)
	if err != nil {
		fmt.Fprintln(o.out, "torture:", err)
		return nil, 2
	}
	r.report()
	if len(r.findings) > 0 {
		return r, 1
	}
	return r, 0
}

// run tortures until the time is up, all campaigns are over, something was found, or ctx ends.
func (o *options) run(ctx context.Context) (*run, error) {
	r := &run{options: *o, began: time.Now(), skipped: map[string]string{}}
	if r.seed == 0 {
		r.seed = uint64(time.Now().UnixNano()) >> 10
	}
	var err error
	if r.bin, err = filepath.Abs(r.bin); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(r.bin, "ftlnbd")); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	// Sockets need short paths.
	if r.dir, err = os.MkdirTemp(r.dir, "torture-"); err != nil {
		return nil, err
	}
	r.say("torture: seed %d, %d devices side by side, %v, files in %s", r.seed, r.lanes, r.limit, r.dir)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	status := make(chan struct{})
	go func() {
		defer close(status)
		r.tick(ctx)
	}()
	var lanes sync.WaitGroup
	for range r.lanes {
		lanes.Go(func() {
			for r.more(ctx) {
				n := r.next.Add(1) - 1
				if r.campaigns > 0 && n >= uint64(r.campaigns) {
					return
				}
				if f := r.campaign(ctx, r.seed+n); f != nil {
					r.found(f)
					stop()
				}
			}
		})
	}
	lanes.Wait()
	stop()
	<-status
	if len(r.findings) == 0 || !r.keep {
		if err := os.RemoveAll(r.dir); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// more says whether another campaign, or another life, may begin.
func (r *run) more(ctx context.Context) bool {
	return ctx.Err() == nil && (r.campaigns > 0 || time.Since(r.began) < r.limit)
}

func (r *run) found(f *finding) {
	r.mu.Lock()
	r.findings = append(r.findings, f)
	r.mu.Unlock()
}

// skip notes that a world cannot be had here, and says so once.
func (r *run) skip(world, why string) {
	r.mu.Lock()
	_, said := r.skipped[world]
	r.skipped[world] = why
	r.mu.Unlock()
	if !said {
		r.say("world %s is left out: %s", world, why)
	}
}

func (r *run) say(format string, args ...any) {
	r.print.Lock()
	defer r.print.Unlock()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// tick prints how far it is.
func (r *run) tick(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.say("%4.0f s  %s", time.Since(r.began).Seconds(), r.stats.line())
		case <-ctx.Done():
			return
		}
	}
}

// report prints what happened, and how to see it again.
func (r *run) report() {
	r.say("\n%s", r.stats.table())
	for world, why := range r.skipped {
		r.say("left out: world %s: %s", world, why)
	}
	for _, f := range r.findings {
		r.say("\nFOUND  %v", f)
		if r.keep {
			r.say("the device is kept: files in %s, log of the servers in %s", f.spot.disk, f.spot.aux)
		}
		r.say("again: make torture SEED=%d TORTUREARGS='-world %s -v'", f.seed, f.world)
	}
	if len(r.findings) == 0 {
		r.say("nothing was lost in %.0f s; seeds %d to %d; again: make torture SEED=%d",
			time.Since(r.began).Seconds(), r.seed, r.seed+max(r.begun(), 1)-1, r.seed)
	}
}

// begun is the number of campaigns.
func (r *run) begun() uint64 {
	n := r.next.Load()
	if r.campaigns > 0 {
		n = min(n, uint64(r.campaigns))
	}
	return n
}
