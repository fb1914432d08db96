package ftl

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

var (
	writeOps = bdev.Ops(bdev.OpWrite)
	readOps  = bdev.Ops(bdev.OpRead)
	flushOps = bdev.Ops(bdev.OpFlush)
)

// chunksOf is the range of the cache's blocks that hold records.
func (b *bed) chunksOf() (from, to uint64) {
	r := b.region(layout.RegionChunks)
	return r.Offset, r.End()
}

// TestTransientLogWriteErrors has a part of the log's writes fail: the records
// go elsewhere, users see success, and a crash finds them.
func TestTransientLogWriteErrors(t *testing.T) {
	g := mini
	g.lag = 30 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		from, to := b.chunksOf()
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: from, To: to, Prob: 0.15, Seed: 7})
		b.crashEvery(30)
		for range 4 {
			require.Empty(t, b.churn(90, 8, 16))
			b.trims(b.rnd.Uint64N(b.d.Blocks()-40), 40)
		}
		require.NotZero(t, b.stats().Rehomed)
		b.mustBe(HealthOK)
		b.good()
		b.heal()
		b.settleAll()
		b.restart()
		b.good()
		b.stopsWell()
	})
}

// TestAFailedRecordFindsRoom: the first of many records fails when those behind it
// have filled every other chunk. They wait for it, and it for a chunk: the one
// that it was taken out of again.
func TestAFailedRecordFindsRoom(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		from, to := b.chunksOf()
		hangs := b.fault(onCache, errinj.Rule{Action: errinj.Hang, Ops: writeOps, From: from, To: to, Count: 1})
		var calls []*call
		for i := range uint64(40) {
			calls = append(calls, b.submit(OpWrite, i*20%(b.d.Blocks()-20), 20, false))
		}
		b.pass(100 * time.Millisecond)
		require.Equal(t, uint64(1), hangs.Hits())
		require.Zero(t, b.d.freeChunks.n)
		b.inj[onCache].ReleaseHung(unix.EIO)
		b.drainAll()
		for _, c := range calls {
			require.NoError(t, c.req.Err)
		}
		require.NotZero(t, b.stats().Rehomed)
		b.good()
		b.crashed()
		b.settleAll()
		b.check()
		b.stop(false)
	})
}

// TestRetiredSegmentsAreTheLastReserve: what was retired after errors is used
// again before the device stops taking writes.
func TestRetiredSegmentsAreTheLastReserve(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fill()
		b.settleAll()
		for b.d.freeBands.n > 0 {
			s := b.d.takeFree(true)
			s.faults = maxSegmentFaults
			s.setState(segBad)
		}
		require.NotZero(t, b.d.bands[segBad])
		require.Empty(t, b.churn(1500, 8, 8))
		require.Zero(t, b.d.bands[segBad])
		b.good()
		b.settleAll()
		b.check()
		b.stop(false)
	})
}

// TestStickyLogWriteErrors has a range of the cache refuse writes for ever.
func TestStickyLogWriteErrors(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		from, _ := b.chunksOf()
		// Half of chunk 1, and one block of chunk 3.
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: from + 48, To: from + 64})
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: from + 100, To: from + 101})
		for range 10 {
			require.Empty(t, b.churn(150, 8, 8))
			b.crashed()
		}
		b.mustBe(HealthOK)
		require.NotZero(t, b.stats().Rehomed)
		b.good()
		b.settleAll()
		b.stopsWell()
	})
}

// TestLogThatCannotBeWritten: every write of records fails. The device turns
// read-only, says so, serves reads, stops, and is right after a restart.
func TestLogThatCannotBeWritten(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		from, to := b.chunksOf()
		b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: from, To: to})
		var heard Health
		b.d.cfg.OnHealth = func(h Health, _ error) { heard = h }
		failed := b.churn(20, 8, 8)
		require.NotEmpty(t, failed)
		for e := range failed {
			require.True(t, errors.Is(e, unix.EIO) || errors.Is(e, unix.EROFS), "%v", e)
		}
		require.Equal(t, HealthReadOnly, heard)
		require.Error(t, b.health(HealthReadOnly))
		require.Equal(t, unix.EROFS, b.do(OpWrite, 0, 1))
		require.Equal(t, unix.EROFS, b.do(OpTrim, 0, 1))
		b.good()
		b.crashed()
		require.NoError(t, b.halted(false))
		b.heal()
		b.load()
		b.mustBe(HealthOK)
		b.verify(true)
		b.check()
		b.stop(false)
	})
}

// TestFailedRecordThatLanded: a record is on the media, though the device said
// that its write failed, so the summary of its segment does not know it. A load
// that cannot read the summary finds it. If it was written again elsewhere, that
// copy counts; else what a load has found stays readable, and is moved, when the
// summary can be read again.
func TestFailedRecordThatLanded(t *testing.T) {
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprintf("again %v", again), func(t *testing.T) {
			eachKind(t, mini, func(t *testing.T, g geometry) {
				b := newBed(t, g)
				b.create()
				b.fillTo(40)
				b.settleAll()
				from, to := b.chunksOf()
				s := b.d.log_.cur.cur
				require.LessOrEqual(t, s.next+10, s.body)
				b.fault(onCache, errinj.Rule{Action: errinj.Fail, Landed: true, Ops: writeOps, From: from, To: to, Count: 1})
				if !again {
					for _, other := range b.d.segs[:b.d.lay.Chunks] {
						if other.idx != s.idx {
							b.fault(onCache, errinj.Rule{Action: errinj.Hang, Ops: writeOps, From: other.off, To: other.off + uint64(other.slots)})
						}
					}
				}
				c := b.submit(OpWrite, 3, 9, false)
				b.until("sealed", func() bool { return s.state == segFull })
				for range 50 {
					b.turn()
				}
				require.Equal(t, again, c.done)
				tw := b.image()
				if again { // the copy that failed is found first
					_, _, other, _ := b.place(3)
					tw.fault(onCache, errinj.Rule{Action: errinj.Delay, Delay: 10 * time.Millisecond, Ops: readOps, From: other.off, To: other.off + uint64(other.slots)})
				}
				tw.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: s.sumOff(), To: s.off + uint64(s.slots)})
				require.NoError(t, tw.start(tw.cfg))
				require.NotZero(t, tw.d.LoadReport().Redone)
				_, _, where, _ := tw.place(3)
				require.Equal(t, again, where.idx != s.idx)
				tw.verify(true)
				tw.adopt()
				tw.stop(false)
				tw.heal()
				tw.load()
				tw.good()
				tw.check()
				victim := &tw.d.segs[s.idx]
				for i := uint64(0); i < 2000 && victim.state == segFull; i++ {
					tw.put(12+i*8%(tw.d.Blocks()-20), 8)
				}
				require.NotEqual(t, segFull, victim.state, "it was emptied")
				require.Zero(t, tw.stats().Lost)
				tw.good()
				tw.stop(false)
				if !again {
					b.inj[onCache].Clear()
					b.inj[onCache].ReleaseHung(nil)
					b.drainAll()
				}
				b.stop(false)
			})
		})
	}
}
