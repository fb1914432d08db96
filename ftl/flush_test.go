package ftl

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/ftl/superblock"
)

func volatile(g geometry) geometry {
	g.volatile = true
	return g
}

// mediaK is the checkpoint that the superblock on the cache names.
func (b *bed) mediaK() uint64 {
	b.t.Helper()
	sb, err := superblock.Decode(b.mem[onCache].Data()[:4096])
	require.NoError(b.t, err)
	return sb.CkptK
}

// TestFailedUserFlush: what a device dropped when its flush failed is unknown.
// Writing ends, later flushes do not lie, reads go on, a stop works and a
// restart finds out what is there.
func TestFailedUserFlush(t *testing.T) {
	for _, md := range mdSizes {
		for _, fua := range []bool{false, true} {
			t.Run(fmt.Sprintf("md=%d,fua=%v", md, fua), func(t *testing.T) {
				b := newBed(t, volatile(mini.with(md)))
				b.create()
				b.fillTo(200)
				b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: flushOps, Count: 1})
				var c *call
				if fua {
					c = b.submit(OpWrite, 5, 3, true)
				} else {
					c = b.submit(OpFlush, 0, 0, false)
				}
				b.drainAll()
				require.Equal(t, unix.EIO, c.req.Err)
				require.Error(t, b.health(HealthReadOnly))
				require.Equal(t, unix.EIO, b.do(OpFlush, 0, 0), "a later flush must not succeed")
				require.Equal(t, unix.EROFS, b.do(OpWrite, 0, 1))
				b.good()
				k := b.mediaK()
				require.NoError(t, b.halted(false))
				require.Equal(t, k, b.mediaK(), "no checkpoint is committed after a failed flush")
				b.heal()
				b.load()
				b.mustBe(HealthOK)
				b.verify(true)
				b.sync()
				b.stop(false)
			})
		}
	}
}

// TestNoCheckpointAfterFailedFlush: a user's flush fails while a checkpoint is
// under way, whose own flushes succeed. What the device dropped may be the
// checkpoint's pages, so it must not be committed.
func TestNoCheckpointAfterFailedFlush(t *testing.T) {
	tested := 0
	for turns := range 8 {
		g := volatile(tiny)
		g.lag = 20 * time.Microsecond
		b := newBed(t, g)
		b.create()
		b.fillTo(1000)
		b.until("idle", func() bool { return b.d.Idle() })
		k := b.mediaK()
		b.d.startCheckpoint()
		for range turns {
			b.turn()
		}
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: flushOps, Nth: 1})
		require.Equal(t, unix.EIO, b.do(OpFlush, 0, 0))
		early := b.d.ckpt.active && b.d.ckpt.stage <= ckptFlushMeta
		b.until("the end of the checkpoint", func() bool { return !b.d.ckpt.active })
		b.pass(time.Millisecond)
		if early {
			tested++
			require.Equal(t, k, b.mediaK(), "committed after %d turns", turns)
		}
		b.mustBe(HealthReadOnly)
		require.NoError(t, b.halted(true))
		b.heal()
		b.load()
		b.verify(true)
		b.end()
	}
	require.NotZero(t, tested)
}

// TestNoFullSegmentAfterFailedFlush: the same for a segment that is being
// closed: its bodies may be what was dropped.
func TestNoFullSegmentAfterFailedFlush(t *testing.T) {
	g := volatile(mini)
	g.lag = 20 * time.Microsecond
	b := newBed(t, g)
	b.create()
	b.fillTo(20)
	b.until("idle", func() bool { return b.d.Idle() })
	_, _, s, _ := b.place(10)
	require.Equal(t, segOpen, s.state)
	b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: flushOps, Nth: 1})
	c := b.submit(OpFlush, 0, 0, false) // its flush fails, that of the closing succeeds
	b.submit(OpWrite, 30, 10, false)
	b.submit(OpWrite, 60, 10, false)
	b.drainAll()
	require.Equal(t, unix.EIO, c.req.Err)
	b.pass(5 * time.Millisecond)
	id := s.id
	require.NoError(t, b.halted(true))
	b.heal()
	reg := b.region(3) // descriptors of chunks
	require.NotEqual(t, byte(2), b.mem[onCache].Data()[(reg.Offset+uint64(id))*4096+5], "FULL on media")
	b.load()
	b.verify(true)
	b.end()
}

// TestFailedFlushes has the n-th flush of a device fail during a life with
// checkpoints, closings and moves: whoever made it, the device ends writing,
// and nothing is lost.
func TestFailedFlushes(t *testing.T) {
	for dev, name := range []string{"cache", "base"} {
		t.Run(name, func(t *testing.T) {
			for n := uint64(1); n < 40; n += 3 {
				b := newBed(t, volatile(mini))
				b.create()
				b.fillTo(300)
				r := b.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: flushOps, Nth: n})
				for i := 0; r.Hits() == 0 && i < 100; i++ {
					b.churn(20, 8, 4)
					_ = b.do(OpFlush, 0, 0)
				}
				require.NotZero(t, r.Hits())
				b.churn(20, 8, 4)
				b.mustBe(HealthReadOnly)
				b.good()
				_ = b.halted(false)
				b.heal()
				b.load()
				b.mustBe(HealthOK)
				b.verify(true)
				require.Empty(t, b.churn(20, 8, 4))
				b.settleAll()
				b.check()
				b.stop(false)
				b.free()
			}
		})
	}
}
