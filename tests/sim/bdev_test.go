package sim

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/volatile"
	"goftl/tests/sim/model"
	"goftl/thread"
)

// TestBdevSchedules drives a simulated disk through the bdev layer from several threads and checks every completion
// and every block read against the model, through crashes.
func TestBdevSchedules(t *testing.T) {
	ForEachSeed(t, 200, 4, func(c *Case) error { return newBdevPlay(c).run() })
}

// TestVolatileSchedules does the same with a volatile cache of the process in front of the disk: then a kill, and the
// removal of the device, lose what was not flushed.
func TestVolatileSchedules(t *testing.T) {
	ForEachSeed(t, 200, 4, func(c *Case) error {
		p := newBdevPlay(c)
		p.shim = true
		return p.run()
	})
}

type bdevPlay struct {
	c    *Case
	disk *Disk
	m    *model.Model
	span uint64
	md   int
	shim bool // a bdev/volatile is in front of the disk
	fail error
	life *bdevLife
}

// bdevLife is one life of the process over the disk.
type bdevLife struct {
	p       *bdevPlay
	w       *World
	mgr     *bdev.Manager
	home    *thread.Thread // of the cache
	b       *bdev.Bdev
	users   []*bdevUser
	budget  int
	open    int // submitted, done not called
	removed bool
	ended   bool // the removal
	faulty  bool
}

type bdevUser struct {
	l       *bdevLife
	t       *thread.Thread
	desc    *bdev.Desc
	ch      *bdev.Channel
	depth   int
	out     int
	inside  bool // a submit method is running
	waitSeq uint64
	waitRan uint64
	gone    bool
}

type bdevOp struct {
	u     *bdevUser
	kind  bdev.Op
	lba   uint64
	count uint64
	fua   bool
	bufs  [][]byte
	md    []byte
	op    *model.Op
	acks  uint64
	done  bool
}

func newBdevPlay(c *Case) *bdevPlay {
	r := c.Rand
	o := DiskOptions{
		Name: "disk", Blocks: 64 + r.Uint64N(500), Volatile: r.IntN(4) != 0, FUA: r.IntN(2) == 0,
		TearSectors: r.IntN(2) == 0, Latency: RandomLatency(r),
	}
	if r.IntN(2) == 0 {
		o.MDSize = 64
	}
	if r.IntN(2) == 0 {
		o.MaxTransfer = uint32(1 + r.IntN(16))
	}
	return &bdevPlay{c: c, disk: NewDisk(r, c.Trace, o), m: model.NewModel(), span: o.Blocks, md: o.MDSize}
}

func (p *bdevPlay) failf(format string, args ...any) {
	if p.fail == nil {
		p.fail = fmt.Errorf(format, args...)
	}
}

func (p *bdevPlay) run() error {
	for range 1 + p.c.Rand.IntN(3) {
		if err := p.live(); err != nil {
			return err
		}
		at := p.life.w.Now()
		kill := p.c.Rand.IntN(3) == 0
		if kill {
			p.disk.Kill(at)
		} else {
			p.disk.PowerLoss(at, SurviveAny)
		}
		if err := p.verify(kill); err != nil {
			return err
		}
	}
	return nil
}

// live runs one life until its budget is used up, or to its end.
func (p *bdevPlay) live() error {
	r := p.c.Rand
	l := &bdevLife{p: p, w: NewWorld(r, p.c.Trace, RandomWorldOptions(r)), budget: 20 + r.IntN(300)}
	p.life = l
	l.mgr = bdev.NewManager(l.w.System(), nil)
	if err := l.mgr.SetPool(8+r.IntN(64), 8); err != nil {
		return err
	}
	if err := l.register(); err != nil {
		return err
	}
	if l.faulty = r.IntN(3) == 0; l.faulty {
		*p.disk.Faults() = Faults{ReadEIO: 0.02, WriteEIO: 0.02, FlushEIO: 0.05, NoSpace: 0.01}
	}
	p.disk.Faults().NoMem = 0.05 * r.Float64()
	for i := range 1 + r.IntN(3) {
		u := &bdevUser{l: l, t: l.w.System().NewThread(fmt.Sprintf("u%d", i)), depth: 1 + r.IntN(40)}
		l.users = append(l.users, u)
		if err := l.w.Call(u.t, u.begin); err != nil {
			return err
		}
	}
	crash := r.IntN(2) == 0
	err := l.w.Run(2e6, func() bool { return p.fail != nil || (l.budget == 0 || l.removed) && (crash || l.open == 0) })
	p.disk.Mend()
	if p.fail != nil {
		return p.fail
	}
	if err != nil {
		return fmt.Errorf("%d IOs open: %w", l.open, err)
	}
	if crash {
		return nil
	}
	return l.windDown()
}

