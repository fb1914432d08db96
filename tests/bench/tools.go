package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	iops    float64
	bytes   float64 // a second
	p50     float64 // us
	p99     float64
	cpu     float64 // ns of the load generator's process for an IO; 0: not known
	allocs  float64 // Go allocations for an IO
	share   float64 // of a core that the process got, 0 to 1
	server  float64 // ns of the server's CPU time for an IO
	ftl     *ftlReport
	elapsed time.Duration
}

// mid is the sample with the median rate; CPU times are medians of their own.
func mid(all []sample) sample {
	var rates, cpu, server []float64
	for i := range all {
		rates, cpu, server = append(rates, all[i].iops), append(cpu, all[i].cpu), append(server, all[i].server)
	}
	m := median(rates)
	for _, s := range all {
		if s.iops == m {
			s.cpu, s.server = median(cpu), median(server)
			return s
		}
	}
	return sample{}
}

// ftlReport is what ftlperf says of an FTL.
type ftlReport struct {
	StartS   float64 `json:"start_s"`
	WAFBase  float64 `json:"waf_base"`
	Recovery *struct {
		TotalS float64 `json:"total_s"`
		Redone uint64  `json:"redone_records"`
	} `json:"recovery"`
	Sources map[string]struct {
		Blocks uint64 `json:"base_write_blocks"`
	} `json:"sources"`
}

type direction struct {
	IOPS  float64 `json:"iops"`
	BW    float64 `json:"bw_bytes"`
	Total uint64  `json:"total_ios"`
	Lat   struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// report is what fio prints with --output-format=json, and ftlperf too.
type report struct {
	Jobs []struct {
		Read    direction `json:"read"`
		Write   direction `json:"write"`
		Runtime float64   `json:"job_runtime"` // ms
		User    float64   `json:"usr_cpu"`
		System  float64   `json:"sys_cpu"`
	} `json:"jobs"`
	Ftlperf struct {
		CPU    float64    `json:"cpu_ns_per_io"`
		Allocs float64    `json:"go_allocations"`
		FTL    *ftlReport `json:"ftl"`
	} `json:"ftlperf"`
}

// output runs a command and returns what it prints; its errors name the command and say what it said.
func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, tail(out.String()), tail(errs.String()))
	}
	return out.Bytes(), nil
}

func tail(text string) string {
	const keep = 2000
	return text[max(0, len(text)-keep):]
}

// load runs a load generator, fio or ftlperf, and reads its JSON.
func (b *bench) load(name string, args ...string) (sample, error) {
	if name == "ftlperf" {
		name = filepath.Join(b.bin, name)
	}
	text, err := output(name, append(args, "--output-format=json")...)
	if err != nil {
		return sample{}, err
	}
	if i := bytes.IndexByte(text, '{'); i > 0 {
		text = text[i:] // fio says things before the JSON
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return sample{}, fmt.Errorf("%s: %w", name, err)
	}
	return r.sample()
}

func (r *report) sample() (s sample, err error) {
	ios := 0.0
	for i := range r.Jobs {
		j := &r.Jobs[i]
		for _, d := range []*direction{&j.Read, &j.Write} {
			s.iops += d.IOPS
			s.bytes += d.BW
			ios += float64(d.Total)
			if d.Total > 0 {
				s.p50, s.p99 = d.Lat.Percentile["50.000000"]/1000, d.Lat.Percentile["99.000000"]/1000
			}
		}
		s.share += (j.User + j.System) / 100
		s.elapsed = max(s.elapsed, time.Duration(j.Runtime*1e6))
	}
	if ios == 0 {
		return s, errors.New("no IO was done")
	}
	s.cpu, s.allocs, s.ftl = r.Ftlperf.CPU, r.Ftlperf.Allocs/ios, r.Ftlperf.FTL
	if s.cpu == 0 {
		s.cpu = s.share * 1e9 / s.iops
	}
	return s, nil
}

var yardstickLine = regexp.MustCompile(`([0-9.]+) M/s \(([0-9]+) ns a write, ([0-9]+) of them CPU\)`)

