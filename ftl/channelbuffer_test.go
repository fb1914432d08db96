package ftl

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/ftl/l2p"
	"goftl/iobuf"
)

// buffered is a geometry with a volatile write cache of so many blocks a
// channel.
func buffered(g geometry, blocks uint64) geometry {
	g.buffer = blocks
	return g
}

// eachBuffer runs a test with every kind of device and with a small and a large
// write buffer.
func eachBuffer(t *testing.T, f func(t *testing.T, g geometry)) {
	for _, n := range []uint64{1, 7, 200} {
		t.Run(fmt.Sprintf("buffer=%d", n), func(t *testing.T) { eachKind(t, buffered(mini, n), f) })
	}
}

// slow makes the writes of the log late.
func (b *bed) slow(d time.Duration) *errinj.Active {
	from, to := b.chunksOf()
	return b.fault(onCache, errinj.Rule{Action: errinj.Delay, Delay: d, Ops: writeOps, From: from, To: to})
}

// few lets a few turns go by, in which a slow device answers nothing.
func (b *bed) few() {
	for range 5 {
		b.turn()
	}
}

func TestI2WriteBufferIsValidated(t *testing.T) {
	for _, n := range []uint64{1, 4095, 4097, MaxWriteBuffer + 4096} {
		b := newBed(t, mini)
		b.cfg.Create, b.cfg.VolatileWriteCache, b.cfg.WriteBufferBytes = true, true, n
		err := b.start(b.cfg)
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "WriteBufferBytes")
		b.free()
	}
	b := newBed(t, mini)
	b.cfg.VolatileWriteCache = true
	b.create()
	require.EqualValues(t, 6<<20/4096, b.d.own.wb.n, "the default")
	b.stop(false)
}

// TestI12FreeAndSubmitQueue: entries are taken in order and come back in order;
// what finds none waits, and nothing overtakes it, on this channel.
func TestI12FreeAndSubmitQueue(t *testing.T) {
	b := newBed(t, buffered(mini, 8))
	b.create()
	b.put(0, 1)
	b.until("idle", func() bool { return b.d.Idle() })
	slow := b.slow(20 * time.Millisecond)
	c, other := b.open(), b.open()
	w := []*call{b.on(c, OpWrite, 0, 3), b.on(c, OpWrite, 3, 3), b.on(c, OpWrite, 6, 3), b.on(c, OpWrite, 9, 1), b.on(c, OpTrim, 40, 1)}
	free := b.on(other, OpWrite, 20, 8)
	for _, x := range w {
		require.False(t, x.done, "never from inside Submit")
	}
	b.few()
	require.True(t, w[0].done && w[1].done, "acknowledged from the buffer")
	require.False(t, w[2].done || w[3].done || w[4].done, "no room, or behind what has none")
	require.True(t, free.done, "another channel has room")
	require.EqualValues(t, 16, b.stats().Buffered)
	b.until("room", func() bool { return w[2].done })
	b.until("the rest", func() bool { return w[3].done && w[4].done })
	require.GreaterOrEqual(t, w[3].when, w[2].when)
	require.GreaterOrEqual(t, w[4].when, w[3].when)
	slow.Remove()
	b.until("the log", func() bool { return b.d.Idle() })
	require.Zero(t, b.stats().Buffered, "every entry is back")
	require.NotZero(t, b.stats().BufferWaits)
	big := b.on(c, OpWrite, 100, 50) // more than the buffer has
	b.until("the big one", func() bool { return big.done })
	require.NoError(t, big.req.Err)
	b.good()
	require.NoError(t, b.shut(c))
	require.NoError(t, b.shut(other))
	b.stopsWell()
}

