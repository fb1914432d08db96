package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

// onlyErr requires that some requests failed, all of them with want.
func onlyErr(t testing.TB, failed map[error]int, want error) {
	t.Helper()
	require.NotEmpty(t, failed)
	for e, n := range failed {
		require.Equal(t, want, e, "%d requests", n)
	}
}

// full has writes to blocks [from, to) of a device find no space.
func (b *bed) full(dev int, from, to uint64) *errinj.Active {
	return b.fault(dev, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to})
}

// TestNoSpaceOnCache: the file system under the cache is full. Users get
// ENOSPC and the old content; after space was made writing goes on. A crash at
// any moment, before and after, is survived.
func TestNoSpaceOnCache(t *testing.T) {
	g := mini
	g.lag = 30 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(200)
		from, to := b.chunksOf()
		for round := range 3 {
			b.crashEvery(10)
			full := b.fault(onCache, errinj.Rule{
				Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to, Prob: []float64{1, 0.5, 0.3}[round],
			})
			onlyErr(t, b.churn(80, 8, 8), unix.ENOSPC)
			b.mustBe(HealthOK)
			b.good()
			full.Remove()
			// The void record is written with the next request that comes after a while.
			b.pass(100 * time.Millisecond)
			require.Empty(t, b.churn(40, 8, 8))
			b.good()
			b.sync()
			b.crashed()
		}
		require.NotZero(t, b.stats().Voided)
		b.settleAll()
		b.stopsWell()
	})
}

// TestNoSpaceAndCrashAnywhere looks at a crash after every turn, from before
// the disk is full until after writing went on.
func TestNoSpaceAndCrashAnywhere(t *testing.T) {
	for _, md := range mdSizes {
		g := mini.with(md)
		g.lag = 20 * time.Microsecond
		b := newBed(t, g)
		b.create()
		b.fillTo(60)
		from, to := b.chunksOf()
		look := func(turns int) {
			for range turns {
				b.turn()
				b.crashed()
			}
		}
		burst := func() {
			for i := range uint64(6) {
				b.submit(OpWrite, i*9, 7, false)
				b.submit(OpTrim, i*9+3, 2, false)
			}
		}
		burst()
		look(4)
		full := b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to, After: 2})
		burst()
		look(12)
		b.drainAll()
		require.NotZero(t, b.stats().Voided)
		look(2)
		full.Remove()
		b.pass(60 * time.Millisecond)
		burst() // with the void record in front
		look(15)
		b.drainAll()
		burst()
		look(8)
		b.drainAll()
		b.good()
		b.stopsWell()
	}
}

// TestNoSpaceThenStop: the cache is full when the device is stopped, clean or
// fast, and when it is loaded again.
func TestNoSpaceThenStop(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		for _, fast := range []bool{false, true} {
			b := newBed(t, g)
			b.create()
			b.fillTo(100)
			from, to := b.chunksOf()
			b.full(onCache, from, to)
			onlyErr(t, b.churn(20, 8, 8), unix.ENOSPC)
			b.pass(100 * time.Millisecond)
			onlyErr(t, b.churn(20, 8, 8), unix.ENOSPC)
			require.NoError(t, b.halted(fast))
			b.load()
			b.mustBe(HealthOK)
			b.verify(true)
			onlyErr(t, b.churn(20, 8, 8), unix.ENOSPC)
			b.heal()
			b.pass(100 * time.Millisecond)
			require.Empty(t, b.churn(20, 8, 8))
			b.verify(true)
			b.settleAll()
			b.check()
			b.stop(false)
		}
	})
}

// TestNoSpaceForEverything: the whole cache device refuses writes, metadata
// included, long enough for many attempts.
func TestNoSpaceForEverything(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(400)
		full := b.full(onCache, 1, g.cache)
		for range 8 {
			onlyErr(t, b.churn(10, 8, 8), unix.ENOSPC)
			b.pass(300 * time.Millisecond)
		}
		b.mustBe(HealthOK)
		b.good()
		b.crashed()
		full.Remove()
		b.pass(200 * time.Millisecond)
		require.Empty(t, b.churn(300, 8, 8))
		b.good()
		b.settleAll()
		b.crashed()
		b.stopsWell()
	})
}