func (l *bdevLife) register() (err error) {
	disk := Attach(l.w, l.p.disk)
	if !l.p.shim {
		l.b, err = l.mgr.Register(disk)
		return err
	}
	if _, err = l.mgr.Register(below{disk}); err != nil {
		return err
	}
	r := l.p.c.Rand
	o := volatile.Options{
		Name: "disk", Base: "below", Own: r.IntN(2) == 0, Blocks: 16 + r.Uint64N(100), Early: r.Float64() * r.Float64(), Seed: r.Uint64(),
	}
	l.home = l.w.System().NewThread("home")
	if e := l.w.Call(l.home, func() { l.b, err = volatile.Create(l.mgr, l.home, o) }); e != nil {
		return e
	}
	return err
}

// below is a disk under another name.
type below struct{ *Driver }

func (b below) Info() bdev.Info {
	i := b.Driver.Info()
	i.Name = "below"
	return i
}

func (u *bdevUser) begin() {
	p := u.l.p
	if u.l.removed { // by an earlier one
		u.gone = true
		return
	}
	var err error
	if u.desc, err = u.l.mgr.Open("disk", true, u.event, u, u.t); err != nil {
		p.failf("open: %v", err)
		return
	}
	if u.ch, err = u.desc.Channel(u.t); err != nil {
		p.failf("channel: %v", err)
		return
	}
	u.fill()
}

func (u *bdevUser) event(arg any, ev bdev.Event, _ *bdev.Bdev, _ []bdev.MediaExtent) {
	if arg != u || ev != bdev.Remove || u.l.w.Current() != u.t || !u.l.removed {
		u.l.p.failf("%s: unexpected event %v", u.t.Name(), ev)
	}
	u.gone = true
	if u.out == 0 {
		u.close()
	}
}

func (u *bdevUser) close() {
	u.ch.Put()
	u.desc.Close()
}

// fill submits IO until the queue is as deep as it should be.
func (u *bdevUser) fill() {
	for u.out < u.depth && u.l.budget > 0 && !u.gone {
		u.l.budget--
		if !u.submit(u.random()) {
			return
		}
	}
	if !u.l.removed && u.l.p.c.Rand.IntN(3000) == 0 {
		u.l.remove(u)
	}
}

func (u *bdevUser) random() *bdevOp {
	p := u.l.p
	r := p.c.Rand
	o := &bdevOp{u: u}
	o.count = min(uint64(r.Skewed(40)), p.span)
	o.lba = r.Uint64N(p.span - o.count + 1)
	if r.IntN(3) == 0 {
		o.lba = r.Uint64N(min(p.span-o.count+1, 8))
	}
	switch r.Pick(10, 10, 3, 2, 2) {
	case 0:
		o.kind = bdev.OpRead
	case 1:
		o.kind = bdev.OpWrite
		o.fua = r.IntN(4) == 0
	case 2:
		o.kind = bdev.OpFlush
	case 3:
		o.kind = bdev.OpUnmap
	case 4:
		o.kind = bdev.OpWriteZeroes
	}
	o.buffers()
	if o.kind == bdev.OpRead {
		o.acks = p.m.ReadBegins()
	}
	if o.kind == bdev.OpWrite || o.kind == bdev.OpUnmap || o.kind == bdev.OpWriteZeroes {
		o.op = p.m.Submit(o.kind != bdev.OpWrite, o.fua, o.lba, o.count)
	}
	if o.kind == bdev.OpWrite {
		o.stamp()
	}
	return o
}

