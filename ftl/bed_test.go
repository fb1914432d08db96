package ftl

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/malloc"
	"goftl/bdev/zone"
	"goftl/ftl/layout"
	"goftl/iobuf"
	"goftl/thread"
)

// geometry says what devices a bed has. Small ones keep tests quick.
type geometry struct {
	cache, base uint64 // blocks
	chunk, band uint64 // blocks; 0: chosen by the layout
	md          uint32
	volatile    bool          // the devices have a volatile cache, so flushes reach them
	lag         time.Duration // every second IO takes so much longer: answers come out of order
	buffer      uint64        // blocks of the write buffer of a channel; 0: no volatile write cache

	zones   *zone.Options // the base is zoned
	appends bool          // by zone append
	noCache bool          // user records go to bands
	alone   bool          // and metadata to the base: there is no cache device
}

// zonedTiny is tiny on zones of 64 blocks, two to a band, of which 56 blocks can
// be used.
func zonedTiny(g geometry) geometry {
	g.zones = &zone.Options{ZoneBlocks: 64, Capacity: 56, Units: 2, Persist: true}
	g.base += 64
	return g
}

// tiny is 16 chunks of 64 blocks and 28 bands of 128.
var tiny = geometry{cache: 64 + 64 + 16*64 + 40, base: 128 + 28*128, chunk: 64, band: 128}

// mini is 16 chunks of 32 blocks and 20 bands of 64.
var mini = geometry{cache: 64 + 16*32 + 80, base: 64 + 20*64, chunk: 32, band: 64}

func (g geometry) with(md uint32) geometry {
	g.md = md
	return g
}

// bed is a rig whose devices can fail, rot, and be looked at after a crash at
// any moment.
type bed struct {
	*rig
	geo   geometry
	root  testing.TB        // t may become that of a subtest
	mem   [2]*malloc.Driver // media of the cache and of the base
	inj   [2]*errinj.Driver
	zoned *zone.Driver
	twin  *bed // devices that a crash image is loaded on
	wait  []*call
	step  func(i int) // called by churn after each submit

	// The model. A block holds cur; after a crash it may hold one of also
	// instead: writes under way or failed.
	cur  []uint32
	also [][]uint32
	part [][]uint32      // what a write of several blocks that failed may have left
	lost map[uint64]bool // must fail
	gone map[uint64]bool // may fail
	past pasts           // with a volatile write cache
}

const (
	onCache = 0
	onBase  = 1

	// zeroed in a generation says that the block reads as zeroes.
	zeroed = uint32(1) << 31
)

// volDisk is a device that claims a volatile cache.
type volDisk struct{ *malloc.Driver }

func (v volDisk) Info() bdev.Info {
	i := v.Driver.Info()
	i.VolatileCache = true
	return i
}

func newBed(t testing.TB, g geometry) *bed {
	b := &bed{geo: g, root: t, lost: map[uint64]bool{}, gone: map[uint64]bool{}}
	r := &rig{t: t, sys: thread.NewSystem(), rnd: rand.New(rand.NewPCG(3, 4))}
	b.rig = r
	r.th = r.sys.NewThread("core")
	r.mgr = bdev.NewManager(r.sys, nil)
	b.mem[onCache], b.inj[onCache] = r.disk("cache", g.cache, g.md, g.volatile)
	b.mem[onBase], b.inj[onBase] = r.disk("base", g.base, 0, g.volatile)
	r.cfg = Config{
		Name: "test", System: r.sys, Thread: r.th, Manager: r.mgr, Cache: "cache", Base: "base", UUID: testUUID,
		ChunkBlocks: g.chunk, BandBlocks: g.band, VolatileWriteCache: g.buffer != 0, WriteBufferBytes: g.buffer * 4096,
	}
	if g.zones != nil {
		r.cfg.Base, r.cfg.ZoneAppend, r.cfg.BandBlocks = "zones", g.appends, 0
		b.makeZones()
	}
	r.cfg.NoCache = g.noCache
	if g.alone {
		r.cfg.Cache = ""
	}
	b.applyLag()
	t.Cleanup(b.free)
	return b
}

// makeZones makes the zoned device over the base, anew if there is one: then it
// says of its zones what stands on the base.
func (b *bed) makeZones() {
	b.t.Helper()
	if old := b.mgr.Lookup("zones"); old != nil {
		gone := false
		old.Unregister(b.th, func(any, error) { gone = true }, nil)
		b.until("zones gone", func() bool { return gone })
	}
	o := *b.geo.zones
	o.Name, o.Base = "zones", "base"
	dev, err := zone.Create(b.mgr, b.th, o)
	require.NoError(b.t, err)
	b.zoned = dev.Driver().(*zone.Driver)
	for range 1000 {
		b.turn() // the table of zones is read
	}
	b.rest = len(b.th.Stats().Channels)
}

