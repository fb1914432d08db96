package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/zone"
	"goftl/thread"
)

// TestZoneSchedules drives zones with persist over a simulated disk from several threads, through crashes. After each
// the write pointers and contents must be possible: nothing that was flushed (after a kill: answered) is behind a write
// pointer, and nothing before one is anything but what was written there.
func TestZoneSchedules(t *testing.T) {
	got := ForEachSeed(t, 300, 4, func(c *Case) error { return newZonePlay(c).run() })
	if flagSet() {
		return
	}
	for _, name := range []string{
		"pointer at what was flushed", "pointer behind what was flushed", "pointer behind what was answered", "pointer cut to a unit",
		"pointer before a survivor", "killed", "reset half done, zone kept", "reset half done, zone empty", "failed write before the pointer",
	} {
		if got[name] == 0 {
			t.Errorf("never reached: %s", name)
		}
	}
}

func flagSet() bool { return *flagSeeds != 0 || *flagSeed != 0 }

type zonePlay struct {
	c     *Case
	disk  *Disk
	opt   zone.Options
	zones []*zoneModel
	fail  error
	life  *zoneLife
	stamp uint64

	faulty bool // the life that is, or was last, has a disk that fails
}

// zoneModel is what is known of a zone.
type zoneModel struct {
	i       uint64
	blocks  []uint64 // hash of what was submitted, in order; anything for a write that failed
	acked   uint64   // how many blocks were answered with success, and those before them
	durable uint64   // must survive a power loss
	pending int      // writes under way
	life    int      // resets
	busy    bool     // a reset or finish is under way
	reset   bool     // the one that is under way, or that failed: it may have happened
	finish  bool
	full    bool // finished
	offline bool
	wild    bool // was reset while it was written: only that everything is answered is checked
}

const anything = 0

type zoneLife struct {
	p      *zonePlay
	w      *World
	users  []*zoneUser
	budget int
	open   int
}

type zoneUser struct {
	l     *zoneLife
	t     *thread.Thread
	desc  *bdev.Desc
	ch    *bdev.Channel
	depth int
	out   int
}

type zoneOp struct {
	u      *zoneUser
	z      *zoneModel
	kind   bdev.Op
	fua    bool
	life   int
	at     uint64
	count  uint64
	buf    []byte
	marks  []uint64 // flush: how far each zone was answered
	lives  []int
	broken bool // submitted to a zone that was being reset
}

func newZonePlay(c *Case) *zonePlay {
	r := c.Rand
	unit := uint32(1 + r.IntN(3))
	p := &zonePlay{c: c}
	base := unit
	if r.IntN(2) == 0 {
		base = 1
	}
	size := uint64(unit) * uint64(8+r.IntN(12))
	n := uint64(3 + r.IntN(6))
	if r.IntN(8) == 0 { // more than one unit of sums a zone
		size, n = uint64(unit)*300, 3
	}
	o := DiskOptions{
		Name: "disk", Volatile: r.IntN(3) != 0, FUA: r.IntN(2) == 0, TearSectors: r.IntN(2) == 0, KeepOnTrim: r.IntN(2) == 0,
		WriteUnit: base, Latency: RandomLatency(r),
		// The zones, their sums, and the table.
		Blocks: uint64(base) * (n*size/uint64(base) + n*4 + 2),
	}
	p.disk = NewDisk(r, c.Trace, o)
	p.opt = zone.Options{
		Name: "z", Base: "disk", ZoneBlocks: size, Capacity: size - uint64(r.IntN(2))*uint64(unit), WriteUnit: unit, Persist: true,
		ConvZones: uint64(r.IntN(2)), InitFull: r.IntN(8) == 0,
	}
	if r.IntN(3) == 0 {
		p.opt.MaxActive, p.opt.MaxOpen = 3, 2
	}
	return p
}

func (p *zonePlay) failf(format string, args ...any) {
	if p.fail == nil {
		p.fail = fmt.Errorf(format, args...)
	}
}

