package l2p

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"goftl/ftl/record"
	"goftl/iobuf"
)

func newTable(t testing.TB, lbas uint64, width int) (*Flat, []byte) {
	mem := iobuf.Alloc(int(MemorySize(lbas, width)))
	require.NotNil(t, mem)
	t.Cleanup(func() { iobuf.Free(mem) })
	return NewFlat(mem, lbas, width), mem
}

func eachWidth(t *testing.T, f func(t *testing.T, width int)) {
	for _, w := range []int{4, 8} {
		t.Run(fmt.Sprintf("%d bytes", w), func(t *testing.T) { f(t, w) })
	}
}

func addrMax(width int) Addr {
	if width == 4 {
		return 1<<32 - 1
	}
	return 1<<64 - 1
}

func TestSizes(t *testing.T) {
	require.Equal(t, uint64(1), Pages(1, 4))
	require.Equal(t, uint64(1), Pages(1016, 4))
	require.Equal(t, uint64(2), Pages(1017, 4))
	require.Equal(t, uint64(2), Pages(1016, 8))
	require.Equal(t, uint64(3), Pages(1017, 8))
	// 4 bytes an entry rounded up to 8, and two words of bitmaps.
	require.Equal(t, uint64(8+16), MemorySize(1, 4))
	require.Equal(t, uint64(8+16), MemorySize(1, 8))
	require.Equal(t, uint64(1017*4+4+16), MemorySize(1017, 4))
}

// TestSetGetAndPages against a map, for sizes around page limits.
func TestSetGetAndPages(t *testing.T) {
	eachWidth(t, func(t *testing.T, width int) {
		for _, lbas := range []uint64{1, 2, 507, 508, 509, 1016, 1017, 70_001} {
			f, _ := newTable(t, lbas, width)
			require.Equal(t, Pages(lbas, width), f.Pages())
			require.Zero(t, f.DirtyPages())
			require.True(t, f.Pin(&PinRequest{LBA: 0, Count: lbas}))
			rnd := rand.New(rand.NewPCG(lbas, uint64(width)))
			want := map[uint64]Addr{}
			dirty := map[uint64]bool{}
			for range 500 {
				lba := rnd.Uint64N(lbas)
				a := Addr(rnd.Uint64()) & addrMax(width)
				f.Set(lba, a)
				want[lba] = a
				dirty[lba/f.PageEntries()] = true
			}
			f.Set(lbas-1, addrMax(width))
			want[lbas-1] = addrMax(width)
			dirty[(lbas-1)/f.PageEntries()] = true
			for lba := range lbas {
				require.Equal(t, want[lba], f.Get(lba))
			}
			require.Equal(t, uint64(len(dirty)), f.DirtyPages())
			f.Unpin(&PinRequest{LBA: 0, Count: lbas})
		}
	})
}

// TestCheckpointCycle: what changes after its snapshot stays dirty; an attempt
// that ends brings its pages back, one that commits forgets them.
func TestCheckpointCycle(t *testing.T) {
	eachWidth(t, func(t *testing.T, width int) {
		const lbas = 5000
		f, _ := newTable(t, lbas, width)
		per := f.PageEntries()
		f.Set(0, 10)
		f.Set(3*per, 11)
		set := f.BeginCheckpoint()
		require.Equal(t, uint64(1|1<<3), set[0])
		require.Zero(t, f.DirtyPages())
		// Changed before its snapshot: that write carries it.
		f.Set(1, 12)
		require.Equal(t, uint64(1), f.DirtyPages())
		block := make([]byte, record.BlockSize)
		f.Snapshot(0, block)
		require.Zero(t, f.DirtyPages())
		// Changed after it: dirty for the next.
		f.Set(2, 13)
		f.MarkDirty(0)
		require.Equal(t, uint64(1), f.DirtyPages())
		f.AbortCheckpoint()
		require.Equal(t, uint64(2), f.DirtyPages())
		set = f.BeginCheckpoint()
		require.Equal(t, uint64(1|1<<3), set[0])
		f.Snapshot(0, block)
		f.Snapshot(3, block)
		f.EndCheckpoint()
		require.Zero(t, f.DirtyPages())
		require.Zero(t, set[0])
		f.Set(2, 14)
		set = f.BeginCheckpoint()
		require.Equal(t, uint64(1), set[0])
		f.EndCheckpoint()
	})
}