// TestI12NoMemory: a channel that gets no buffer is not counted, so that a stop
// ends, also one that waits for just that channel.
func TestI12NoMemory(t *testing.T) {
	b := newBed(t, buffered(mini, 8))
	b.create()
	b.d.cfg.alloc = func(int) []byte { return nil }
	for range 200 {
		_, err := b.d.OpenChannel()
		require.ErrorIs(t, err, unix.ENOMEM)
	}
	require.Zero(t, b.d.channels.count.Load())
	stopped := false
	b.d.cfg.alloc = func(int) []byte { // as if another thread were here while the device is stopped
		b.d.Stop(false, func(err error) { require.NoError(t, err); stopped = true })
		b.pass(20 * time.Millisecond)
		require.False(t, stopped, "a channel is being made")
		return nil
	}
	_, err := b.d.NewChannel()
	require.ErrorIs(t, err, unix.ENOMEM)
	b.until("stop", func() bool { return stopped })
	b.noChannels()

	// The device's own channel: the start fails and leaves nothing behind.
	b.cfg.alloc = func(int) []byte { return nil }
	require.ErrorIs(t, b.start(b.cfg), unix.ENOMEM)
	b.noChannels()
	b.cfg.alloc = nil
	b.load()
	b.stop(false)
}

// TestI14CloseWaitsForEntries: a channel ends when what it acknowledged is in
// the log.
func TestI14CloseWaitsForEntries(t *testing.T) {
	b := newBed(t, buffered(mini, 16))
	b.create()
	b.put(0, 1)
	b.until("idle", func() bool { return b.d.Idle() })
	b.slow(20 * time.Millisecond)
	c := b.open()
	w := b.on(c, OpWrite, 5, 10)
	b.few()
	require.True(t, w.done)
	told := closing(c)
	b.pass(5 * time.Millisecond)
	require.Empty(t, *told)
	require.EqualValues(t, 10, b.stats().Buffered)
	b.until("close", func() bool { return len(*told) > 0 })
	require.NoError(t, (*told)[0])
	require.Nil(t, c.wb)
	tw := b.crash() // everything is in the log
	tw.past.list = nil
	tw.verify(true)
	tw.end()
	b.good()
	b.stop(false)
}

// TestBufferedBlocksAreRead: what was acknowledged is read before it is in the
// log, whatever it is overwritten with, on whatever channel, and while trims and
// writes with FUA stand between.
func TestBufferedBlocksAreRead(t *testing.T) {
	eachBuffer(t, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.put(0, 20)
		b.until("idle", func() bool { return b.d.Idle() })
		c, other := b.open(), b.open()
		b.slow(2 * time.Millisecond)
		for round := range uint64(30) {
			x := b.on(c, OpWrite, round%7, 1)
			b.until("answer", func() bool { return x.done })
			y := b.on(other, OpWrite, round%3, 1)
			b.until("answer", func() bool { return y.done })
			z := b.on(c, OpRead, 0, 20)
			b.until("answer", func() bool { return z.done })
			for i := range uint64(20) {
				require.NoError(t, b.judge(i, z.buf[i*4096:(i+1)*4096], false))
			}
			iobuf.Free(z.buf)
			// What is not answered before a newer one is hidden by it, and does not hide it.
			fua := b.submit(OpWrite, round%5, 2, true)
			newer := b.submit(OpWrite, round%5, 1, false)
			trim := b.submit(OpTrim, round%4, 1, false)
			last := b.submit(OpWrite, round%4, 1, false)
			b.until("answers", func() bool { return newer.done && last.done })
			if !fua.done && !trim.done { // then these are the newest
				require.NoError(t, b.readOne(round%4, last.gens[0]))
				if round%5 != round%4 {
					require.NoError(t, b.readOne(round%5, newer.gens[0]))
				}
			}
			b.until("answers", func() bool { return fua.done && trim.done })
			b.good()
		}
		b.stop(false)
		b.load()
		b.good()
		b.stop(false)
	})
}

// readOne reads a block, which must have a generation.
func (b *bed) readOne(lba uint64, gen uint32) error {
	c := b.submit(OpRead, lba, 1, false)
	b.until("read", func() bool { return c.done })
	defer iobuf.Free(c.buf)
	if c.req.Err != nil {
		return c.req.Err
	}
	got, err := content(c.buf, lba)
	if err == nil && got != gen {
		err = fmt.Errorf("lba %d: generation %d, not %d", lba, got, gen)
	}
	return err
}

