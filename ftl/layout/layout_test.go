package layout

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const miB = 1 << 20 / BlockSize

func TestComputeSizes(t *testing.T) {
	for _, c := range []struct {
		cacheMiB, baseMiB uint64
		entry             uint32
	}{
		{64, 256, 4},
		{64, 512, 4},
		{5 << 10, 20 << 10, 4},
		{5 << 10, 400 << 10, 4},
		{100 << 10, 8 << 20, 4},
		{1 << 20, 30 << 20, 8},
		{1 << 20, 128 << 20, 8},
	} {
		t.Run(fmt.Sprintf("%d+%d", c.cacheMiB, c.baseMiB), func(t *testing.T) {
			l, err := Compute(Params{CacheBlocks: c.cacheMiB * miB, BaseBlocks: c.baseMiB * miB})
			require.NoError(t, err)
			require.NoError(t, l.Validate())
			require.Equal(t, c.entry, l.L2PEntryBytes)
			require.GreaterOrEqual(t, l.Chunks, uint64(32))
			require.GreaterOrEqual(t, l.Bands, uint64(60))
			require.Greater(t, float64(l.LBAs)/float64(l.BaseBlocks), 0.74)
			require.LessOrEqual(t, l.LBAs, (l.Bands-ReserveBands)*DataBlocks(l.BandBlocks))
			b := make([]byte, EncodedSize)
			l.Encode(b)
			got, err := Decode(b)
			require.NoError(t, err)
			require.Equal(t, l, got)
		})
	}
}

// TestComputeAny: whatever the parameters, the outcome is a valid layout or an
// error that wraps an errno.
func TestComputeAny(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	made := 0
	for range 20000 {
		p := Params{
			CacheBlocks: 1 << rng.UintN(50), BaseBlocks: 1 << rng.UintN(50), CacheMD: rng.Uint32N(128),
			SparePct: rng.Uint32N(101), BandBlocks: 1 << rng.UintN(24), ChunkBlocks: 1 << rng.UintN(24),
		}
		p.CacheBlocks += rng.Uint64N(p.CacheBlocks)
		p.BaseBlocks += rng.Uint64N(p.BaseBlocks)
		if rng.IntN(2) == 0 {
			p.BandBlocks = 0
		}
		if rng.IntN(2) == 0 {
			p.ChunkBlocks = 0
		}
		if rng.IntN(2) == 0 {
			p.SizeBlocks = rng.Uint64N(p.BaseBlocks)
		}
		if p.NoCache = rng.IntN(3) == 0; p.NoCache && rng.IntN(2) == 0 {
			p.CacheBlocks = 0
		}
		if rng.IntN(3) == 0 {
			z := &Zones{ZoneBlocks: 1 << rng.UintN(22), Units: rng.Uint64N(70), Stripe: 1 << rng.UintN(6), First: rng.Uint64N(20)}
			z.BandSlots = rng.Uint64N(z.ZoneBlocks*z.Units+1) / z.Stripe * z.Stripe
			z.Usable = rng.Uint64N(p.BaseBlocks)
			p.Zones = z
		}
		l, err := Compute(p)
		if err != nil {
			var errno unix.Errno
			require.ErrorAs(t, err, &errno, "%+v", p)
			continue
		}
		made++
		require.NoError(t, l.Validate())
		if p.SizeBlocks != 0 {
			require.Equal(t, p.SizeBlocks, l.LBAs)
		}
	}
	require.Greater(t, made, 1000)
}

func TestComputeTiny(t *testing.T) {
	l, err := Compute(Params{CacheBlocks: 512, BaseBlocks: 1024, ChunkBlocks: 32, BandBlocks: 32})
	require.NoError(t, err)
	require.Equal(t, uint64(31), l.Bands)
	require.Equal(t, uint64(32), l.Region(RegionBands).Offset)
	require.GreaterOrEqual(t, l.Chunks, uint64(10))
}

