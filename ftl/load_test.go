package ftl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/ftl/superblock"
)

// written makes a device with data in chunks and bands, and stops it.
func written(t testing.TB, g geometry, clean bool) *bed {
	b := newBed(t, g)
	b.create()
	b.fillTo(600)
	b.trims(40, 25)
	b.sync()
	b.settleAll()
	b.checkpoint()
	b.put(10, 20)
	b.sync()
	b.stop(!clean)
	return b
}

// zero clears blocks of a device.
func (b *bed) zero(dev int, block, n uint64) { clear(b.mem[dev].Data()[block*4096 : (block+n)*4096]) }

// TestSuperblockCopies damages the copies in every combination.
func TestSuperblockCopies(t *testing.T) {
	kinds := []string{"whole", "rotten", "unreadable", "blank"}
	for _, clean := range []bool{true, false} {
		b := written(t, mini, clean)
		for _, c := range kinds {
			for _, m := range kinds {
				t.Run(fmt.Sprintf("clean=%v,%s cache,%s base", clean, c, m), func(t *testing.T) {
					b.t = t
					tw := b.image()
					for dev, k := range []string{c, m} {
						switch k {
						case "rotten":
							tw.rotSB(dev)
						case "unreadable":
							tw.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: 0, To: 1})
						case "blank":
							tw.zero(dev, 0, 1)
						}
					}
					superblocks(t, tw, c, m)
				})
			}
		}
	}
}

// rotSB flips a bit of a superblock where it counts.
func (b *bed) rotSB(dev int) { b.mem[dev].Data()[100] ^= 0x04 }

func superblocks(t *testing.T, tw *bed, c, m string) {
	err := tw.start(tw.cfg)
	good := c == "whole" || m == "whole"
	blank := c == "blank" || m == "blank"
	switch {
	case !good:
		require.Error(t, err)
		tw.noChannels()
		if c == "blank" && m == "blank" {
			require.ErrorIs(t, err, unix.ENOENT)
		}
	case blank:
		require.ErrorIs(t, err, ErrHalfBlank)
		tw.noChannels()
	default:
		require.NoError(t, err)
		tw.good()
		require.Empty(t, tw.churn(50, 8, 8))
		tw.settleAll()
		tw.stop(false)
		tw.heal()
		// The other copy was repaired: it is enough now.
		for dev := range tw.inj {
			if c == "whole" && m == "whole" {
				break
			}
			hurt := []string{c, m}[dev]
			if hurt == "whole" {
				tw.rotSB(dev)
			}
		}
		tw.load()
		tw.good()
		tw.end()
	}
}

// TestSuperblockWithLeave: a superblock that is blank or somebody else's data is refused, and nothing is written; with
// leave it is written anew from the other device, which is not needed twice.
func TestSuperblockWithLeave(t *testing.T) {
	for _, clean := range []bool{true, false} {
		b := written(t, mini, clean)
		for dev, device := range []string{"cache", "base"} {
			for what, refused := range map[string]error{"foreign": superblock.ErrForeign, "blank": ErrHalfBlank} {
				t.Run(fmt.Sprintf("clean=%v,%s %s", clean, what, device), func(t *testing.T) {
					b.t = t
					tw := b.image()
					tw.zero(dev, 0, 1)
					if what == "foreign" {
						copy(tw.mem[dev].Data()[1000:], "somebody's partition table")
					}
					before := bytes.Clone(tw.mem[dev].Data()[:4096])
					err := tw.start(tw.cfg)
					require.ErrorIs(t, err, refused)
					require.ErrorContains(t, err, tw.cfg.UUID.String(), "it says to which device the other belongs")
					require.Equal(t, before, tw.mem[dev].Data()[:4096])
					tw.noChannels()

					cfg := tw.cfg
					cfg.RewriteSuperblock = true
					require.NoError(t, tw.start(cfg))
					tw.good()
					tw.stop(false)
					tw.heal()
					tw.rotSB(1 - dev)
					tw.load()
					tw.good()
					tw.end()
				})
			}
		}
	}
}

