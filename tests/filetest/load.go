package filetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
)

// Load is a load of random 4 KiB IO at one depth.
type Load struct {
	Write bool
	Depth int
}

func (l Load) String() string {
	if l.Write {
		return fmt.Sprintf("randwrite/qd=%d", l.Depth)
	}
	return fmt.Sprintf("randread/qd=%d", l.Depth)
}

// Loads are those that the drivers are measured with.
var Loads = []Load{{false, 1}, {false, 32}, {true, 1}, {true, 32}}

// BenchSize is the size of the files that are measured.
const BenchSize = 512 << 20

type slot struct {
	run *loadRun
	buf []byte
}

type loadRun struct {
	h      *Harness
	load   Load
	rng    *rand.Rand
	blocks uint64
	left   int // to submit
	flying int
}

// Run does n IOs.
func (l Load) Run(h *Harness, n int) {
	r := &loadRun{h: h, load: l, rng: rand.New(rand.NewPCG(1, uint64(n))), blocks: h.Bdev.Info().Blocks, left: n}
	mem := Buffer(h.T, l.Depth*4096, 0x77)
	slots := make([]slot, l.Depth)
	for i := range slots {
		slots[i] = slot{run: r, buf: mem[i*4096:][:4096]}
		r.next(&slots[i])
	}
	h.Drive(func() bool { return r.flying == 0 })
}

func (r *loadRun) next(s *slot) {
	if r.left == 0 {
		return
	}
	r.left--
	r.flying++
	lba := r.rng.Uint64N(r.blocks)
	var err error
	if r.load.Write {
		err = r.h.Ch.Write(s.buf, lba, 1, loadDone, s)
	} else {
		err = r.h.Ch.Read(s.buf, lba, 1, loadDone, s)
	}
	require.NoError(r.h.T, err)
}

func loadDone(io *bdev.IO) {
	s := io.Ctx.(*slot)
	if io.Err() != nil {
		s.run.h.T.Errorf("%s: %v", io.Op, io.Err())
	}
	s.run.flying--
	s.run.next(s)
}

// RunFor runs for about d and returns IOs per second.
func (l Load) RunFor(h *Harness, d time.Duration) float64 {
	start, done, step := time.Now(), 0, 1000
	for time.Since(start) < d {
		l.Run(h, step)
		done += step
		if took := time.Since(start); took < d {
			// As few joins as possible: they empty the queue.
			step = max(1000, int(float64(done)/took.Seconds()*(d-took).Seconds()))
		}
	}
	return float64(done) / time.Since(start).Seconds()
}

// Fill makes a file of BenchSize with every block written.
func Fill(b testing.TB, path string) {
	f, err := os.Create(path)
	require.NoError(b, err)
	buf := make([]byte, 4<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	for range BenchSize / len(buf) {
		_, err := f.Write(buf)
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
	require.NoError(b, f.Close())
}

// Fio runs the same load by fio's io_uring engine and returns IOs per second; it
// skips when there is no fio.
func (l Load) Fio(b testing.TB, path string, d time.Duration, direct bool) float64 {
	rw, dio := "randread", "0"
	if l.Write {
		rw = "randwrite"
	}
	if direct {
		dio = "1"
	}
	cmd := exec.Command("fio", "--name=x", "--ioengine=io_uring", "--bs=4k", "--time_based", "--output-format=json",
		"--filename="+path, "--rw="+rw, "--direct="+dio, fmt.Sprint("--iodepth=", l.Depth),
		fmt.Sprintf("--runtime=%dms", d.Milliseconds()), fmt.Sprint("--size=", BenchSize))
	out, err := cmd.Output()
	if err != nil {
		b.Skip("fio: ", err)
	}
	var res struct {
		Jobs []struct {
			Read, Write struct{ Iops float64 }
		}
	}
	require.NoError(b, json.Unmarshal(out, &res))
	require.Len(b, res.Jobs, 1)
	return res.Jobs[0].Read.Iops + res.Jobs[0].Write.Iops
}

// AgainstFio measures the driver and fio in turns, in short slices because other
// work on the machine comes and goes, and reports medians.
func AgainstFio(b *testing.B, open OpenFunc) {
	const slice = 500 * time.Millisecond
	path := Dir{Path: b.TempDir()}.File("f")
	Fill(b, path)
	for _, l := range Loads {
		b.Run(l.String(), func(b *testing.B) {
			d, err := open(path, Options{})
			require.NoError(b, err)
			h := Open(b, d)
			direct := h.Bdev.Info().BufAlign > 1
			var mine, fios, ratios []float64
			for b.Loop() {
				m, f := l.RunFor(h, slice), l.Fio(b, path, slice, direct)
				mine, fios, ratios = append(mine, m), append(fios, f), append(ratios, m/f)
			}
			b.ReportMetric(median(mine), "IOPS")
			b.ReportMetric(median(fios), "fio-IOPS")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
