package tune

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/ftl"
	"goftl/ftl/layout"
)

func parse(t *testing.T, args ...string) (ftl.Config, error) {
	t.Helper()
	var f Flags
	var c ftl.Config
	s := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(s)
	require.NoError(t, s.Parse(args))
	return c, func() error { return f.Apply(&c) }()
}

// TestDefaults: without flags a config is what an empty one comes to.
func TestDefaults(t *testing.T) {
	var f Flags
	s := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(s)
	for _, name := range Names() {
		require.NotNil(t, s.Lookup(name), name)
	}
	var c ftl.Config
	require.NoError(t, f.Apply(&c))
	want, err := ftl.Config{}.Tuned()
	require.NoError(t, err)
	got, err := c.Tuned()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestValues(t *testing.T) {
	var f Flags
	s := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(s)
	require.NoError(t, s.Parse([]string{
		"--zone-units=2", "--zone-append", "--chunk-size=1MiB", "--band-size=2MiB", "--band-threshold=80", "--limit-user=1:0,2:10,3:50,4:90",
		"--limit-throttle=11", "--limit-checkpoint=21", "--limit-critical=6", "--limit-compact=51", "--limit-relocate=7", "--limit-invalid=12",
		"--policy=greedy", "--redo-limit=64MiB", "--checksum-memory=1MiB", "--max-channels=9",
		"--zone-stripe=256KiB", "--move-depth=16", "--move-segments=3", "--io-pool=100",
	}))
	var c ftl.Config
	require.NoError(t, f.Apply(&c))
	user, err := ftl.ParseUserLimits("1:0,2:10,3:50,4:90")
	require.NoError(t, err)
	require.Equal(t, ftl.Config{
		ZoneUnits: 2, ZoneAppend: true, ChunkBlocks: 256, BandBlocks: 512, BandThresholdPct: 80,
		Limits: ftl.Limits{
			ThrottlePct: 11, CheckpointPct: 21, CriticalPct: 6, CompactPct: 51, RelocatePct: 7, InvalidPct: 12, User: user,
		},
		Policy: ftl.PolicyGreedy, RedoLimitBytes: 64 << 20, SumCacheBytes: 1 << 20, MaxIOChannels: 9,
		MoveDepth: 16, MoveSegments: 3, UserIOPool: 100, ZoneStripeBlocks: 64,
	}, c)
}

// TestI2Errors: an error names the flag, the value and what would do.
func TestI2Errors(t *testing.T) {
	for args, says := range map[string]string{
		"--limit-throttle=0":                 "--limit-throttle 0: must be positive",
		"--limit-throttle=100":               "--limit-throttle 100: is 100, must be 1 to 99",
		"--limit-critical=50":                "--limit-critical 50: must not exceed --limit-checkpoint",
		"--limit-user=5:0":                   "four are needed",
		"--limit-user=5:0,10:5,20:40,40:400": "start pct is 400, must be 0 to 100",
		"--limit-user=5:0,10:5,7:40,40:100":  "low bands is 7, must be more than the limit below (10)",
		"--policy=best":                      "--policy best: use cost-benefit or greedy",
		"--redo-limit=4096":                  "--redo-limit 4096: at least 1 MiB",
		"--redo-limit=x":                     "--redo-limit: size",
		"--chunk-size=1000":                  "--chunk-size: 1000 must be a positive multiple of 4KiB",
		"--band-threshold=101":               "--band-threshold 101: is 101, must be 1 to 100",
		"--max-channels=5000":                "--max-channels 5000: is 5000, must be 1 to 4096",
		"--move-depth=65":                    "--move-depth 65: is 65, must be 1 to 64",
		"--move-depth=0":                     "--move-depth 0: must be positive",
		"--move-segments=17":                 "--move-segments 17: is 17, must be 1 to 16",
		"--io-pool=-1":                       "--io-pool -1: is -1, must be 1 to 65536",
		"--zone-stripe=8MiB":                 "--zone-stripe 8MiB: is 2048, must be 1 to 1024",
		"--zone-units=0":                     "--zone-units 0: must be positive",
	} {
		_, err := parse(t, args)
		require.ErrorContains(t, err, says, args)
		require.ErrorIs(t, err, unix.EINVAL, args)
	}
}

func TestText(t *testing.T) {
	l, err := layout.Compute(layout.Params{NoCache: true, BaseBlocks: 1 << 19})
	require.NoError(t, err)
	text, err := Text(&ftl.Config{}, l)
	require.NoError(t, err)
	for _, words := range []string{"limit-user", "band-threshold", "90 %", "redo-limit", "4 GiB", "max-channels", "move-depth", "move-segments", "io-pool"} {
		require.Contains(t, text, words)
	}
	require.NotContains(t, text, "Pct")
}
