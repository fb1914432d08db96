package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

// checkpoint makes an attempt and waits for its end.
func (b *bed) checkpoint() {
	b.t.Helper()
	b.until("the end of the last one", func() bool { return !b.d.ckpt.active })
	b.d.startCheckpoint()
	b.until("the end of the checkpoint", func() bool { return !b.d.ckpt.active })
}

// TestNoSpaceForCheckpoints: the log fills, users are told, and all goes on
// after space was made.
func TestNoSpaceForCheckpoints(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, mini.with(md))
		b.create()
		reg := b.region(layout.RegionL2PSlot0)
		full := b.full(onCache, reg.Offset, reg.Offset+2*reg.Blocks)
		onlyErr(t, b.churn(400, 8, 4), unix.ENOSPC)
		for range 10 {
			b.pass(100 * time.Millisecond)
			onlyErr(t, b.churn(5, 8, 4), unix.ENOSPC)
		}
		b.mustBe(HealthOK)
		b.good()
		b.crashed()
		full.Remove()
		b.pass(100 * time.Millisecond)
		require.Empty(t, b.churn(400, 8, 4))
		b.good()
		b.settleAll()
		b.stopsWell()
	}
}

// TestCheckpointWriteErrors: attempts whose pages or directory cannot be
// written are given up, never half committed, and tried again.
func TestCheckpointWriteErrors(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		for _, region := range []layout.RegionType{layout.RegionL2PSlot0, layout.RegionL2PDir1A, layout.RegionL2PDir1B} {
			t.Run(errno.Error()+" "+region.String(), func(t *testing.T) {
				b := newBed(t, mini)
				b.create()
				reg := b.region(region)
				r := b.rule(onCache, errinj.Rule{Action: errinj.Fail, Err: errno, Ops: writeOps, From: reg.Offset, To: reg.End()})
				b.fillTo(150)
				k := b.d.sb.CkptK
				for range 3 {
					b.checkpoint()
					require.Empty(t, b.churn(5, 8, 4))
				}
				require.Equal(t, uint64(3), b.stats().CkptAborted)
				require.Equal(t, k, b.mediaK())
				b.mustBe(HealthOK)
				b.good()
				b.crashed()
				r.Remove()
				b.checkpoint()
				require.Equal(t, k+4, b.mediaK(), "numbers of attempts are not used again")
				require.Empty(t, b.churn(300, 8, 4))
				b.good()
				b.crashed()
				b.settleAll()
				b.stopsWell()
			})
		}
	}
}

// TestCheckpointsThatCannotBeWritten end the writing, not the reading.
func TestCheckpointsThatCannotBeWritten(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	reg := b.region(layout.RegionL2PDir1A)
	b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: reg.Offset, To: reg.End()})
	b.step = func(int) { b.pass(time.Millisecond) }
	onlyErr(t, b.churn(3000, 8, 4), unix.EROFS)
	b.step = nil
	require.ErrorIs(t, b.health(HealthReadOnly), unix.EIO)
	b.good()
	require.NoError(t, b.halted(false))
	b.heal()
	b.load()
	b.mustBe(HealthOK)
	b.verify(true)
	b.check()
	b.stop(false)
}

// TestSuperblockWriteErrors: a commit whose superblock cannot be written is
// neither there nor not there, so writing ends; after few errors it succeeds.
func TestSuperblockWriteErrors(t *testing.T) {
	for dev, name := range []string{"primary", "mirror"} {
		for _, count := range []uint64{1, 3, 100} {
			t.Run(name, func(t *testing.T) {
				b := newBed(t, mini)
				b.create()
				b.fillTo(100)
				b.until("idle", func() bool { return b.d.Idle() })
				b.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 0, To: 1, Count: count})
				b.d.startCheckpoint()
				b.until("the end of the checkpoint", func() bool { return !b.d.ckpt.active })
				if count < 100 {
					b.mustBe(HealthOK)
					require.Empty(t, b.churn(200, 8, 4))
				} else {
					require.ErrorIs(t, b.health(HealthReadOnly), unix.EIO)
					require.Equal(t, unix.EROFS, b.do(OpWrite, 0, 1))
				}
				b.good()
				b.crashed()
				_ = b.halted(true)
				b.heal()
				b.load()
				b.mustBe(HealthOK)
				b.verify(true)
				b.stop(false)
			})
		}
	}
}

