//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim/model"
)

// TestSharedMemory kills servers that keep the mapping in shared memory and ones that do not, in turn: what a former
// one left there is stale then, and is refused.
func TestSharedMemory(t *testing.T) {
	needOurs(t)
	r := rand.New(rand.NewPCG(seedOf(t), 1))
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir, "--shm", "auto")...)
	at := slices.Index(s.args, "auto")
	w := newWriter(t, r.Uint64(), 0, smallBytes/model.BlockSize)
	kept := true // the mapping is in shared memory, and the last server put it there
	for range 10 {
		c := s.dial(64)
		fuse := time.AfterFunc(time.Duration(50+r.IntN(200))*time.Millisecond, s.kill)
		_, gone := w.run(c, 32, 1<<30)
		fuse.Stop()
		require.True(t, gone)
		<-s.end
		c.Close()
		s.args[at] = []string{"auto", "off"}[r.IntN(2)]
		s = s.again()
		used := s.args[at] == "auto"
		t.Log(s.args[at], readyFields(s.output()))
		if used && kept {
			require.Contains(t, lastReady(s.output()), "shm=true")
		} else {
			require.Contains(t, lastReady(s.output()), "shm=false")
		}
		kept = used
		w.verify(s.dial(8))
	}
	s.stop()
	s.check()
}

// TestDamagedSharedMemory spoils what a killed server left in shared memory: it is refused, and the log is used.
func TestDamagedSharedMemory(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir, "--shm", "auto")...)
	id := inspectRunning(t, s)
	w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
	for name, spoil := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"cut":     func(path string) error { return os.Truncate(path, 5000) },
		"longer":  func(path string) error { return os.Truncate(path, 64<<20) },
		"gone":    os.Remove,
		"foreign": func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
		"zeroes": func(path string) error {
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, make([]byte, st.Size()), 0o600)
		},
		"a directory": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		},
	} {
		c := s.dial(64)
		_, gone := w.run(c, 32, 500)
		require.False(t, gone)
		w.drain(c)
		c.Close()
		s.kill()
		found, err := filepath.Glob("/dev/shm/*" + id + "*")
		require.NoError(t, err)
		require.Len(t, found, 1, name)
		require.NoError(t, spoil(found[0]), name)
		s = s.again()
		t.Log(name, readyFields(s.output()))
		require.Contains(t, lastReady(s.output()), "shm=false", name)
		w.verify(s.dial(8))
		_ = os.Remove(found[0]) // the directory
		s.stop()
		s = s.again()
	}
	s.stop()
	s.check()
	left, err := filepath.Glob("/dev/shm/*" + id + "*")
	require.NoError(t, err)
	require.Empty(t, left, "a clean stop leaves shared memory behind")
}