// disk registers a malloc device behind one that injects errors.
func (r *rig) disk(name string, blocks uint64, md uint32, volatile bool) (*malloc.Driver, *errinj.Driver) {
	m, err := malloc.New(malloc.Options{Name: "raw " + name, Blocks: blocks, MDSize: md})
	require.NoError(r.t, err)
	var drv bdev.Driver = m
	if volatile {
		drv = volDisk{m}
	}
	_, err = r.mgr.Register(drv)
	require.NoError(r.t, err)
	e, err := errinj.Create(r.mgr, r.th, errinj.Options{Name: name, Base: "raw " + name})
	require.NoError(r.t, err)
	return m, e.Driver().(*errinj.Driver)
}

// free gives the media back, so that many beds fit into memory.
func (b *bed) free() {
	for _, m := range b.mem {
		if m.Data() != nil {
			_ = m.Close()
		}
	}
}

func (b *bed) applyLag() {
	if b.geo.lag == 0 {
		return
	}
	for i := range b.inj {
		b.rule(i, errinj.Rule{Action: errinj.Delay, Delay: b.geo.lag, Prob: 0.5, Seed: uint64(i + 1)})
	}
}

// until polls until cond holds, and says how the device stands when it never
// does.
func (b *bed) until(what string, cond func() bool) {
	b.t.Helper()
	for i := 0; !cond(); i++ {
		if i == 1_000_000 { // 10 s
			require.FailNow(b.t, what+" does not happen", b.state())
		}
		b.turn()
	}
}

// state is the device's state in words.
func (b *bed) state() string {
	d := b.d
	if d == nil || d.lay == nil {
		return "no device"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "health %v (%v), in use %d, queue %d, under %d, failing %v, void %d..%d\n", d.health, d.failure, d.inUse,
		d.log_.q.n, d.log_.under, d.log_.failing, d.log_.voidFrom, d.log_.voidTo)
	fmt.Fprintf(&s, "chunks %v free %d, bands %v free %d (%v)\n", d.chunks, d.freeChunks.n, d.bands, d.freeBands.n, segStateNames)
	for _, m := range []*mover{&d.compaction, &d.gc} {
		n := 0
		for op := m.waiting; op != nil; op = op.next {
			n++
		}
		fmt.Fprintf(&s, "%s: under %d, drains %d, waiting %d, blocked %v, failed %d, credit %d, wanted %v\n", m.name, m.under,
			len(m.drains), n, m.blocked, m.failed, m.credit, m.wanted(d))
	}
	fmt.Fprintf(&s, "checkpoint active %v, blocked %v, stage %d; mapped %d of %d; awake %v %v; base error %v\n", d.ckpt.active,
		d.ckpt.blocked, d.ckpt.stage, d.mapped, d.lay.LBAs, d.awake, d.userAwake, d.baseErr)
	for i := range d.segs {
		g := &d.segs[i]
		fmt.Fprintf(&s, "%s %d: %s next %d valid %d pins %d unacked %d draining %v faults %d closing %d\n", g.kindName(), g.id, g.state,
			g.next, d.valid[i], g.pins, g.unacked, g.draining, g.faults, g.closing)
	}
	return s.String()
}

// rule adds a fault to one of the devices, in front of the lag.
func (b *bed) rule(dev int, r errinj.Rule) *errinj.Active {
	b.t.Helper()
	a, err := b.inj[dev].Add(r)
	require.NoError(b.t, err)
	return a
}

// fault is a rule that comes before all others.
func (b *bed) fault(dev int, r errinj.Rule) *errinj.Active {
	old := b.inj[dev].Rules()
	b.inj[dev].Clear()
	a := b.rule(dev, r)
	for _, o := range old {
		b.rule(dev, o.Rule())
	}
	return a
}

// heal ends all faults.
func (b *bed) heal() {
	for _, e := range b.inj {
		e.Clear()
	}
	b.applyLag()
}

func (b *bed) create() {
	b.t.Helper()
	b.rig.create()
	b.blank()
}

// blank makes the model that of a new device.
func (b *bed) blank() {
	b.cur = make([]uint32, b.d.Blocks())
	b.also = make([][]uint32, b.d.Blocks())
	b.part = make([][]uint32, b.d.Blocks())
	for i := range b.cur {
		b.cur[i] = zeroed
	}
}

