package layout

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzCompute: whatever devices are given, the layout is sound, survives its encoding and can be described; or the
// error says what is wrong.
func FuzzCompute(f *testing.F) {
	f.Add(uint64(1<<18), uint64(1<<21), uint32(0), uint32(20), uint64(0), uint64(0), uint64(0), false, uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Add(uint64(2000), uint64(9000), uint32(64), uint32(90), uint64(100), uint64(64), uint64(128), false, uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Add(uint64(0), uint64(1<<20), uint32(0), uint32(7), uint64(0), uint64(0), uint64(64), true, uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Add(uint64(1<<16), uint64(1<<20), uint32(0), uint32(7), uint64(0), uint64(0), uint64(0), true, uint64(4096), uint64(1), uint64(4), uint64(8), uint64(16000), uint64(900000))
	f.Add(uint64(1<<48), uint64(1<<48), uint32(64), uint32(1), uint64(0), uint64(16), uint64(16), false, uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, cache, base uint64, md, spare uint32, size, chunk, band uint64, noCache bool, zone, first, units, stripe, slots, usable uint64) {
		p := Params{
			CacheBlocks: cache, BaseBlocks: base, CacheMD: md, SparePct: spare, SizeBlocks: size, ChunkBlocks: chunk,
			BandBlocks: band, NoCache: noCache,
		}
		if zone != 0 {
			p.Zones = &Zones{ZoneBlocks: zone, First: first, Units: units, Stripe: stripe, BandSlots: slots, Usable: usable}
		}
		l, err := Compute(p)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NoError(t, l.Validate())
		require.True(t, size == 0 || l.LBAs == size, "%d blocks, not %d", l.LBAs, size)
		require.LessOrEqual(t, l.LBAs, base)
		b := make([]byte, EncodedSize)
		l.Encode(b)
		again, err := Decode(b)
		require.NoError(t, err)
		require.Equal(t, l.LBAs, again.LBAs)
		require.Equal(t, l.Regions, again.Regions)
		require.NotEmpty(t, l.Plan())
	})
}
