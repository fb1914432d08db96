//go:build e2e

package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/tests/sim/model"
)

// TestStopWhileStarting signals the server before it is ready, after a crash, when it has a log to replay: it ends at
// once and well, and the next start finds everything.
func TestStopWhileStarting(t *testing.T) {
	needOurs(t)
	r := rand.New(rand.NewPCG(seedOf(t), 2))
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, plain.small(dir, "")...)
	w := newWriter(t, r.Uint64(), 0, smallBytes/model.BlockSize)
	w.run(s.dial(32), 32, 20_000)
	s.kill()
	for range 12 {
		s = launch(t, dir, smallSize, plain.small(dir, "")...)
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		require.NoError(t, s.cmd.Process.Signal(unix.SIGTERM))
		s.wait(stopLimit)
	}
	s = serveIn(t, dir, smallSize, plain.small(dir, "")...)
	c := s.dial(8)
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
}