// TestDescriptorCopies: either copy of every descriptor is enough; with both
// gone a load says which.
func TestDescriptorCopies(t *testing.T) {
	for _, clean := range []bool{true, false} {
		b := written(t, mini, clean)
		for _, r := range []layout.RegionType{
			layout.RegionChunkMD, layout.RegionChunkMDMirror, layout.RegionBandMD, layout.RegionBandMDMirror,
		} {
			for _, dm := range damages(0) {
				t.Run(fmt.Sprintf("clean=%v,%v,%s", clean, r, dm.name), func(t *testing.T) {
					b.t = t
					tw := b.image()
					reg := b.region(r)
					for i := range reg.Blocks {
						dm.do(tw, onCache, reg.Offset+i)
					}
					require.NoError(t, tw.start(tw.cfg))
					tw.verify(!clean)
					tw.mustBe(HealthOK)
					tw.end()
				})
			}
		}
		t.Run(fmt.Sprintf("clean=%v,both", clean), func(t *testing.T) {
			b.t = t
			tw := b.image()
			for _, r := range []layout.RegionType{layout.RegionChunkMD, layout.RegionChunkMDMirror} {
				tw.rot(onCache, tw.lay(b).Region(r).Offset+3)
			}
			err := tw.start(tw.cfg)
			require.ErrorIs(t, err, unix.EIO)
			require.Contains(t, err.Error(), "chunk_md")
			tw.noChannels()
		})
	}
}

func (b *bed) lay(of *bed) *layout.Layout { return of.d.lay }

// TestDirectoryCopies: one copy of the checkpoint's directory is enough; with
// both gone the error says so.
func TestDirectoryCopies(t *testing.T) {
	for _, clean := range []bool{true, false} {
		b := written(t, mini, clean)
		slot := b.d.sb.DirSlot
		for _, bad := range [][]uint32{{0}, {1}, {0, 1}} {
			for _, dm := range damages(0) {
				t.Run(fmt.Sprintf("clean=%v,copies %v,%s", clean, bad, dm.name), func(t *testing.T) {
					b.t = t
					tw := b.image()
					for _, c := range bad {
						dm.do(tw, onCache, b.region(layout.L2PDir(slot, c)).Offset)
					}
					err := tw.start(tw.cfg)
					if len(bad) == 2 {
						require.ErrorIs(t, err, unix.EIO)
						require.Contains(t, err.Error(), "directory")
						require.Contains(t, err.Error(), "both copies")
						tw.noChannels()
						return
					}
					require.NoError(t, err)
					tw.good()
					require.Empty(t, tw.churn(300, 8, 8))
					tw.good()
					tw.stop(false)
					tw.load()
					tw.good()
					tw.end()
				})
			}
		}
	}
}

