package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
)

// TestTransientBaseWriteErrors has many of the moves' writes fail: bands are
// sealed, moves are tried again, and not one block is given up.
func TestTransientBaseWriteErrors(t *testing.T) {
	g := mini
	g.lag = 30 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fault(onBase, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 1, To: g.base, Prob: 0.3, Seed: 5})
		b.fill()
		for range 5 {
			require.Empty(t, b.churn(200, 8, 8))
			b.crashed()
		}
		b.mustBe(HealthOK)
		s := b.stats()
		require.NotZero(t, s.Base[SourceCompaction].Write.ErrorsMedia)
		require.Zero(t, s.Lost)
		b.good()
		b.heal()
		b.settleAll()
		require.Zero(t, b.stats().Lost)
		b.stopsWell()
	})
}

// TestStickyBaseWriteErrors has two bands refuse writes for ever.
func TestStickyBaseWriteErrors(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fault(onBase, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 64 + 3*64 + 10, To: 64 + 3*64 + 20})
		b.fault(onBase, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 64 + 7*64, To: 64 + 8*64})
		b.fillTo(b.d.Blocks() * 3 / 4)
		for range 8 {
			require.Empty(t, b.churn(200, 8, 8))
			b.crashed()
		}
		b.mustBe(HealthOK)
		require.Zero(t, b.stats().Lost)
		b.good()
		b.settleAll()
		b.stopsWell()
	})
}

// TestBaseThatCannotBeWritten: the device turns read-only after a while, and
// everything that was acknowledged can be read, also after a restart.
func TestBaseThatCannotBeWritten(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		dead := b.fault(onBase, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 1, To: g.base})
		b.step = func(int) { b.pass(time.Millisecond) }
		onlyErr(t, b.churn(900, 8, 8), unix.EROFS)
		b.step = nil
		require.ErrorIs(t, b.health(HealthReadOnly), unix.EIO)
		b.good()
		require.Zero(t, b.stats().Lost)
		b.crashed()
		require.NoError(t, b.halted(false))
		dead.Remove()
		b.load()
		b.mustBe(HealthOK)
		b.verify(true)
		require.Empty(t, b.churn(100, 8, 8))
		b.verify(true)
		b.settleAll()
		b.check()
		b.stop(false)
	})
}
