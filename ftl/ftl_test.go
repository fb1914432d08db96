package ftl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/iobuf"
	"goftl/thread"
)

// rig drives a device on one thread with a clock of its own.
type rig struct {
	t    testing.TB
	sys  *thread.System
	th   *thread.Thread
	mgr  *bdev.Manager
	now  int64
	d    *Device
	cfg  Config
	rnd  *rand.Rand
	want []uint32 // generation of every block; 0: zeroes
	gen  uint32
	rest int // channels that devices keep for themselves
}

var testUUID = uuid.MustParse("6f0f1e4a-52ab-4b5c-9c1e-0123456789ab")

func newRig(t testing.TB, cacheMiB, baseMiB uint64, mdSize uint32) *rig {
	r := &rig{t: t, sys: thread.NewSystem(), rnd: rand.New(rand.NewPCG(1, 2))}
	r.th = r.sys.NewThread("core")
	r.mgr = bdev.NewManager(r.sys, nil)
	r.malloc("cache", cacheMiB, mdSize)
	r.malloc("base", baseMiB, 0)
	r.cfg = Config{
		Name: "test", System: r.sys, Thread: r.th, Manager: r.mgr, Cache: "cache", Base: "base", UUID: testUUID,
	}
	return r
}

func (r *rig) malloc(name string, mib uint64, mdSize uint32) {
	d, err := malloc.New(malloc.Options{Name: name, Blocks: mib << 8, MDSize: mdSize})
	require.NoError(r.t, err)
	_, err = r.mgr.Register(d)
	require.NoError(r.t, err)
}

// turn polls the thread once; time goes on by 10 us.
func (r *rig) turn() {
	r.now += 10_000
	r.th.Poll(64, r.now)
}

// until polls until cond holds.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	for i := 0; !cond(); i++ {
		require.Less(r.t, i, 20_000_000, "%s does not happen", what)
		r.turn()
	}
}

func (r *rig) start(cfg Config) error {
	r.t.Helper()
	var ended bool
	var failed error
	Start(&cfg, func(d *Device, err error) { r.d, failed, ended = d, err, true })
	r.until("start", func() bool { return ended })
	return failed
}

func (r *rig) create() {
	r.t.Helper()
	cfg := r.cfg
	cfg.Create = true
	require.NoError(r.t, r.start(cfg))
	r.want = make([]uint32, r.d.Blocks())
}

func (r *rig) load() {
	r.t.Helper()
	require.NoError(r.t, r.start(r.cfg))
}

func (r *rig) stop(fast bool) {
	r.t.Helper()
	var ended bool
	var failed error
	r.d.Stop(fast, func(err error) { failed, ended = err, true })
	r.until("stop", func() bool { return ended })
	require.NoError(r.t, failed)
	r.until("channels closed", func() bool { return len(r.th.Stats().Channels) <= r.rest })
}

// stamp fills a block so that its LBA and generation can be told.
func stamp(b []byte, lba uint64, gen uint32) {
	x := lba*0x9e3779b97f4a7c15 + uint64(gen)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], x)
		x += 0x12345
	}
	binary.LittleEndian.PutUint64(b, lba)
	binary.LittleEndian.PutUint32(b[8:], gen)
}

// testReq is a request with what is expected of it.
type testReq struct {
	req  Request
	buf  []byte
	want []uint32
}

// run submits requests made by next, depth at a time, until it returns nil.
func (r *rig) run(depth int, next func() *testReq) {
	r.t.Helper()
	under := 0
	ended := false
	for !ended || under > 0 {
		for !ended && under < depth {
			q := next()
			if q == nil {
				ended = true
				break
			}
			under++
			q.req.Ctx = q
			q.req.Done = func(x *Request) {
				under--
				r.verify(x.Ctx.(*testReq))
			}
			r.d.Submit(&q.req)
		}
		r.turn()
	}
}

