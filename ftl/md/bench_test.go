package md

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/bdev/uring"
	"goftl/ftl/layout"
	"goftl/iobuf"
	"goftl/thread"
)

// bench is an object over one device, its mirror behind it.
type bench struct {
	th  *thread.Thread
	now int64
	o   *Object
}

func newBench(b *testing.B, blocks uint64, mirror bool) *bench {
	d, err := malloc.New(malloc.Options{Name: "m", Blocks: 2 * blocks})
	require.NoError(b, err)
	return benchOver(b, d, blocks, mirror)
}

func benchOver(b *testing.B, d bdev.Driver, blocks uint64, mirror bool) *bench {
	sys := thread.NewSystem()
	x := &bench{th: sys.NewThread("core")}
	m := bdev.NewManager(sys, nil)
	bd, err := m.Register(d)
	require.NoError(b, err)
	desc, err := m.Open(bd.Name(), true, nil, nil, x.th)
	require.NoError(b, err)
	ch, err := desc.Channel(x.th)
	require.NoError(b, err)
	g := &layout.Region{Type: layout.RegionChunkMD, Name: "chunk_md", Blocks: blocks, EntryBlocks: 1, Version: 1}
	cfg := Config{Thread: x.th, UUID: testUUID, Region: g, Target: Target{Desc: desc, Ch: ch}}
	if mirror {
		mg := *g
		mg.Offset = blocks
		cfg.Mirror = &mg
	}
	x.o, err = New(cfg)
	require.NoError(b, err)
	b.Cleanup(func() {
		x.o.Destroy(false)
		ch.Put()
		desc.Close()
		bd.Unregister(x.th, func(any, error) {}, nil)
		for range 100 {
			x.now++
			x.th.Poll(0, x.now)
		}
	})
	return x
}

func (x *bench) do(b *testing.B, start func(DoneFunc, any)) {
	res := &result{}
	start(record, res)
	for res.called == 0 {
		x.now++
		x.th.Poll(0, x.now)
	}
	if res.err != nil {
		b.Fatal(res.err)
	}
}

const benchBlocks = 1 << 30 / BlockSize

// BenchmarkCopy is the bound of BenchmarkBulk: one copy of 1 GiB.
func BenchmarkCopy(b *testing.B) {
	from, to := iobuf.Alloc(1<<30), iobuf.Alloc(1<<30)
	defer iobuf.Free(from)
	defer iobuf.Free(to)
	fill(from, 1)
	copy(to, from)
	b.SetBytes(1 << 30)
	for b.Loop() {
		copy(to, from)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "GiB/s")
}

// BenchmarkFile moves 512 MiB to and from a file through io_uring, and says
// what part that is of dd with direct IO of the same block size.
func BenchmarkFile(b *testing.B) {
	const bytes = 512 << 20
	path := filepath.Join(b.TempDir(), "md")
	dd := func(args ...string) time.Duration {
		began := time.Now()
		if out, err := exec.Command("dd", append(args, "bs=1M", "count=512", "conv=notrunc")...).CombinedOutput(); err != nil {
			b.Skipf("dd: %v %s", err, out)
		}
		return time.Since(began)
	}
	dd("if=/dev/zero", "of="+path, "oflag=direct") // allocate
	d, err := uring.New(path, uring.Options{})
	if err != nil {
		b.Skip(err)
	}
	x := benchOver(b, d, bytes/BlockSize, false)
	x.do(b, x.o.Persist)
	run := func(name string, start func(DoneFunc, any), args ...string) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes)
			var theirs, ours time.Duration
			for b.Loop() {
				theirs += dd(args...)
				began := time.Now()
				x.do(b, start)
				ours += time.Since(began)
			}
			b.ReportMetric(float64(theirs)/float64(ours), "of-dd")
			b.ReportMetric(float64(b.N)*bytes/ours.Seconds()/1e6, "own-MB/s")
		})
	}
	run("persist", x.o.Persist, "if=/dev/zero", "of="+path+".dd", "oflag=direct")
	run("restore", x.o.Restore, "if="+path, "of=/dev/null", "iflag=direct")
}

// BenchmarkBulk moves 1 GiB of metadata to and from malloc:.
func BenchmarkBulk(b *testing.B) {
	x := newBench(b, benchBlocks, false)
	for i := range uint64(benchBlocks) {
		le.PutUint64(x.o.Payload(i), i)
	}
	x.do(b, x.o.Persist)
	for name, start := range map[string]func(DoneFunc, any){"persist": x.o.Persist, "restore": x.o.Restore} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchBlocks * BlockSize)
			cpu := cpuTime()
			for b.Loop() {
				x.do(b, start)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "GiB/s")
			b.ReportMetric(float64(b.N)/(cpuTime()-cpu).Seconds(), "GiB/cpu-s") // on a busy machine
		})
	}
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEntry persists one entry on malloc:, mirrored and in order.
func BenchmarkEntry(b *testing.B) {
	x := newBench(b, 64, true)
	res := &result{}
	op := &EntryOp{Done: record, Arg: res}
	b.ReportAllocs()
	for b.Loop() {
		res.called = 0
		x.o.PersistEntryOrdered(op, 5, 1)
		for res.called == 0 {
			x.now++
			x.th.Poll(0, x.now)
		}
	}
}

// BenchmarkSeal is the cost of a trailer.
func BenchmarkSeal(b *testing.B) {
	blk := make([]byte, BlockSize)
	b.SetBytes(BlockSize)
	for b.Loop() {
		sealBlock(blk, 1, 2, 3, 4)
	}
}