// buffers cuts the data of a read or write into random pieces.
func (o *bdevOp) buffers() {
	if o.kind != bdev.OpRead && o.kind != bdev.OpWrite {
		return
	}
	p := o.u.l.p
	all := make([]byte, o.count*model.BlockSize)
	for len(all) > 0 {
		n := int(p.c.Rand.Skewed(int64(len(all))/512)) * 512
		if p.c.Rand.IntN(2) == 0 {
			n = len(all)
		}
		o.bufs = append(o.bufs, all[:n])
		all = all[n:]
	}
	if p.md > 0 && p.c.Rand.IntN(2) == 0 {
		o.md = make([]byte, int(o.count)*p.md)
	}
}

func (o *bdevOp) stamp() {
	flat := make([]byte, o.count*model.BlockSize)
	for i := range o.count {
		model.Stamp(flat[i*model.BlockSize:(i+1)*model.BlockSize], o.op.ID, o.lba+i)
		if o.md != nil {
			o.md[int(i)*o.u.l.p.md] = byte(o.op.ID)
		}
	}
	for _, b := range o.bufs {
		flat = flat[copy(b, flat):]
	}
}

func (u *bdevUser) submit(o *bdevOp) bool {
	u.inside = true
	var err error
	switch {
	case o.kind == bdev.OpRead:
		err = u.ch.Readv(o.bufs, o.md, o.lba, o.count, bdevDone, o)
	case o.kind == bdev.OpWrite && o.fua:
		err = u.ch.WritevFUA(o.bufs, o.md, o.lba, o.count, bdevDone, o)
	case o.kind == bdev.OpWrite:
		err = u.ch.Writev(o.bufs, o.md, o.lba, o.count, bdevDone, o)
	case o.kind == bdev.OpFlush:
		o.acks = u.l.p.m.Acks()
		err = u.ch.Flush(bdevDone, o)
	case o.kind == bdev.OpUnmap:
		err = u.ch.Unmap(o.lba, o.count, bdevDone, o)
	default:
		err = u.ch.WriteZeroes(o.lba, o.count, bdevDone, o)
	}
	u.inside = false
	switch {
	case err == nil:
		u.out++
		u.l.open++
		return true
	case errors.Is(err, unix.ENOMEM):
		u.wait(o)
		return false
	case errors.Is(err, unix.ENODEV) && u.l.removed:
		u.fail(o)
		return false
	}
	u.l.p.failf("submit of %v: %v", o.kind, err)
	return false
}

// wait queues an op until an IO is free; waiters must be called in order.
func (u *bdevUser) wait(o *bdevOp) {
	u.waitSeq++
	n := u.waitSeq
	u.out++
	u.l.open++
	u.ch.QueueIOWait(&bdev.IOWait{Fn: func(any) {
		u.out--
		u.l.open--
		if u.waitRan++; u.waitRan != n || u.l.w.Current() != u.t {
			u.l.p.failf("%s: waiter %d was called as the %d.", u.t.Name(), n, u.waitRan)
		}
		u.submit(o)
		u.maybeClose()
	}})
}

func (u *bdevUser) fail(o *bdevOp) {
	switch {
	case o.op != nil:
		u.l.p.m.Fail(o.op)
	case o.kind == bdev.OpRead:
		u.l.p.m.ReadEnds(o.acks)
	}
}

func (u *bdevUser) maybeClose() {
	if u.gone && u.out == 0 {
		u.close()
	}
}

