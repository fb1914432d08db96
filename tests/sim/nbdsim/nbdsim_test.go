package nbdsim

import (
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

// TestNBDBuffered does the same over a volatile write cache.
func TestNBDBuffered(t *testing.T) {
	play(t, 12, 8, "buffered")
}

// newPlay prepares a run over a kind of world of ftlsim's.
func newPlay(t *testing.T, c *sim.Case, kind, shm string) *ftlsim.Play {
	t.Helper()
	i := slices.IndexFunc(ftlsim.Kinds, func(k ftlsim.Kind) bool { return k.Name == kind })
	require.GreaterOrEqual(t, i, 0, "no such kind of world")
	return ftlsim.NewPlay(c, New(c), newPlan(c.Seed, &ftlsim.Kinds[i]), shm)
}

// newPlan draws a plan and makes most of them small. Bytes cost the most here, because each is copied many times on its
// way, and what there is to find lies in requests, connections and crashes.
func newPlan(seed uint64, kind *ftlsim.Kind) *ftlsim.Plan {
	p := ftlsim.NewPlan(seed, kind)
	r := sim.Stream(seed, "nbd plan", 0)
	if r.IntN(4) == 0 {
		return p
	}
	p.Shrink(4 << r.IntN(3))
	return p
}

// play runs seeds, prints what they reached and fails if that is not what they should have reached.
func play(t *testing.T, count, scale int, kind string) {
	t.Helper()
	shm := sim.ShmDir(t)
	seeds, counters := sim.ForEachSeedForked(t, count, scale, 20, func(c *sim.Case) error {
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
	table, missing := ftlsim.Report(states(), kind, seeds, counters)
	for _, line := range table {
		t.Log(line)
	}
	for _, m := range missing {
		t.Errorf("%d seeds never reached: %s", seeds, m)
	}
}

// states are what runs must reach: by name, and in how many seeds for certain.
func states() []ftlsim.State {
	reached := map[string]int{
		"power losses": 20, "kills": 20, "clean stops": 20, "recoveries verified": 20, "crash in work": 20,
		"stops in the middle of work": 20, "requests under way in a stop": 20,
		"connections": 10, "strangers": 20, "requests of clients' own": 20, "requests sent again": 20, "requests given up": 40,
		"reads that asked for holes": 20, "holes told of": 20,
		"looks at clients that wait for memory": 40, "clients cut off for holding memory": 200,
	}
	for _, way := range wayNames {
		reached[way] = 40
	}
	var list []ftlsim.State
	for name, n := range reached {
		list = append(list, ftlsim.State{Name: name, Seeds: map[string]int{"plain": n, "faults": n, "buffered": n}})
	}
	return list
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
