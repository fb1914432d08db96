package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
)

// damage makes one block of a device unreadable, in one of the ways that
// blocks go bad.
type damage struct {
	name string
	do   func(b *bed, dev int, block uint64)
}

func damages(md uint32) []damage {
	d := []damage{
		{"bit rot", func(b *bed, dev int, block uint64) { b.rot(dev, block) }},
		{"read error", func(b *bed, dev int, block uint64) {
			b.rule(dev, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: block, To: block + 1})
		}},
	}
	if md != 0 {
		d = append(d, damage{"metadata rot", func(b *bed, dev int, block uint64) {
			if dev == onCache {
				b.rotMD(dev, block)
			} else {
				b.rot(dev, block)
			}
		}})
	}
	return d
}

// isData says whether lba lies on a device.
func (b *bed) findOn(dev int, from uint64) uint64 {
	b.t.Helper()
	for lba := from; lba < b.d.Blocks(); lba++ {
		if b.d.table.Get(lba) < 2 {
			continue
		}
		if on, _, _, _ := b.place(lba); on == dev {
			return lba
		}
	}
	require.FailNow(b.t, "no block lies there")
	return 0
}

// TestBadBlocks has single blocks of chunks and bands go bad: exactly their
// reads fail, neighbours of the same request position are right.
func TestBadBlocks(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		for _, dm := range damages(g.md) {
			for dev, where := range []string{"chunk", "band"} {
				t.Run(dm.name+" in a "+where, func(t *testing.T) {
					b := newBed(t, g)
					b.create()
					b.fillTo(600)
					b.settleAll()
					b.d.cfg.Limits.CompactPct = 1
					b.d.lim.compactKeep = 0 // nothing is moved while the test looks
					lba := uint64(5)
					for range 2 {
						lba = b.findOn(dev, lba+11)
						_, block, _, _ := b.place(lba)
						dm.do(b, dev, block)
						b.lost[lba] = true
					}
					if dm.name == "metadata rot" && dev == onCache {
						// The checksums of the summary stand in.
						b.lost = map[uint64]bool{}
						b.good()
						b.restart()
						b.good()
						b.end()
						return
					}
					bad := b.verify(false)
					require.Len(t, bad, 2)
					b.mustBe(HealthOK)
					s := b.stats()
					if dm.name == "bit rot" {
						c := &s.Cache
						if dev == onBase {
							c = &s.Base
						}
						require.NotZero(t, c[SourceUser].Read.ErrorsCRC)
					}
					require.NotZero(t, s.User.Read.ErrorsMedia)
					// A request over a bad block fails, those beside it do not.
					require.Equal(t, unix.EIO, b.do(OpRead, bad[0]-2, 5))
					require.NoError(t, b.do(OpRead, bad[0]-2, 2))
					require.NoError(t, b.do(OpRead, bad[0]+1, 2))
					// After a crash an older copy may stand in the log still.
					b.lost, b.gone = b.gone, b.lost
					b.restart()
					require.Subset(t, bad, b.verify(false))
					// Writing heals it.
					for _, lba := range bad {
						b.put(lba, 1)
					}
					b.good()
					b.end()
				})
			}
		}
	})
}

// TestBadBlocksAreLostByMoves: what compaction and relocation cannot read is
// reported as lost after some time, everything else is moved.
func TestBadBlocksAreLostByMoves(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		for _, dm := range damages(0) {
			t.Run(dm.name, func(t *testing.T) {
				b := newBed(t, g)
				b.create()
				b.fill()
				b.settleAll()
				want := uint64(0)
				for _, dev := range []int{onCache, onBase} {
					lba := b.findOn(dev, 20)
					_, block, _, _ := b.place(lba)
					dm.do(b, dev, block)
					b.lost[lba] = true
					want++
				}
				// Write around the bad blocks until all of it was moved.
				for i := 0; b.stats().Lost < want; i++ {
					require.Less(t, i, 4000, "the bad blocks are not moved: %v", b.state())
					lba := b.rnd.Uint64N(b.d.Blocks() - 4)
					if b.lost[lba] || b.lost[lba+1] || b.lost[lba+2] || b.lost[lba+3] {
						continue
					}
					b.put(lba, 4)
					if i%40 == 0 {
						b.pass(100 * time.Millisecond)
					}
				}
				b.heal()
				require.Len(t, b.verify(false), int(want))
				require.Equal(t, want, b.stats().Lost)
				b.mustBe(HealthOK)
				b.settleAll()
				b.stop(false)
				b.load()
				bad := b.verify(false)
				require.Len(t, bad, int(want), "still lost")
				for _, lba := range bad {
					b.put(lba, 1)
				}
				b.good()
				b.check()
				b.stop(false)
			})
		}
	})
}

// TestPassingReadErrors: a device that fails every read for half a second
// costs nothing for ever.
func TestPassingReadErrors(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fill()
		b.settleAll()
		rules := []*errinj.Active{
			b.rule(onCache, errinj.Rule{Action: errinj.Fail, Ops: readOps}),
			b.rule(onBase, errinj.Rule{Action: errinj.Fail, Ops: readOps}),
		}
		for range 100 { // some go through while the log has room
			c := b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-4), 4, false)
			b.pass(5 * time.Millisecond)
			if !c.done {
				break
			}
		}
		for _, r := range rules {
			r.Remove()
		}
		b.drainAll()
		require.Zero(t, b.stats().Lost)
		b.good()
		b.settleAll()
		b.good()
		b.stopsWell()
	})
}

