package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// hunter builds simulators and runs seeds of them.
type hunter struct {
	root  string // of the repository
	first int
	seeds int // at most
}

// result is what became of a defect.
type result struct {
	seed int    // that found it; 0: none
	sign string // what the simulator said
	took time.Duration
	err  error // it could not be tried
}

const (
	batch = 50 // seeds of one process
	// batchMost is when a process counts as hung: a batch takes seconds.
	batchMost = 15 * time.Minute
)

// try builds a defect and hunts for it.
func (h *hunter) try(ctx context.Context, m *mutant) (r result) {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	dir, err := os.MkdirTemp("", "goftl-mutant-")
	if err != nil {
		return result{err: err}
	}
	defer os.RemoveAll(dir)
	bin, err := h.build(ctx, dir, m)
	if err != nil {
		return result{err: err}
	}
	return h.hunt(ctx, bin, m.test, h.seeds)
}

// control runs n seeds of a test without a defect.
func (h *hunter) control(ctx context.Context, test string, n int) (r result) {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	dir, err := os.MkdirTemp("", "goftl-mutant-")
	if err != nil {
		return result{err: err}
	}
	defer os.RemoveAll(dir)
	bin, err := h.build(ctx, dir, &mutant{test: test})
	if err != nil {
		return result{err: err}
	}
	return h.hunt(ctx, bin, test, n)
}

// build compiles the simulator over the changed sources.
func (h *hunter) build(ctx context.Context, dir string, m *mutant) (bin string, err error) {
	overlay, err := m.overlay(h.root, dir)
	if err != nil {
		return "", err
	}
	bin = filepath.Join(dir, "sim.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-c", "-ldflags=-s -w", "-overlay", overlay, "-o", bin, simulator(m.test))
	cmd.Dir = h.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
}

// hunt runs up to n seeds until one fails.
func (h *hunter) hunt(ctx context.Context, bin, test string, n int) result {
	for at := h.first; at < h.first+n; at += batch {
		seed, sign := h.run(ctx, bin, test, at, min(batch, h.first+n-at))
		if ctx.Err() != nil {
			return result{err: ctx.Err()}
		}
		if seed == 0 && sign != "" {
			seed, sign = h.locate(ctx, bin, test, at, sign)
		}
		if seed != 0 {
			return result{seed: seed, sign: sign}
		}
	}
	return result{}
}

// locate finds the seed at which a process died without a word.
func (h *hunter) locate(ctx context.Context, bin, test string, from int, sign string) (int, string) {
	for at := from; at < from+batch; at++ {
		if seed, s := h.run(ctx, bin, test, at, 1); seed != 0 || s != "" {
			return at, s
		}
	}
	return from, sign // only the seeds before it made it die
}

var (
	failed = regexp.MustCompile(`seed (\d+): ([^\n]*)`)
	died   = regexp.MustCompile(`(?m)^(?:panic|fatal error|unexpected fault address|SIG\w+)[^\n]*`)
)

// run runs seeds in one process. It returns the seed that failed, if one did, and what was said; 0 and a text when the
// process died.
func (h *hunter) run(ctx context.Context, bin, test string, at, n int) (seed int, sign string) {
	ctx, cancel := context.WithTimeout(ctx, batchMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-test.run=^"+test+"$", "-test.timeout=0",
		fmt.Sprintf("-seed=%d", at), fmt.Sprintf("-seeds=%d", n), "-failures=1")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOFTL_SIM_CHILD="+filepath.Join(filepath.Dir(bin), "counters"))
	cmd.Dir = filepath.Dir(bin)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return 0, ""
	}
	if f := failed.FindSubmatch(out); f != nil {
		seed, _ = strconv.Atoi(string(f[1]))
		return seed, string(f[2])
	}
	if d := died.Find(out); d != nil {
		return 0, string(d)
	}
	return 0, "the process died: " + err.Error()
}

// brief shortens a sign for a table.
func brief(sign string) string {
	sign = strings.Join(strings.Fields(sign), " ")
	sign = strings.ReplaceAll(sign, "|", "/")
	const most = 100
	if len(sign) > most {
		sign = strings.TrimSpace(sign[:most]) + "..."
	}
	return sign
}
