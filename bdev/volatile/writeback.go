package volatile

import (
	"errors"
	"slices"

	"goftl/bdev"
)

// depthMax is the most write backs that are under way at a time. A device that
// is to die in the middle of them has one: what the base was given may land.
const depthMax = 64

// inner is an IO of the base.
type inner struct {
	d          *Driver
	wait       bdev.IOWait
	kind       bdev.Op
	fua        bool
	lba, count uint64
	bufs       [][]byte
	md         []byte
	o          *op    // whose part it is
	e          *entry // whose page it writes back
	target     *inner // of an abort
	err        error  // when the base refused it
	next       *inner // free
}

func (d *Driver) newInner(kind bdev.Op, lba, count uint64) *inner {
	in := d.inners
	if in == nil {
		in = &inner{d: d}
		in.wait = bdev.IOWait{Fn: submitAgain, Arg: in}
	} else {
		d.inners = in.next
	}
	d.busy++
	in.kind, in.lba, in.count = kind, lba, count
	return in
}

// released puts an inner back. Its fields are as good as gone.
func (d *Driver) released(in *inner) {
	clear(in.bufs)
	in.bufs, in.md, in.fua, in.o, in.e, in.target, in.err = in.bufs[:0], nil, false, nil, nil, nil, nil
	in.next, d.inners = d.inners, in
	d.busy--
	d.freeIfIdle()
}

// submit gives an inner to the base; innerDone or refused is called later.
func (in *inner) submit() {
	ch := in.d.ch
	err := bdev.ErrRemoved
	if !in.d.closed {
		err = in.give(ch)
	}
	switch {
	case err == nil:
	case errors.Is(err, bdev.ErrNoMem):
		ch.QueueIOWait(&in.wait)
	default:
		in.err = err
		in.d.th.Post(refused, in)
	}
}

func (in *inner) give(ch *bdev.Channel) error {
	switch in.kind {
	case bdev.OpRead:
		return ch.Readv(in.bufs, in.md, in.lba, in.count, innerDone, in)
	case bdev.OpWrite:
		if in.fua {
			return ch.WritevFUA(in.bufs, in.md, in.lba, in.count, innerDone, in)
		}
		return ch.Writev(in.bufs, in.md, in.lba, in.count, innerDone, in)
	case bdev.OpWriteZeroes:
		return ch.WriteZeroes(in.lba, in.count, innerDone, in)
	case bdev.OpUnmap:
		return ch.Unmap(in.lba, in.count, innerDone, in)
	case bdev.OpReset:
		return ch.Reset(innerDone, in)
	case bdev.OpAbort:
		return ch.Abort(in.target, innerDone, in)
	default:
		return ch.Flush(innerDone, in)
	}
}

func submitAgain(arg any) { arg.(*inner).submit() }

func refused(arg any) {
	in := arg.(*inner)
	in.done(in.err)
}

func innerDone(io *bdev.IO) { io.Ctx.(*inner).done(io.Err()) }

func (in *inner) done(err error) {
	d, o := in.d, in.o
	switch {
	case in.e != nil:
		d.written(in, err)
	case in.kind == bdev.OpFlush:
		d.released(in)
		d.endFlush(err)
	case in.kind == bdev.OpRead:
		o.parts = slices.DeleteFunc(o.parts, func(p *inner) bool { return p == in })
		d.released(in)
		d.arrived(o, err)
	case in.kind == bdev.OpAbort && errors.Is(err, bdev.ErrNotFound):
		d.released(in)
		d.arrived(o, nil) // it had ended meanwhile
	case in.kind == bdev.OpAbort:
		d.released(in)
		d.arrived(o, err)
	default:
		d.released(in)
		d.finish(o, err)
	}
}

// hurry writes an entry back as soon as may be, if it is not under way.
func (d *Driver) hurry(e *entry) {
	if e.fresh != nil && e.writing == nil {
		d.stats.Asked++
		d.writeBack(e)
	}
}

// writeRandom writes a random page back. It returns false when it found none.
func (d *Driver) writeRandom() bool {
	const tries = 4
	for range tries {
		if len(d.dirty) == 0 {
			return false
		}
		if e := d.dirty[d.rnd.IntN(len(d.dirty))]; e.writing == nil {
			d.writeBack(e)
			return true
		}
	}
	return false
}