func bdevDone(io *bdev.IO) {
	o := io.Ctx.(*bdevOp)
	u := o.u
	p := u.l.p
	if o.done || u.inside || u.l.w.Current() != u.t || io.Op != o.kind || o.kind != bdev.OpFlush && (io.LBA != o.lba || io.Count != o.count) {
		p.failf("%s: wrong completion of %v: again %v, inline %v", u.t.Name(), o.kind, o.done, u.inside)
	}
	o.done = true
	u.out--
	u.l.open--
	if err := io.Err(); err != nil {
		if !u.l.removed && !(u.l.faulty && (errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC))) {
			p.failf("%v [%d +%d]: %v", o.kind, o.lba, o.count, err)
		}
		u.fail(o)
	} else {
		p.succeeded(o)
	}
	u.fill()
	u.maybeClose()
}

func (p *bdevPlay) succeeded(o *bdevOp) {
	switch o.kind {
	case bdev.OpFlush:
		p.m.Flushed(o.acks)
	case bdev.OpRead:
		defer p.m.ReadEnds(o.acks)
		flat := make([]byte, 0, o.count*model.BlockSize)
		for _, b := range o.bufs {
			flat = append(flat, b...)
		}
		for i := range o.count {
			id, err := model.Identify(flat[i*model.BlockSize:(i+1)*model.BlockSize], o.lba+i)
			if err == nil {
				err = p.m.CheckRead(o.lba+i, id, o.acks)
			}
			if err != nil {
				p.failf("read: %v", err)
				return
			}
		}
	default:
		p.m.Ack(o.op)
	}
}

// remove takes the device away while it is in use.
func (l *bdevLife) remove(u *bdevUser) {
	l.removed = true
	l.b.Unregister(u.t, func(arg any, err error) {
		if arg != l || err != nil || l.w.Current() != u.t || l.open != 0 {
			l.p.failf("removal ended with %v and %d IOs open", err, l.open)
		}
		l.ended = true
	}, l)
}

func (l *bdevLife) windDown() error {
	p := l.p
	if !l.removed {
		if err := l.w.Call(l.users[0].t, func() { l.remove(l.users[0]) }); err != nil {
			return err
		}
	}
	if err := l.w.Run(1e6, func() bool { return l.ended || p.fail != nil }); err != nil {
		return fmt.Errorf("removal: %w", err)
	}
	// A cache may be writing back still. A thread that exits waits for that, but not when the clock jumps twice.
	if err := l.w.Run(1e6, func() bool { return p.disk.InFlight() == 0 || p.fail != nil }); err != nil {
		return fmt.Errorf("write back: %w", err)
	}
	var threads []*thread.Thread
	if l.home != nil {
		threads = append(threads, l.home)
	}
	for _, u := range l.users {
		threads = append(threads, u.t)
	}
	for _, t := range threads {
		if err := l.w.Call(t, t.Exit); err != nil {
			return err
		}
	}
	if err := l.w.Run(1e6, func() bool { return len(l.w.System().Threads()) == 0 }); err != nil {
		return fmt.Errorf("exit: %w", err)
	}
	for _, t := range threads {
		if err := t.ExitErr(); err != nil {
			return err
		}
	}
	return p.fail
}

// verify looks at the medium after a crash.
func (p *bdevPlay) verify(kill bool) error {
	found := make(map[uint64]uint64)
	buf := make([]byte, model.BlockSize)
	acks := p.m.Acks()
	for _, lba := range p.m.Touched() {
		p.disk.Read(lba, buf, nil)
		id, err := model.Identify(buf, lba)
		switch {
		case err != nil && p.disk.Options().TearSectors && !kill:
			// A torn block is what this device leaves; write it anew, so that the history can go on.
			clear(buf)
			p.disk.Poke(lba, buf, nil)
		case err != nil:
			return err
		case kill && !p.shim:
			err = p.m.CheckRead(lba, id, acks)
		default:
			err = p.m.CheckLost(lba, id)
		}
		if err != nil && id != 0 || err != nil && !p.disk.Options().TearSectors {
			return fmt.Errorf("after the crash: %w", err)
		}
		found[lba] = id
	}
	if kill && p.disk.Options().Volatile {
		// What the cache holds is not durable: let a flush of the next life have done it.
		p.disk.destage(^uint64(0))
	}
	p.m.Restart(found)
	return nil
}