func (r *rig) verify(q *testReq) {
	r.t.Helper()
	require.NoError(r.t, q.req.Err)
	if q.req.Op == OpRead {
		b := make([]byte, 4096)
		for i := range q.req.Count {
			got := q.buf[i*4096 : (i+1)*4096]
			lba := q.req.LBA + i
			clear(b)
			if q.want[i] != 0 {
				stamp(b, lba, q.want[i])
			}
			if string(b) != string(got) {
				require.FailNow(r.t, "wrong content", "lba %d: generation %d wanted, block says lba %d generation %d",
					lba, q.want[i], binary.LittleEndian.Uint64(got), binary.LittleEndian.Uint32(got[8:]))
			}
		}
	}
	iobuf.Free(q.buf)
}

// write, trim and read make requests; the model changes at once, so callers
// keep requests under way apart.
func (r *rig) write(lba, n uint64) *testReq {
	q := &testReq{buf: iobuf.Alloc(int(n) * 4096)}
	for i := range n {
		r.gen++
		r.want[lba+i] = r.gen
		stamp(q.buf[i*4096:(i+1)*4096], lba+i, r.gen)
	}
	q.req = Request{Op: OpWrite, LBA: lba, Count: n, Bufs: [][]byte{q.buf}}
	return q
}

func (r *rig) read(lba, n uint64) *testReq {
	q := &testReq{buf: iobuf.Alloc(int(n) * 4096), want: append([]uint32(nil), r.want[lba:lba+n]...)}
	q.req = Request{Op: OpRead, LBA: lba, Count: n, Bufs: [][]byte{q.buf}}
	return q
}

func (r *rig) trim(lba, n uint64) *testReq {
	clear(r.want[lba : lba+n])
	return &testReq{buf: iobuf.Alloc(4096), req: Request{Op: OpTrim, LBA: lba, Count: n}}
}

// one runs a single request to its end.
func (r *rig) one(q *testReq) {
	r.t.Helper()
	first := true
	r.run(1, func() *testReq {
		if first {
			first = false
			return q
		}
		return nil
	})
}

// readAll compares the whole device with the model.
func (r *rig) readAll() {
	r.t.Helper()
	lba := uint64(0)
	r.run(16, func() *testReq {
		if lba >= r.d.Blocks() {
			return nil
		}
		n := min(64, r.d.Blocks()-lba)
		q := r.read(lba, n)
		lba += n
		return q
	})
}

// writes runs n random writes of up to maxBlocks, one conflict-free set at a
// time: requests under way never overlap.
func (r *rig) writes(n int, maxBlocks uint64, depth int) {
	r.t.Helper()
	stripe := r.d.Blocks() / uint64(depth)
	i := 0
	r.run(depth, func() *testReq {
		if i == n {
			return nil
		}
		// Each slot of the depth has a stripe of its own; a stripe is used again
		// only after depth others, so wait for quiet between rounds by size.
		base := uint64(i%depth) * stripe
		i++
		c := 1 + r.rnd.Uint64N(maxBlocks)
		c = min(c, stripe)
		return r.write(base+r.rnd.Uint64N(stripe-c+1), c)
	})
}

func (r *rig) settle() {
	r.t.Helper()
	r.until("idle", func() bool { return r.d.Idle() })
	require.NoError(r.t, r.d.CheckInvariants())
}

func (r *rig) check() {
	r.t.Helper()
	var rep *CheckReport
	r.d.Check(func(x *CheckReport, err error) { require.NoError(r.t, err); rep = x })
	r.until("check", func() bool { return rep != nil })
	require.True(r.t, rep.OK(), "%v", rep.Problems)
}

var mdSizes = []uint32{0, 64}

func eachCache(t *testing.T, f func(t *testing.T, mdSize uint32)) {
	for _, m := range mdSizes {
		t.Run(fmt.Sprintf("md=%d", m), func(t *testing.T) { f(t, m) })
	}
}

func TestCreateWriteReadReload(t *testing.T) {
	eachCache(t, func(t *testing.T, m uint32) {
		r := newRig(t, 64, 256, m)
		r.create()
		r.readAll()
		r.writes(2000, 8, 1)
		r.one(r.trim(100, 5000))
		r.one(r.write(200, 1))
		r.readAll()
		r.settle()
		r.stop(false)
		r.load()
		require.Zero(t, r.d.LoadReport().Redone)
		r.readAll()
		r.settle()
		r.check()
		r.stop(false)
	})
}