// writeBack sends the fresh page of an entry to the base.
func (d *Driver) writeBack(e *entry) {
	p := d.take(e)
	d.writing++
	in := d.newInner(bdev.OpWrite, e.unit*d.unit, d.unit)
	in.e, in.fua = e, len(p.waiters) > 0
	switch {
	case p.kind == holdsData:
		in.bufs = append(in.bufs, p.data)
		if p.hasMD && d.mdBytes > 0 {
			in.md = p.md
		}
	case in.fua: // what has no FUA is written as data
		clear(p.data)
		in.bufs = append(in.bufs, p.data)
		if d.mdBytes > 0 {
			in.md = p.md
		}
	case p.kind == unmapped:
		in.kind = bdev.OpUnmap
	default:
		in.kind = bdev.OpWriteZeroes
	}
	in.submit()
}

// written ends a write back: the page goes, or comes back when it failed and
// there is no newer one.
func (d *Driver) written(in *inner, err error) {
	e := in.e
	p := e.writing
	e.writing = nil
	d.writing--
	waiters := p.waiters
	p.waiters = nil
	d.released(in)
	if d.closed {
		return
	}
	if err != nil {
		d.stats.Failed++
	}
	if d.o.Die > 0 && d.rnd.Float64() < d.o.Die {
		d.o.Kill()
	}
	d.flush.left(p, err)
	switch {
	case err != nil && e.fresh == nil:
		d.setFresh(e, p)
	default:
		d.drop(p)
		if e.fresh == nil {
			d.forget(e)
		} else if len(e.fresh.waiters) > 0 || d.flush.wants(e.fresh) {
			d.hurry(e)
		}
	}
	// From here on users are told, who may submit more.
	for _, o := range waiters {
		d.arrived(o, err)
	}
	if err != nil && len(d.waiting) > 0 {
		o := d.waiting[0]
		d.waiting = slices.Delete(d.waiting, 0, 1)
		d.finish(o, err)
	}
	d.pumpFlush()
	d.serve()
}

// flush is the flush that is under way, and what waits for the next one.
type flush struct {
	ops     []*op // that it answers
	next    []*op
	running bool
	base    bool // the base is being flushed
	seq     uint64
	pages   int      // with a seq up to its own, in the cache
	queue   []uint64 // units to write back, in random order
	err     error
}

// wants says whether the flush is about a page that has not been tried yet.
func (f *flush) wants(p *page) bool {
	return f.running && !f.base && f.err == nil && p.seq <= f.seq
}

// left counts a page that was written back, or failed to be.
func (f *flush) left(p *page, err error) {
	if f.wants(p) {
		f.pages--
		f.err = err
	}
}

func (d *Driver) beginFlush(o *op) {
	if d.o.Lie {
		d.finish(o, nil)
		return
	}
	d.flush.next = append(d.flush.next, o)
	if !d.flush.running {
		d.startFlush()
	}
}

// startFlush begins a flush for all that wait for one. It covers every version
// that is in the cache now.
func (d *Driver) startFlush() {
	f := &d.flush
	f.ops, f.next = f.next, f.ops[:0]
	f.running, f.base, f.err, f.seq = true, false, nil, d.seq
	f.pages = len(d.dirty) + d.writing
	f.queue = f.queue[:0]
	for _, e := range d.dirty {
		f.queue = append(f.queue, e.unit)
	}
	d.rnd.Shuffle(len(f.queue), func(i, j int) { f.queue[i], f.queue[j] = f.queue[j], f.queue[i] })
	d.pumpFlush()
}

// pumpFlush goes on with the flush: it writes back what it covers, and then
// flushes the base.
func (d *Driver) pumpFlush() {
	f := &d.flush
	if !f.running || f.base {
		return
	}
	for f.err == nil && len(f.queue) > 0 && d.writing < d.depth {
		u := f.queue[len(f.queue)-1]
		f.queue = f.queue[:len(f.queue)-1]
		// An older version may be under way: then written comes back to this one.
		if e := d.entries[u]; e != nil && e.fresh != nil && e.fresh.seq <= f.seq {
			d.hurry(e)
		}
	}
	switch {
	case f.err != nil:
		d.endFlush(f.err)
	case f.pages == 0:
		f.base = true
		d.stats.Flushes++
		d.newInner(bdev.OpFlush, 0, 0).submit()
	}
}

// endFlush answers all that a flush was for, and begins the next one.
func (d *Driver) endFlush(err error) {
	f := &d.flush
	for len(f.ops) > 0 { // users may ask for the next one meanwhile
		o := f.ops[0]
		f.ops = slices.Delete(f.ops, 0, 1)
		d.finish(o, err)
	}
	if f.running = false; len(f.next) > 0 {
		d.startFlush()
	}
}