// TestBufferHasACopy: after the acknowledgement the user's memory may change.
func TestBufferHasACopy(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, buffered(mini.with(md), 32))
		b.create()
		b.put(0, 1)
		b.until("idle", func() bool { return b.d.Idle() })
		b.slow(5 * time.Millisecond)
		buf := iobuf.Alloc(4 * 4096)
		want := make([]byte, len(buf))
		for i := range want {
			want[i] = byte(i * 7)
		}
		copy(buf, want)
		done := false
		q := Request{Op: OpWrite, LBA: 10, Count: 4, Bufs: [][]byte{buf[:4096], buf[4096:]}}
		q.Done = func(r *Request) { done = true; clear(buf); r.Bufs[0], r.Bufs[1] = nil, nil }
		b.d.Submit(&q)
		b.few()
		require.True(t, done)
		b.until("the log", func() bool { return b.d.Idle() })
		q = Request{Op: OpRead, LBA: 10, Count: 4, Bufs: [][]byte{buf}, Done: func(*Request) { done = true }}
		done = false
		b.d.Submit(&q)
		b.until("read", func() bool { return done })
		require.NoError(t, q.Err)
		require.True(t, bytes.Equal(want, buf), "from the device, checksums verified")
		iobuf.Free(buf)
		b.stop(false)
	}
}

// TestFlushIsTheBarrier: a flush waits for the log; once it is answered a crash
// leaves everything that was acknowledged before it, on any channel.
func TestFlushIsTheBarrier(t *testing.T) {
	eachBuffer(t, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(100)
		b.sync()
		b.until("idle", func() bool { return b.d.Idle() })
		c := b.open()
		b.slow(3 * time.Millisecond)
		for round := range uint64(10) {
			b.on(c, OpWrite, round, 3)
			b.on(b.d.own, OpWrite, 50+round, 3)
			b.until("writes", func() bool { return len(b.wait) == 0 })
			f := b.submit(OpFlush, 0, 0, false)
			later := b.on(c, OpWrite, 90+round, 1)
			b.few()
			require.False(t, f.done, "the log is slow")
			b.until("flush", func() bool { return f.done })
			require.NoError(t, f.req.Err)
			b.crashed()
			b.until("write", func() bool { return later.done })
			fua := b.submit(OpWrite, 80, 1, true)
			b.until("FUA", func() bool { return fua.done })
			b.crashed()
		}
		b.good()
		b.stop(false)
	})
}

// TestBufferedLoad: a full life with a volatile write cache, with crashes.
func TestBufferedLoad(t *testing.T) {
	eachBuffer(t, func(t *testing.T, g geometry) {
		g.lag = 20 * time.Microsecond
		b := newBed(t, g)
		b.create()
		b.fill()
		b.crashEvery(60)
		for range 3 {
			require.Empty(t, b.churn(150, 12, 16))
			b.trims(b.rnd.Uint64N(b.d.Blocks()-40), 40)
			b.sync()
		}
		b.step = nil
		b.good()
		require.NoError(t, b.halted(true))
		b.past.list = nil
		b.load()
		b.good()
		b.churn(50, 8, 8)
		b.settleAll()
		require.NoError(t, b.halted(false))
		b.past.list = nil
		b.load()
		b.good()
		b.check()
		b.stop(false)
	})
}

// TestBufferedBases: the same on every type of base.
func TestBufferedBases(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			g.volatile = true
			b := newBed(t, buffered(g, 24))
			b.create()
			b.fill()
			b.crashEvery(60)
			require.Empty(t, b.churn(300, 6, 8))
			b.step = nil
			b.sync()
			b.good()
			b.crashed()
			b.settleAll()
			require.NoError(t, b.halted(false))
			b.past.list = nil
			b.load()
			b.good()
			b.stop(false)
		})
	}
}

