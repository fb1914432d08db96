package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/malloc"
	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/ftl/record"
)

// report runs a verification.
func (b *bed) report() *CheckReport {
	b.t.Helper()
	var rep *CheckReport
	b.d.Check(func(x *CheckReport, err error) { require.NoError(b.t, err); rep = x })
	b.until("check", func() bool { return rep != nil })
	return rep
}

// TestCheckFindsDamage: each kind of damage is found and named, and nothing
// else is.
func TestCheckFindsDamage(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, mini.with(md))
		b.create()
		b.fillTo(600)
		b.settleAll()
		rep := b.report()
		require.True(t, rep.OK())
		require.Equal(t, uint64(600), rep.Verified)
		require.Equal(t, uint64(600), rep.Mapped)
		b.stop(false)

		damaged := func(what string, change func(tw *bed), want func(rep *CheckReport)) {
			t.Run(what, func(t *testing.T) {
				b.t = t
				tw := b.image()
				cfg := tw.cfg
				cfg.ReadOnly = true
				if change != nil {
					change(tw)
				}
				require.NoError(t, tw.start(cfg))
				rep := tw.report()
				want(rep)
				require.False(t, rep.OK())
				require.NotEmpty(t, rep.Problems)
				tw.end()
			})
		}
		bandBlock := b.region(layout.RegionBands).Offset + 3
		damaged("rot", func(tw *bed) { tw.rot(onBase, bandBlock) }, func(rep *CheckReport) {
			require.Equal(t, uint64(1), rep.BadSums)
			require.Equal(t, uint64(599), rep.Verified)
		})
		damaged("unreadable", func(tw *bed) {
			tw.rule(onBase, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: bandBlock, To: bandBlock + 2})
		}, func(rep *CheckReport) {
			require.Equal(t, uint64(2), rep.BadSums)
			require.Equal(t, uint64(598), rep.Verified)
		})
		damaged("mapping", func(tw *bed) {
			e := *b.d.ckpt.dirEntryOf(b, 0)
			k, slot := record.SplitDirEntry(e)
			off := b.region(layout.L2PSlot(slot)).Offset * 4096
			page := tw.mem[onCache].Data()[off : off+4096]
			u := record.U32s(page)
			u[3], u[4] = u[4], u[3]
			record.SealPage(page, 0, k, record.Place(b.d.sb.UUID, 0))
		}, func(rep *CheckReport) {
			require.Equal(t, uint64(2), rep.Orphans)
			require.Equal(t, uint64(598), rep.Verified)
		})
		damaged("page", func(tw *bed) {
			_, slot := record.SplitDirEntry(*b.d.ckpt.dirEntryOf(b, 0))
			tw.rot(onCache, b.region(layout.L2PSlot(slot)).Offset)
		}, func(rep *CheckReport) {
			require.Equal(t, uint64(1), rep.Rotten)
			require.Equal(t, b.d.Blocks(), rep.Lost)
		})
		// A summary that cannot be read is a problem, but its blocks verify.
		tw := b.image()
		cfg := tw.cfg
		cfg.ReadOnly = true
		s := &b.d.segs[int(b.d.lay.Chunks)]
		tw.rot(onBase, s.off+uint64(s.body))
		require.NoError(t, tw.start(cfg))
		rep = tw.report()
		require.True(t, rep.OK())
		require.Len(t, rep.Problems, 1)
		require.Equal(t, uint64(600), rep.Verified)
		tw.end()
		b.free()
	}
}

// TestInvariantsAreChecked: CheckInvariants sees what it is there for.
func TestInvariantsAreChecked(t *testing.T) {
	for name, breakIt := range map[string]func(d *Device){
		"mapped count": func(d *Device) { d.mapped++ },
		"valid count":  func(d *Device) { d.valid[0]++ },
		"address":      func(d *Device) { d.table.Set(3, l2p.Addr(d.span)+9) },
		"free segment": func(d *Device) { d.table.Set(3, d.segs[len(d.segs)-1].addr) },
		"other slot":   func(d *Device) { d.table.Set(3, d.table.Get(4)) },
	} {
		b := newBed(t, mini)
		b.create()
		b.put(0, 20)
		require.NoError(t, b.d.CheckInvariants())
		breakIt(b.d)
		require.Error(t, b.d.CheckInvariants(), name)
		b.free()
	}
}

