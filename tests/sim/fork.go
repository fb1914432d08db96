package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv names the file to which a child of ForEachSeedForked writes its counters.
const childEnv = "GOFTL_SIM_CHILD"

// InChild says whether this process is one of the children of a test.
func InChild() bool { return os.Getenv(childEnv) != "" }

const shmEnv = "GOFTL_SIM_SHM"

// ShmDir is an empty folder in memory, where there is one. The folder of a child belongs to its parent, which removes
// it however the child ends; one that a parent left behind is removed by the next test.
func ShmDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(shmEnv); dir != "" {
		return dir
	}
	removeStale()
	dir, err := os.MkdirTemp(shmRoot, fmt.Sprintf("%s%d-", shmPrefix, os.Getpid())) //nolint:usetesting // TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const shmRoot, shmPrefix = "/dev/shm", "goftl-sim-"

// removeStale removes the folders of processes that are gone.
func removeStale() {
	dirs, err := filepath.Glob(filepath.Join(shmRoot, shmPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		var pid int
		if n, _ := fmt.Sscanf(filepath.Base(dir), shmPrefix+"%d-", &pid); n != 1 {
			continue
		}
		if unix.Kill(pid, 0) == unix.ESRCH {
			os.RemoveAll(dir)
		}
	}
}

// ForEachSeedForked is ForEachSeed in processes of batch seeds each. A simulated process that is killed leaves its
// memory outside the Go heap behind; here that lasts only as long as a batch, and an access to memory that was given
// back cannot take the other seeds with it. It returns how many seeds were run, and the sums of the counters.
func ForEachSeedForked(t *testing.T, count, scale, batch int, fn func(c *Case) error) (int, map[string]uint64) {
	t.Helper()
	if path := os.Getenv(childEnv); path != "" || *flagTrace {
		// Worlds are small and many: clearing huge pages for them takes longer than page faults do.
		_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
		counters := ForEachSeed(t, count, 1, fn)
		writeCounters(t, path, counters)
		return 1, counters
	}
	first, n := plan(count, scale)
	s := &sweep{t: t, first: first, n: int64(n), counters: make(map[string]uint64)}
	start := time.Now()
	defer s.progress(start)()
	for range min(runtime.GOMAXPROCS(0), n) {
		s.wg.Add(1)
		go s.workForked(int64(batch))
	}
	s.wg.Wait()
	s.report(start)
	return n, s.counters
}

func (s *sweep) workForked(batch int64) {
	defer s.wg.Done()
	for s.failures.Load() < int64(*flagFails) {
		i, n := s.take(batch)
		if n == 0 {
			return
		}
		if !s.child(i, n) {
			s.failures.Add(1)
		}
		s.done.Add(n)
	}
}

// take returns the next seeds, at most batch, and fewer towards the end, so that all cores come to theirs together.
func (s *sweep) take(batch int64) (i, n int64) {
	for {
		i = s.next.Load()
		left := s.n - i
		if left <= 0 {
			return i, 0
		}
		n = min(batch, left, max(2, left/int64(2*runtime.GOMAXPROCS(0))))
		if s.next.CompareAndSwap(i, i+n) {
			return i, n
		}
	}
}

// child runs seeds i to i+n-1 in a process of its own.
func (s *sweep) child(i, n int64) bool {
	file := filepath.Join(s.t.TempDir(), fmt.Sprintf("counters-%d", i))
	args := []string{
		"-test.run=^" + s.t.Name() + "$", fmt.Sprintf("-seed=%d", s.first+uint64(i)), fmt.Sprintf("-seeds=%d", n),
		fmt.Sprintf("-failures=%d", *flagFails),
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	shm := ShmDir(s.t)
	defer os.RemoveAll(shm)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+file, shmEnv+"="+shm)
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1", "GOGC=400") // one child per core, with a small heap
	out, err := cmd.CombinedOutput()
	if p := cmd.ProcessState; p != nil {
		s.cpu.Add(int64(p.UserTime() + p.SystemTime()))
	}
	if text, readErr := os.ReadFile(file); readErr == nil {
		counters := make(map[string]uint64)
		if json.Unmarshal(text, &counters) == nil {
			s.add(counters)
		}
	}
	if err != nil {
		s.t.Errorf("seeds %d to %d: %v\n%s", s.first+uint64(i), s.first+uint64(i+n-1), err, tail(out, 60_000))
		return false
	}
	return true
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func writeCounters(t *testing.T, path string, counters map[string]uint64) {
	if path == "" {
		return
	}
	text, err := json.Marshal(counters)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Errorf("counters: %v", err)
	}
}
