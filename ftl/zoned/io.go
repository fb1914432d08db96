package zoned

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

const blockSize = 4096

// maxJoin bounds the blocks of one device write, in which what waits for a zone
// is joined.
const maxJoin = 256

// maxFlights bounds the device writes that a zone has under way, where there may
// be several.
const maxFlights = 4

// holdFrom: with so many device writes under way a stripe that is not full waits
// for the rest of it, which devices take better in one write that ends where
// they like it than in two that do not. It goes with what is there as soon as
// fewer are under way, or holdFor writes have ended.
const (
	holdFrom = 12
	holdFor  = 8
)

// op is one read or write of slots of a band, cut into a piece for each zone.
type op struct {
	b      *Base
	left   int
	err    error
	done   func(arg any, err error)
	arg    any
	first  *piece // of the zones that it has to do with
	last   *piece
	pieces []piece
	next   *op
}

// piece is the part of an op that lies in one zone.
type piece struct {
	op    *op
	zone  uint64
	off   uint64   // from the zone's start
	n     uint64   // blocks; 0: the op has no part in this zone
	valid uint64   // of a read: blocks in front of the write pointer
	bufs  [][]byte // the caller's when the piece is all of the op, else iov
	iov   [][]byte
	more  *piece // of the op
	next  *piece // in the line of the zone
	wait  bdev.IOWait
}

// writer is the line of writes of one zone.
type writer struct {
	b          *Base
	zone       uint64
	head, tail *piece  // in line
	flying     int     // device writes under way
	full       uint64  // what is in line in front of it ends a stripe
	held       bool    // what is in line waits for more; in the base's held
	until      uint64  // so many writes to the base have ended
	stuck      *flight // waits for a free IO; nothing overtakes it
	next       *writer
}

// flight is one device write: pieces that were joined.
type flight struct {
	w    *writer
	head *piece
	n    uint64   // blocks
	bufs [][]byte // of a single piece, else iov
	iov  [][]byte
	wait bdev.IOWait
	err  error // of the submission
	next *flight
}

// First is the address of the first slot of the first band.
func (b *Base) First() uint64 { return b.firstAddr }

func (b *Base) takeOp(done func(arg any, err error), arg any) *op {
	o := b.free
	if o == nil {
		o = &op{b: b, pieces: make([]piece, b.units)}
		for i := range o.pieces {
			p := &o.pieces[i]
			p.op = o
			p.wait.Fn, p.wait.Arg = readAgain, p
		}
	} else {
		b.free = o.next
		o.next = nil
	}
	o.done, o.arg, o.err, o.left, o.first = done, arg, nil, 0, nil
	return o
}

func (o *op) finish() {
	done, arg, err := o.done, o.arg, o.err
	for p := o.first; p != nil; p = p.more {
		clear(p.iov)
		p.bufs, p.iov, p.n = nil, p.iov[:0], 0
	}
	o.arg = nil
	o.next = o.b.free
	o.b.free = o
	done(arg, err)
}

func opPosted(arg any) { arg.(*op).finish() }

// pieceDone books the end of a piece.
func (o *op) pieceDone(err error) {
	if err != nil && o.err == nil {
		o.err = err
	}
	o.left--
	if o.left == 0 {
		o.finish()
	}
}

// refuse ends an op that nothing of was begun.
func (o *op) refuse(err error) {
	o.err = err
	o.b.cfg.Thread.Post(opPosted, o)
}