func (p *zonePlay) run() error {
	r := p.c.Rand
	kill := false
	for life := range 3 + r.IntN(4) {
		if err := p.live(life, kill); err != nil {
			return err
		}
		at := p.life.w.Now()
		if kill = r.IntN(3) == 0; kill {
			p.disk.Kill(at)
			p.c.Count("killed", 1)
		} else {
			p.disk.PowerLoss(at, SurviveAny)
		}
		if r.IntN(4) == 0 { // and again, somewhere in the load
			w := NewWorld(r, p.c.Trace, RandomWorldOptions(r))
			if _, err := p.create(w); err != nil {
				return err
			}
			_ = w.Run(uint64(r.IntN(2000)), func() bool { return false })
			p.disk.PowerLoss(w.Now(), SurviveAny)
			kill = false
		}
	}
	return p.live(-1, kill)
}

func (p *zonePlay) create(w *World) (*bdev.Manager, error) {
	mgr := bdev.NewManager(w.System(), nil)
	if _, err := mgr.Register(Attach(w, p.disk)); err != nil {
		return nil, err
	}
	t := w.System().NewThread("table")
	var err error
	if werr := w.Call(t, func() { _, err = zone.Create(mgr, t, p.opt) }); werr != nil {
		return nil, werr
	}
	return mgr, err
}

// live runs one life: it looks at what there is, and then works until it is cut off. The last life, -1, only looks.
func (p *zonePlay) live(life int, kill bool) error {
	r := p.c.Rand
	l := &zoneLife{p: p, w: NewWorld(r, p.c.Trace, RandomWorldOptions(r)), budget: 20 + r.IntN(300)}
	p.life = l
	p.disk.Faults().NoMem = 0.05 * r.Float64()
	mgr, err := p.create(l.w)
	if err != nil {
		return err
	}
	for i := range 1 + r.IntN(3) {
		u := &zoneUser{l: l, t: l.w.System().NewThread(fmt.Sprintf("u%d", i)), depth: 1 + r.IntN(20)}
		l.users = append(l.users, u)
		if err := l.w.Call(u.t, func() { u.begin(mgr) }); err != nil {
			return err
		}
	}
	if p.zones == nil {
		for i := range mgr.Lookup("z").Info().Blocks / p.opt.ZoneBlocks {
			p.zones = append(p.zones, &zoneModel{i: i})
		}
	}
	for _, z := range p.zones {
		if err := l.look(z, life == 0, kill); err != nil {
			return err
		}
	}
	if life == -1 {
		return nil
	}
	if p.faulty = r.IntN(3) == 0; p.faulty {
		f := p.disk.Faults()
		f.ReadEIO, f.WriteEIO, f.FlushEIO, f.NoSpace = 0.02, 0.03, 0.05, 0.01
	}
	stop := r.IntN(l.budget)
	for _, u := range l.users {
		if err := l.w.Call(u.t, u.fill); err != nil {
			return err
		}
	}
	crash := r.IntN(3) != 0
	err = l.w.Run(2e6, func() bool { return p.fail != nil || crash && l.budget <= stop || l.budget == 0 && l.open == 0 })
	p.disk.Mend()
	if p.fail != nil {
		return p.fail
	}
	if err != nil {
		return fmt.Errorf("%d IOs open: %w", l.open, err)
	}
	return nil
}

func (u *zoneUser) begin(mgr *bdev.Manager) {
	var err error
	if u.desc, err = mgr.Open("z", true, nil, nil, u.t); err == nil {
		u.ch, err = u.desc.Channel(u.t)
	}
	if err != nil {
		u.l.p.failf("open: %v", err)
	}
}

// do runs one IO of the first user to its end.
func (l *zoneLife) do(submit func(ch *bdev.Channel, done bdev.DoneFunc) error) error {
	var err error
	over := false
	u := l.users[0]
	if werr := l.w.Call(u.t, func() {
		if err = submit(u.ch, func(io *bdev.IO) { err, over = io.Err(), true }); err != nil {
			over = true
		}
	}); werr != nil {
		return werr
	}
	if werr := l.w.Run(2e6, func() bool { return over }); werr != nil {
		return werr
	}
	return err
}