// call is a request under way.
type call struct {
	req  Request
	buf  []byte
	gens []uint32 // of a write or trim
	done bool
	when int64 // of completion
	mark uint64
}

func (b *bed) submit(op Op, lba, n uint64, fua bool) *call {
	c := &call{req: Request{Op: op, LBA: lba, Count: n, FUA: fua}}
	switch op {
	case OpRead, OpWrite:
		c.buf = iobuf.Alloc(int(n) * 4096)
		c.req.Bufs = [][]byte{c.buf}
	case OpTrim, OpFlush:
	case OpExtents:
		c.req.Extents = make([]bdev.Extent, 1+b.rnd.IntN(12))
	}
	for i := range n {
		if op != OpWrite && op != OpTrim {
			break
		}
		b.gen++
		g := b.gen
		if op == OpWrite {
			stamp(c.buf[i*4096:(i+1)*4096], lba+i, g)
		} else {
			g |= zeroed
		}
		c.gens = append(c.gens, g)
		b.also[lba+i] = append(b.also[lba+i], g)
	}
	c.req.Ctx = c
	c.req.Done = func(r *Request) { b.finished(r.Ctx.(*call)) }
	b.wait = append(b.wait, c)
	c.mark = b.past.acks
	b.d.Submit(&c.req)
	return c
}

// finished brings the model up to date.
func (b *bed) finished(c *call) {
	require.False(b.t, c.done, "a request completes once")
	c.done, c.when = true, b.now
	for i, x := range b.wait {
		if x == c {
			b.wait = append(b.wait[:i], b.wait[i+1:]...)
			break
		}
	}
	if c.req.Op != OpRead && c.buf != nil {
		iobuf.Free(c.buf)
		c.buf = nil
	}
	if c.req.Err != nil {
		for i, g := range c.gens {
			if c.req.Count > 1 {
				lba := c.req.LBA + uint64(i)
				b.part[lba] = append(b.part[lba], g)
			}
		}
		return
	}
	b.note(c)
	for i, g := range c.gens {
		lba := c.req.LBA + uint64(i)
		// FUA requests complete after later ones; what counts is the order of
		// submission.
		if g&^zeroed > b.cur[lba]&^zeroed {
			b.cur[lba] = g
		}
		delete(b.lost, lba)
		delete(b.gone, lba)
		b.also[lba] = newer(b.also[lba], g)
		b.part[lba] = newer(b.part[lba], g)
	}
}

// newer keeps the generations after g.
func newer(list []uint32, g uint32) []uint32 {
	keep := list[:0]
	for _, o := range list {
		if o&^zeroed > g&^zeroed {
			keep = append(keep, o)
		}
	}
	return keep
}

// do runs one request to its end.
func (b *bed) do(op Op, lba, n uint64) error {
	b.t.Helper()
	c := b.submit(op, lba, n, false)
	b.until("request", func() bool { return c.done })
	if c.buf != nil {
		iobuf.Free(c.buf)
	}
	return c.req.Err
}

func (b *bed) put(lba, n uint64)   { b.t.Helper(); require.NoError(b.t, b.do(OpWrite, lba, n)) }
func (b *bed) sync()               { b.t.Helper(); require.NoError(b.t, b.do(OpFlush, 0, 0)) }
func (b *bed) trims(lba, n uint64) { b.t.Helper(); require.NoError(b.t, b.do(OpTrim, lba, n)) }

// drainAll waits for every request under way.
func (b *bed) drainAll() {
	b.t.Helper()
	b.until("requests", func() bool { return len(b.wait) == 0 })
}

// fill writes the whole device.
func (b *bed) fill() {
	b.t.Helper()
	b.fillTo(b.d.Blocks())
}

func (b *bed) fillTo(end uint64) {
	b.t.Helper()
	for lba := uint64(0); lba < end; {
		n := min(32, end-lba)
		b.submit(OpWrite, lba, n, false)
		lba += n
		b.until("room", func() bool { return len(b.wait) < 8 })
	}
	b.drainAll()
}

// churn makes n random writes of 1 to most blocks with depth under way. Errors
// are counted.
func (b *bed) churn(n int, most uint64, depth int) (failed map[error]int) {
	b.t.Helper()
	failed = map[error]int{}
	calls := []*call{}
	for i := range n {
		c := 1 + b.rnd.Uint64N(most)
		calls = append(calls, b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-c+1), c, false))
		if b.step != nil {
			b.step(i)
		}
		b.until("room", func() bool { return len(b.wait) < depth })
	}
	b.drainAll()
	for _, c := range calls {
		if c.req.Err != nil {
			failed[c.req.Err]++
		}
	}
	return failed
}