// cut divides the blocks of bufs, which go to or come from the slots at address
// addr on, among the zones. It returns false when the band has no such slots.
func (o *op) cut(bufs [][]byte, addr, n uint64) bool {
	b := o.b
	if addr < b.firstAddr {
		return false
	}
	i := (addr - b.firstAddr) >> b.shift
	slot := (addr - b.firstAddr) & (b.span - 1)
	if i >= uint64(len(b.bands)) || slot+n > uint64(b.Slots(i)) {
		return false
	}
	if slot%b.stripe+n <= b.stripe {
		if n > 0 {
			o.part(i, slot, n).bufs = bufs
		}
		return true
	}
	buf, off := 0, 0
	for n > 0 {
		k := min(b.stripe-slot%b.stripe, n)
		p := o.part(i, slot, k)
		for rest := int(k) * blockSize; rest > 0; {
			if off == len(bufs[buf]) {
				buf, off = buf+1, 0
				continue
			}
			take := min(rest, len(bufs[buf])-off)
			p.iov = append(p.iov, bufs[buf][off:off+take])
			off += take
			rest -= take
		}
		p.bufs = p.iov
		slot += k
		n -= k
	}
	return true
}

// part adds n slots of a band, which lie in one stripe, to the piece of their
// zone.
func (o *op) part(band, slot, n uint64) *piece {
	b := o.b
	bd := &b.bands[band]
	cols := uint64(len(bd.cols))
	row := slot / b.stripe
	p := &o.pieces[row%cols]
	if p.n == 0 {
		p.zone = b.zoneIndex(band, bd.cols[row%cols])
		p.off = row/cols*b.stripe + slot%b.stripe
		p.more = nil
		if o.first == nil {
			o.first = p
		} else {
			o.last.more = p
		}
		o.last = p
	}
	p.n += n
	return p
}

// Direct returns where on the device the n blocks at address addr lie, if they
// lie side by side in one zone and were written: they may then be read from the
// device without Read.
func (b *Base) Direct(addr, n uint64) (lba uint64, ok bool) {
	i, slot := (addr-b.firstAddr)>>b.shift, (addr-b.firstAddr)&(b.span-1)
	if i >= uint64(len(b.bands)) {
		return 0, false
	}
	bd := &b.bands[i]
	row, at, cols := slot/b.stripe, slot%b.stripe, uint64(len(bd.cols))
	if at+n > b.stripe || row >= uint64(bd.rows)*cols {
		return 0, false
	}
	zone, off := b.zoneIndex(i, bd.cols[row%cols]), row/cols*b.stripe+at
	z := &b.zones[zone]
	if z.state == bdev.ZoneOffline || off+n > z.wp && !z.conv {
		return 0, false
	}
	return zone*b.info.ZoneBlocks + off, true
}

// Read reads n blocks at address addr into bufs. What was not written reads as
// zeroes.
func (b *Base) Read(bufs [][]byte, addr, n uint64, done func(arg any, err error), arg any) {
	o := b.takeOp(done, arg)
	if !o.cut(bufs, addr, n) {
		o.refuse(ErrNoBlock)
		return
	}
	o.left = 1
	for p := o.first; p != nil; p = p.more {
		o.left++
		p.read()
	}
	o.left--
	if o.left == 0 {
		b.cfg.Thread.Post(opPosted, o)
	}
}

// read starts the read of a piece; what needs no device is done at once.
func (p *piece) read() {
	b := p.op.b
	z := &b.zones[p.zone]
	switch {
	case z.state == bdev.ZoneOffline:
		p.op.err = ErrNoBlock
		p.op.left--
		return
	case z.conv:
		p.valid = p.n
	default:
		p.valid = 0
		if z.wp > p.off {
			p.valid = min(z.wp-p.off, p.n)
		}
	}
	p.clearFrom(p.valid)
	if p.valid == 0 {
		p.op.left--
		return
	}
	p.submitRead()
}

// clearFrom zeroes what a piece has behind its first blocks, and cuts it off.
func (p *piece) clearFrom(blocks uint64) {
	if blocks == p.n {
		return
	}
	if len(p.iov) == 0 {
		p.iov = append(p.iov, p.bufs...) // the caller's list stays as it is
	}
	skip := blocks * blockSize
	for i, v := range p.iov {
		n := min(skip, uint64(len(v)))
		clear(v[n:])
		p.iov[i] = v[:n]
		skip -= n
	}
	for len(p.iov) > 0 && len(p.iov[len(p.iov)-1]) == 0 {
		p.iov = p.iov[:len(p.iov)-1]
	}
	p.bufs = p.iov
}