// look compares a zone with what it may be after a crash, and takes that over.
func (l *zoneLife) look(z *zoneModel, first, kill bool) error {
	p := l.p
	start := z.i * p.opt.ZoneBlocks
	info := make([]bdev.ZoneInfo, 1)
	if err := l.do(func(ch *bdev.Channel, d bdev.DoneFunc) error { return ch.ZoneInfo(start, info, d, nil) }); err != nil {
		return fmt.Errorf("zone info: %w", err)
	}
	state := info[0].State
	if z.i < p.opt.ConvZones || z.offline && state == bdev.ZoneOffline {
		return nil
	}
	if z.wild || state == bdev.ZoneOffline || z.offline {
		if z.wild {
			return nil
		}
		return fmt.Errorf("zone %d is %s", z.i, state)
	}
	buf := make([]byte, p.opt.Capacity*4096)
	if err := l.do(func(ch *bdev.Channel, d bdev.DoneFunc) error { return ch.Read(buf, start, p.opt.Capacity, d, nil) }); err != nil {
		return fmt.Errorf("read of zone %d: %w", z.i, err)
	}
	wp := info[0].WP - start
	var found []uint64
	for i := range p.opt.Capacity {
		found = append(found, hashOf(buf[i*4096:(i+1)*4096]))
	}
	if first && p.opt.InitFull && state == bdev.ZoneFull {
		z.blocks, z.acked, z.durable, z.full = found, p.opt.Capacity, p.opt.Capacity, true
	}
	if err := p.possible(z, state, wp, found, kill); err != nil {
		return fmt.Errorf("zone %d, %s, write pointer %d of %d, answered %d, durable %d, submitted %d, finished %v %v, reset %v: %w",
			z.i, state, wp, p.opt.Capacity, z.acked, z.durable, len(z.blocks), z.full, z.finish, z.reset, err)
	}
	return nil
}

var zeroHash = xxh3.Hash(make([]byte, 4096))

func hashOf(b []byte) uint64 { return xxh3.Hash(b) }

// possible checks state, write pointer and content of a zone.
func (p *zonePlay) possible(z *zoneModel, state bdev.ZoneState, wp uint64, found []uint64, kill bool) error {
	low := z.durable
	if kill || !p.disk.Options().Volatile {
		low = z.acked
	}
	end := wp
	if state == bdev.ZoneFull && (z.full || z.finish) { // it may have been finished: what is behind the last block that is not zero does not count
		for end = p.opt.Capacity; end > 0 && found[end-1] == zeroHash; end-- {
		}
		for end < low && (z.blocks[end] == zeroHash || z.blocks[end] == anything) {
			end++
		}
		end += (uint64(p.opt.WriteUnit) - end%uint64(p.opt.WriteUnit)) % uint64(p.opt.WriteUnit)
	}
	for i := end; i < uint64(len(found)); i++ {
		if found[i] != zeroHash {
			return fmt.Errorf("block %d behind the write pointer is not zero", i)
		}
	}
	fresh := z.reset && end == 0
	switch {
	case end%uint64(p.opt.WriteUnit) != 0:
		return errors.New("not a whole write unit")
	case fresh && low > 0:
		p.c.Count("reset half done, zone empty", 1)
	case end < low && !fresh:
		return fmt.Errorf("blocks that must be there are not: %d", low)
	case end > uint64(len(z.blocks)):
		return errors.New("more than was ever submitted")
	case z.full && state != bdev.ZoneFull && !fresh:
		return errors.New("it was finished")
	}
	for i := range end {
		if z.blocks[i] == anything || p.faulty && z.pending > 0 && z.blocks[i] != found[i] {
			p.c.Count("failed write before the pointer", 1) // or one whose failure nobody was told yet
		} else if z.blocks[i] != found[i] {
			return fmt.Errorf("block %d is not what was written there", i)
		}
	}
	p.count(z, low, end, kill, fresh)
	z.blocks = append(z.blocks[:0], found[:end]...)
	z.acked, z.durable = end, end
	z.full = state == bdev.ZoneFull
	z.pending, z.busy, z.reset, z.finish = 0, false, false, false
	return nil
}

