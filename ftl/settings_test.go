package ftl

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
)

// TestI1Defaults: the defaults are those of the inventory.
func TestI1Defaults(t *testing.T) {
	c, err := Config{}.Tuned()
	require.NoError(t, err)
	require.Equal(t, "5:0,10:5,20:40,40:100", c.Limits.User.String())
	require.Equal(t, 10, c.Limits.InvalidPct)
	require.Equal(t, 90, c.BandThresholdPct)
	require.Equal(t, 128, c.MaxIOChannels)
	require.Equal(t, []int{8, 2, 4096}, []int{c.MoveDepth, c.MoveSegments, c.UserIOPool})
	require.EqualValues(t, 6<<20, c.WriteBufferBytes)
}

// TestI2Validation: what is wrong is named with its value and what would do.
func TestI2Validation(t *testing.T) {
	for field, c := range map[string]Config{
		"SparePct":                   {SparePct: 100},
		"Policy":                     {Policy: 7},
		"RedoLimitBytes":             {RedoLimitBytes: 4096},
		"MaxIOChannels":              {MaxIOChannels: 5000},
		"BandThresholdPct":           {BandThresholdPct: 101},
		"MoveDepth":                  {MoveDepth: 65},
		"MoveSegments":               {MoveSegments: -1},
		"UserIOPool":                 {UserIOPool: 1 << 17},
		"ZoneStripeBlocks":           {ZoneStripeBlocks: 1025},
		"Limits.ThrottlePct":         {Limits: Limits{ThrottlePct: 100}},
		"Limits.CheckpointPct":       {Limits: Limits{CheckpointPct: 60}},
		"Limits.CriticalPct":         {Limits: Limits{CriticalPct: 30}},
		"Limits.CompactPct":          {Limits: Limits{CompactPct: -1}},
		"Limits.RelocatePct":         {Limits: Limits{RelocatePct: 100}},
		"Limits.InvalidPct":          {Limits: Limits{InvalidPct: 100}},
		"Limits.User.Start.Pct":      {Limits: Limits{User: UserLimits{UserLimit{5, 0}, UserLimit{10, 5}, UserLimit{20, 40}, UserLimit{40, 101}}}},
		"Limits.User.Low.Bands":      {Limits: Limits{User: UserLimits{UserLimit{5, 0}, UserLimit{10, 5}, UserLimit{10, 40}, UserLimit{40, 100}}}},
		"Limits.User.High.Pct":       {Limits: Limits{User: UserLimits{UserLimit{5, 6}, UserLimit{10, 5}, UserLimit{20, 40}, UserLimit{40, 100}}}},
		"Limits.User.Critical.Bands": {Limits: Limits{User: UserLimits{UserLimit{0, 0}, UserLimit{10, 5}, UserLimit{20, 40}, UserLimit{40, 100}}}},
	} {
		_, err := c.Tuned()
		require.ErrorIs(t, err, unix.EINVAL, field)
		var fe *FieldError
		require.True(t, errors.As(err, &fe), field)
		require.ErrorContains(t, err, "config field "+field+": ")
		_, err = c.Settings(nil)
		require.Error(t, err)
	}
}

func TestParseUserLimits(t *testing.T) {
	u, err := ParseUserLimits("5:0,10:5,20:40,40:100")
	require.NoError(t, err)
	require.Equal(t, defaultUser, u)
	require.Equal(t, "5:0,10:5,20:40,40:100", fmt.Sprint(u))
	for _, bad := range []string{"", "5:0", "5:0,10:5,20:40,40", "a:0,10:5,20:40,40:100", "5:0,10:5,20:40,40:100,50:100", "5:,10:5,20:40,40:100"} {
		_, err := ParseUserLimits(bad)
		require.ErrorIs(t, err, unix.EINVAL, bad)
		require.ErrorContains(t, err, "5:0,10:5,20:40,40:100", bad)
	}
}

// TestI6Settings: every field that tunes a device says what it comes to, and
// only where it has a meaning.
func TestI6Settings(t *testing.T) {
	fields := func(p layout.Params) map[string]string {
		l, err := layout.Compute(p)
		require.NoError(t, err)
		list, err := Config{ZoneAppend: true}.Settings(l)
		require.NoError(t, err)
		m := map[string]string{}
		for _, s := range list {
			require.NotEmpty(t, s.Value, s.Field)
			m[s.Field] = s.Meaning
		}
		return m
	}
	cached := fields(layout.Params{CacheBlocks: 1 << 16, BaseBlocks: 1 << 19})
	for _, field := range []string{"Limits.ThrottlePct", "MoveDepth", "MoveSegments", "UserIOPool"} {
		require.Contains(t, cached, field)
	}
	require.NotContains(t, cached, "Limits.User")
	require.NotContains(t, cached, "ZoneAppend")
	alone := fields(layout.Params{NoCache: true, BaseBlocks: 1 << 19})
	require.NotContains(t, alone, "Limits.ThrottlePct")
	require.Contains(t, alone["Limits.User"], "100 %")
	zones := layout.Zones{ZoneBlocks: 1 << 12, Units: 2, Stripe: 16, First: 1, BandSlots: 1 << 13, Usable: 1 << 18}
	zoned := fields(layout.Params{NoCache: true, BaseBlocks: 1<<12 + 1<<18, Zones: &zones})
	require.Contains(t, zoned["ZoneAppend"], "append")
	require.Contains(t, zoned, "ZoneUnits")
	require.Contains(t, zoned, "ZoneStripeBlocks")
}

// TestMoveDepthAndSegments: what is on its way keeps to the limits, and uses
// them.
func TestMoveDepthAndSegments(t *testing.T) {
	for _, c := range []struct{ depth, segments int }{{1, 1}, {2, 2}, {64, 16}} {
		b := newBed(t, geometry{cache: 128*34 + 500, base: 128 + 128*100, chunk: 128, band: 128})
		b.cfg.MoveDepth, b.cfg.MoveSegments = c.depth, c.segments
		b.cfg.Limits.CompactPct = 90
		b.create()
		drains := map[*mover]int{}
		b.step = func(int) {
			for _, m := range []*mover{&b.d.compaction, &b.d.gc} {
				drains[m] = max(drains[m], len(m.drains))
			}
		}
		b.fill()
		require.Empty(t, b.churn(int(b.d.Blocks())/2, 16, 16))
		b.settleAll()
		require.NotZero(t, b.stats().Relocated)
		for _, m := range []*mover{&b.d.compaction, &b.d.gc} {
			t.Logf("%d records, %d segments: %s had %d and %d", c.depth, c.segments, m.name, len(m.ops), drains[m])
			require.LessOrEqual(t, len(m.ops), c.depth, m.name)
			require.LessOrEqual(t, drains[m], c.segments, m.name)
		}
		require.GreaterOrEqual(t, len(b.d.compaction.ops), min(c.depth, 2*c.segments, 9))
		require.GreaterOrEqual(t, drains[&b.d.compaction], min(c.segments, 5))
		b.good()
		b.stop(false)
	}
}
