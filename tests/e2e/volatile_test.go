//go:build e2e

package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim/model"
)

// TestKillVolatile kills a server that has a volatile write cache: what was flushed is there, and of the rest a part in
// order. A clean stop loses nothing.
func TestKillVolatile(t *testing.T) {
	needOurs(t)
	for _, size := range []string{"4KiB", "6MiB"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			seed := seedOf(t)
			r := rand.New(rand.NewPCG(seed, 3))
			dir := shortDir(t)
			s := serveIn(t, dir, smallSize, small(dir, "--volatile-write-cache", "--write-buffer", size)...)
			w := newWriter(t, seed, 0, smallBytes/model.BlockSize)
			w.volatile = true
			for range 6 {
				c := s.dial(64)
				fuse := time.AfterFunc(time.Duration(100+r.IntN(500))*time.Millisecond, s.kill)
				_, gone := w.run(c, 1+r.IntN(48), 1<<30)
				fuse.Stop()
				require.True(t, gone, "the server was to be killed")
				<-s.end
				c.Close()
				s = s.again()
				c = s.dial(8)
				w.verify(c)
				c.Close()
			}
			s.stop()
			s.check()
			s = s.again()
			c := s.dial(32)
			w.run(c, 32, 3000)
			w.drain(c)
			c.Close()
			s.stop()
			s = s.again()
			c = s.dial(8)
			w.volatile = false
			w.verify(c)
			c.Close()
			s.stop()
			s.check()
		})
	}
}