// count notes what kind of end was found.
func (p *zonePlay) count(z *zoneModel, low, end uint64, kill, fresh bool) {
	if z.reset && !fresh && end > 0 {
		p.c.Count("reset half done, zone kept", 1)
	}
	if kill || fresh || z.full {
		return
	}
	switch n := uint64(len(z.blocks)); {
	case end > z.acked:
		p.c.Count("pointer behind what was answered", 1)
	case end > z.durable:
		p.c.Count("pointer behind what was flushed", 1)
	case end == low && n > end:
		p.c.Count("pointer at what was flushed", 1)
	}
	buf := make([]byte, 4096)
	for i := end; i < uint64(len(z.blocks)); i++ {
		p.disk.Read(z.i*p.opt.ZoneBlocks+i, buf, nil)
		if z.blocks[i] == anything || hashOf(buf) != z.blocks[i] {
			continue
		}
		if i < end+uint64(p.opt.WriteUnit) && i == end {
			p.c.Count("pointer cut to a unit", 1)
		} else if i > end {
			p.c.Count("pointer before a survivor", 1)
		}
	}
}

// fill submits IO until the queue is as deep as it should be.
func (u *zoneUser) fill() {
	for u.out < u.depth && u.l.budget > 0 && u.l.p.fail == nil {
		u.l.budget--
		u.one()
	}
}

func (u *zoneUser) one() {
	p := u.l.p
	r := p.c.Rand
	z := p.zones[r.IntN(len(p.zones))]
	if r.IntN(2) == 0 {
		z = p.zones[len(p.zones)-1-r.IntN(min(2, len(p.zones)))]
	}
	o := &zoneOp{u: u, z: z, life: z.life}
	switch r.Pick(20, 10, 4, 3, 1, 1, 2) {
	case 0:
		o.kind = bdev.OpWrite
		o.fua = r.IntN(5) == 0
	case 1:
		o.kind = bdev.OpZoneAppend
	case 2:
		o.kind = bdev.OpFlush
	case 3:
		o.kind = bdev.OpZoneReset
	case 4:
		o.kind = bdev.OpZoneFinish
	case 5:
		if o.kind = bdev.OpZoneOffline; r.IntN(8) != 0 {
			o.kind = bdev.OpRead
		}
	case 6:
		o.kind = bdev.OpRead
	}
	if z.i < p.opt.ConvZones && o.kind != bdev.OpFlush {
		return
	}
	u.submit(o)
}

func (u *zoneUser) submit(o *zoneOp) {
	p := u.l.p
	z := o.z
	r := p.c.Rand
	start := z.i * p.opt.ZoneBlocks
	var err error
	switch o.kind {
	case bdev.OpWrite, bdev.OpZoneAppend:
		if o.broken = z.busy; o.broken && r.IntN(20) != 0 {
			return
		}
		z.wild = z.wild || o.broken
		o.at = uint64(len(z.blocks))
		o.count = uint64(p.opt.WriteUnit) * uint64(r.Skewed(6))
		unsure := p.opt.MaxActive != 0 && z.acked == 0 && z.pending > 0 // the zone may be one too many
		if z.full || z.offline || o.at+o.count > p.opt.Capacity || unsure {
			return
		}
		o.write()
		switch {
		case o.fua:
			err = u.ch.WritevFUA([][]byte{o.buf[:1000], o.buf[1000:]}, nil, start+o.at, o.count, zoneDone, o)
		case o.kind == bdev.OpWrite:
			err = u.ch.Write(o.buf, start+o.at, o.count, zoneDone, o)
		default:
			err = u.ch.ZoneAppendv([][]byte{o.buf}, nil, start, o.count, zoneDone, o)
		}
		z.pending++
	case bdev.OpFlush:
		for _, z := range p.zones {
			o.marks = append(o.marks, z.acked)
			o.lives = append(o.lives, z.life)
		}
		err = u.ch.Flush(zoneDone, o)
	case bdev.OpRead:
		if z.acked == 0 || z.offline {
			return
		}
		o.count = 1 + r.Uint64N(z.acked)
		o.at = r.Uint64N(z.acked - o.count + 1)
		o.buf = make([]byte, o.count*4096)
		err = u.ch.Read(o.buf, start+o.at, o.count, zoneDone, o)
	default:
		if z.busy || z.offline || z.pending > 0 && r.IntN(20) != 0 {
			return
		}
		z.wild = z.wild || z.pending > 0
		z.busy = true
		switch o.kind {
		case bdev.OpZoneReset:
			z.reset = true
			err = u.ch.ZoneReset(start, zoneDone, o)
		case bdev.OpZoneFinish:
			z.finish = true
			err = u.ch.ZoneFinish(start, zoneDone, o)
		default:
			z.wild = true // it may be offline or not after a crash
			err = u.ch.ZoneOffline(start, zoneDone, o)
		}
	}
	if err != nil {
		p.failf("submit of %v: %v", o.kind, err)
		return
	}
	u.out++
	u.l.open++
}

