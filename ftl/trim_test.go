package ftl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
)

// TestTrims of single blocks, over writes under way, of the whole device.
func TestTrims(t *testing.T) {
	g := mini
	g.lag = 30 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(400)
		for lba := uint64(3); lba < 400; lba += 7 {
			b.trims(lba, 1)
		}
		b.good()
		mapped := b.stats().ValidBlocks
		require.Equal(t, uint64(400-57), mapped)
		b.trims(0, 400)
		require.Zero(t, b.stats().ValidBlocks)
		b.good()
		// Overlapping requests under way take effect in the order in which
		// they were submitted.
		for i := range 60 {
			lba := b.rnd.Uint64N(40)
			n := 1 + b.rnd.Uint64N(20)
			if i%2 == 0 {
				b.submit(OpWrite, lba, n, i%5 == 0)
			} else {
				b.submit(OpTrim, lba, n, i%7 == 0)
			}
			if i%9 == 0 {
				b.turn()
			}
			if i%15 == 0 {
				b.crashed()
			}
		}
		b.drainAll()
		b.good()
		b.fill()
		b.trims(0, b.d.Blocks())
		require.Zero(t, b.stats().ValidBlocks)
		b.good()
		b.settleAll()
		s := b.stats()
		require.Zero(t, s.FullBands, "empty bands are given back")
		b.restart()
		b.good()
		b.stopsWell()
	})
}

// TestTrimIsDurable after a flush, and as durable as a write with FUA; what was
// trimmed never comes back, also when its chunk and the trim's were drained.
func TestTrimIsDurable(t *testing.T) {
	eachKind(t, mini, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fillTo(500)
		b.trims(100, 50)
		b.sync()
		b.crashed()
		c := b.submit(OpTrim, 200, 30, true)
		b.drainAll()
		require.NoError(t, c.req.Err)
		b.crashed()
		for range 6 { // let everything be moved, with crashes between
			lba := b.rnd.Uint64N(80)
			b.put(lba, 20)
			require.Empty(t, b.churnIn(260, 500, 120))
			b.crashed()
		}
		b.good()
		require.Equal(t, zeroed, b.cur[120]&zeroed)
		require.Equal(t, zeroed, b.cur[210]&zeroed)
		b.settleAll()
		b.stop(false)
		b.load()
		b.good()
		b.stop(false)
	})
}

// churnIn makes n random writes within [from, to).
func (b *bed) churnIn(from, to uint64, n int) map[error]int {
	b.t.Helper()
	failed := map[error]int{}
	for range n {
		c := 1 + b.rnd.Uint64N(6)
		if err := b.do(OpWrite, from+b.rnd.Uint64N(to-from-c), c); err != nil {
			failed[err]++
		}
	}
	return failed
}

// TestLargeTrim needs many records, between which other requests are served.
func TestLargeTrim(t *testing.T) {
	g := geometry{cache: 256*20 + 512, base: 256 + 512*256, chunk: 256, band: 512}
	b := newBed(t, g)
	b.create()
	require.Greater(t, b.d.Blocks(), uint64(maxTrimBlocks)+10_000)
	for lba := uint64(0); lba+8 < b.d.Blocks(); lba += 4099 {
		b.put(lba, 8)
	}
	big := b.submit(OpTrim, 1, b.d.Blocks()-2, false)
	small := b.submit(OpWrite, 5, 1, false)
	b.drainAll()
	require.NoError(t, big.req.Err)
	require.NoError(t, small.req.Err)
	require.Equal(t, uint64(1+1), b.stats().ValidBlocks, "block 0 and block 5")
	b.restart()
	require.Equal(t, uint64(1+1), b.stats().ValidBlocks)
	for _, lba := range []uint64{0, 5, 4099, maxTrimBlocks, maxTrimBlocks + 1, b.d.Blocks() - 1} {
		c := b.submit(OpRead, lba, 1, false)
		b.drainAll()
		require.NoError(t, b.judge(lba, c.buf, false))
	}
	b.stop(false)
}