// TestUnsuitableDevices are refused before anything is written.
func TestUnsuitableDevices(t *testing.T) {
	for _, c := range []struct {
		what   string
		cache  bool
		change func(i *bdev.Info)
		want   error
		text   string
	}{
		{"zones", false, func(i *bdev.Info) { i.Zoned, i.ZoneBlocks, i.ZoneCapacity, i.MaxAppend = true, 64, 64, 64 }, unix.ENOTSUP, "zoned"},
		{"write unit", false, func(i *bdev.Info) { i.WriteUnit = 4 }, unix.ENOTSUP, "write unit"},
		{"little metadata", true, func(i *bdev.Info) { i.MDSize = 8 }, unix.EINVAL, "metadata"},
		{"read-only", true, func(i *bdev.Info) { i.ReadOnly = true }, unix.EROFS, "read-only"},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := newBed(t, mini)
			m, err := malloc.New(malloc.Options{Name: "odd", Blocks: 4096, MDSize: 8})
			require.NoError(t, err)
			d := oddDisk{m, c.change}
			_, err = b.mgr.Register(d)
			require.NoError(t, err)
			cfg := b.cfg
			cfg.Create = true
			if c.cache {
				cfg.Cache = "odd"
			} else {
				cfg.Base = "odd"
			}
			err = b.start(cfg)
			require.ErrorIs(t, err, c.want)
			require.Contains(t, err.Error(), c.text)
			b.noChannels()
			for _, x := range m.Data()[:1<<20] {
				require.Zero(t, x)
			}
		})
	}
}

// oddDisk is a malloc device that says other things about itself.
type oddDisk struct {
	*malloc.Driver
	change func(i *bdev.Info)
}

func (o oddDisk) Info() bdev.Info {
	i := o.Driver.Info()
	i.MDSize = 0
	o.change(&i)
	return i
}

// TestFewIOs: with a pool of very few IOs everything waits its turn.
func TestFewIOs(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		require.NoError(t, b.mgr.SetPool(3, 1))
		b.create()
		b.fill()
		require.Empty(t, b.churn(300, 8, 16))
		b.good()
		b.crashed()
		b.settleAll()
		b.stop(false)
		b.load()
		b.good()
		b.stop(false)
	})
}

// TestNoVerify takes what the devices say.
func TestNoVerify(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, mini.with(md))
		b.cfg.NoVerify = true
		b.create()
		b.fillTo(300)
		b.good()
		dev, block, _, _ := b.place(7)
		b.rot(dev, block)
		require.NoError(t, b.do(OpRead, 7, 1))
		require.Empty(t, b.churn(400, 8, 8))
		b.stop(false)
		b.cfg.NoVerify = false
		b.free()
	}
}

// TestLongLog is more than one batch of redo, with progress told.
func TestLongLog(t *testing.T) {
	for _, md := range mdSizes {
		g := geometry{cache: 9000, base: 256 + 64*256, chunk: 512, band: 256, md: md}
		b := newBed(t, g)
		b.cfg.RedoLimitBytes = 1 << 40
		b.create()
		n := redoBatch + 100
		if md == 0 {
			n /= 2 // each takes two slots, and half of the cache is redone at most
		}
		for i := range uint64(n) { // one by one: nothing is grouped
			b.put(i%1500, 1)
		}
		b.trims(20, 30)
		phases := map[string]int{}
		b.cfg.Progress = func(phase string, done, total uint64) {
			phases[phase]++
			require.True(t, total == 0 || done <= total)
		}
		b.restart()
		require.NotEmpty(t, phases)
		require.Equal(t, n+1, b.d.LoadReport().Redone)
		b.oddCheck()
		b.settleAll()
		b.stop(false)
		b.free()
	}
}