func (p *piece) submitRead() {
	b := p.op.b
	err := b.ch.Readv(p.bufs, nil, p.zone*b.info.ZoneBlocks+p.off, p.valid, readDone, p)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		b.ch.QueueIOWait(&p.wait)
	default:
		p.op.err = err
		b.cfg.Thread.Post(readRefused, p)
	}
}

func readAgain(arg any)    { arg.(*piece).submitRead() }
func readRefused(arg any)  { arg.(*piece).op.pieceDone(nil) }
func readDone(io *bdev.IO) { io.Ctx.(*piece).op.pieceDone(io.Err()) }

// Write writes n blocks at address addr, which must be where the last write to
// the band ended, in whole write units. Several writes may be under way: they
// reach the zones in the order of the calls.
func (b *Base) Write(bufs [][]byte, addr, n uint64, done func(arg any, err error), arg any) {
	o := b.takeOp(done, arg)
	if !o.cut(bufs, addr, n) {
		o.refuse(ErrNoBlock)
		return
	}
	o.left = 1
	for p := o.first; p != nil; p = p.more {
		o.left++
		b.line(p)
	}
	o.left--
	if o.left == 0 {
		b.cfg.Thread.Post(opPosted, o)
	}
}

// line puts a piece into the line of its zone.
func (b *Base) line(p *piece) {
	z := &b.zones[p.zone]
	if z.broken || !z.usable() {
		p.op.err = ErrBroken
		p.op.left--
		return
	}
	assert.That(p.off == z.wp, "zoned: a zone is written at its write pointer")
	z.wp += p.n
	if z.w == nil {
		z.w = b.takeWriter(p.zone)
	}
	w := z.w
	p.next = nil
	if w.tail == nil {
		w.head = p
	} else {
		w.tail.next = p
	}
	w.tail = p
	if z.wp%b.stripe == 0 || z.wp == z.cap {
		w.full = z.wp
	}
	w.start(false)
}

func (b *Base) takeWriter(zone uint64) *writer {
	w := b.freeW
	if w == nil {
		w = &writer{b: b}
	} else {
		b.freeW = w.next
		w.next = nil
	}
	w.zone, w.full = zone, 0
	return w
}

func (w *writer) takeFlight() *flight {
	b := w.b
	f := b.freeF
	if f == nil {
		f = &flight{}
		f.wait.Fn, f.wait.Arg = writeAgain, f
	} else {
		b.freeF = f.next
		f.next = nil
	}
	f.w = w
	w.flying++
	b.flying++
	return f
}

func (b *Base) giveFlight(f *flight) {
	f.w.flying--
	b.flying--
	clear(f.iov)
	f.w, f.head, f.bufs, f.iov, f.err = nil, nil, nil, f.iov[:0], nil
	f.next = b.freeF
	b.freeF = f
}

// depth is the number of device writes that a zone may have under way.
func (b *Base) depth() int {
	if b.info.ZoneOrder {
		return maxFlights
	}
	return 1
}

// most is the largest device write.
func (b *Base) most() uint64 {
	n := uint64(maxJoin)
	if t := uint64(b.info.MaxTransfer); t != 0 {
		n = min(n, t)
	}
	if t := uint64(b.info.MaxAppend); t != 0 && b.cfg.Append {
		n = min(n, t)
	}
	return n
}

// start writes what is in line, as far as the zone takes it. A stripe that is
// not full may be held, unless now is set.
func (w *writer) start(now bool) {
	b := w.b
	for w.head != nil && w.stuck == nil && w.flying < b.depth() {
		if !now && w.head.off >= w.full && b.flying >= holdFrom {
			b.hold(w)
			return
		}
		f := w.takeFlight()
		f.join()
		f.submit()
	}
}