// TestRottenSummaries: without a summary, reads find checksums in the headers
// of records, drains scan, and a load does too.
func TestRottenSummaries(t *testing.T) {
	g := mini
	g.chunk, g.band = 256, 256 // two blocks of summary each
	g.cache, g.base = 256*20+128, 256*21
	eachKind(t, g, func(t *testing.T, g geometry) {
		for _, dm := range damages(0) {
			t.Run(dm.name, func(t *testing.T) {
				b := newBed(t, g)
				b.create()
				b.fillTo(b.d.Blocks() / 2)
				b.settleAll()
				b.put(0, 100)
				b.settleAll()
				b.restart()
				for i := range b.d.segs {
					s := &b.d.segs[i]
					if s.state != segFull {
						continue
					}
					dev := onCache
					if s.band {
						dev = onBase
					}
					block := s.off + uint64(s.body) + uint64(i)%2
					dm.do(b, dev, block)
					if dm.name == "bit rot" { // every checksum in it is wrong
						for e := range uint64(record.SummaryEntries) {
							b.mem[dev].Data()[block*4096+record.SummaryHeaderSize+e*record.EntrySize+17] ^= 1
						}
					}
				}
				b.good()
				b.restart()
				b.good()
				require.Empty(t, b.churn(3000, 8, 8))
				require.NotZero(t, b.stats().Compacted)
				b.good()
				b.settleAll()
				require.Zero(t, b.stats().Lost)
				b.heal()
				b.stop(false)
				b.load()
				b.good()
				b.stop(false)
			})
		}
	})
}

// TestLostWriteOnVSS puts an older block of the same LBA, with its metadata, into the slot of a newer one, as a device
// leaves it that did not write what it said: it is not taken for the newer one, also when the summary that knows it was
// left there too, or when it is of the same generation of another chunk and was written to the wrong place.
func TestLostWriteOnVSS(t *testing.T) {
	t.Run("earlier use", func(t *testing.T) { lostWriteOnVSS(t, 1, 0, false) })
	t.Run("earlier use and summary", func(t *testing.T) { lostWriteOnVSS(t, 1, 0, true) })
	t.Run("other place", func(t *testing.T) { lostWriteOnVSS(t, 0, 32, false) })
}

// lostWriteOnVSS leaves a block of gens generations ago, which was for a slot so many blocks behind.
func lostWriteOnVSS(t *testing.T, gens uint32, behind uint64, summary bool) {
	g := mini
	g.md = 64
	b := newBed(t, g)
	b.create()
	b.fillTo(200)
	b.settleAll()
	lba := b.findOn(onCache, 50)
	_, block, s, slot := b.place(lba)
	require.Nil(t, s.sum, "the summary is on the device")
	data := b.mem[onCache].Data()[block*blockSize : (block+1)*blockSize]
	md := b.mem[onCache].MD()[block*64 : (block+1)*64]
	var m record.Meta
	require.NoError(t, m.Decode(md, record.Place(b.d.sb.UUID, block)))
	require.Equal(t, s.gen, m.Gen)
	for i := range data {
		data[i] ^= 0x55
	}
	m.Gen -= gens
	m.Sum = record.DataSum(data, lba)
	m.Put(md, record.Place(b.d.sb.UUID, block+behind))
	if summary {
		from := s.sumOff() * blockSize
		sum := record.Summary(b.mem[onCache].Data()[from : from+record.SummaryBlocks(uint64(s.body))*blockSize])
		id := s.summaryID()
		require.NoError(t, sum.Check(id))
		sum.Put(slot, record.Entry{LBA: lba, U: m.U, Sum: m.Sum})
		id.Gen -= gens
		sum.Seal(id)
	}
	b.lost[lba] = true
	require.Equal(t, []uint64{lba}, b.verify(false))
	b.put(lba, 1)
	b.good()
	b.end()
}

// TestUnreadableHeaderWhileLoading: a load cannot read a header in an open band, of whose moves the mapping knows. It
// finds no checksums behind it; but what stands there is still read, by its own headers, is not given up by drains, and
// all of it is known again once the device can be read.
func TestUnreadableHeaderWhileLoading(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.fill()
	b.settleAll()
	b.checkpoint()
	var s *segment
	for i := range b.d.segs {
		if x := &b.d.segs[i]; x.band && x.state == segOpen && b.d.valid[i] > 0 && (s == nil || b.d.valid[i] > b.d.valid[s.idx]) {
			s = x
		}
	}
	require.NotNil(t, s, b.state())
	tw := b.image()
	first := 0 // blocks of the record whose header is hit
	for slot := uint32(1); s.sum.LBAAt(slot) != record.MarkHeader; slot++ {
		lba := s.sum.LBAAt(slot)
		require.Less(t, lba, b.d.lay.LBAs)
		if b.d.table.Get(lba) == s.addr+l2p.Addr(slot) {
			tw.lost[lba] = true
			first++
		}
	}
	require.Greater(t, int(b.d.valid[s.idx]), first, "there is a record behind it")
	bad := tw.rule(onBase, errinj.Rule{Action: errinj.Fail, Ops: readOps, From: s.off, To: s.off + 1})
	require.NoError(t, tw.start(tw.cfg))
	require.NotZero(t, bad.Hits())
	tw.mustBe(HealthOK)
	require.Len(t, tw.verify(true), first)
	tw.d.evacuateSegment(&tw.d.segs[s.idx])
	tw.settleAll()
	require.Zero(t, tw.stats().Lost)
	tw.restart() // the same, from what the first load left
	tw.mustBe(HealthOK)
	require.Len(t, tw.verify(true), first)
	bad.Disable()
	clear(tw.lost)
	tw.settleAll()
	tw.restart()
	tw.good()
	tw.settleAll()
	tw.check()
	require.Zero(t, tw.stats().Lost)
	tw.stop(false)
	b.end()
}
