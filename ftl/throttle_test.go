package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev/errinj"
)

// TestFullDeviceOverwritten: a device that is full of valid data is overwritten
// at random many times: no deadlock, a sane write amplification, and in the end
// everything is right.
func TestFullDeviceOverwritten(t *testing.T) {
	for _, md := range mdSizes {
		for _, size := range []uint64{0, 512 * 4096} { // as large as can be, and small
			g := mini.with(md)
			g.base += 16 * 64
			b := newBed(t, g)
			b.cfg.SizeBytes = size
			b.create()
			b.fill()
			b.good()
			blocks := int(b.d.Blocks())
			before := *b.stats()
			require.Empty(t, b.churn(blocks*12/4, 7, 16)) // 4 blocks a write on average
			s := b.stats()
			user := s.User.Write.Blocks - before.User.Write.Blocks
			require.Greater(t, user, uint64(blocks*10))
			waf := float64(s.BaseWrites()-before.BaseWrites()) / float64(user)
			t.Logf("md=%d, %d blocks: WAF %.2f of the base, %d throttled, %d relocated", md, blocks, waf, s.Throttled, s.Relocated)
			require.Less(t, waf, 5.0)
			require.NotZero(t, s.Relocated)
			b.good()
			b.settleAll()
			b.crashed()
			b.stopsWell()
		}
	}
}

// TestThrottlingIsSmooth: with the cache nearly full, writes are paced by what
// compaction moves, so completions follow each other without long gaps.
func TestThrottlingIsSmooth(t *testing.T) {
	for _, md := range mdSizes {
		g := geometry{cache: 128*34 + 500, base: 128 + 128*100, chunk: 128, band: 128, md: md}
		b := newBed(t, g)
		b.create()
		b.fill()
		// A base that is slower than the cache: a millisecond for each IO.
		b.rule(onBase, errinj.Rule{Action: errinj.Delay, Delay: time.Millisecond})
		require.Empty(t, b.churn(2000, 4, 32))
		last, worst, total := b.now, int64(0), 0
		start := b.now
		for range 4000 {
			b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-4), 2, false)
			for len(b.wait) >= 32 {
				n := len(b.wait)
				b.turn()
				if len(b.wait) < n {
					worst = max(worst, b.now-last)
					last = b.now
				}
				if b.now-last > 1e9 {
					require.FailNow(t, "no completions", b.state())
				}
			}
			total++
		}
		b.drainAll()
		mean := (b.now - start) / int64(total)
		t.Logf("md=%d: mean %v, worst gap %v, throttled %d", md, time.Duration(mean), time.Duration(worst), b.stats().Throttled)
		require.NotZero(t, b.stats().Throttled)
		require.Less(t, worst, int64(20*time.Millisecond), "the longest time without any completion")
		b.good()
		b.stop(false)
		b.free()
	}
}

// TestNobodySpins: while users wait for space, the thread is not kept busy by
// messages that the device sends to itself.
func TestNobodySpins(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.fill()
	b.rule(onBase, errinj.Rule{Action: errinj.Delay, Delay: 20 * time.Millisecond, Ops: writeOps})
	for range 200 {
		b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-8), 8, false)
	}
	b.pass(5 * time.Millisecond)
	busy := 0
	const turns = 500
	for range turns {
		if b.th.HasWork() {
			busy++
		}
		b.turn()
	}
	require.NotEmpty(t, b.wait)
	require.Less(t, busy, turns/10)
	b.drainAll()
	b.good()
	b.stop(false)
}
