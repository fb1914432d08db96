package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	hunter
	jobs   int
	only   *regexp.Regexp
	except *regexp.Regexp
	docs   string
	redo   bool
	clean  bool // run the same seeds without a defect too
	hidden bool
}

func main() {
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func start() error {
	o, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return o.run(ctx)
}

// parse reads the flags. They are a set of their own: the simulator has flags of the same names.
func parse(args []string) (*options, error) {
	o := &options{}
	only, except := "", ""
	f := flag.NewFlagSet("mutants", flag.ExitOnError)
	f.StringVar(&o.root, "root", ".", "root of the repository")
	f.IntVar(&o.first, "seed", 1, "the first seed")
	f.IntVar(&o.seeds, "seeds", 5000, "in how many seeds a defect must be found")
	f.IntVar(&o.jobs, "jobs", runtime.GOMAXPROCS(0), "how many defects are hunted side by side, each by one process")
	f.StringVar(&only, "only", "", "only defects whose rule and name (\"rule 9: ...\") match this expression")
	f.StringVar(&except, "except", "", "no defects whose rule and name match this expression")
	f.StringVar(&o.docs, "docs", "", "write the results into the table of this document")
	f.BoolVar(&o.redo, "redo-docs", false, "only make the document's table anew, with the results that it has")
	f.BoolVar(&o.clean, "control", true, "at the end, run the same seeds without a defect")
	f.BoolVar(&o.hidden, "hidden", false, "hunt for the defects of which the document says that something makes up for them: none may be found")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return o, o.prepare(only, except)
}

func (o *options) prepare(only, except string) (err error) {
	if o.root, err = filepath.Abs(o.root); err != nil {
		return err
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return err
	}
	if except == "" {
		except = "^$"
	}
	o.except, err = regexp.Compile(except)
	return err
}

// title is how a mutant is called.
func (m *mutant) title() string {
	if m.rule == "-" {
		return m.name
	}
	return "rule " + m.rule + ": " + m.name
}

func (o *options) run(ctx context.Context) error {
	if o.redo {
		return updateDocs(o.root, o.docs, nil)
	}
	all := table()
	if o.hidden {
		all = tableHidden
	}
	var list []mutant
	for _, m := range all {
		if t := m.title(); o.only.MatchString(t) && !o.except.MatchString(t) {
			list = append(list, m)
		}
	}
	start := time.Now()
	results := o.hunt(ctx, list)
	bad := report(list, results)
	if o.hidden {
		return foundHidden(list, results)
	}
	if o.clean && ctx.Err() == nil {
		bad += o.controls(ctx, list, results)
	}
	fmt.Printf("\n%d defects, %d not found or not tried, %v\n", len(list), bad, time.Since(start).Round(time.Second))
	if bad > 0 {
		return fmt.Errorf("%d of %d failed", bad, len(list))
	}
	return ctx.Err()
}

// hunt tries every defect, some side by side, and prints what becomes of each.
func (o *options) hunt(ctx context.Context, list []mutant) []result {
	results := make([]result, len(list))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range max(1, o.jobs) {
		wg.Go(func() {
			for i := range next {
				r := o.try(ctx, &list[i])
				mu.Lock()
				results[i] = r
				done++
				fmt.Printf("%3d/%d %s\n        %s\n", done, len(list), list[i].title(), r.String())
				o.note(&list[i], &r)
				mu.Unlock()
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

// note writes the seed that found a defect into the document.
func (o *options) note(m *mutant, r *result) {
	if o.docs == "" || o.hidden || r.seed == 0 {
		return
	}
	if err := updateDocs(o.root, o.docs, map[string]record{m.name: {seed: r.seed, sign: brief(r.sign)}}); err != nil {
		fmt.Println("       ", err)
	}
}

// String says in a line what became of a defect.
func (r *result) String() string {
	took := r.took.Round(100 * time.Millisecond)
	switch {
	case r.err != nil:
		return fmt.Sprintf("NOT TRIED: %v", r.err)
	case r.seed == 0:
		return fmt.Sprintf("NOT FOUND, %v", took)
	}
	return fmt.Sprintf("seed %d, %v: %s", r.seed, took, brief(r.sign))
}

// report prints the table and returns how many defects were not found.
func report(list []mutant, results []result) (bad int) {
	fmt.Printf("\n%-4s %-13s %5s  %s\n", "rule", "test", "seed", "defect")
	for i, m := range list {
		seed := fmt.Sprint(results[i].seed)
		if results[i].seed == 0 {
			seed = "NONE"
			bad++
		}
		fmt.Printf("%-4s %-13s %5s  %s\n", m.rule, m.test, seed, m.name)
	}
	return bad
}

// foundHidden complains of defects that were found although something should make up for them.
func foundHidden(list []mutant, results []result) error {
	var errs []error
	for i, m := range list {
		switch r := &results[i]; {
		case r.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", m.title(), r.err))
		case r.seed != 0:
			errs = append(errs, fmt.Errorf("%s: found after all, by seed %d: it belongs in the table", m.title(), r.seed))
		}
	}
	return errors.Join(errs...)
}

// controls runs the seeds that found something without a defect: they must pass, or what they found was not the
// defect.
func (o *options) controls(ctx context.Context, list []mutant, results []result) (bad int) {
	last := make(map[string]int)
	for i, m := range list {
		last[m.test] = max(last[m.test], results[i].seed)
	}
	fmt.Println()
	for _, test := range []string{crashes, restless, faults, rot, stray, bases, buffered, bufferedFaults, clients, clientsBuffered} {
		if last[test] == 0 {
			continue
		}
		n := last[test] - o.first + 1
		r := o.control(ctx, test, n)
		if r.err != nil || r.seed != 0 {
			bad++
			fmt.Printf("without a defect, %s: FAILED: %s\n", test, r.String())
			continue
		}
		fmt.Printf("without a defect, %s: %d seeds pass, %v\n", test, n, r.took.Round(time.Second))
	}
	return bad
}