// TestSnapshotLoad copies a table page by page, the last one being short.
func TestSnapshotLoad(t *testing.T) {
	eachWidth(t, func(t *testing.T, width int) {
		const lbas = 2600
		a, _ := newTable(t, lbas, width)
		b, _ := newTable(t, lbas, width)
		rnd := rand.New(rand.NewPCG(7, 8))
		for lba := range uint64(lbas) {
			a.Set(lba, Addr(rnd.Uint64())&addrMax(width))
		}
		block := make([]byte, record.BlockSize)
		for p := range a.Pages() {
			for i := range block {
				block[i] = 0xff
			}
			a.Snapshot(p, block)
			record.SealPage(block, p, 9, 1)
			require.NoError(t, record.CheckPage(block, p, 9, 1))
			b.Load(p, block)
		}
		for lba := range uint64(lbas) {
			require.Equal(t, a.Get(lba), b.Get(lba))
		}
		// What stands behind the last entry is zero, not what was there before.
		used := (lbas - (a.Pages()-1)*a.PageEntries()) * uint64(width)
		require.Equal(t, make([]byte, record.PageBytes-used), block[record.PageHeaderSize+used:])
		require.Zero(t, a.DirtyPages())
		require.Zero(t, b.DirtyPages(), "a page that was loaded is clean")
	})
}

// TestTableSurvives: over the same memory a new table finds entries and dirty
// pages, also those of a checkpoint that was under way.
func TestTableSurvives(t *testing.T) {
	eachWidth(t, func(t *testing.T, width int) {
		const lbas = 9000
		f, mem := newTable(t, lbas, width)
		per := f.PageEntries()
		f.Set(2*per, 21)
		f.BeginCheckpoint()
		f.Set(5*per, 22)
		g := NewFlat(mem, lbas, width)
		require.Equal(t, Addr(21), g.Get(2*per))
		require.Equal(t, Addr(22), g.Get(5*per))
		require.Equal(t, uint64(1), g.DirtyPages())
		g.AbortCheckpoint()
		require.Equal(t, uint64(2), g.DirtyPages())
		require.Equal(t, uint64(1<<2|1<<5), g.BeginCheckpoint()[0])
	})
}

func TestNoAllocations(t *testing.T) {
	f, _ := newTable(t, 100_000, 4)
	block := make([]byte, record.BlockSize)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for lba := uint64(0); lba < 100_000; lba += 999 {
			f.Set(lba, f.Get(lba)+First)
		}
		f.BeginCheckpoint()
		f.Snapshot(3, block)
		f.EndCheckpoint()
	}))
}

// FuzzLoad: a page with any content is loaded as it is; addresses are judged by
// who uses them.
func FuzzLoad(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint16(1000), true)
	f.Add([]byte{}, uint16(1), false)
	f.Fuzz(func(t *testing.T, data []byte, n uint16, wide bool) {
		width := 4
		if wide {
			width = 8
		}
		lbas := uint64(n) + 1
		mem := make([]uint64, MemorySize(lbas, width)/8)
		tab := NewFlat(bytesOf(mem), lbas, width)
		block := make([]byte, record.BlockSize)
		copy(block[record.PageHeaderSize:], data)
		p := tab.Pages() - 1
		tab.Load(p, block)
		out := make([]byte, record.BlockSize)
		tab.Snapshot(p, out)
		from, to := tab.span(p)
		used := record.PageHeaderSize + (to-from)*uint64(width)
		if string(out[record.PageHeaderSize:used]) != string(block[record.PageHeaderSize:used]) {
			t.Fatal("a page comes back changed")
		}
	})
}

// bytesOf views aligned words as bytes.
func bytesOf(w []uint64) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), len(w)*8) }