// yardstick measures the machine once.
func (b *bench) yardstick(d time.Duration) (sample, error) {
	text, err := output(filepath.Join(b.bin, "ftlperf"), "yardstick", "--runs=1", "--duration="+d.String())
	if err != nil {
		return sample{}, err
	}
	m := yardstickLine.FindSubmatch(text)
	if m == nil {
		return sample{}, fmt.Errorf("ftlperf yardstick said %q", text)
	}
	rate, _ := strconv.ParseFloat(string(m[1]), 64) // the pattern admits numbers only
	cpu, _ := strconv.ParseFloat(string(m[3]), 64)
	return sample{iops: rate * 1e6, cpu: cpu}, nil
}

// goBench holds the metrics of go benchmarks: name, unit, and one value a round.
type goBench map[string]map[string][]float64

func (g goBench) median(name, unit string) float64 { return median(g[name][unit]) }
func (g goBench) has(name string) bool             { return g[name] != nil }

var procsSuffix = regexp.MustCompile(`-[0-9]+$`)

// parse adds the lines that a test binary printed.
func (g goBench) parse(text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := procsSuffix.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), "")
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				break
			}
			if g[name] == nil {
				g[name] = map[string][]float64{}
			}
			g[name][f[i+1]] = append(g[name][f[i+1]], v)
		}
	}
}

// testBinary builds the tests of a package, once.
func (b *bench) testBinary(pkg string) (string, error) {
	path := filepath.Join(b.temp, strings.ReplaceAll(pkg, "/", "_")+".test")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	_, err := output("go", "test", "-c", "-o", path, "./"+pkg)
	return path, err
}

// goBenchOnce runs benchmarks of a package and adds their metrics to g.
func (b *bench) goBenchOnce(g goBench, p goPart) error {
	path, err := b.testBinary(p.pkg)
	if err != nil {
		return err
	}
	text, err := output(path, "-test.run=^$", "-test.bench="+p.pattern, "-test.benchtime="+p.benchtime,
		fmt.Sprintf("-test.count=%d", p.count), "-test.benchmem", "-test.timeout=5m")
	if err == nil {
		g.parse(string(text))
	}
	return err
}

// memoryFree returns how many GiB the system has available.
func memoryFree() float64 {
	text, _ := os.ReadFile("/proc/meminfo") // nothing is available when it does not say
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / (1 << 20)
		}
	}
	return 0
}

// entrant is one of those that take turns.
type entrant struct {
	name    string
	needGiB float64
	measure func() (sample, error)
	samples []sample
	missing string
}

// contest measures all entrants in turn, up to b.rounds times. After the first round it goes on only while less than
// the given part of the budget is used up.
func (b *bench) contest(part float64, entrants []*entrant) error {
	for round := range b.rounds {
		if round > 0 && b.over(part) {
			break
		}
		for _, e := range entrants {
			if e.missing != "" {
				continue
			}
			if free := memoryFree(); free < e.needGiB {
				e.missing = fmt.Sprintf("needs %.0f GiB of memory, %.1f are free", e.needGiB, free)
				continue
			}
			s, err := e.measure()
			if err != nil {
				return err
			}
			b.say("%-44s %s", e.name, rate(s.iops))
			e.samples = append(e.samples, s)
		}
	}
	return nil
}

// ofYardstick is the row of an entrant whose goal is a part of the yardstick.
func (b *bench) ofYardstick(e, y *entrant, g goal, command string) row {
	r := row{what: e.name, command: command, goal: g, missing: e.missing}
	if len(e.samples) == 0 || len(y.samples) == 0 {
		if r.missing == "" {
			r.missing = "no time"
		}
		return r
	}
	s, yard := mid(e.samples), mid(y.samples)
	r.value, r.byCPU = s.iops/yard.iops, yard.cpu/s.cpu
	r.figure = fmt.Sprintf("%s, %.3g allocs/op", rate(s.iops), rounded(s.allocs))
	r.ratio = fmt.Sprintf("%.2f (%.2f by CPU) of yardstick", r.value, r.byCPU)
	b.sharing(s.share)
	return r
}

// rounded hides what a process allocates however long it runs.
func rounded(allocs float64) float64 {
	if allocs < 0.001 {
		return 0
	}
	return allocs
}

// sharing notes that a load generator did not have a core for itself.
func (b *bench) sharing(share float64) {
	if share > 0 && share < 0.9 {
		b.table.note("Others used the machine: some jobs that poll got less than 90 %% of their core, so rates say more about the neighbours; ratios by CPU time hold.")
	}
}
