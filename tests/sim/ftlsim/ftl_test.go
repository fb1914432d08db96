package ftlsim

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim"
)

// TestFTL runs the FTL through crashes. It is the test behind every promise of the project.
func TestFTL(t *testing.T) { play(t, "plain") }

// TestFTLRestless does the same in small worlds that crash all the time, while they recover most of all.
func TestFTLRestless(t *testing.T) { play(t, "restless") }

// TestFTLFaults does the same over devices whose reads, writes and flushes fail now and then. Requests may fail then;
// what was acknowledged is there all the same, once the devices work again.
func TestFTLFaults(t *testing.T) { play(t, "faults") }

// TestFTLBases puts the FTL on zones, written in order or by append, some of which cannot be written or stop being so,
// or does without a cache, or both.
func TestFTLBases(t *testing.T) { play(t, "bases") }

// TestFTLFailingBases does that over devices that fail now and then.
func TestFTLFailingBases(t *testing.T) { play(t, "failing bases") }

// TestFTLBuffered has writes answered from a volatile write cache, and several IO channels that come and go: then the
// kill of the process is like a power loss.
func TestFTLBuffered(t *testing.T) { play(t, "buffered") }

// TestFTLBufferedFaults does so over devices that fail: what was answered and cannot be written reads as an error, and
// flushes fail from then on.
func TestFTLBufferedFaults(t *testing.T) { play(t, "buffered-faults") }

// TestFTLLostZones takes zones offline with what they hold. What is returned is right all the same, or an error.
func TestFTLLostZones(t *testing.T) { play(t, "lost zones") }

// TestFTLRot flips bits of what the disks hold while the device is down. What it returns is right all the same, or an
// error, unless it said at its start that it has lost something.
func TestFTLRot(t *testing.T) { play(t, "rot") }

// TestFTLStray has writes land elsewhere, which nobody notices when it happens. What the device returns is right all the
// same, or an error, unless it said at its start that it has lost something.
func TestFTLStray(t *testing.T) { play(t, "stray") }

// TestFTLGone takes a device away while it is in use, for a while or for good.
func TestFTLGone(t *testing.T) { play(t, "gone") }

// TestSameSeedSameRun plays seeds of every kind of world twice: a run is a pure function of its plan, down to what is
// left on the disks. Otherwise a failure could not be replayed.
func TestSameSeedSameRun(t *testing.T) {
	seeds := 5
	if testing.Short() {
		seeds = 1
	}
	for i := range Kinds {
		k := &Kinds[i]
		t.Run(k.Name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				plan := NewPlan(seed+1, k)
				again, err := ParsePlan(plan.String())
				require.NoError(t, err)
				require.Equal(t, plan, again, "a plan that is printed and read is the same")
				first, err := hashOf(t, plan)
				require.NoError(t, err)
				second, err := hashOf(t, again)
				require.NoError(t, err)
				require.Equal(t, first, second, "seed %d", seed+1)
			}
		})
	}
}

// hashOf plays a plan and returns a hash of all that happened and of what the disks hold then.
func hashOf(t *testing.T, plan *Plan) (uint64, error) {
	t.Helper()
	c := sim.NewCase(plan.Seed, nil)
	p := NewPlay(c, FTL{}, plan, t.TempDir())
	err := p.Run()
	h := c.Trace.Hash()
	for _, d := range p.disks {
		h = h*31 + d.Hash()
	}
	return h, err
}

// kindOf returns the kind of world of a name.
func kindOf(t *testing.T, name string) *Kind {
	t.Helper()
	for i := range Kinds {
		if Kinds[i].Name == name {
			return &Kinds[i]
		}
	}
	require.Fail(t, "no such kind of world", name)
	return nil
}

// play runs seeds, prints what they reached and fails if that is not what they should have reached.
func play(t *testing.T, name string) {
	t.Helper()
	k := kindOf(t, name)
	require.Equal(t, k.Test, t.Name(), "the table of kinds names another test")
	if file := os.Getenv(plansEnv); file != "" {
		tryPlans(t, file)
		return
	}
	given := givenPlan(t)
	if given == nil && *flagShrink {
		given = NewPlan(sim.FirstSeed(), k)
	}
	if given != nil && *flagShrink {
		shrink(t, given)
		return
	}
	shm := sim.ShmDir(t)
	if given != nil {
		sim.OneCase(t, given.Seed, replayOf(t, given), func(c *sim.Case) error { return NewPlay(c, FTL{}, given, shm).Run() })
		return
	}
	seeds, counters := sim.ForEachSeedForked(t, k.Count, k.Scale, 100, func(c *sim.Case) error {
		p := NewPlay(c, FTL{}, NewPlan(c.Seed, k), shm)
		err := p.Run()
		p.Release()
		for k, v := range p.Counters {
			c.Count(k, v)
		}
		return err
	})
	if t.Failed() || sim.InChild() {
		return
	}
	table, missing := Report(States(), name, seeds, counters)
	for _, line := range table {
		t.Log(line)
	}
	for _, m := range missing {
		t.Errorf("%d seeds never reached: %s", seeds, m)
	}
}