// TestUnreadableTrimRecord in a full chunk: its number is durable and what it
// trimmed is unknown.
func TestUnreadableTrimRecord(t *testing.T) {
	for _, dm := range damages(0) {
		b := newBed(t, mini)
		b.create()
		b.put(0, 5)
		b.trims(1, 2)
		require.Equal(t, l2p.Unmapped, b.d.table.Get(1))
		_, block, s, slot := b.place(0)
		trimBlock := block - uint64(slot) + 6 // header, five blocks, the trim
		b.put(50, 60)                         // the chunk becomes full
		b.put(200, 5)
		b.sync()
		b.until("idle", func() bool { return b.d.Idle() })
		require.Equal(t, segFull, s.state)
		require.Equal(t, record.MarkTrim, record.Summary(b.mem[onCache].Data()[(s.off+uint64(s.body))*4096:]).LBAAt(6))
		b.stop(true)
		dm.do(b, onCache, trimBlock)
		if dm.name == "bit rot" { // beyond the entry nothing counts
			b.mem[onCache].Data()[trimBlock*4096+130] ^= 1
		}
		b.load()
		require.ErrorIs(t, b.health(HealthReadOnly), ErrLoss, dm.name)
		require.Equal(t, uint64(1), b.d.LoadReport().Gaps)
		b.end()
		b.free()
	}
}

// TestCheckpointNumbersEnd long after everybody is dead; but not silently.
func TestCheckpointNumbersEnd(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.put(0, 5)
	b.d.ckpt.k = record.MaxK
	b.d.startCheckpoint()
	b.pass(time.Millisecond)
	require.ErrorIs(t, b.health(HealthReadOnly), unix.EIO)
	b.good()
	require.NoError(t, b.halted(false))
	b.load()
	b.mustBe(HealthOK)
	b.good()
	b.stop(false)
}

// TestTooManyBadBands: so many of the base's writes fail that the reserve is
// used up. The device turns read-only instead of waiting for ever.
func TestTooManyBadBands(t *testing.T) {
	ends := 0
	for seed := range uint64(4) {
		g := geometry{cache: 256*18 + 100, base: 256 + 30*512, chunk: 256, band: 512, lag: 30 * time.Microsecond}
		b := newBed(t, g)
		b.create()
		b.fault(onBase, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 1, To: g.base, Prob: 0.6, Seed: seed})
		b.fill()
		b.churn(800, 8, 8)
		require.Zero(t, b.stats().Lost)
		if h, _ := b.d.Health(); h != HealthOK {
			ends++
		}
		b.heal()
		_ = b.halted(false)
		b.load()
		b.verify(true)
		b.stop(true)
		b.free()
	}
	t.Logf("%d of 4 devices turned read-only", ends)
}

// TestInspection says where blocks lie.
func TestInspection(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.put(5, 1)
	kind, _, slot, state := b.d.Locate(5)
	require.Equal(t, "chunk", kind)
	require.Equal(t, uint32(1), slot)
	require.Equal(t, "mapped", state)
	_, _, _, state = b.d.Locate(6)
	require.Equal(t, "unmapped", state)
	b.d.lose(5, b.d.table.Get(5))
	_, _, _, state = b.d.Locate(5)
	require.Equal(t, "lost", state)
	require.Equal(t, unix.EIO, b.do(OpRead, 5, 1))
	require.Equal(t, "test", b.d.Name())
	require.Equal(t, testUUID, b.d.UUID())
	require.Equal(t, b.th, b.d.Thread())
	require.NotEmpty(t, b.d.History())
	segs := b.d.Segments()
	require.Len(t, segs, int(b.d.lay.Chunks+b.d.lay.Bands))
	b.stop(false)
}