// TestNoSpaceOnBase: the file system under the base is full for long. The cache
// fills, users get ENOSPC, reads are right, and after space was made
// everything goes on.
func TestNoSpaceOnBase(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		full := b.full(onBase, 1, g.base)
		failed := b.churn(600, 8, 8)
		onlyErr(t, failed, unix.ENOSPC)
		for range 20 {
			b.pass(200 * time.Millisecond)
			onlyErr(t, b.churn(5, 4, 2), unix.ENOSPC)
		}
		b.mustBe(HealthOK)
		require.Zero(t, b.stats().Lost)
		b.good()
		b.crashed()
		full.Remove()
		b.pass(200 * time.Millisecond)
		require.Empty(t, b.churn(600, 8, 8))
		b.good()
		b.settleAll()
		require.Zero(t, b.stats().Lost)
		b.crashed()
		b.stopsWell()
	})
}

// TestSpaceForACheckpointAgain: a checkpoint found no space. Users who wait for
// the chunks that the next one frees are not told that there is none while it is
// being written.
func TestSpaceForACheckpointAgain(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		full := b.full(onCache, b.region(layout.RegionL2PDir).Offset, b.region(layout.RegionL2PDir1B).End())
		onlyErr(t, b.churn(600, 8, 8), unix.ENOSPC)
		require.NotZero(t, b.stats().CkptAborted)
		full.Remove()
		b.fault(onBase, errinj.Rule{Action: errinj.Delay, Delay: 20 * time.Millisecond, Ops: bdev.Ops(bdev.OpFlush)})
		b.until("next checkpoint", func() bool { return b.d.ckpt.active })
		require.Empty(t, b.churn(600, 8, 8))
		b.heal()
		b.settleAll()
		b.good()
		b.stop(false)
	})
}

// TestNoSpaceForBands: no band can be opened, because their descriptors cannot be
// written. Users are told when the chunks run out, and do not wait.
func TestNoSpaceForBands(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		from, to := b.region(layout.RegionBandMD), b.region(layout.RegionBandMDMirror)
		full := b.full(onCache, min(from.Offset, to.Offset), max(from.End(), to.End()))
		onlyErr(t, b.churn(900, 8, 8), unix.ENOSPC)
		for range 5 {
			b.pass(200 * time.Millisecond)
			b.churn(5, 4, 2)
		}
		b.mustBe(HealthOK)
		b.good()
		full.Remove()
		b.pass(200 * time.Millisecond)
		require.Empty(t, b.churn(600, 8, 8))
		b.good()
		b.settleAll()
		b.check()
		b.stop(false)
	})
}

// TestNoSpaceOnBaseThenStop: a device whose moves wait for space stops.
func TestNoSpaceOnBaseThenStop(t *testing.T) {
	g := mini
	g.lag = 300 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		for _, fast := range []bool{false, true} {
			b := newBed(t, g)
			b.create()
			b.fillTo(300)
			b.full(onBase, 1, g.base)
			onlyErr(t, b.churn(600, 8, 8), unix.ENOSPC)
			b.pass(70 * time.Millisecond)
			require.NoError(t, b.halted(fast))
			b.load()
			b.mustBe(HealthOK)
			b.verify(true)
			b.heal()
			b.pass(200 * time.Millisecond)
			require.Empty(t, b.churn(300, 8, 8))
			b.settleAll()
			b.verify(true)
			b.check()
			b.stop(false)
		}
	})
}

// TestRecordThatLandedAndFailedThenStop: a record reaches the cache, but fails
// together with the one behind it, for which there is no room. After a clean
// stop it stands behind what the last checkpoint covers, and the next load
// finds it. It has to be covered then, before another crash.
func TestRecordThatLandedAndFailedThenStop(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(60)
		b.settleAll()
		from, to := b.chunksOf()
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to, Count: 1})
		b.fault(onCache, errinj.Rule{Action: errinj.Delay, Delay: time.Millisecond, Ops: writeOps, From: from, To: to, Nth: 1})
		b.submit(OpWrite, 3, 4, false)
		b.submit(OpTrim, 20, 2, false)
		b.drainAll()
		require.GreaterOrEqual(t, b.stats().Voided, uint64(2))
		b.heal()
		require.NoError(t, b.halted(false))
		b.load()
		require.NotZero(t, b.d.LoadReport().Redone, "the record that landed")
		b.verify(true)
		b.adopt()
		require.Empty(t, b.churn(20, 8, 8))
		b.sync()
		b.crashed()
		b.good()
		b.stop(false)
	})
}
