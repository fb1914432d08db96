package nbdsim

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim"
	"goftl/tests/sim/ftlsim"
)

// TestNBD runs clients, the NBD server and the FTL through crashes.
func TestNBD(t *testing.T) {
	play(t, 30, 4, "plain")
}

// TestNBDFaults does the same over devices whose reads, writes and flushes fail now and then.
func TestNBDFaults(t *testing.T) {
	play(t, 12, 8, "faults")
}

// newPlay prepares a run over a kind of world of ftlsim's.
func newPlay(t *testing.T, c *sim.Case, kind, shm string) *ftlsim.Play {
	t.Helper()
	i := slices.IndexFunc(ftlsim.Kinds, func(k ftlsim.Kind) bool { return k.Name == kind })
	require.GreaterOrEqual(t, i, 0, "no such kind of world")
	return ftlsim.NewPlay(c, New(c), ftlsim.NewPlan(c.Seed, &ftlsim.Kinds[i]), shm)
}

// play runs seeds and prints what they reached.
func play(t *testing.T, count, scale int, kind string) {
	t.Helper()
	shm := sim.ShmDir(t)
	_, counters := sim.ForEachSeedForked(t, count, scale, 20, func(c *sim.Case) error {
		p := newPlay(t, c, kind, shm)
		err := p.Run()
		for k, v := range p.Counters {
			c.Count(k, v)
		}
		return err
	})
	if t.Failed() || sim.InChild() {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(counters)) {
		t.Logf("%12d %s", counters[k], k)
	}
}

// TestReplay shows that a seed decides all of a run.
func TestReplay(t *testing.T) {
	for seed := range uint64(8) {
		run := func() (hash, length uint64) {
			c := sim.NewCase(seed, nil)
			require.NoError(t, newPlay(t, c, "plain", t.TempDir()).Run())
			return c.Trace.Hash(), c.Trace.Len()
		}
		hash, length := run()
		again, lengthAgain := run()
		require.Equal(t, length, lengthAgain)
		require.Equal(t, hash, again)
	}
}
