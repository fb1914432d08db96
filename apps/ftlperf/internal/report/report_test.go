package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/yardstick"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample is a run with something in every section.
func sample(t *testing.T) *Run {
	t.Helper()
	mode, err := job.ParseMode("randrw")
	if err != nil {
		t.Fatal(err)
	}
	st := &job.Stats{Elapsed: int64(2 * time.Second), Parked: 3}
	for i := range 1000 {
		st.Dir[job.Read].Completion.Record(int64(1000 + i*i))
		st.Dir[job.Write].Completion.Record(int64(50_000 + i*100))
		st.Depth[6]++
	}
	st.Dir[job.Read].IOs, st.Dir[job.Read].Bytes = 1000, 4096000
	st.Dir[job.Write].IOs, st.Dir[job.Write].Bytes, st.Dir[job.Write].Errors = 1000, 4096000, 2
	st.Flush.Record(12345)
	st.Err = unix.ENOSPC
	second := time.Second
	ftl := &FTL{
		Bytes: 800 << 20, Created: true, Create: 5 * time.Millisecond, UserWrites: 1000, UserReads: 1000, Flushes: 1,
		Sources: []Source{
			{Name: "user", CacheWrite: 1000, CacheRead: 10, Errors: DeviceErrors{Checksum: 1}},
			{Name: "gc", BaseRead: 500, BaseWrite: 450},
		},
		Gauges:   map[string]uint64{"free_chunks": 7, "free_bands": 3},
		Recovery: &Recovery{After: "after 5s", Elapsed: 34 * time.Millisecond, Redone: 13, Phases: []Phase{{"redo", time.Millisecond}}},
	}
	ftl.Sum()
	return &Run{
		Version: "test", Started: time.Unix(1700000000, 0).UTC(), Target: "malloc:1GiB", Where: "1 core, poll mode",
		Options: map[string]string{"rw": "randrw"},
		Jobs: []Job{{
			Name: "randrw", Count: 1, Stats: st,
			Spec: job.Spec{Name: "randrw", Mode: mode, BlockSize: [3]uint64{4096, 4096, 4096}, Depth: 32, Size: 1 << 30},
		}},
		Yardstick: &Yardstick{yardstick.Result{Writes: 2e6, Elapsed: second}, yardstick.Result{Writes: 3e6, Elapsed: second}},
		CPU:       CPU{User: 97.5, System: 1.5, ContextSwitches: 10, Mallocs: 50},
		FTL:       ftl,
		Verify:    &Verify{InRun: 5, Final: 100, Mismatches: 1, First: []string{"offset 4096 (block 1): found zeroes, expected generation 3"}},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	r := sample(t)
	r.Buckets = true
	if err := r.Text(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "run.txt", out.Bytes())
}

// Every value that fio prints is there, under its name, with its type.
func TestJSONHasFioShape(t *testing.T) {
	var out bytes.Buffer
	if err := sample(t).JSON(&out, false); err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	shape, err := os.ReadFile("testdata/fio-3.33-shape.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(shape)) {
		checkPath(t, doc, strings.TrimSpace(line))
	}
}

// checkPath follows "/a/[]/b kind"; names may contain spaces.
func checkPath(t *testing.T, doc any, line string) {
	t.Helper()
	i := strings.LastIndex(line, " ")
	path, kind := line[1:i], line[i+1:]
	at := doc
	for name := range strings.SplitSeq(path, "/") {
		if name == "[]" {
			list, ok := at.([]any)
			if !ok || len(list) == 0 {
				t.Errorf("%s: no list", path)
				return
			}
			at = list[0]
			continue
		}
		m, ok := at.(map[string]any)
		if !ok || m[name] == nil {
			t.Errorf("%s: no %q", path, name)
			return
		}
		at = m[name]
	}
	if _, isString := at.(string); isString != (kind == "string") {
		t.Errorf("%s is %T, fio has a %s", path, at, kind)
	}
}

func TestJSONValues(t *testing.T) {
	var out bytes.Buffer
	if err := sample(t).JSON(&out, true); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Jobs []struct {
			Error int
			Write struct {
				IOPS float64
				BW   uint64
				Clat struct {
					N          uint64
					Percentile map[string]uint64
					Bins       map[string]uint64
				} `json:"clat_ns"`
			}
			Depth map[string]float64 `json:"iodepth_level"`
			Us    map[string]float64 `json:"latency_us"`
			Ms    map[string]float64 `json:"latency_ms"`
		}
		Ftlperf struct {
			Errors uint64
			Of     float64 `json:"iops_of_yardstick"`
			FTL    struct {
				WAF float64 `json:"waf_base"`
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	j := doc.Jobs[0]
	if j.Error != int(unix.ENOSPC) || j.Write.IOPS != 500 || j.Write.BW != 2000 || j.Write.Clat.N != 1000 {
		t.Errorf("%+v", j)
	}
	if p := j.Write.Clat.Percentile["50.000000"]; p < 99_000 || p > 101_000 {
		t.Errorf("median %d", p)
	}
	n := uint64(0)
	for _, c := range j.Write.Clat.Bins {
		n += c
	}
	sum := 0.0
	for _, m := range []map[string]float64{j.Us, j.Ms} {
		for _, v := range m {
			sum += v
		}
	}
	if n != 1000 || j.Depth["32"] != 100 || sum < 99 || sum > 101 {
		t.Errorf("bins hold %d, depth %v, latencies sum to %v%%", n, j.Depth, sum)
	}
	if doc.Ftlperf.Errors != 3 || doc.Ftlperf.Of != 0.0004 || doc.Ftlperf.FTL.WAF != 0.45 {
		t.Errorf("%+v", doc.Ftlperf)
	}
}

func TestGroupSumsUp(t *testing.T) {
	r := sample(t)
	all := Group([]Job{r.Jobs[0], r.Jobs[0]})
	if all.IOPS(job.Read) != 1000 || all.Count != 2 || all.Stats.Dir[job.Write].Completion.Count() != 2000 {
		t.Errorf("%v IOPS of %d jobs", all.IOPS(job.Read), all.Count)
	}
}

// TestVerifyOnly: a run that only checked names no rate of a core, and what was wrong is an error of the job.
func TestVerifyOnly(t *testing.T) {
	r := sample(t)
	r.Jobs[0].Stats = &job.Stats{}
	var text, js bytes.Buffer
	if err := r.Text(&text); err != nil || bytes.Contains(text.Bytes(), []byte("whole core")) {
		t.Error(err, text.String())
	}
	if err := r.JSON(&js, false); err != nil {
		t.Fatal(err)
	}
	var doc struct{ Jobs []struct{ Error int } }
	if err := json.Unmarshal(js.Bytes(), &doc); err != nil || len(doc.Jobs) != 1 || doc.Jobs[0].Error != int(unix.EILSEQ) {
		t.Error(err, doc)
	}
	r.Verify.Mismatches = 0
	js.Reset()
	if err := r.JSON(&js, false); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(js.Bytes(), &doc); err != nil || doc.Jobs[0].Error != 0 {
		t.Error(err, doc)
	}
}