// write makes the content of a write and enters it into the zone.
func (o *zoneOp) write() {
	o.buf = make([]byte, o.count*4096)
	for i := range o.count {
		b := o.buf[i*4096 : (i+1)*4096]
		o.u.l.p.stamp++
		if o.u.l.p.c.Rand.IntN(10) != 0 { // zeroes are data too
			for at := 0; at < len(b); at += 64 {
				binary.LittleEndian.PutUint64(b[at:], o.u.l.p.stamp)
			}
		}
		o.z.blocks = append(o.z.blocks, hashOf(b))
	}
}

func zoneDone(io *bdev.IO) {
	o := io.Ctx.(*zoneOp)
	u, z := o.u, o.z
	p := u.l.p
	u.out--
	u.l.open--
	err := io.Err()
	switch {
	case z.wild && o.kind != bdev.OpFlush:
	case err != nil && !o.expected(err):
		p.failf("%v of zone %d at %d +%d: %v", o.kind, z.i, o.at, o.count, err)
	case err == nil && o.kind == bdev.OpZoneAppend && io.Result != z.i*p.opt.ZoneBlocks+o.at:
		p.failf("append to zone %d went to %d, not %d", z.i, io.Result, o.at)
	}
	o.settle(err)
	u.fill()
}

func (o *zoneOp) expected(err error) bool {
	p := o.u.l.p
	if (o.kind == bdev.OpWrite || o.kind == bdev.OpZoneAppend) && p.opt.MaxActive != 0 && errors.Is(err, unix.EOVERFLOW) {
		return true
	}
	if o.kind == bdev.OpZoneReset && o.z.offline {
		return true
	}
	return p.faulty && (errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC))
}

// settle enters the outcome.
func (o *zoneOp) settle(err error) {
	z, p := o.z, o.u.l.p
	switch o.kind {
	case bdev.OpWrite, bdev.OpZoneAppend:
		z.pending--
		if z.life != o.life {
			return
		}
		if errors.Is(err, unix.EOVERFLOW) || z.wild {
			z.wild = z.wild || uint64(len(z.blocks)) != o.at+o.count
			z.blocks = z.blocks[:min(uint64(len(z.blocks)), o.at)]
			return
		}
		if err != nil {
			for i := range o.count {
				z.blocks[o.at+i] = anything
			}
			return
		}
		z.acked = max(z.acked, o.at+o.count) // those before it are done too, if their users know it or not
		z.reset = z.reset && z.busy          // a reset that failed before cannot come back
		if o.fua {
			z.durable = max(z.durable, o.at+o.count)
		}
	case bdev.OpFlush:
		for i, z := range p.zones {
			if err == nil && z.life == o.lives[i] {
				z.durable = max(z.durable, o.marks[i])
			}
		}
	case bdev.OpZoneReset:
		if z.busy = false; err == nil {
			z.life++
			z.blocks, z.acked, z.durable, z.full, z.reset, z.finish = nil, 0, 0, false, false, false
		}
	case bdev.OpZoneFinish:
		z.busy = false
		z.full = z.full || err == nil && uint64(len(z.blocks)) < p.opt.Capacity // else it was full already
	case bdev.OpZoneOffline:
		z.busy = false
		z.offline = z.offline || err == nil
	case bdev.OpRead:
		if err != nil || z.life != o.life || z.wild || z.busy || p.faulty && z.pending > 0 {
			return
		}
		for i := range o.count {
			if want := z.blocks[o.at+i]; want != anything && want != hashOf(o.buf[i*4096:(i+1)*4096]) {
				p.failf("zone %d: block %d reads as something else", z.i, o.at+i)
			}
		}
	default:
	}
}