// TestBufferedNoSpace: there is no space for what was acknowledged. It stays in
// the buffer and is read from there; flushes fail, and so do writes once the
// buffer is full. When there is space nothing was lost.
func TestBufferedNoSpace(t *testing.T) {
	eachKind(t, buffered(mini, 40), func(t *testing.T, g geometry) {
		for _, dev := range []int{onCache, onBase} {
			b := newBed(t, g)
			b.create()
			b.fillTo(200)
			b.sync()
			from, to := uint64(1), g.base
			if dev == onCache {
				from, to = b.chunksOf()
			}
			full := b.full(dev, from, to)
			if dev == onBase {
				b.churn(400, 8, 8) // until no chunk is left
			}
			c := b.open()
			onlyErr(t, b.churn(100, 8, 8), unix.ENOSPC)
			w := b.on(c, OpWrite, 7, 3)
			b.until("answer", func() bool { return w.done })
			require.NoError(t, w.req.Err, "there is room in the buffer")
			told := closing(c)
			for range 3 {
				require.Equal(t, unix.ENOSPC, b.do(OpFlush, 0, 0))
				require.Equal(t, unix.ENOSPC, b.do(OpTrim, 5, 1))
				b.good()
				b.crashed()
				b.pass(100 * time.Millisecond)
			}
			require.Empty(t, *told, "the channel waits for space")
			b.mustBe(HealthOK)
			full.Remove()
			b.pass(200 * time.Millisecond)
			b.until("close", func() bool { return len(*told) > 0 })
			require.NoError(t, (*told)[0])
			b.sync()
			require.Zero(t, b.stats().Buffered+b.stats().BufferLost)
			b.good()
			b.crashed()
			require.Empty(t, b.churn(100, 8, 8))
			b.settleAll()
			b.stop(false)
			b.past.list = nil
			b.load()
			b.good()
			b.check()
			b.stop(false)
			b.free()
		}
	})
}

// logTo keeps what is logged.
func (b *bed) logTo(w *bytes.Buffer) {
	b.cfg.Logger = slog.New(slog.NewTextHandler(w, nil))
}

// TestBufferedNoSpaceThenStop: a stop tries for a while and then says what it
// could not write; the next start has what was flushed.
func TestBufferedNoSpaceThenStop(t *testing.T) {
	eachKind(t, buffered(mini, 40), func(t *testing.T, g geometry) {
		for _, fast := range []bool{false, true} {
			var out bytes.Buffer
			b := newBed(t, g)
			b.logTo(&out)
			b.create()
			b.fillTo(100)
			b.sync()
			from, to := b.chunksOf()
			full := b.full(onCache, from, to)
			c := b.open()
			w := b.on(c, OpWrite, 7, 3)
			b.until("answer", func() bool { return w.done })
			b.pass(10 * time.Millisecond)
			told := closing(c)
			require.ErrorIs(t, b.halted(fast), unix.ENOSPC)
			require.Len(t, *told, 1)
			require.ErrorIs(t, (*told)[0], unix.ENOSPC)
			require.Contains(t, out.String(), "acknowledged writes cannot be written")
			require.Contains(t, out.String(), "blocks=3")
			full.Remove()
			b.load()
			b.mustBe(HealthOK)
			b.verify(true)
			b.adopt()
			// And where space is made in time, nothing is lost.
			full = b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to, Count: 3})
			b.put(50, 4)
			require.NoError(t, b.halted(fast))
			require.NotZero(t, full.Hits())
			full.Remove()
			b.past.list = nil
			b.load()
			b.good()
			b.check()
			b.stop(false)
			b.free()
		}
	})
}

// TestBufferedNoSpaceOnBaseThenStop: the same where the log finds no chunk,
// because the base is full.
func TestBufferedNoSpaceOnBaseThenStop(t *testing.T) {
	for _, fast := range []bool{false, true} {
		b := newBed(t, buffered(mini, 40))
		b.create()
		b.fillTo(200)
		b.sync()
		full := b.full(onBase, 1, b.geo.base)
		onlyErr(t, b.churn(400, 8, 8), unix.ENOSPC)
		require.NotZero(t, b.stats().Buffered)
		require.ErrorIs(t, b.halted(fast), unix.ENOSPC)
		full.Remove()
		b.load()
		b.mustBe(HealthOK)
		b.verify(true)
		b.adopt()
		require.Empty(t, b.churn(100, 8, 8))
		b.good()
		b.stop(false)
		b.free()
	}
}

