package ftl

import (
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
)

// devBlocks reads what the devices themselves counted.
func (b *bed) devBlocks(dev int) (read, written uint64) {
	v := &b.d.cache
	if dev == onBase {
		v = &b.d.base
	}
	s := v.ch.Stats()
	return s.Ops[bdev.OpRead].Bytes / 4096, s.Ops[bdev.OpWrite].Bytes / 4096
}

// TestStatistics compares what the device counts with what the model knows and
// with what the devices below counted.
func TestStatistics(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, mini.with(md))
		b.create()
		before := b.stats()
		require.Zero(t, before.WAF())
		require.Zero(t, before.WAFTotal())
		require.Zero(t, before.User)
		for i := range uint64(6) { // they fit into one chunk
			b.put(i*10, 4)
		}
		b.trims(5, 7)
		b.sync()
		b.do(OpRead, 0, 16)
		s := b.stats()
		require.Equal(t, uint64(6), s.User.Write.IOs)
		require.Equal(t, uint64(24), s.User.Write.Blocks)
		require.Equal(t, uint64(1), s.User.Read.IOs)
		require.Equal(t, uint64(16), s.User.Read.Blocks)
		require.Equal(t, [3]uint64{1, 7, 1}, [3]uint64{s.TrimIOs, s.TrimBlock, s.Flushes})
		require.Equal(t, uint64(7), s.Records)
		require.Equal(t, uint64(7), s.Acked)
		headers := uint64(6)
		if md != 0 {
			headers = 0
		}
		require.Equal(t, 24+headers+1, s.Cache[SourceUser].Write.Blocks, "data, headers, the trim record")
		require.Zero(t, s.BaseWrites()-before.BaseWrites())
		require.Equal(t, uint64(24-2), s.ValidBlocks, "trimmed: 10 and 11")
		b.stop(false)
		b.load()
		require.Zero(t, b.stats().User, "since the start")
		b.stop(false)
		b.free()
	}
}

// TestWAFIsRight: the write amplification is what the base device saw, divided
// by what users wrote; internal operations do not count as users'.
func TestWAFIsRight(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, mini.with(md))
		b.create()
		_, cache0 := b.devBlocks(onCache)
		_, base0 := b.devBlocks(onBase)
		s0 := *b.stats()
		b.fill()
		require.Empty(t, b.churn(1500, 8, 8))
		b.settleAll()
		s := b.stats()
		_, cache1 := b.devBlocks(onCache)
		_, base1 := b.devBlocks(onBase)
		user := uint64(b.gen) // every block that was ever written has a generation of its own
		require.Equal(t, user, s.User.Write.Blocks)
		require.Equal(t, base1-base0, s.BaseWrites()-s0.BaseWrites())
		require.Equal(t, cache1-cache0, s.CacheWrites()-s0.CacheWrites())
		require.InDelta(t, float64(base1-base0)/float64(user), s.WAF(), 0.02)
		require.InDelta(t, float64(base1-base0+cache1-cache0)/float64(user), s.WAFTotal(), 0.2)
		require.NotZero(t, s.Base[SourceCompaction].Write.Blocks)
		require.NotZero(t, s.Base[SourceGC].Write.Blocks)
		require.NotZero(t, s.Cache[SourceCompaction].Read.Blocks)
		require.NotZero(t, s.Base[SourceGC].Read.Blocks)
		require.NotZero(t, s.Cache[SourceL2P].Write.Blocks)
		require.NotZero(t, s.Cache[SourceMDCache].Write.Blocks)
		require.Zero(t, s.Base[SourceUser].Write.Blocks)
		require.Equal(t, b.d.Blocks(), s.ValidBlocks)
		b.stop(false)
		b.free()
	}
}

// TestSourceNames are those of the statistics.
func TestSourceNames(t *testing.T) {
	seen := map[string]bool{}
	for s := range NumSources {
		require.NotEmpty(t, s.String())
		require.False(t, seen[s.String()])
		seen[s.String()] = true
	}
	for h, want := range map[Health]string{HealthOK: "ok", HealthReadOnly: "read-only", HealthFaulted: "faulted", 9: "unknown"} {
		require.Equal(t, want, h.String())
	}
}