// TestStopThatCannotCommit: the last checkpoint or the clean flag of a stop
// fails. Stop reports it, lets everything go, and the next load recovers.
func TestStopThatCannotCommit(t *testing.T) {
	for dev := range 2 {
		b := newBed(t, mini)
		b.create()
		b.fillTo(300)
		b.settleAll()
		b.put(7, 3)
		b.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 0, To: 1})
		require.ErrorIs(t, b.halted(false), unix.EIO)
		b.heal()
		b.load()
		b.mustBe(HealthOK)
		b.good()
		b.stop(false)
	}
	b := newBed(t, mini)
	b.create()
	b.fillTo(300)
	b.settleAll()
	b.put(7, 3)
	reg := b.region(layout.RegionL2PSlot0)
	b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: reg.Offset, To: reg.Offset + 2*reg.Blocks})
	require.ErrorIs(t, b.halted(false), unix.EIO)
	b.heal()
	b.load()
	b.good()
	b.stop(false)
}

// TestRecoveryThatCannotCommit: recovery's own checkpoint fails. The load
// fails, nothing was changed, and the next one finds everything.
func TestRecoveryThatCannotCommit(t *testing.T) {
	for _, region := range []layout.RegionType{layout.RegionL2PSlot0, layout.RegionL2PDir0A, layout.RegionL2PDir1A, layout.RegionSB} {
		for _, md := range mdSizes {
			b := written(t, mini.with(md), false)
			reg := b.region(region)
			b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: reg.Offset, To: reg.End()})
			if err := b.start(b.cfg); err != nil {
				require.ErrorIs(t, err, unix.EIO)
				b.noChannels()
				b.heal()
				b.load()
			}
			b.heal()
			b.mustBe(HealthOK)
			b.good()
			require.Empty(t, b.churn(100, 8, 4))
			b.settleAll()
			b.check()
			b.stop(false)
			b.free()
		}
	}
}

// TestDescriptorWriteErrors: opening or closing a segment fails, for a while
// and for ever.
func TestDescriptorWriteErrors(t *testing.T) {
	for _, region := range []layout.RegionType{
		layout.RegionChunkMD, layout.RegionChunkMDMirror, layout.RegionBandMD, layout.RegionBandMDMirror,
	} {
		t.Run(region.String(), func(t *testing.T) {
			g := mini
			g.lag = 30 * time.Microsecond
			b := newBed(t, g)
			b.create()
			reg := b.region(region)
			now := b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: reg.Offset, To: reg.End(), Every: 3})
			b.crashEvery(50)
			b.fillTo(300)
			require.Empty(t, b.churn(400, 8, 4))
			require.NotZero(t, now.Hits())
			b.step = nil
			b.mustBe(HealthOK)
			b.good()
			now.Remove()
			require.Empty(t, b.churn(100, 8, 4))
			b.settleAll()
			b.restart()
			b.good()

			b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: reg.Offset, To: reg.End()})
			b.step = func(int) { b.pass(time.Millisecond) }
			onlyErr(t, b.churn(2000, 8, 4), unix.EROFS)
			b.step = nil
			require.ErrorIs(t, b.health(HealthReadOnly), unix.EIO)
			b.good()
			require.NoError(t, b.halted(false))
			b.heal()
			b.load()
			b.mustBe(HealthOK)
			b.verify(true)
			b.check()
			b.stop(false)
		})
	}
}

// TestSummaryWriteErrors: a segment whose summary cannot be written keeps it in
// memory; after a crash it is scanned.
func TestSummaryWriteErrors(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		for i := range b.d.segs {
			s := &b.d.segs[i]
			dev := onCache
			if s.band {
				dev = onBase
			}
			at := s.off + uint64(s.body)
			b.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: at, To: at + 1})
		}
		b.crashEvery(100)
		b.fill()
		require.Empty(t, b.churn(600, 8, 4))
		b.mustBe(HealthOK)
		b.good()
		b.settleAll()
		b.stop(false)
		b.load()
		b.good()
		b.heal()
		b.step = nil
		require.Empty(t, b.churn(600, 8, 4))
		b.settleAll()
		b.good()
		b.check()
		b.stop(false)
	})
}

// TestNoSpaceForCheckpointsAlone: without a cache users wait for relocation, which waits for bands that only a checkpoint
// frees. They are told when there is no room for it, though nobody asks for anything more.
func TestNoSpaceForCheckpointsAlone(t *testing.T) {
	for _, alone := range []bool{false, true} {
		g := mini
		g.noCache, g.alone = true, alone
		b := newBed(t, g)
		b.create()
		b.fill()
		b.settleAll()
		dev, reg := onCache, b.region(layout.RegionL2PSlot0)
		if alone {
			dev = onBase
		}
		full := b.full(dev, reg.Offset, reg.Offset+2*reg.Blocks)
		failed := b.churn(2000, 8, 4)
		require.NotEmpty(t, failed)
		onlyErr(t, failed, unix.ENOSPC)
		b.mustBe(HealthOK)
		b.good()
		full.Remove()
		b.pass(100 * time.Millisecond)
		require.Empty(t, b.churn(400, 8, 4))
		b.good()
		b.stopsWell()
	}
}
