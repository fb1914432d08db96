package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ftlTarget measures the FTL in memory, on files and through kills.
func (b *bench) ftlTarget() error {
	return b.parts(part{"write", b.ftlSpeed}, part{"starts", b.ftlStarts}, part{"memory", b.ftlMemory}, part{"read", b.ftlReads})
}

// ftlGiB is the memory that a run with a cache of 5 GiB needs.
const ftlGiB = 6.5

func ftlArgs(cache, base string, args ...string) []string {
	return append([]string{
		"--cache", cache, "--base", base, "--bs=4k", "--iodepth=128", "--norandommap", "--time_based",
	}, args...)
}

// ftlSpeed is random writes through the FTL in memory, beside the yardstick.
func (b *bench) ftlSpeed() error {
	y := &entrant{name: "yardstick", needGiB: 3, measure: func() (sample, error) { return b.yardstick(time.Second) }}
	on := func(name, cache, base string) *entrant {
		args := ftlArgs(cache+",populate=on", base, "--rw=randwrite", "--ramp_time=1s", b.seconds(2*time.Second))
		return &entrant{name: name, needGiB: ftlGiB, measure: func() (sample, error) { return b.load("ftlperf", args...) }}
	}
	list := []*entrant{
		on("randwrite 4K QD128, base 400 GiB", "malloc:5GiB,md=64", "null:400GiB"),
		on("randwrite 4K QD128, base 20 GiB, before GC", "malloc:5GiB,md=64", "null:20GiB"),
		on("the same, 400 GiB, cache without metadata", "malloc:5GiB", "null:400GiB"),
		on("the same, 20 GiB, cache without metadata", "malloc:5GiB", "null:20GiB"),
	}
	if err := b.contest(0.25, []*entrant{y, list[0], list[1], y, list[2], list[3]}); err != nil {
		return err
	}
	goals := []goal{least(0.11, ""), least(0.17, ""), least(0.11, ""), least(0.17, "")}
	specs := []string{"malloc:5GiB,md=64 --base null:400GiB", "malloc:5GiB,md=64 --base null:20GiB", "malloc:5GiB --base null:400GiB", "malloc:5GiB --base null:20GiB"}
	if len(y.samples) > 0 {
		s := mid(y.samples)
		b.table.add(row{what: "yardstick", figure: fmt.Sprintf("%s, %.0f ns of CPU", rate(s.iops), s.cpu), ratio: "1.00", command: "ftlperf yardstick"})
	}
	for i, e := range list {
		r := b.ofYardstick(e, y, goals[i], "ftlperf --cache "+specs[i]+" --rw=randwrite --bs=4k --iodepth=128")
		if r.missing == "" {
			s := mid(e.samples)
			r.figure += fmt.Sprintf(", p99 %.0f us, WAF of the base %.2f", s.p99, s.ftl.WAFBase)
		}
		b.table.add(r)
	}
	b.table.note("the caches are malloc:5GiB,populate=on and a second passes before figures count: otherwise first touches of memory are what is measured")
	return nil
}

// ftlReads is random reads of what was written before: all of a small range, so that the filling is short.
func (b *bench) ftlReads() error {
	y := &entrant{name: "yardstick", needGiB: 3, measure: func() (sample, error) { return b.yardstick(time.Second) }}
	on := func(name, cache, base string) *entrant {
		args := ftlArgs(cache+",populate=on", base, "--rw=randread", "--fill", "--size=2GiB", b.seconds(2*time.Second))
		return &entrant{name: name, needGiB: ftlGiB, measure: func() (sample, error) { return b.load("ftlperf", args...) }}
	}
	list := []*entrant{
		on("randread 4K QD128 of 2 GiB, base 20 GiB", "malloc:5GiB,md=64", "null:20GiB"),
		on("randread 4K QD128 of 2 GiB, base 400 GiB", "malloc:5GiB,md=64", "null:400GiB"),
	}
	if err := b.contest(0.4, []*entrant{y, list[0], list[1]}); err != nil {
		return err
	}
	for i, g := range []goal{least(0.36, " (SPDK)"), least(0.27, " (SPDK)")} {
		b.table.add(b.ofYardstick(list[i], y, g, "ftlperf --cache malloc:5GiB,md=64 --base null --rw=randread --fill --size=2GiB --iodepth=128"))
	}
	return nil
}

