package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
)

// stranded makes a full device of which every free band has lost its zones.
func stranded(t *testing.T, change func(g *geometry)) *bed {
	g := zonedTiny(tiny)
	change(&g)
	b := newBed(t, g)
	b.create()
	b.fill()
	require.Empty(t, b.churn(300, 4, 8))
	b.settleAll()
	for i := range b.d.segs {
		if s := &b.d.segs[i]; s.band && s.state == segFree {
			for u := range uint64(2) {
				require.NoError(t, b.zoned.SetZoneState(uint64(s.id)*2+u, bdev.ZoneOffline))
			}
		}
	}
	b.until("none counts as free", func() bool { return b.d.freeBands.n == 0 })
	return b
}

// TestDetour: relocation that has no band to begin with goes through the log, and
// has bands again afterwards. Users notice nothing, and a crash at any moment is
// survived.
func TestDetour(t *testing.T) {
	for name, change := range map[string]func(g *geometry){
		"headers":  func(*geometry) {},
		"metadata": func(g *geometry) { g.md = 64 },
		"volatile": func(g *geometry) { g.volatile, g.lag = true, 30*time.Microsecond },
		"buffered": func(g *geometry) { g.buffer = 16 },
	} {
		t.Run(name, func(t *testing.T) {
			b := stranded(t, change)
			if b.geo.buffer == 0 {
				b.crashEvery(50)
			}
			require.Empty(t, b.churn(1200, 4, 8))
			require.NotZero(t, b.stats().Detoured)
			b.settleAll()
			b.mustBe(HealthOK)
			b.good()
			s := b.stats()
			require.Greater(t, s.FreeBands+s.QuarantinedBands, uint64(b.d.lim.gcReserve), "space is won again")
			require.NotZero(t, s.Cache[SourceGC].Write.Blocks, "what is on a detour is not counted as a user's")
			require.NoError(t, b.d.CheckInvariants())
			b.stopsWell()
		})
	}
}

// TestDetourThatFails: the cache has no space, or fails, just when relocation
// goes through it. What is on the detour is still where it was, or is written
// again elsewhere.
func TestDetourThatFails(t *testing.T) {
	for _, err := range []unix.Errno{unix.ENOSPC, unix.EIO} {
		t.Run(err.Error(), func(t *testing.T) {
			b := stranded(t, func(g *geometry) { g.lag = 30 * time.Microsecond })
			from, to := b.chunksOf()
			faults, hit := 0, 0
			look := func() bool {
				if b.d.log_.under == 0 && b.d.stranded() && b.d.mayDetour() && faults < 3 {
					faults++ // the next record is the detour
					b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: err, Ops: writeOps, From: from, To: to, Count: 1})
				}
				if b.d.gc.blocked {
					hit++ // its record is void
				}
				for _, r := range b.d.log_.ring {
					if r != nil && r.move != nil && r.rehomed > 0 {
						hit++
					}
				}
				return len(b.wait) < 8
			}
			for range 900 {
				b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-3), 3, false)
				b.until("room", look)
			}
			b.drainAll()
			require.NotZero(t, hit)
			b.heal()
			b.pass(time.Second)
			require.Empty(t, b.churn(300, 4, 8))
			require.NotZero(t, b.stats().Detoured)
			b.settleAll()
			b.mustBe(HealthOK)
			b.good()
			b.stopsWell()
		})
	}
}

// TestDetourOfASmallerBand: the log has no room for the bands that relocation has
// begun with. It takes one that fits before them.
func TestDetourOfASmallerBand(t *testing.T) {
	b := stranded(t, func(g *geometry) { g.chunk, g.cache = 16, g.cache+64 })
	d := b.d
	var held []uint32
	hold := func() bool {
		for d.gc.waiting != nil && d.freeChunks.n > 0 && d.stats.Detoured == 0 {
			held = append(held, d.freeChunks.pop())
		}
		return len(b.wait) < 8
	}
	for i := 0; len(held) == 0 && i < 3000; i++ {
		b.submit(OpWrite, b.rnd.Uint64N(d.Blocks()-3), 3, false)
		b.until("room", hold)
	}
	require.NotEmpty(t, held)
	b.drainAll()
	require.True(t, d.gc.waiting != nil && d.freeBands.n == 0)
	require.Zero(t, d.stats.Detoured)
	require.False(t, d.detourFits())
	require.Nil(t, d.detourVictim())
	// All but two blocks of some full band are trimmed.
	idx := d.lay.Chunks
	for d.segs[idx].state != segFull || d.segs[idx].draining {
		idx++
	}
	left := 2
	for lba := range d.Blocks() {
		if a := d.table.Get(lba); a >= 2 {
			if at, _ := d.segOf(a); uint64(at) != idx {
				continue
			}
			if left--; left < 0 {
				b.submit(OpTrim, lba, 1, false)
			}
		}
	}
	b.drainAll()
	b.until("the small band is empty", func() bool { hold(); return d.valid[idx] == 0 })
	for _, i := range held {
		d.freeChunks.push(i)
	}
	d.wake()
	require.Empty(t, b.churn(600, 4, 8))
	require.NotZero(t, d.stats.Detoured)
	b.settleAll()
	b.mustBe(HealthOK)
	b.good()
	b.stopsWell()
}

// TestStrandedBesideCompaction: relocation that is stranded gives no credit, so
// compaction does not wait for any.
func TestStrandedBesideCompaction(t *testing.T) {
	b := stranded(t, func(g *geometry) { g.chunk, g.cache = 16, g.cache+64 })
	d := b.d
	for range 3000 {
		b.submit(OpWrite, b.rnd.Uint64N(d.Blocks()-3), 3, false)
		b.until("room", func() bool { return d.stranded() || len(b.wait) < 8 })
		if d.stranded() {
			break
		}
	}
	require.True(t, d.stranded())
	d.compaction.credit = 0
	require.False(t, d.held(&d.compaction))
	b.drainAll()
	b.settleAll()
	b.mustBe(HealthOK)
	b.good()
	b.stopsWell()
}