// TestRottenPages: a page of the mapping that the directory names and that
// cannot be read fails its blocks until they are written; the other slot, which
// holds older addresses, is never taken for it.
func TestRottenPages(t *testing.T) {
	for _, clean := range []bool{true, false} {
		b := newBed(t, tiny)
		b.create()
		require.Greater(t, b.d.table.Pages(), uint64(2))
		for range 3 { // both slots get content
			b.fillTo(b.d.Blocks() / 2)
			b.stop(false)
			b.load()
		}
		b.stop(!clean)
		for _, dm := range damages(0) {
			for _, slots := range [][]uint32{{0}, {1}, {0, 1}} {
				t.Run(fmt.Sprintf("clean=%v,%s,slots %v", clean, dm.name, slots), func(t *testing.T) {
					b.t = t
					tw := b.image()
					page := uint64(0)
					named := *b.d.ckpt.dirEntryOf(b, page)
					_, slot := record.SplitDirEntry(named)
					hit := false
					for _, s := range slots {
						dm.do(tw, onCache, b.region(layout.L2PSlot(s)).Offset+page)
						hit = hit || s == slot
					}
					require.NoError(t, tw.start(tw.cfg))
					rotten := tw.d.LoadReport().RottenPages
					if !hit {
						require.Zero(t, rotten)
						tw.good()
						tw.end()
						return
					}
					require.Equal(t, uint64(1), rotten)
					from, to := tw.d.pageSpan(page)
					for lba := from; lba < to; lba++ {
						tw.lost[lba] = true
					}
					require.Len(t, tw.verify(false), int(to-from))
					require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
					require.NoError(t, tw.halted(false))
					cfg := tw.cfg
					cfg.AcceptLoss = true
					require.NoError(t, tw.start(cfg))
					require.Len(t, tw.verify(false), int(to-from))
					tw.mustBe(HealthOK)
					tw.put(from+3, 5)
					require.Len(t, tw.verify(false), int(to-from)-5)
					require.NoError(t, tw.do(OpTrim, from+20, 5))
					require.Len(t, tw.verify(false), int(to-from)-10)
					tw.settleAll()
					tw.heal()
					rep := tw.report()
					require.Zero(t, rep.Rotten)
					require.Equal(t, uint64(1), rep.Accepted)
					require.Equal(t, to-from-10, rep.Lost)
					tw.stop(false)
					tw.load()
					require.Zero(t, tw.d.LoadReport().RottenPages)
					require.Len(t, tw.verify(false), int(to-from)-10)
					tw.end()
				})
			}
		}
	}
}

// TestPagesAreTriedAgain: a page that cannot be read in its run is read alone,
// and as often as a user's block, before it counts as rotten.
func TestPagesAreTriedAgain(t *testing.T) {
	b := newBed(t, tiny)
	b.create()
	require.Greater(t, b.d.table.Pages(), uint64(2))
	b.fill()
	b.stop(false)
	_, slot := record.SplitDirEntry(*b.d.ckpt.dirEntryOf(b, 1))
	page := b.region(layout.L2PSlot(slot)).Offset + 1
	for _, action := range []errinj.Action{errinj.Fail, errinj.Corrupt} {
		for _, n := range []uint64{1, readTries, readTries + 1} {
			t.Run(fmt.Sprint(action, n), func(t *testing.T) {
				b.t = t
				tw := b.image()
				tw.fault(onCache, errinj.Rule{
					Action: action, Bits: 8, Ops: bdev.Ops(bdev.OpRead), From: page, To: page + 1, Count: n,
				})
				require.NoError(t, tw.start(tw.cfg))
				if n > readTries {
					require.Equal(t, uint64(1), tw.d.LoadReport().RottenPages)
					require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
				} else {
					require.Zero(t, tw.d.LoadReport().RottenPages)
					tw.mustBe(HealthOK)
					tw.good()
				}
				tw.end()
			})
		}
	}
}

// dirEntryOf reads an entry of the committed directory from the media.
func (c *ckptState) dirEntryOf(b *bed, p uint64) *uint32 {
	off := b.region(layout.L2PDir(b.d.sb.DirSlot, 0)).Offset * 4096
	return &record.U32s(b.mem[onCache].Data()[off : off+4096])[p]
}