func TestFillAndOverwrite(t *testing.T) {
	eachCache(t, func(t *testing.T, m uint32) {
		r := newRig(t, 64, 256, m)
		r.create()
		lba := uint64(0)
		r.run(8, func() *testReq {
			if lba >= r.d.Blocks() {
				return nil
			}
			n := min(32, r.d.Blocks()-lba)
			q := r.write(lba, n)
			lba += n
			return q
		})
		r.readAll()
		blocks := int(r.d.Blocks())
		for range 5 {
			r.writes(blocks/8, 15, 1)
			r.settle()
		}
		r.readAll()
		r.settle()
		var s Stats
		r.d.Stats(&s)
		require.NotZero(t, s.Compacted)
		require.NotZero(t, s.Relocated)
		require.NotZero(t, s.Checkpoints)
		t.Logf("WAF %.2f total %.2f, ckpt %d, throttled %d", s.WAF(), s.WAFTotal(), s.Checkpoints, s.Throttled)
		r.stop(false)
		r.load()
		r.readAll()
		r.check()
		r.stop(false)
	})
}

func TestRecoverAfterKill(t *testing.T) {
	eachCache(t, func(t *testing.T, m uint32) {
		r := newRig(t, 64, 256, m)
		r.create()
		for range 4 {
			r.writes(3000, 8, 1)
			r.one(r.trim(r.rnd.Uint64N(1000), 300))
			r.writes(100, 3, 1)
			r.stop(true) // without shared memory the next load replays the log
			r.load()
			require.NotZero(t, r.d.LoadReport().Redone)
			r.readAll()
			r.settle()
			r.check()
		}
		r.stop(false)
	})
}

func TestRefusals(t *testing.T) {
	r := newRig(t, 64, 256, 0)
	require.ErrorIs(t, r.start(r.cfg), unix.ENOENT, "blank devices")
	r.create()
	r.stop(false)
	cfg := r.cfg
	cfg.Create = true
	require.ErrorIs(t, r.start(cfg), unix.EEXIST)
	cfg = r.cfg
	cfg.Cache, cfg.Base = cfg.Base, cfg.Cache
	err := r.start(cfg)
	require.Error(t, err)
	require.Contains(t, err.Error(), "swapped")
	require.True(t, errors.Is(err, unix.EINVAL))
}

// TestCreateRefusesOtherData puts a signature where a file system has it, far
// behind the first block, and at the very end.
func TestCreateRefusesOtherData(t *testing.T) {
	for _, place := range []struct {
		dev string
		lba uint64
	}{{"cache", 16}, {"base", 2}, {"base", 256<<8 - 1}, {"cache", 64<<8 - 16}} {
		r := newRig(t, 64, 256, 0)
		r.put(place.dev, place.lba)
		cfg := r.cfg
		cfg.Create = true
		err := r.start(cfg)
		require.ErrorIs(t, err, ErrNotEmpty, "%s block %d", place.dev, place.lba)
		require.Contains(t, err.Error(), place.dev)
		cfg.Force = true
		require.NoError(t, r.start(cfg))
		r.stop(false)
	}
}

// put writes one block that is not zero.
func (r *rig) put(dev string, lba uint64) {
	r.t.Helper()
	desc, err := r.mgr.Open(dev, true, nil, nil, r.th)
	require.NoError(r.t, err)
	ch, err := desc.Channel(r.th)
	require.NoError(r.t, err)
	b := iobuf.Alloc(4096)
	b[77] = 1
	var ended bool
	require.NoError(r.t, ch.Write(b, lba, 1, func(io *bdev.IO) {
		require.NoError(r.t, io.Err())
		ended = true
	}, nil))
	r.until("written", func() bool { return ended })
	iobuf.Free(b)
	ch.Put()
	desc.Close()
}
