package ftlsim

import (
	"os"
	"sort"
	"testing"

	"goftl/tests/sim"
)

// TestFTL runs the FTL through crashes. It is the test behind every promise of the project.
func TestFTL(t *testing.T) {
	counters := sim.ForEachSeedForked(t, 200, 1, 100, func(c *sim.Case) error {
		p := NewPlay(c, FTL{}, shmDir(t))
		err := p.Run()
		for k, v := range p.Counters {
			c.Count(k, v)
		}
		return err
	})
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