// planLine is what ftlnbd plan says of memory: the mapping, the fixed rest, and what is used as the base is read.
var planLine = regexp.MustCompile(`memory +mapping ([0-9.]+) MiB .* \+ ([0-9.]+) MiB, and up to ([0-9.]+) MiB`)

// ftlMemory compares what plan says with what the process takes. The rest of the process, which serves a device of next
// to no size, is measured first.
func (b *bench) ftlMemory() error {
	own, _, err := b.resident("64MiB", "256MiB")
	if err != nil {
		return err
	}
	for _, base := range []string{"20GiB", "400GiB"} {
		took, plan, err := b.resident("1GiB", base)
		if err != nil {
			return err
		}
		low, high := plan[0]+plan[1], plan[0]+plan[1]+plan[2]
		off := 100 * max(low-(took-own), took-own-high, 0) / low
		r := row{
			what: "memory, base " + base, goal: most(10, " % off"), value: off,
			figure:  fmt.Sprintf("%.0f MiB (with the process %.0f); plan: mapping %.0f + %.0f, checksums up to %.0f", took-own, took, plan[0], plan[1], plan[2]),
			ratio:   fmt.Sprintf("%.1f %% outside the plan", off),
			command: "ftlnbd plan, ftlnbd serve --cache file:1GiB --base null:" + base + ", RssAnon + RssShmem after writing all over it",
		}
		b.table.add(r)
	}
	return nil
}

// resident is the memory of ftlnbd, in MiB, after random writes all over a device, and what plan says of it.
func (b *bench) resident(cache, base string) (took float64, plan [3]float64, err error) {
	path := filepath.Join(b.temp, "ram-"+base+".img")
	defer os.Remove(path)
	specs := []string{"--cache", "file:" + path + ",size=" + cache, "--base", "null:" + base}
	text, err := output(filepath.Join(b.bin, "ftlnbd"), append([]string{"plan"}, specs...)...)
	if err != nil {
		return 0, plan, err
	}
	m := planLine.FindSubmatch(text)
	if m == nil {
		return 0, plan, fmt.Errorf("ftlnbd plan said\n%s", text)
	}
	for i := range plan {
		plan[i], _ = strconv.ParseFloat(string(m[i+1]), 64) // the pattern admits numbers only
	}
	s, err := b.serve("memory", "ftlnbd", append([]string{"serve", "--shm", "off"}, specs...)...)
	if err != nil {
		return 0, plan, err
	}
	defer s.stop()
	b.say("writing all over a device with a base of %s", base)
	if _, err = b.load("ftlperf", "--nbd", s.uri, "--rw=randwrite", "--bs=4k", "--iodepth=64", "--norandommap", "--number_ios=400000"); err != nil {
		return 0, plan, err
	}
	return float64(s.resident()) / (1 << 20), plan, nil
}

// secondsText writes a short time.
func secondsText(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

// starts are the rows of creating, loading and recovering on files.
type starts struct {
	b           *bench
	cache, base string // paths
	specs       []string
}

func (b *bench) newStarts(name string, cacheGiB, baseGiB int) *starts {
	s := &starts{b: b, cache: filepath.Join(b.temp, name+"-cache.img"), base: filepath.Join(b.temp, name+"-base.img")}
	s.specs = []string{
		"serve", "--cache", fmt.Sprintf("file:%s,size=%dGiB", s.cache, cacheGiB), "--base", fmt.Sprintf("file:%s,size=%dGiB", s.base, baseGiB),
	}
	return s
}

// start starts ftlnbd on the files and adds a row about how long that took. text says what is special.
func (s *starts) start(what string, g goal, shm string) (*server, error) {
	srv, err := s.b.serve(what, "ftlnbd", append(strings.Split(strings.Join(s.specs, "\n"), "\n"), "--shm", shm)...)
	if err != nil {
		return nil, err
	}
	took, err := srv.took()
	if err != nil {
		return nil, err
	}
	records, memory := srv.replayed()
	figure := fmt.Sprintf("%s, %s from exec to the first answer", secondsText(took), secondsText(srv.up))
	if records > 0 {
		figure += fmt.Sprintf(", %d records", records)
	}
	if memory {
		figure += ", mapping from shared memory"
	}
	s.b.say("%s: %s", what, figure)
	s.b.table.add(row{what: what, figure: figure, goal: g, value: took.Seconds(), command: "ftlnbd serve --cache file:C --base file:B --shm " + shm})
	return srv, nil
}
