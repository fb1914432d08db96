package ftl

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

// killed loads a device's media and shared memory elsewhere, as a new process
// does after a kill. The old device is not used any more.
func (b *bed) killed() *bed {
	b.t.Helper()
	tw := b.image()
	require.NoError(b.t, tw.start(tw.cfg))
	return tw
}

func shmBed(t *testing.T, g geometry) *bed {
	b := newBed(t, g)
	dir, err := os.MkdirTemp("/dev/shm", "goftl-test-") //nolint:usetesting // shared memory, not a disk
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b.cfg.ShmDir = dir
	b.create()
	return b
}

func shmFiles(t *testing.T, b *bed) int {
	t.Helper()
	l, err := filepath.Glob(filepath.Join(b.cfg.ShmDir, "*"))
	require.NoError(t, err)
	return len(l)
}

// TestKillWithShm: after a kill the mapping comes from shared memory, whatever
// was under way.
func TestKillWithShm(t *testing.T) {
	g := mini
	g.lag = 30 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		for kill := range 4 {
			b := shmBed(t, g)
			b.fillTo(400)
			b.churn(100+37*kill, 8, 8)
			b.trims(b.rnd.Uint64N(300), 50)
			for range 10 {
				b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-8), 8, false)
			}
			for range kill {
				b.turn()
			}
			tw := b.killed()
			require.True(t, tw.d.LoadReport().FromShm)
			tw.mustBe(HealthOK)
			tw.verify(true)
			require.NoError(t, tw.d.CheckInvariants())
			tw.adopt()
			require.Empty(t, tw.churn(200, 8, 8))
			tw.good()
			tw.settleAll()
			tw.stop(false)
			require.Zero(t, shmFiles(t, tw), "a clean stop leaves no shared memory")
			tw.load()
			require.False(t, tw.d.LoadReport().FromShm)
			tw.good()
			tw.check()
			tw.stop(false)
			tw.free()
			b.free()
		}
	})
}

// TestFastStopWithShm keeps the memory for the next load.
func TestFastStopWithShm(t *testing.T) {
	b := shmBed(t, mini)
	b.fillTo(500)
	b.stop(true)
	require.Equal(t, 1, shmFiles(t, b))
	b.load()
	require.True(t, b.d.LoadReport().FromShm)
	require.Zero(t, b.d.LoadReport().Redone)
	b.good()
	require.Empty(t, b.churn(100, 8, 8))
	b.settleAll()
	b.check()
	b.stop(false)
}

// TestStaleShm is not taken: of an older incarnation, of another device, cut,
// of another user's mode.
func TestStaleShm(t *testing.T) {
	for _, what := range []string{"old", "cut", "open to all", "garbage", "missing"} {
		t.Run(what, func(t *testing.T) {
			b := shmBed(t, mini)
			b.fillTo(300)
			b.stop(true)
			l, err := filepath.Glob(filepath.Join(b.cfg.ShmDir, "*"))
			require.NoError(t, err)
			require.Len(t, l, 1)
			old, err := os.ReadFile(l[0])
			require.NoError(t, err)
			switch what {
			case "old":
				b.load()
				b.churn(100, 8, 8)
				b.stop(true)
				require.NoError(t, os.WriteFile(l[0], old, 0o600))
			case "cut":
				require.NoError(t, os.Truncate(l[0], 4096))
			case "open to all":
				require.NoError(t, os.Chmod(l[0], 0o644)) //nolint:gosec // that is the point
			case "garbage":
				for i := range old {
					old[i] ^= 0x5a
				}
				require.NoError(t, os.WriteFile(l[0], old, 0o600))
			case "missing":
				require.NoError(t, os.Remove(l[0]))
			}
			b.load()
			require.False(t, b.d.LoadReport().FromShm)
			b.good()
			b.settleAll()
			b.check()
			b.stop(false)
		})
	}
}

// TestLossIsNotForgottenByShm: a device that is read-only because durable
// records are gone is killed. The next load must not take its mapping from
// shared memory as if nothing had happened.
func TestLossIsNotForgottenByShm(t *testing.T) {
	for _, md := range mdSizes {
		b := shmBed(t, mini.with(md))
		for i := range uint64(6) {
			b.put(i*10, 3)
			b.sync()
		}
		_, block, _, _ := b.place(20)
		b.stop(true)
		l, err := filepath.Glob(filepath.Join(b.cfg.ShmDir, "*"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(l[0])) // the machine went down
		if md == 0 {
			b.mem[onCache].Data()[(block-1)*4096+40] ^= 1
		} else {
			b.rotMD(onCache, block)
		}
		b.load()
		require.ErrorIs(t, b.health(HealthReadOnly), ErrLoss)
		tw := b.killed()
		require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
		require.NoError(t, tw.halted(true))
		tw = b.image()
		require.NoError(t, tw.start(tw.cfg))
		require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
		_ = tw.halted(true)
	}
}

// TestNoShmAfterFailedFlush: what the device dropped when its flush failed is
// still mapped in memory, so a restart has to look at the media.
func TestNoShmAfterFailedFlush(t *testing.T) {
	b := shmBed(t, volatile(mini))
	b.fillTo(200)
	b.sync()
	b.put(30, 5)
	b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: flushOps, Count: 1})
	require.Equal(t, unix.EIO, b.do(OpFlush, 0, 0))
	b.mustBe(HealthReadOnly)
	tw := b.killed()
	require.False(t, tw.d.LoadReport().FromShm)
	tw.mustBe(HealthOK)
	tw.verify(true)
	tw.stop(false)
}

// TestNoShmAfterALostDevice: a device that was away, if only a read has heard of it, may have lost what it had not flushed.
func TestNoShmAfterALostDevice(t *testing.T) {
	for dev := range 2 {
		b := shmBed(t, volatile(mini))
		b.fillTo(500)
		b.settleAll()
		b.fault(dev, errinj.Rule{Action: errinj.Fail, Err: unix.ENODEV, Ops: readOps, Count: 1})
		require.NoError(t, b.do(OpRead, b.findOn(dev, 0), 1)) // it was back for the second try
		require.ErrorIs(t, b.health(HealthReadOnly), unix.ENODEV)
		tw := b.killed()
		require.False(t, tw.d.LoadReport().FromShm)
		tw.mustBe(HealthOK)
		tw.verify(true)
		tw.stop(false)
	}
}

// TestShmAndAbortedCheckpoint: pages of an attempt that failed, or was under
// way at the kill, are dirty again.
func TestShmAndAbortedCheckpoint(t *testing.T) {
	g := tiny
	g.lag = 30 * time.Microsecond
	for _, turns := range []int{0, 1, 4, 9} {
		b := shmBed(t, g)
		b.fillTo(1200)
		reg := b.region(layout.RegionL2PDir0A)
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.EIO, Ops: writeOps, From: reg.Offset, To: reg.Offset + 4*reg.Blocks})
		if turns%2 == 0 {
			b.checkpoint()
		} else {
			b.until("no checkpoint", func() bool { return !b.d.ckpt.active })
			b.d.startCheckpoint()
			for range turns {
				b.turn()
			}
		}
		tw := b.killed()
		require.True(t, tw.d.LoadReport().FromShm)
		tw.good()
		tw.settleAll()
		tw.stop(false)
		tw.load()
		tw.good()
		tw.check()
		tw.stop(false)
		tw.free()
		b.free()
	}
}