// TestBufferedWritesAreGivenUp: the log can never be written again. What was
// acknowledged reads as errors, never as what was there before; every flush, the
// end of the channel and the stop say so; a log line has the count.
func TestBufferedWritesAreGivenUp(t *testing.T) {
	eachKind(t, buffered(mini, 40), func(t *testing.T, g geometry) {
		for _, how := range []string{"write", "flush", "removal"} {
			if how == "flush" && !g.volatile {
				continue
			}
			var out bytes.Buffer
			b := newBed(t, g)
			b.logTo(&out)
			b.create()
			b.fillTo(100)
			b.sync()
			b.until("idle", func() bool { return b.d.Idle() })
			from, to := b.chunksOf()
			c, other := b.open(), b.open()
			var older *call
			switch how {
			case "write":
				b.fault(onCache, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: from, To: to})
			case "flush", "removal":
				// Records with an older content are under way, and do arrive.
				b.fault(onCache, errinj.Rule{Action: errinj.Delay, Delay: 5 * time.Millisecond, Ops: writeOps, From: from, To: to})
				for range fewRecords {
					older = b.on(c, OpWrite, 12, 4)
					b.few()
					require.True(t, older.done)
				}
			}
			w := b.on(c, OpWrite, 10, 5)
			u := b.on(other, OpWrite, 14, 3)
			b.few()
			require.True(t, w.done && u.done)
			require.NoError(t, w.req.Err)
			require.NoError(t, u.req.Err)
			switch how {
			case "flush":
				b.d.flushFailed(&b.d.cache, unix.EIO)
			case "removal":
				b.d.fail(HealthReadOnly, "device cache was removed", unix.ENODEV)
			}
			b.until("the end of writing", func() bool { return b.d.health == HealthReadOnly })
			b.until("the rest", func() bool { return b.d.log_.under == 0 && b.stats().Buffered == 0 })
			require.GreaterOrEqual(t, b.stats().BufferLost, uint64(8), how) // also the rest of an older one
			require.Contains(t, out.String(), "acknowledged writes cannot be written")
			if how == "write" {
				require.Contains(t, out.String(), "blocks=8")
			}
			for lba := uint64(10); lba < 17; lba++ {
				require.Equal(t, unix.EIO, b.readOne(lba, 0), "lba %d", lba)
			}
			require.Equal(t, unix.EIO, b.do(OpRead, 5, 20))
			b.verify(false)
			for _, x := range []*Channel{c, other, b.d.own} {
				f := b.on(x, OpFlush, 0, 0)
				b.until("flush", func() bool { return f.done })
				require.Equal(t, unix.EIO, f.req.Err)
			}
			require.Equal(t, unix.EROFS, b.do(OpWrite, 90, 1))
			require.Error(t, b.shut(c))
			require.ErrorContains(t, b.halted(false), "acknowledged writes were lost")
			b.heal()
			b.load()
			b.mustBe(HealthOK)
			b.verify(true)
			b.adopt()
			b.churn(30, 4, 4)
			b.good()
			b.check()
			b.stop(false)
			b.free()
		}
	})
}

// TestBufferedPins: a write that was answered keeps its part of the mapping
// resident until the log is done with it.
func TestBufferedPins(t *testing.T) {
	r := newRig(t, 64, 256, 64)
	r.cfg.VolatileWriteCache, r.cfg.WriteBufferBytes = true, 20*4096
	r.create()
	flat := r.d.table.(*l2p.Flat)
	slow := &slowTable{Flat: flat, r: r, pins: make([]uint16, r.d.Blocks())}
	r.d.table = slow
	for range 2 {
		r.writes(int(r.d.Blocks())/32, 31, 4)
	}
	r.one(r.trim(10, 1000))
	r.readAll()
	r.until("idle", func() bool { return r.d.Idle() })
	for lba, n := range slow.pins {
		require.Zero(t, n, "lba %d is still pinned", lba)
	}
	r.d.table = flat
	r.settle()
	r.stop(false)
}