// TestBadRequests are refused, and disturb nothing.
func TestBadRequests(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	n := b.d.Blocks()
	page := make([]byte, 8192)
	for _, r := range []Request{
		{Op: OpRead, LBA: n, Count: 1, Bufs: [][]byte{page[:4096]}},
		{Op: OpRead, LBA: n - 1, Count: 2, Bufs: [][]byte{page}},
		{Op: OpRead, LBA: 1 << 63, Count: 1 << 63, Bufs: [][]byte{page}},
		{Op: OpRead, LBA: 1, Count: ^uint64(0), Bufs: [][]byte{page}},
		{Op: OpRead, LBA: 0, Count: 0},
		{Op: OpRead, LBA: 0, Count: 1},
		{Op: OpRead, LBA: 0, Count: 1, Bufs: [][]byte{page}},
		{Op: OpRead, LBA: 0, Count: 2, Bufs: [][]byte{page[:4096]}},
		{Op: OpWrite, LBA: 0, Count: 2, Bufs: [][]byte{page[:4096], page[:4000]}},
		{Op: OpWrite, LBA: 0, Count: 1, Bufs: [][]byte{page[:2048], page[:2048]}},
		{Op: OpWrite, LBA: n, Count: 1, Bufs: [][]byte{page[:4096]}},
		{Op: OpTrim, LBA: 0, Count: 0},
		{Op: OpTrim, LBA: 0, Count: n + 1},
		{Op: OpTrim, LBA: n, Count: 1},
		{Op: OpFlush + 1, LBA: 0, Count: 1},
		{Op: 200, LBA: 0, Count: 1},
	} {
		inline, done := true, false
		r.Done = func(q *Request) {
			require.False(t, inline)
			require.Equal(t, unix.EINVAL, q.Err, "%+v", r)
			done = true
		}
		b.d.Submit(&r)
		inline = false
		b.until("the answer", func() bool { return done })
	}
	require.Zero(t, b.stats().Records)
	// Empty elements between others are none.
	c := &call{}
	ok := false
	buf := make([]byte, 8192)
	stamp(buf[:4096], 3, 1)
	stamp(buf[4096:], 4, 2)
	c.req = Request{Op: OpWrite, LBA: 3, Count: 2, Bufs: [][]byte{{}, buf[:4096], {}, buf[4096:], {}}, Done: func(*Request) { ok = true }}
	b.d.Submit(&c.req)
	b.until("write", func() bool { return ok })
	require.NoError(t, c.req.Err)
	b.cur[3], b.cur[4] = 1, 2
	b.good()
	b.stop(false)
}

// TestReadsSeeNewestData: a read sees what was acknowledged before it was
// submitted, or something newer, whatever is under way.
func TestReadsSeeNewestData(t *testing.T) {
	g := mini
	g.lag = 50 * time.Microsecond
	eachKind(t, g, func(t *testing.T, g geometry) {
		b := newBed(t, g)
		b.create()
		b.fill()
		type look struct {
			c   *call
			min uint32
		}
		var looks []look
		for range 1500 {
			lba := b.rnd.Uint64N(30)
			switch b.rnd.IntN(4) {
			case 0:
				looks = append(looks, look{b.submit(OpRead, lba, 1, false), b.cur[lba] &^ zeroed})
			case 1:
				b.submit(OpTrim, lba, 1+b.rnd.Uint64N(3), false)
			case 2:
				b.submit(OpWrite, lba, 1+b.rnd.Uint64N(3), b.rnd.IntN(20) == 0)
			default: // pressure, so that all of it is moved
				b.submit(OpWrite, 40+b.rnd.Uint64N(b.d.Blocks()-48), 8, false)
			}
			b.until("room", func() bool { return len(b.wait) < 24 })
		}
		b.drainAll()
		for _, l := range looks {
			got, err := content(l.c.buf, l.c.req.LBA)
			require.NoError(t, err)
			if got != zeroed { // what was trimmed carries no generation
				require.GreaterOrEqual(t, got, l.min, "lba %d", l.c.req.LBA)
			}
		}
		b.good()
		b.stop(false)
	})
}

// TestWriteThenReadAtOnce: data under way is read from the writer's buffers.
func TestWriteThenReadAtOnce(t *testing.T) {
	g := mini
	g.lag = 50 * time.Microsecond
	b := newBed(t, g)
	b.create()
	b.put(0, 64)
	b.fault(onCache, errinj.Rule{Action: errinj.Delay, Delay: time.Millisecond, Ops: writeOps})
	w := b.submit(OpWrite, 10, 20, false)
	for b.d.log_.under == 0 {
		b.turn()
	}
	r := b.submit(OpRead, 5, 30, false)
	b.until("read", func() bool { return r.done })
	require.NoError(t, r.req.Err)
	require.False(t, w.done, "the read was answered before the write")
	for i := range uint64(20) {
		got, err := content(r.buf[(5+i)*4096:(6+i)*4096], 10+i)
		require.NoError(t, err)
		require.Equal(t, w.gens[i], got)
	}
	b.drainAll()
	b.good()
	b.stop(false)
}

// TestFUA is durable when it completes: with a volatile cache there was a flush
// after it, and D says so.
func TestFUA(t *testing.T) {
	for _, md := range mdSizes {
		b := newBed(t, volatile(mini.with(md)))
		b.create()
		b.put(0, 3)
		s := b.stats()
		require.Less(t, s.Durable, s.Acked)
		for _, op := range []Op{OpWrite, OpTrim} {
			c := b.submit(op, 7, 2, true)
			b.drainAll()
			require.NoError(t, c.req.Err)
			s = b.stats()
			require.Equal(t, s.Acked, s.Durable)
			b.put(20, 1)
		}
		b.sync()
		s = b.stats()
		require.Equal(t, s.Acked, s.Durable)
		b.stop(false)
	}
}