// content says what generation a block holds.
func content(buf []byte, lba uint64) (uint32, error) {
	var want [4096]byte
	if string(buf) == string(want[:]) {
		return zeroed, nil
	}
	g := binary.LittleEndian.Uint32(buf[8:])
	stamp(want[:], lba, g)
	if string(buf) != string(want[:]) {
		return 0, fmt.Errorf("lba %d: neither zeroes nor a stamp: it says lba %d generation %d", lba,
			binary.LittleEndian.Uint64(buf), g)
	}
	return g, nil
}

func same(got, want uint32) bool { return got == want || got == zeroed && want&zeroed != 0 }

// judge compares a block that was read with the model; crashed allows what a
// crash may leave.
func (b *bed) judge(lba uint64, buf []byte, crashed bool) error {
	got, err := content(buf, lba)
	if err != nil {
		return err
	}
	if b.lost[lba] {
		return fmt.Errorf("lba %d: generation %x where an error was due", lba, got)
	}
	if same(got, b.cur[lba]) {
		return nil
	}
	maybe := b.part[lba]
	if crashed {
		maybe = b.past.of(lba, b.also[lba])
	}
	for _, g := range maybe {
		if same(got, g) {
			return nil
		}
	}
	return fmt.Errorf("lba %d: generation %x, not %x (or %x)", lba, got, b.cur[lba], b.also[lba])
}

// verify reads the whole device and compares it with the model. It returns the
// blocks that could not be read.
func (b *bed) verify(crashed bool) (bad []uint64) {
	b.t.Helper()
	const step = 32
	for lba := uint64(0); lba < b.d.Blocks(); {
		n := min(step, b.d.Blocks()-lba)
		c := b.submit(OpRead, lba, n, false)
		b.until("read", func() bool { return c.done })
		if c.req.Err == nil {
			for i := range n {
				require.NoError(b.t, b.judge(lba+i, c.buf[i*4096:(i+1)*4096], crashed))
			}
		} else {
			require.Equal(b.t, unix.EIO, c.req.Err)
			bad = append(bad, b.verifyEach(lba, n, crashed)...)
		}
		iobuf.Free(c.buf)
		lba += n
	}
	return bad
}

func (b *bed) verifyEach(lba, n uint64, crashed bool) (bad []uint64) {
	b.t.Helper()
	for i := range n {
		c := b.submit(OpRead, lba+i, 1, false)
		b.until("read", func() bool { return c.done })
		switch {
		case c.req.Err == nil:
			require.NoError(b.t, b.judge(lba+i, c.buf, crashed))
		case b.lost[lba+i] || b.gone[lba+i] || b.past.mayFail(b, lba+i):
			bad = append(bad, lba+i)
		default:
			require.NoError(b.t, c.req.Err, "lba %d", lba+i)
		}
		iobuf.Free(c.buf)
	}
	return bad
}

// good reads the whole device, of which every block must be right.
func (b *bed) good() {
	b.t.Helper()
	require.Empty(b.t, b.verify(false))
}

// adopt makes what the device holds the model: after a crash, what was read
// once is what counts.
func (b *bed) adopt() {
	b.t.Helper()
	for lba := range b.d.Blocks() {
		if len(b.also[lba])+len(b.part[lba])+len(b.past.list[lba]) == 0 {
			continue
		}
		c := b.submit(OpRead, lba, 1, false)
		b.until("read", func() bool { return c.done })
		if c.req.Err == nil {
			g, err := content(c.buf, lba)
			require.NoError(b.t, err)
			b.replaced(lba, g)
		}
		iobuf.Free(c.buf)
		b.also[lba], b.part[lba] = nil, nil
	}
}

// crash loads what stands on the media now on other devices, as after a kill.
// The twin is stopped with end before the next crash.
func (b *bed) crash() *bed {
	b.t.Helper()
	tw := b.image()
	require.NoError(b.t, tw.start(tw.cfg))
	return tw
}

