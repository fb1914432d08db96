package md

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/ftl/layout"
	"goftl/thread"
)

// bench is an object over one device, its mirror behind it.
type bench struct {
	th  *thread.Thread
	now int64
	o   *Object
}

func newBench(b *testing.B, blocks uint64, mirror bool) *bench {
	sys := thread.NewSystem()
	x := &bench{th: sys.NewThread("core")}
	m := bdev.NewManager(sys, nil)
	d, err := malloc.New(malloc.Options{Name: "m", Blocks: 2 * blocks})
	require.NoError(b, err)
	_, err = m.Register(d)
	require.NoError(b, err)
	desc, err := m.Open("m", true, nil, nil, x.th)
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

// BenchmarkParts looks for the best size and number of parts.
func BenchmarkParts(b *testing.B) {
	for _, depth := range []int{1, 2, 4} {
		for _, blocks := range []uint64{32, 64, 128, 256} {
			x := newBench(b, benchBlocks/8, false)
			x.o.cfg.Depth, x.o.cfg.XferBlocks = depth, blocks
			x.do(b, x.o.Persist)
			for name, start := range map[string]func(DoneFunc, any){"persist": x.o.Persist, "restore": x.o.Restore} {
				b.Run(fmt.Sprintf("%s/depth=%d/KiB=%d", name, depth, blocks*4), func(b *testing.B) {
					b.SetBytes(benchBlocks / 8 * BlockSize)
					for b.Loop() {
						x.do(b, start)
					}
				})
			}
		}
	}
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
			for b.Loop() {
				x.do(b, start)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "GiB/s")
		})
	}
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