// TestHostilePages: entries of a page that is whole by its checksum, but that
// name nothing, are lost blocks and not a crash.
func TestHostilePages(t *testing.T) {
	for _, clean := range []bool{true, false} {
		b := written(t, mini, clean)
		tw := b.image()
		e := *b.d.ckpt.dirEntryOf(b, 0)
		k, slot := record.SplitDirEntry(e)
		off := b.region(layout.L2PSlot(slot)).Offset * 4096
		page := tw.mem[onCache].Data()[off : off+4096]
		addrs := record.U32s(page)
		free := -1
		for i, s := range b.d.segs {
			if s.gen == 0 {
				free = i
			}
		}
		require.Positive(t, free)
		chunk := b.d.lay.ChunkBlocks
		for i, a := range []uint64{1<<32 - 1, b.d.span + 2, 2 + chunk - 1, uint64(b.d.segs[free].addr) + 3} {
			addrs[100+i] = uint32(a)
			tw.gone[100+uint64(i)] = true
			tw.also[100+i] = append(tw.also[100+i], zeroed)
		}
		record.SealPage(page, 0, k, record.Place(b.d.sb.UUID, 0))
		require.NoError(t, tw.start(tw.cfg))
		require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
		require.Len(t, tw.verify(true), 4)
		require.NoError(t, tw.halted(true))
		tw.cfg.AcceptLoss = true
		require.NoError(t, tw.start(tw.cfg))
		tw.mustBe(HealthOK)
		require.Len(t, tw.verify(true), 4)
		require.NoError(t, tw.d.CheckInvariants())
		for i := range uint64(4) {
			tw.put(100+i, 1)
		}
		tw.fill()
		require.Empty(t, tw.churn(500, 8, 8))
		tw.good()
		tw.settleAll()
		tw.stop(false)
	}
}

// TestReadOnlyLoad writes nothing, whatever it finds, and serves reads.
func TestReadOnlyLoad(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		for _, clean := range []bool{true, false} {
			b := written(t, g, clean)
			tw := b.image()
			tw.rotSB(onBase)
			tw.rot(onCache, b.region(layout.RegionChunkMD).Offset+1)
			var before [3][]byte
			for i, m := range [][]byte{tw.mem[0].Data(), tw.mem[0].MD(), tw.mem[1].Data()} {
				before[i] = append([]byte(nil), m...)
			}
			writes := []*errinj.Active{}
			for dev := range tw.inj {
				ops := ^bdev.Ops(bdev.OpRead, bdev.OpAbort, bdev.OpReset)
				writes = append(writes, tw.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: ops}))
			}
			cfg := tw.cfg
			cfg.ReadOnly = true
			require.NoError(t, tw.start(cfg))
			tw.verify(!clean)
			tw.mustBe(HealthReadOnly)
			require.Equal(t, unix.EROFS, tw.do(OpWrite, 0, 1))
			require.Equal(t, unix.EROFS, tw.do(OpTrim, 0, 1))
			require.True(t, tw.d.Idle())
			tw.check()
			require.NoError(t, tw.halted(false))
			for _, w := range writes {
				require.Zero(t, w.Hits())
			}
			for i, m := range [][]byte{tw.mem[0].Data(), tw.mem[0].MD(), tw.mem[1].Data()} {
				require.Equal(t, len(before[i]), len(m))
				require.True(t, string(before[i]) == string(m), "medium %d changed", i)
			}
		}
	})
}

// TestLossOfDurableRecords: rot in the log in front of records that say it was
// durable. The device stays read-only until somebody accepts the loss.
func TestLossOfDurableRecords(t *testing.T) {
	for _, md := range mdSizes {
		for _, vol := range []bool{false, true} {
			for _, dm := range []string{"header", "unreadable header", "first metadata", "metadata", "blocks", "unreadable block"} {
				if md == 0 == strings.Contains(dm, "metadata") && !strings.Contains(dm, "block") {
					continue
				}
				t.Run(fmt.Sprintf("md=%d,volatile=%v,%s", md, vol, dm), func(t *testing.T) {
					g := mini.with(md)
					g.volatile = vol
					lossOfDurable(t, g, dm)
				})
			}
		}
	}
}

