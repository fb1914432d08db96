package ftl

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/iobuf"
)

// counters are rules that count IOs of each kind and never strike.
type counters struct{ reads, writes, flushes, all uint64 }

func (b *bed) counting() func() counters {
	never := uint64(1) << 62
	var reads, writes, flushes, all []*errinj.Active
	for dev := range b.inj {
		count := func(ops bdev.OpSet) *errinj.Active {
			return b.rule(dev, errinj.Rule{Action: errinj.Drop, Ops: ops, After: never})
		}
		reads, writes = append(reads, count(readOps)), append(writes, count(writeOps))
		flushes, all = append(flushes, count(flushOps)), append(all, count(0))
	}
	sum := func(list []*errinj.Active) uint64 { return list[0].Matched() + list[1].Matched() }
	return func() counters { return counters{sum(reads), sum(writes), sum(flushes), sum(all)} }
}

// TestIdleDeviceDoesNoIO: after a load stops, and what was to be gained was
// gained, nothing is read, written or flushed for seconds, and no message or
// timer keeps the thread awake.
func TestIdleDeviceDoesNoIO(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		for _, full := range []bool{false, true} {
			b := newBed(t, g)
			b.create()
			b.fillTo(b.d.Blocks() / 2)
			if full {
				b.fill()
				b.churn(200, 8, 8)
			}
			b.until("idle", func() bool { return b.d.Idle() })
			b.pass(100 * time.Millisecond)
			b.until("idle", func() bool { return b.d.Idle() })
			now := b.counting()
			b.quietly(t, now, counters{})

			// One write and one flush are followed by at most one pad and its
			// flush: then D is on the media.
			b.put(3, 1)
			b.sync()
			b.until("idle", func() bool { return b.d.Idle() }) // a chunk may have become full
			before := now()
			b.pass(100 * time.Millisecond)
			after := now()
			flushes := uint64(0)
			if g.volatile {
				flushes = 1
			}
			require.Equal(t, uint64(1), after.writes-before.writes, "pads")
			require.Equal(t, flushes, after.flushes-before.flushes, "flushes of pads")
			b.quietly(t, now, counters{})
			// A write that is not flushed needs nothing.
			b.put(3, 1)
			b.until("idle", func() bool { return b.d.Idle() })
			b.quietly(t, now, counters{})
			b.sync()
			b.pass(100 * time.Millisecond)
			b.good()
			b.stop(false)
			b.free()
		}
	})
}

// quietly lets three seconds pass, in which only what is allowed may happen.
func (b *bed) quietly(t *testing.T, now func() counters, allowed counters) {
	t.Helper()
	before := now()
	for range 300 {
		b.pass(10 * time.Millisecond)
		require.False(t, b.th.HasWork())
	}
	after := now()
	require.Equal(t, allowed, counters{
		after.reads - before.reads, after.writes - before.writes, after.flushes - before.flushes, after.all - before.all,
	})
}

// TestRotOfLastRecordBeforePad: a pad carries D once the log is idle after a
// flush, so that rot of the last durable record is seen, also when another
// that nobody flushed stands behind it, and when the device has no volatile
// cache.
func TestRotOfLastRecordBeforePad(t *testing.T) {
	for _, md := range mdSizes {
		for _, vol := range []bool{false, true} {
			for _, more := range []bool{false, true} {
				g := mini.with(md)
				g.volatile = vol
				b := newBed(t, g)
				b.create()
				b.put(0, 3)
				b.put(50, 3)
				b.sync()
				if more {
					b.put(90, 1)
				}
				b.pass(100 * time.Millisecond)
				_, block, _, _ := b.place(50)
				b.stop(true)
				if md == 0 {
					b.mem[onCache].Data()[(block-1)*4096+40] ^= 1
				} else {
					b.rotMD(onCache, block)
				}
				b.load()
				require.ErrorIs(t, b.health(HealthReadOnly), ErrLoss)
				b.stop(true)
			}
		}
	}
}

// TestPadEverywhere: a pad comes wherever in its chunk the log stands.
func TestPadEverywhere(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, volatile(mini.with(md)))
		b.create()
		for i := range uint64(80) {
			b.put(i, 1)
			b.sync()
			b.pass(80 * time.Millisecond)
			require.Equal(t, b.d.ackedU, b.d.log_.padD, "after write %d", i)
		}
		b.stop(false)
	}
}

// TestNoAllocations: writes, reads and flushes allocate nothing once the device
// has warmed up.
func TestNoAllocations(t *testing.T) {
	for _, md := range mdSizes {
		for _, vol := range []bool{false, true} {
			t.Run(fmt.Sprintf("md=%d,volatile=%v", md, vol), func(t *testing.T) {
				g := mini.with(md)
				g.volatile = vol
				b := newBed(t, g)
				b.create()
				b.fill()
				b.churn(500, 8, 8)
				const depth = 16
				reqs := make([]Request, depth)
				under := 0
				buf := iobuf.Alloc(depth * 4096)
				defer iobuf.Free(buf)
				for i := range reqs {
					reqs[i].Bufs = [][]byte{buf[i*4096 : (i+1)*4096]}
					reqs[i].Done = func(*Request) { under-- }
				}
				seed := uint64(1)
				round := func(op Op, fua bool) {
					for i := range reqs {
						seed = seed*6364136223846793005 + 1442695040888963407
						q := &reqs[i]
						q.Op, q.FUA, q.LBA, q.Count = op, fua, (seed>>33)%b.d.Blocks(), 1
						under++
						b.d.Submit(q)
					}
					for under > 0 {
						b.turn()
					}
				}
				for _, c := range []struct {
					name string
					op   Op
					fua  bool
				}{{"write", OpWrite, false}, {"write FUA", OpWrite, true}, {"read", OpRead, false}, {"flush", OpFlush, false}, {"trim", OpTrim, false}} {
					for range 200 { // compaction, relocation and checkpoints too
						round(c.op, c.fua)
					}
					n := testing.AllocsPerRun(200, func() { round(c.op, c.fua) })
					require.Zero(t, n, "%s: allocations in %d requests", c.name, depth)
				}
				b.stop(false)
			})
		}
	}
}

// TestNoPadWhileStopping: a stop that takes long after a flush opens no segment for a pad record, which nobody would wait
// for.
func TestNoPadWhileStopping(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			for lag := range 24 {
				b.fillTo(300)
				b.sync()
				b.geo.lag = time.Duration(lag) * time.Millisecond
				b.applyLag()
				b.stop(false)
				b.heal()
				b.load()
			}
			b.good()
			b.end()
		})
	}
}