func TestComputeRefuses(t *testing.T) {
	ok := Params{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB}
	for name, c := range map[string]struct {
		change func(p *Params)
		is     error
		says   string
	}{
		"chunk not a power of two": {func(p *Params) { p.ChunkBlocks = 100 }, ErrInvalid, "chunk blocks is 100"},
		"band too small":           {func(p *Params) { p.BandBlocks = 8 }, ErrInvalid, "band blocks is 8"},
		"spare":                    {func(p *Params) { p.SparePct = 91 }, ErrInvalid, "spare is 91 %"},
		"no cache":                 {func(p *Params) { p.CacheBlocks = 0 }, ErrTooSmall, "no cache device"},
		"cache":                    {func(p *Params) { p.CacheBlocks = 8 * miB }, ErrTooSmall, "the cache of 8 MiB does not hold"},
		"base":                     {func(p *Params) { p.BaseBlocks = 9 * miB }, ErrTooSmall, "it needs 12, which is 25 MiB"},
		"size":                     {func(p *Params) { p.SizeBlocks = 256 * miB }, ErrNoSpace, "256 MiB wanted"},
		"huge":                     {func(p *Params) { p.BaseBlocks = 1 << 60 }, ErrInvalid, "a device of more than 1 EiB"},
		"band size on zones":       {func(p *Params) { p.Zones, p.BandBlocks = testZones(), 64 }, ErrInvalid, "leave band blocks"},
		"units":                    {func(p *Params) { p.Zones = testZones(); p.Zones.Units = 65 }, ErrInvalid, "number of zones in a band is 65"},
		"huge zones":               {func(p *Params) { p.Zones = testZones(); p.Zones.ZoneBlocks = 1 << 21 }, ErrInvalid, "zone size in blocks"},
		"huge bands":               {func(p *Params) { p.Zones = testZones(); p.Zones.ZoneBlocks, p.Zones.Units = 1<<18, 5 }, ErrInvalid, "use fewer units"},
		"stripe":                   {func(p *Params) { p.Zones = testZones(); p.Zones.BandSlots-- }, ErrInvalid, "a multiple of the stripe"},
		"few zones":                {func(p *Params) { p.Zones = testZones(); p.Zones.Usable = 11 * p.Zones.BandSlots }, ErrTooSmall, "smaller zones"},
		"no conventional zones": {
			func(p *Params) { p.Zones, p.NoCache, p.CacheBlocks = testZones(), true, 0 }, ErrTooSmall,
			"name a small conventional device",
		},
		"small metadata device": {
			func(p *Params) { p.Zones, p.NoCache, p.CacheBlocks = testZones(), true, 20 }, ErrTooSmall,
			"the metadata device of 80 KiB is too small",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := ok
			c.change(&p)
			_, err := Compute(p)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// testZones are 64 zones of 4 MiB, of which 3 MiB can be used, in pairs.
func testZones() *Zones {
	return &Zones{ZoneBlocks: 4 * miB, Units: 2, Stripe: 16, BandSlots: 6 * miB, Usable: 32 * 6 * miB}
}

// TestZonedAndAlone: the base types and where their metadata lies.
func TestZonedAndAlone(t *testing.T) {
	conv := testZones()
	conv.First, conv.Usable = 4, 30*6*miB
	for name, c := range map[string]struct {
		p      Params
		mirror uint64
		on     Dev
		meta   Dev
	}{
		"zoned base":               {Params{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB, Zones: testZones()}, 64*miB - 1, DevCache, DevCache},
		"no cache":                 {Params{BaseBlocks: 256 * miB, NoCache: true}, 256*miB - 1, DevBase, DevBase},
		"no cache, metadata apart": {Params{CacheBlocks: 8 * miB, BaseBlocks: 256 * miB, NoCache: true}, 0, DevBase, DevCache},
		"zoned, metadata apart":    {Params{CacheBlocks: 8 * miB, BaseBlocks: 256 * miB, NoCache: true, Zones: testZones()}, 8*miB - 1, DevCache, DevCache},
		"conventional zones":       {Params{BaseBlocks: 256 * miB, NoCache: true, Zones: conv}, 16*miB - 1, DevBase, DevBase},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Compute(c.p)
			require.NoError(t, err)
			require.Equal(t, c.mirror, l.Region(RegionSBMirror).Offset)
			require.Equal(t, c.on, l.Region(RegionSBMirror).Dev)
			require.Equal(t, c.meta, l.MetaDev())
			require.Equal(t, c.meta, l.Region(RegionL2PSlot0).Dev)
			require.Equal(t, c.p.NoCache, l.Chunks == 0)
			require.Equal(t, c.p.Zones != nil, l.Zoned())
			if z := c.p.Zones; z != nil {
				require.Equal(t, uint64(8*miB), l.BandBlocks)
				require.Equal(t, z.BandSlots, l.BandSlots)
				require.Equal(t, z.First*z.ZoneBlocks, l.Region(RegionBands).Offset)
			}
			b := make([]byte, EncodedSize)
			l.Encode(b)
			back, err := Decode(b)
			require.NoError(t, err)
			require.Equal(t, l, back)
		})
	}
}

// TestWhatWouldDo: the sizes that refusals name are sufficient.
func TestWhatWouldDo(t *testing.T) {
	_, err := Compute(Params{CacheBlocks: 64 * miB, BaseBlocks: 25 * miB})
	require.NoError(t, err)
	for want := uint64(300 * miB); want < 200000*miB; want += want/7 + 11 {
		p := Params{CacheBlocks: 8192 * miB, BaseBlocks: want, SizeBlocks: want}
		_, err = Compute(p)
		require.ErrorIs(t, err, ErrNoSpace)
		l, err := Compute(Params{CacheBlocks: p.CacheBlocks, BaseBlocks: want})
		require.NoError(t, err)
		p.BaseBlocks = l.baseFor(want)
		_, err = Compute(p)
		require.NoError(t, err)
	}
}

func TestSummaryBlocks(t *testing.T) {
	for seg := uint64(2); seg < 20000; seg++ {
		n := SummaryBlocks(seg)
		require.GreaterOrEqual(t, n*SummaryEntries, seg-n)
		if n > 1 {
			require.Less(t, (n-1)*SummaryEntries, seg-(n-1))
		}
	}
}

// TestWAUniform compares with the table of W in the inventory.
func TestWAUniform(t *testing.T) {
	for spare, want := range map[float64]float64{7: 7.32, 10: 5.18, 20: 2.69, 28: 1.99, 40: 1.48, 50: 1.26} {
		require.InDelta(t, want, WAUniform(1/(1-spare/100)), 0.011, "spare %v", spare)
	}
	require.True(t, math.IsInf(WAUniform(1), 1))
	require.True(t, math.IsInf(WAUniform(math.NaN()), 1))
}

func TestDecodeRefuses(t *testing.T) {
	l, err := Compute(Params{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB, CacheMD: 64})
	require.NoError(t, err)
	good := make([]byte, EncodedSize)
	l.Encode(good)
	region := func(t RegionType) int { return encHeader + int(t)*encRegion }
	for name, c := range map[string]struct {
		change func(b []byte)
		is     error
		says   string
	}{
		"newer layout":   {func(b []byte) { le.PutUint32(b[0:], Version+1) }, ErrNewer, "layout version 2"},
		"newer region":   {func(b []byte) { le.PutUint32(b[region(RegionBandMD)+4:], 9) }, ErrNewer, "region band_md has version 9"},
		"version 0":      {func(b []byte) { le.PutUint32(b[0:], 0) }, ErrInvalid, "version 0"},
		"regions":        {func(b []byte) { le.PutUint32(b[4:], 3) }, ErrInvalid, "3 regions"},
		"flags":          {func(b []byte) { le.PutUint32(b[92:], 8) }, ErrInvalid, "unknown flags"},
		"overlap":        {func(b []byte) { le.PutUint64(b[region(RegionL2PSlot1)+16:], l.Region(RegionL2PSlot0).Offset) }, ErrInvalid, "l2p_slot0 and l2p_slot1 overlap"},
		"outside":        {func(b []byte) { le.PutUint64(b[region(RegionChunks)+16:], 1<<63) }, ErrInvalid, "outside the cache"},
		"wrap":           {func(b []byte) { le.PutUint64(b[region(RegionChunks)+16:], math.MaxUint64) }, ErrInvalid, "outside the cache"},
		"region size":    {func(b []byte) { le.PutUint64(b[region(RegionChunkMD)+24:], 1) }, ErrInvalid, "chunk_md: size is 1"},
		"type":           {func(b []byte) { b[region(RegionChunkMD)] = byte(RegionBandMD) }, ErrInvalid, "out of place"},
		"type range":     {func(b []byte) { b[region(RegionChunkMD)] = 200 }, ErrInvalid, "out of place"},
		"device":         {func(b []byte) { b[region(RegionChunkMD)+1] = 1 }, ErrInvalid, "device is base"},
		"mirror":         {func(b []byte) { b[region(RegionChunkMD)+2] = 77 }, ErrInvalid, "mirror is unknown"},
		"bands":          {func(b []byte) { le.PutUint64(b[40:], math.MaxUint64) }, ErrInvalid, "number of bands"},
		"chunk blocks":   {func(b []byte) { le.PutUint64(b[16:], 0) }, ErrInvalid, "chunk size"},
		"lbas":           {func(b []byte) { le.PutUint64(b[8:], math.MaxUint64) }, ErrInvalid, "number of logical blocks"},
		"l2p entry":      {func(b []byte) { le.PutUint32(b[48:], 5) }, ErrInvalid, "L2P entry size"},
		"cache size":     {func(b []byte) { le.PutUint64(b[72:], 0) }, ErrInvalid, "cache size"},
		"sb not at 0":    {func(b []byte) { le.PutUint64(b[region(RegionSB)+16:], 7) }, ErrInvalid, "sb: offset is 7"},
		"region version": {func(b []byte) { le.PutUint32(b[region(RegionSB)+4:], 0) }, ErrInvalid, "version is 0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := append([]byte(nil), good...)
			c.change(b)
			_, err := Decode(b)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err = Decode(good[:100])
	require.ErrorIs(t, err, ErrInvalid)
}

func TestUpgradeChain(t *testing.T) {
	l, err := Compute(Params{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB})
	require.NoError(t, err)
	target := CurrentVersions()
	chain := []Step[string]{
		{RegionChunkMD, 2, 3, "chunk 2-3"},
		{RegionBandMD, 1, 2, "band 1-2"},
		{RegionChunkMD, 1, 2, "chunk 1-2"},
		{RegionSB, 1, 9, "jump"},
	}
	plan, err := PlanUpgrade(l, target, chain)
	require.NoError(t, err)
	require.Empty(t, plan, "a current layout needs nothing")

	target[RegionChunkMD], target[RegionBandMD] = 3, 2
	plan, err = PlanUpgrade(l, target, chain)
	require.NoError(t, err)
	var names []string
	for _, s := range plan {
		names = append(names, s.Apply)
	}
	require.Equal(t, []string{"chunk 1-2", "chunk 2-3", "band 1-2"}, names)

	l.Region(RegionChunkMD).Version = 2 // interrupted after the first step
	plan, err = PlanUpgrade(l, target, chain)
	require.NoError(t, err)
	require.Len(t, plan, 2)

	l.Region(RegionChunkMD).Version = 4
	_, err = PlanUpgrade(l, target, chain)
	require.ErrorIs(t, err, ErrNewer, "no downgrade")

	l.Region(RegionChunkMD).Version = 3
	target[RegionL2PSlot0] = 2
	_, err = PlanUpgrade(l, target, chain)
	require.ErrorContains(t, err, "no upgrade of region l2p_slot0 from version 1 to 2")

	target[RegionL2PSlot0], target[RegionSB] = 0, 5
	_, err = PlanUpgrade(l, target, chain)
	require.ErrorContains(t, err, "leads from version 1 to 9")
}

// TestPlan compares the text that people read before a device is created;
// -rewrite writes it anew.
func TestPlan(t *testing.T) {
	datadriven.RunTest(t, "testdata/plan", func(t *testing.T, td *datadriven.TestData) string {
		var cache, base, size uint64
		p := Params{}
		td.ScanArgs(t, "cache", &cache)
		td.ScanArgs(t, "base", &base)
		td.MaybeScanArgs(t, "size", &size)
		td.MaybeScanArgs(t, "spare", &p.SparePct)
		td.MaybeScanArgs(t, "md", &p.CacheMD)
		p.CacheBlocks, p.BaseBlocks, p.SizeBlocks = cache*miB, base*miB, size*miB
		l, err := Compute(p)
		if err != nil {
			return err.Error() + "\n"
		}
		return l.Plan()
	})
}

func FuzzDecode(f *testing.F) {
	for _, p := range []Params{
		{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB},
		{CacheBlocks: 512, BaseBlocks: 1024, ChunkBlocks: 32, BandBlocks: 32, CacheMD: 64},
		{CacheBlocks: 64 * miB, BaseBlocks: 256 * miB, Zones: testZones()},
		{BaseBlocks: 256 * miB, NoCache: true},
	} {
		l, err := Compute(p)
		require.NoError(f, err)
		b := make([]byte, EncodedSize)
		l.Encode(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Decode(b)
		if err != nil {
			return
		}
		again := make([]byte, EncodedSize)
		l.Encode(again)
		back, err := Decode(again)
		require.NoError(t, err)
		require.Equal(t, l, back)
		_ = l.Plan()
	})
}