// TestLossBehindACheckpoint: records that were acknowledged while a checkpoint was under way, behind what it covers and in
// front of its flush, are durable, and its pages may map to them. When the last of them rots that is a loss and no torn
// tail, though no later record says so.
func TestLossBehindACheckpoint(t *testing.T) {
	for _, md := range mdSizes {
		t.Run(fmt.Sprintf("md=%d", md), func(t *testing.T) {
			g := mini.with(md)
			g.volatile = true
			b := newBed(t, g)
			b.create()
			b.put(0, 3)
			b.sync()
			slow := b.rule(onCache, errinj.Rule{
				Action: errinj.Delay, Delay: 5 * time.Millisecond, Ops: writeOps,
				From: b.region(layout.RegionL2PDir0A).Offset, To: b.region(layout.RegionL2PDir1B).End(),
			})
			b.d.startCheckpoint()
			b.put(10, 3)
			b.put(20, 3)
			require.NotZero(t, slow.Matched(), "the checkpoint does not wait")
			require.True(t, b.d.ckpt.active)
			b.until("the end of the checkpoint", func() bool { return !b.d.ckpt.active })
			require.Less(t, b.d.sb.CU, b.d.ackedU)
			require.Equal(t, b.d.ackedU, b.d.sb.Durable)

			_, block, s, _ := b.place(20)
			require.False(t, s.band)
			tw := b.image()
			if md == 0 {
				tw.mem[onCache].Data()[(block-1)*4096+40] ^= 1
			} else {
				tw.rotMD(onCache, block)
			}
			require.NoError(t, tw.start(tw.cfg))
			require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
			tw.end()
		})
	}
}

// TestLossInAFullChunk: what the summary of a full chunk names was durable, and so was everything in front of the last
// number that its descriptor names. When that cannot be read it is a loss and no torn tail, though nothing that was
// written later says so.
func TestLossInAFullChunk(t *testing.T) {
	for _, md := range mdSizes {
		for _, what := range []string{"trim", "summary", "summary and trim", "summary and record"} {
			t.Run(fmt.Sprintf("md=%d,%s", md, what), func(t *testing.T) {
				g := mini.with(md)
				g.volatile = true
				b := newBed(t, g)
				b.create()
				b.put(99, 1)
				s := b.d.log_.cur.cur
				lba := uint64(0)
				for ; s.body-s.next > 6; lba += 2 {
					b.put(lba, 1)
				}
				b.put(100, 1)
				_, record, _, _ := b.place(100)
				trim := s.off + uint64(s.next)
				b.trims(0, 1)
				if s.state == segOpen {
					b.d.seal(s)
				}
				b.until("a full chunk", func() bool { return s.state == segFull })
				require.Less(t, b.d.sb.CU, s.firstU, "a checkpoint covers it")
				require.Equal(t, b.d.ackedU, s.lastU)
				require.Less(t, s.maxD, s.lastU)

				tw := b.image()
				header := func(block uint64) { tw.mem[onCache].Data()[block*4096+40] ^= 1 }
				if strings.Contains(what, "summary") {
					tw.rot(onCache, s.sumOff())
				}
				if strings.Contains(what, "trim") {
					header(trim)
				}
				if strings.Contains(what, "record") {
					if md == 0 {
						header(record - 1)
					} else {
						tw.rotMD(onCache, record)
					}
				}
				require.NoError(t, tw.start(tw.cfg))
				if what == "summary" {
					tw.mustBe(HealthOK)
					tw.good()
				} else {
					require.ErrorIs(t, tw.health(HealthReadOnly), ErrLoss)
					require.NotZero(t, tw.d.LoadReport().Gaps)
				}
				tw.end()
			})
		}
	}
}

