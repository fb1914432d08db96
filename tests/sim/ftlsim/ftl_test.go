package ftlsim

import (
	"os"
	"sort"
	"testing"

	"goftl/tests/sim"
)

// TestFTL runs the FTL through crashes. It is the test behind every promise of the project.
func TestFTL(t *testing.T) {
	play(t, 200, 1, nil)
}

// TestFTLFaults does the same over devices whose reads, writes and flushes fail now and then. Requests may fail then;
// what was acknowledged is there all the same, once the devices work again.
func TestFTLFaults(t *testing.T) {
	play(t, 50, 2, func(p *Play) { p.plan.Faults = FaultsTransient })
}

// TestFTLRot flips bits of what the disks hold while the device is down. What it returns is right all the same, or an
// error, unless it said at its start that it has lost something.
func TestFTLRot(t *testing.T) {
	play(t, 50, 2, func(p *Play) { p.plan.Faults = FaultsRot })
}

// play runs seeds and prints what they reached.
func play(t *testing.T, count, scale int, change func(p *Play)) {
	t.Helper()
	counters := sim.ForEachSeedForked(t, count, scale, 100, func(c *sim.Case) error {
		p := NewPlay(c, FTL{}, shmDir(t))
		if change != nil {
			change(p)
		}
		err := p.Run()
		for k, v := range p.Counters {
			c.Count(k, v)
		}
		return err
	})
	if len(counters) == 0 {
		return
	}
	names := make([]string, 0, len(counters))
	for k := range counters {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		t.Logf("%12d %s", counters[k], k)
	}
}

// shmDir is a folder in memory, where there is one.
func shmDir(t *testing.T) string {
	if dir, err := os.MkdirTemp("/dev/shm", "goftl-sim-"); err == nil { //nolint:usetesting // TempDir is on a disk
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}