// image copies media and model to the twin without starting it.
func (b *bed) image() *bed {
	b.t.Helper()
	if b.twin == nil {
		b.twin = newBed(b.root, b.geo)
	}
	tw := b.twin
	tw.t = b.t
	tw.heal()
	tw.cfg = b.cfg
	tw.cfg.System, tw.cfg.Thread, tw.cfg.Manager = tw.sys, tw.th, tw.mgr
	tw.cfg.Create = false
	for i := range b.mem {
		copy(tw.mem[i].Data(), b.mem[i].Data())
		copy(tw.mem[i].MD(), b.mem[i].MD())
	}
	if b.geo.zones != nil {
		tw.makeZones()
	}
	tw.gen = b.gen
	tw.past = b.past.copy()
	tw.cur = append(tw.cur[:0], b.cur...)
	tw.also, tw.part = tw.also[:0], tw.part[:0]
	for i := range b.also {
		tw.also = append(tw.also, append([]uint32(nil), b.also[i]...))
		tw.part = append(tw.part, append([]uint32(nil), b.also[i]...))
	}
	tw.lost, tw.gone = map[uint64]bool{}, map[uint64]bool{}
	for l := range b.lost {
		tw.lost[l] = true
	}
	for l := range b.gone {
		tw.gone[l] = true
	}
	return tw
}

// crashEvery makes churn look at a crash after every n-th submit.
func (b *bed) crashEvery(n int) {
	b.step = func(i int) {
		if i%n == n-1 {
			for range b.rnd.IntN(6) {
				b.turn()
			}
			b.crashed()
		}
	}
}

// crashed verifies a crash now, that the device goes on, and ends the twin.
func (b *bed) crashed() {
	b.t.Helper()
	tw := b.crash()
	h, err := tw.d.Health()
	require.Equal(b.t, HealthOK, h, "%v", err)
	tw.verify(true)
	require.NoError(b.t, tw.d.CheckInvariants())
	tw.end()
}

// stopsWell stops the device clean and finds everything in order at the next
// load, which it stops, too.
func (b *bed) stopsWell() {
	b.t.Helper()
	b.stop(false)
	b.load()
	b.good()
	b.check()
	b.stop(false)
}

// end stops a device without marking it clean.
func (b *bed) end() {
	b.t.Helper()
	b.stop(true)
}

// restart stops without marking clean and loads again.
func (b *bed) restart() {
	b.t.Helper()
	b.stop(true)
	b.load()
}

// halted stops a device that may report an error, and waits for its channels.
func (b *bed) halted(fast bool) error {
	b.t.Helper()
	var ended bool
	var failed error
	b.d.Stop(fast, func(err error) { failed, ended = err, true })
	b.until("stop", func() bool { return ended })
	b.noChannels()
	return failed
}

// mustBe demands a health.
func (b *bed) mustBe(want Health) {
	b.t.Helper()
	_ = b.health(want)
}

// health requires a state.
func (b *bed) health(want Health) error {
	b.t.Helper()
	h, err := b.d.Health()
	require.Equal(b.t, want, h, "%v", err)
	return err
}

func (b *bed) stats() *Stats {
	var s Stats
	b.d.Stats(&s)
	return &s
}

// place says on which device, block, and of which segment lba lies.
func (b *bed) place(lba uint64) (dev int, block uint64, s *segment, slot uint32) {
	b.t.Helper()
	a := b.d.table.Get(lba)
	require.GreaterOrEqual(b.t, uint64(a), uint64(2), "lba %d is not mapped", lba)
	idx, slot := b.d.segOf(a)
	s = &b.d.segs[idx]
	dev = onCache
	if s.band {
		dev = onBase
	}
	return dev, s.off + uint64(slot), s, slot
}

// rot flips a bit of a block's data.
func (b *bed) rot(dev int, block uint64) {
	b.mem[dev].Data()[block*4096+1000] ^= 0x10
}

// rotMD flips a bit of a block's metadata.
func (b *bed) rotMD(dev int, block uint64) {
	b.mem[dev].MD()[block*uint64(b.geo.md)+20] ^= 0x10
}

// full waits until nothing is under way and no timer would start anything.
func (b *bed) settleAll() {
	b.t.Helper()
	b.until("idle", func() bool { return b.d.Idle() })
	for range 20_000 { // 200 ms: longer than every timer
		b.turn()
	}
	b.until("idle", func() bool { return b.d.Idle() })
	require.NoError(b.t, b.d.CheckInvariants())
}

// pass lets time go by.
func (b *bed) pass(d time.Duration) {
	for end := b.now + int64(d); b.now < end; {
		b.turn()
	}
}

// region returns where a region lies.
func (b *bed) region(t layout.RegionType) *layout.Region { return b.d.lay.Region(t) }

// eachKind runs a test with and without metadata on the cache, and with a
// volatile cache.
func eachKind(t *testing.T, g geometry, f func(t *testing.T, g geometry)) {
	for _, md := range mdSizes {
		for _, vol := range []bool{false, true} {
			g.md, g.volatile = md, vol
			t.Run(fmt.Sprintf("md=%d,volatile=%v", md, vol), func(t *testing.T) { f(t, g) })
		}
	}
}