func lossOfDurable(t *testing.T, g geometry, dm string) {
	b := newBed(t, g)
	b.create()
	for i := range uint64(6) { // six records, each durable before the next
		b.put(i*10, 3)
		b.sync()
	}
	_, block, s, _ := b.place(20)
	require.False(t, s.band)
	b.stop(true)
	switch dm {
	case "header", "unreadable header", "first metadata":
		switch dm {
		case "header":
			b.mem[onCache].Data()[(block-1)*4096+40] ^= 1
		case "unreadable header":
			b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: block - 1, To: block})
		default:
			b.rotMD(onCache, block)
		}
		// Where a record begins is unknown: what follows in the chunk is only
		// seen to have been durable.
		for l := uint64(20); l < 60; l++ {
			b.also[l] = append(b.also[l], zeroed)
		}
	case "metadata":
		b.rotMD(onCache, block+1)
		b.also[21] = append(b.also[21], zeroed)
	case "blocks":
		b.rot(onCache, block+1)
		b.lost[21] = true
	case "unreadable block":
		b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: block + 1, To: block + 2})
		if g.md == 0 {
			b.lost[21] = true // its header names it
		} else {
			b.also[21] = append(b.also[21], zeroed)
		}
	}
	// The device without the loss accepted.
	err := b.start(b.cfg)
	require.NoError(t, err)
	if b.lost[21] {
		// The mapping is known: reads fail, writing goes on.
		b.mustBe(HealthOK)
		require.Len(t, b.verify(true), 1)
		b.end()
		return
	}
	require.ErrorIs(t, b.health(HealthReadOnly), ErrLoss)
	require.NotZero(t, b.d.LoadReport().Gaps)
	require.Equal(t, unix.EROFS, b.do(OpWrite, 0, 1))
	b.verify(true)
	rep := b.report()
	require.NotZero(t, rep.Gaps)
	require.Zero(t, rep.Accepted)
	require.False(t, rep.OK())
	require.NoError(t, b.halted(false))
	// Again: nothing was changed, it says the same.
	b.load()
	require.ErrorIs(t, b.health(HealthReadOnly), ErrLoss)
	require.NoError(t, b.halted(true))
	cfg := b.cfg
	cfg.AcceptLoss = true
	require.NoError(t, b.start(cfg))
	b.mustBe(HealthOK)
	b.verify(true)
	for l := range uint64(60) {
		b.put(l, 1)
	}
	b.heal()
	b.good()
	b.settleAll()
	// What is there is right, and what was accepted is still said.
	rep = b.report()
	require.True(t, rep.OK(), rep.Problems)
	require.Equal(t, b.d.LoadReport().Gaps, rep.Accepted)
	b.stop(false)
	b.load()
	b.mustBe(HealthOK)
	rep = b.report()
	require.True(t, rep.OK(), rep.Problems)
	require.Zero(t, rep.Accepted)
	require.NotZero(t, b.d.Superblock().State&superblock.StateDegraded)
	b.good()
	b.end()
}

// TestStartTwice: the second start on the same devices fails, and so does a
// second stop; neither disturbs the first.
func TestStartTwice(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.put(0, 8)
	first := b.d
	err := b.start(b.cfg)
	require.ErrorIs(t, err, unix.EPERM)
	require.True(t, strings.Contains(err.Error(), "claimed"), err.Error())
	b.d = first
	b.put(8, 8)
	var errs []error
	b.d.Stop(false, func(err error) { errs = append(errs, err) })
	b.d.Stop(false, func(err error) { errs = append(errs, err) })
	require.Equal(t, []error{ErrBusy}, errs)
	require.Equal(t, unix.ENODEV, b.do(OpRead, 0, 1))
	b.until("stop", func() bool { return len(errs) == 2 })
	require.NoError(t, errs[1])
	b.d.Stop(true, func(err error) { errs = append(errs, err) })
	require.Equal(t, ErrBusy, errs[2])
	require.Equal(t, unix.ENODEV, b.do(OpRead, 0, 1))
	b.noChannels()
	b.load()
	b.good()
	b.stop(false)
}

// TestFailingSteps has every IO of a start fail, one after the other: each
// failure ends in a clean error, and everything is given back.
func TestFailingSteps(t *testing.T) {
	for _, what := range []string{"create", "load clean", "load dirty"} {
		for _, md := range mdSizes {
			t.Run(fmt.Sprintf("%s,md=%d", what, md), func(t *testing.T) {
				g := mini.with(md)
				g.volatile = true
				var b *bed
				if what == "create" {
					b = newBed(t, g)
				} else {
					b = written(t, g, what == "load clean")
				}
				for dev := range 2 {
					failSteps(t, b, dev, what == "create")
				}
			})
		}
	}
}