// TestBufferedWritesDoNotAllocate: nor do flushes behind them.
func TestBufferedWritesDoNotAllocate(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, buffered(mini.with(md), 24))
		b.create()
		b.fill()
		b.churn(500, 8, 8)
		const depth = 16
		reqs := make([]Request, depth)
		under := 0
		buf := iobuf.Alloc(depth * 3 * 4096)
		for i := range reqs {
			reqs[i].Bufs = [][]byte{buf[i*3*4096 : (i+1)*3*4096]}
			reqs[i].Done = func(*Request) { under-- }
		}
		seed := uint64(1)
		round := func() {
			for i := range reqs {
				seed = seed*6364136223846793005 + 1442695040888963407
				q := &reqs[i]
				q.Op, q.FUA, q.LBA, q.Count = OpWrite, i%8 == 0, (seed>>33)%(b.d.Blocks()-3), 3
				if i == depth-1 {
					q.Op = OpFlush
				}
				under++
				b.d.Submit(q)
			}
			for under > 0 {
				b.turn()
			}
		}
		for range 300 {
			round()
		}
		require.Zero(t, testing.AllocsPerRun(200, round))
		iobuf.Free(buf)
		b.stop(false)
	}
}

// TestBufferedRandomFaults is TestRandomFaults with a volatile write cache.
func TestBufferedRandomFaults(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomFaults(t, 100+seed, 1<<(seed%8)) })
	}
}

// TestBufferedSoak has users come and go, each with a part of the device, while
// the log is slow, out of space, and the device is crashed.
func TestBufferedSoak(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { bufferedSoak(t, seed) })
	}
}

func bufferedSoak(t *testing.T, seed uint64) {
	g := buffered(mini.with(mdSizes[seed%2]), 1+seed*9)
	g.volatile, g.lag = seed < 2, 20*time.Microsecond
	b := newBed(t, g)
	b.rnd = rand.New(rand.NewPCG(seed, 5))
	b.cfg.MaxIOChannels = 4
	b.create()
	b.fillTo(b.d.Blocks() / 2)
	from, to := b.chunksOf()
	part := b.d.Blocks() / 4
	var users [4]*Channel
	leaving := 0
	for i := range 6000 {
		n := b.rnd.IntN(len(users))
		switch c := users[n]; {
		case c == nil && leaving == 0:
			users[n] = b.open()
		case c == nil:
		case b.rnd.IntN(60) == 0:
			leaving++
			c.Close(func(err error) { require.NoError(t, err); leaving-- })
			users[n] = nil
		default:
			own := b.d.own
			b.d.own = c
			lba, most := uint64(n)*part+b.rnd.Uint64N(part-12), 1+b.rnd.Uint64N(12)
			switch b.rnd.IntN(12) {
			case 0:
				b.submit(OpTrim, lba, most, false)
			case 1:
				b.submit(OpFlush, 0, 0, false)
			case 2, 3:
				b.submit(OpRead, lba, most, false)
			default:
				b.submit(OpWrite, lba, most, b.rnd.IntN(20) == 0)
			}
			b.d.own = own
		}
		b.until("room", func() bool { return len(b.wait) < 16 })
		switch {
		case i%701 == 700:
			b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: from, To: to, Count: 5})
		case i%501 == 500:
			b.lookAfterCrash()
		case i%901 == 900:
			b.drainAll()
			b.adopt()
			b.good()
		}
	}
	for _, c := range users {
		if c != nil {
			require.NoError(t, b.shut(c))
		}
	}
	b.drainAll()
	b.until("the last", func() bool { return b.stats().Channels == 0 && b.stats().Buffered == 0 })
	require.Zero(t, b.stats().BufferLost)
	b.adopt()
	b.good()
	b.settleAll()
	require.NoError(t, b.halted(seed%2 == 0))
	b.past.list = nil
	b.load()
	b.good()
	b.check()
	b.stop(false)
}
