package ftl

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// ask asks for extents and checks the answer against the model as it is when the
// answer comes: no block whose content was acknowledged is a hole.
func (b *bed) ask(lba, n uint64) *call {
	c := b.submit(OpExtents, lba, n, false)
	c.req.Done = func(r *Request) {
		b.finished(c)
		require.NoError(b.t, r.Err)
		b.eachExtent(c, func(lba uint64, hole bool) {
			zero := b.cur[lba]&zeroed != 0
			for _, g := range b.also[lba] {
				zero = zero || g&zeroed != 0
			}
			require.True(b.t, zero || !hole, "lba %d", lba)
		})
	}
	return c
}

// eachExtent calls f for the blocks of an answer, whose form it checks, and
// returns how many those are.
func (b *bed) eachExtent(c *call, f func(lba uint64, hole bool)) uint64 {
	r := &c.req
	require.True(b.t, r.Filled > 0 && r.Filled <= len(r.Extents))
	lba := r.LBA
	for i, e := range r.Extents[:r.Filled] {
		require.NotZero(b.t, e.Blocks)
		require.True(b.t, i == 0 || e.Hole != r.Extents[i-1].Hole, "neighbours differ")
		for range e.Blocks {
			f(lba, e.Hole)
			lba++
		}
	}
	require.LessOrEqual(b.t, lba, r.LBA+r.Count)
	return lba - r.LBA
}

// holes compares the whole device, at rest, with the model.
func (b *bed) holes() (count int) {
	b.t.Helper()
	b.drainAll()
	for lba := uint64(0); lba < b.d.Blocks(); {
		c := b.ask(lba, b.d.Blocks()-lba)
		b.drainAll()
		lba += b.eachExtent(c, func(lba uint64, hole bool) {
			require.Equal(b.t, b.cur[lba]&zeroed != 0, hole, "lba %d", lba)
			if hole {
				count++
			}
		})
	}
	return count
}

// TestExtents: what was never written or was trimmed is a hole, and nothing else;
// with requests under way, across compaction, restarts and crashes.
func TestExtents(t *testing.T) {
	short := mini
	short.buffer = 64
	for name, g := range map[string]geometry{
		"cache": mini, "buffered": short, "zoned": zonedTiny(tiny), "alone": bases()["no cache alone"],
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			b.d.asked.scan = 100
			require.EqualValues(t, b.d.Blocks(), b.holes(), "a new device has nothing")
			for i := range 3000 {
				n := 1 + b.rnd.Uint64N(min(200, b.d.Blocks()-1))
				lba := b.rnd.Uint64N(b.d.Blocks() - n + 1)
				switch b.rnd.IntN(6) {
				case 0:
					b.submit(OpTrim, lba, n, false)
				case 1, 2:
					b.ask(lba, n)
				default:
					b.submit(OpWrite, lba, min(n, 8), b.rnd.IntN(8) == 0)
				}
				b.until("room", func() bool { return len(b.wait) < 12 })
				if i%500 == 499 {
					holes := b.holes()
					require.True(t, holes > 0 && holes < int(b.d.Blocks()), "%d holes", holes)
				}
			}
			b.holes()
			b.restart()
			b.holes()
			b.stop(false)
			b.free()
		})
	}
}

// TestExtentsInTurns: a long question does not hold up the thread, and many do
// not either.
func TestExtentsInTurns(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	require.EqualValues(t, maxExtentScan, b.d.asked.scan)
	b.d.asked.scan = 64
	calls := []*call{}
	for range 20 {
		c := b.ask(0, b.d.Blocks())
		c.req.Extents = c.req.Extents[:1]
		calls = append(calls, c)
	}
	for i, c := range calls {
		require.False(t, c.done, "one of these a turn")
		b.until("answer", func() bool { return c.done })
		require.Equal(t, bdev.Extent{Blocks: 64, Hole: true}, c.req.Extents[0])
		if i+1 < len(calls) {
			require.False(t, calls[i+1].done)
		}
	}
	b.end()
}

// TestExtentsOfLostBlocks: what reads as an error is no hole.
func TestExtentsOfLostBlocks(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.d.table.Set(5, 1)
	c := b.submit(OpExtents, 4, 3, false)
	c.req.Extents = make([]bdev.Extent, 5)
	b.drainAll()
	require.NoError(t, c.req.Err)
	require.Equal(t, []bdev.Extent{{Blocks: 1, Hole: true}, {Blocks: 1}, {Blocks: 1, Hole: true}}, c.req.Extents[:c.req.Filled])
	b.d.table.Set(5, 0)

	for _, bad := range []Request{
		{LBA: 0, Count: b.d.Blocks() + 1},
		{LBA: b.d.Blocks(), Count: 1},
		{LBA: 0, Count: 0},
		{LBA: 0, Count: 1, Extents: nil},
	} {
		done := false
		bad.Op, bad.Done = OpExtents, func(*Request) { done = true }
		if bad.Count != 1 || bad.LBA != 0 {
			bad.Extents = make([]bdev.Extent, 1)
		}
		b.d.Submit(&bad)
		b.until("refusal", func() bool { return done })
		require.ErrorIs(t, bad.Err, unix.EINVAL)
	}
	b.end()
}