func failSteps(t *testing.T, b *bed, dev int, create bool) {
	failures := 0
	for n := uint64(1); ; n++ {
		require.Less(t, n, uint64(400))
		tw := b.image()
		r := tw.rule(dev, errinj.Rule{Action: errinj.Fail, Nth: n})
		cfg := tw.cfg
		cfg.Create = create
		err := tw.start(cfg)
		if err != nil {
			failures++
			require.ErrorIs(t, err, unix.EIO)
			tw.noChannels()
			r.Remove()
			if create { // half of it may be there
				cfg.Force = true
			}
			// Everything was given back, and nothing was lost.
			require.NoError(t, tw.start(cfg), "IO %d", n)
		}
		r.Remove()
		if create {
			tw.cur = make([]uint32, tw.d.Blocks())
			for i := range tw.cur {
				tw.cur[i] = zeroed
			}
			tw.also, tw.part = make([][]uint32, tw.d.Blocks()), make([][]uint32, tw.d.Blocks())
		}
		if h, _ := tw.d.Health(); h == HealthOK {
			require.Empty(t, tw.verify(true))
		}
		_ = tw.halted(true)
		if r.Hits() == 0 {
			break
		}
	}
	require.NotZero(t, failures)
}

// TestRefusedDevices are devices that cannot be what they were given as.
func TestRefusedDevices(t *testing.T) {
	b := written(t, mini, true)
	refused := func(what string, want error, text string, change func(tw *bed, cfg *Config)) {
		t.Run(what, func(t *testing.T) {
			b.t = t
			tw := b.image()
			cfg := tw.cfg
			change(tw, &cfg)
			err := tw.start(cfg)
			require.ErrorIs(t, err, want)
			require.Contains(t, err.Error(), text)
			tw.noChannels()
			// The right way works.
			tw = b.image()
			require.NoError(t, tw.start(tw.cfg))
			tw.good()
			tw.end()
		})
	}
	refused("swapped", unix.EINVAL, "swapped", func(_ *bed, c *Config) { c.Cache, c.Base = c.Base, c.Cache })
	refused("the same twice", unix.EINVAL, "another device", func(_ *bed, c *Config) { c.Base = c.Cache })
	refused("missing", unix.ENODEV, "nothere", func(_ *bed, c *Config) { c.Base = "nothere" })
	refused("other identity", unix.EINVAL, "belongs to", func(_ *bed, c *Config) { c.UUID = uuid.MustParse("00000000-0000-0000-0000-000000000001") })
	refused("exists", unix.EEXIST, "already", func(_ *bed, c *Config) { c.Create = true })
	refused("foreign", unix.EEXIST, "", func(tw *bed, c *Config) {
		c.Create = true
		for dev := range tw.mem {
			copy(tw.mem[dev].Data(), strings.Repeat("a disk of somebody", 100))
		}
	})
	refused("smaller cache", unix.EINVAL, "blocks", func(tw *bed, c *Config) {
		tw.disk("small", tw.geo.cache-100, 0, false)
		small := tw.mgr.Lookup("raw small")
		require.NotNil(t, small)
		d := small.Driver().(interface{ Data() []byte })
		copy(d.Data(), tw.mem[onCache].Data()[:len(d.Data())])
		c.Cache = "small"
	})
	refused("newer", unix.ENOTSUP, "", func(tw *bed, _ *Config) {
		for dev := range tw.mem {
			newerSB(tw.mem[dev].Data()[:4096])
		}
	})
}

// newerSB turns a superblock into one of a version to come.
func newerSB(b []byte) {
	binary.LittleEndian.PutUint32(b[16:], superblock.Version+1)
	binary.LittleEndian.PutUint64(b[8:], xxhash.Sum64(b[16:superblock.Size]))
}