// hold has what is in line wait until it is more, less is under way, or it is
// time.
func (b *Base) hold(w *writer) {
	if !w.held {
		w.held, w.until = true, b.written+holdFor
		b.held = append(b.held, w)
	}
}

// release lets go what was held long enough, or everything if the device has
// little to do.
func (b *Base) release() {
	for len(b.held) > 0 && (b.flying < holdFrom || b.held[0].until <= b.written) {
		w := b.held[0]
		b.unhold(w)
		w.start(true)
	}
}

func (b *Base) unhold(w *writer) {
	w.held = false
	i := slices.Index(b.held, w)
	b.held = slices.Delete(b.held, i, i+1)
}

// join takes what is in line, as far as one device write goes, and to the end of
// a stripe if it has one.
func (f *flight) join() {
	w := f.w
	p := w.head
	f.head, f.n = p, 0
	most := w.b.most()
	var last *piece
	for p != nil && (last == nil || f.n+p.n <= most && (p.off < w.full || f.head.off >= w.full)) {
		f.n += p.n
		if last == nil {
			f.bufs = p.bufs
		} else {
			if last == f.head {
				f.iov = append(f.iov, f.bufs...)
			}
			f.iov = append(f.iov, p.bufs...)
			f.bufs = f.iov
		}
		last, p = p, p.next
	}
	last.next = nil
	w.head = p
	if p == nil {
		w.tail = nil
	}
}

func writeAgain(arg any) {
	f := arg.(*flight)
	w := f.w
	w.stuck = nil
	if w.b.zones[w.zone].broken { // by a write in front of it
		f.wrote(ErrBroken)
		return
	}
	f.submit()
	w.start(false)
}

func (f *flight) submit() {
	w := f.w
	b := w.b
	start := w.zone * b.info.ZoneBlocks
	var err error
	if b.cfg.Append && f.n <= b.most() {
		err = b.ch.ZoneAppendv(f.bufs, nil, start, f.n, writeDone, f)
	} else {
		err = b.ch.Writev(f.bufs, nil, start+f.head.off, f.n, writeDone, f)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		w.stuck = f
		b.ch.QueueIOWait(&f.wait)
	default:
		f.err = err
		w.stuck = f // what is in line must not be written in its place
		b.cfg.Thread.Post(writeRefused, f)
	}
}

func writeRefused(arg any) {
	f := arg.(*flight)
	f.w.stuck = nil
	f.wrote(f.err)
}

func writeDone(io *bdev.IO) {
	f := io.Ctx.(*flight)
	err := io.Err()
	if b := f.w.b; err == nil && io.Op == bdev.OpZoneAppend && io.Result != f.w.zone*b.info.ZoneBlocks+f.head.off {
		b.cfg.Logger.Error("zone append went elsewhere", "device", b.info.Name, "zone", f.w.zone,
			"expected", f.head.off, "lba", io.Result)
		err = ErrBroken
	}
	f.wrote(err)
}

// wrote ends a write and starts the next, or fails what is in line.
func (f *flight) wrote(err error) {
	w := f.w
	b := w.b
	z := &b.zones[w.zone]
	p := f.head
	b.giveFlight(f)
	var rest *piece
	if err != nil {
		z.broken = true
		rest = w.head
		w.head, w.tail = nil, nil
		b.Refresh(w.zone * b.info.ZoneBlocks)
	}
	b.written++
	w.start(false)
	if w.flying == 0 && w.head == nil {
		if w.held {
			b.unhold(w)
		}
		z.w = nil
		w.next = b.freeW
		b.freeW = w
		if z.wp >= z.cap && !z.broken {
			z.state = bdev.ZoneFull
		} else if z.state == bdev.ZoneEmpty {
			z.state = bdev.ZoneImplicitOpen
		}
	}
	b.release()
	end(p, err)
	end(rest, ErrBroken)
}

// end completes the pieces of a list.
func end(p *piece, err error) {
	for p != nil {
		n := p.next
		p.next = nil
		p.op.pieceDone(err)
		p = n
	}
}
