package zoned

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

const blockSize = 4096

// maxJoin bounds the blocks of one device write, in which what waits for a zone
// is joined.
const maxJoin = 256

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
	head, tail *piece   // in line
	flight     *piece   // under way, joined
	n          uint64   // blocks under way
	bufs       [][]byte // of a single piece, else iov
	iov        [][]byte
	wait       bdev.IOWait
	err        error // of a submission
	next       *writer
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
	if w.flight == nil {
		w.start()
	}
}

func (b *Base) takeWriter(zone uint64) *writer {
	w := b.freeW
	if w == nil {
		w = &writer{b: b}
		w.wait.Fn, w.wait.Arg = writeAgain, w
	} else {
		b.freeW = w.next
		w.next = nil
	}
	w.zone = zone
	return w
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

// start joins what is in line, as far as one device write goes, and writes it.
func (w *writer) start() {
	p := w.head
	w.flight, w.n, w.iov = p, 0, w.iov[:0]
	most := w.b.most()
	var last *piece
	for p != nil && (last == nil || w.n+p.n <= most) {
		w.n += p.n
		if last == nil {
			w.bufs = p.bufs
		} else {
			if last == w.flight {
				w.iov = append(w.iov, w.bufs...)
			}
			w.iov = append(w.iov, p.bufs...)
			w.bufs = w.iov
		}
		last, p = p, p.next
	}
	last.next = nil
	w.head = p
	if p == nil {
		w.tail = nil
	}
	w.submit()
}

func writeAgain(arg any) { arg.(*writer).submit() }

func (w *writer) submit() {
	b := w.b
	start := w.zone * b.info.ZoneBlocks
	var err error
	if b.cfg.Append && w.n <= b.most() {
		err = b.ch.ZoneAppendv(w.bufs, nil, start, w.n, writeDone, w)
	} else {
		err = b.ch.Writev(w.bufs, nil, start+w.flight.off, w.n, writeDone, w)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		b.ch.QueueIOWait(&w.wait)
	default:
		w.err = err
		b.cfg.Thread.Post(writeRefused, w)
	}
}

func writeRefused(arg any) {
	w := arg.(*writer)
	err := w.err
	w.err = nil
	w.wrote(err)
}

func writeDone(io *bdev.IO) {
	w := io.Ctx.(*writer)
	err := io.Err()
	if err == nil && io.Op == bdev.OpZoneAppend && io.Result != w.zone*w.b.info.ZoneBlocks+w.flight.off {
		w.b.cfg.Logger.Error("zone append went elsewhere", "device", w.b.info.Name, "zone", w.zone,
			"expected", w.flight.off, "lba", io.Result)
		err = ErrBroken
	}
	w.wrote(err)
}

// wrote ends the write under way and starts the next, or fails what is in line.
func (w *writer) wrote(err error) {
	b := w.b
	z := &b.zones[w.zone]
	p := w.flight
	w.flight, w.bufs = nil, nil
	clear(w.iov)
	var rest *piece
	if err != nil {
		z.broken = true
		rest = w.head
		w.head, w.tail = nil, nil
		b.Refresh(w.zone * b.info.ZoneBlocks)
	}
	if w.head != nil {
		w.start()
	} else {
		z.w = nil
		w.next = b.freeW
		b.freeW = w
		if z.wp >= z.cap && err == nil {
			z.state = bdev.ZoneFull
		} else if z.state == bdev.ZoneEmpty {
			z.state = bdev.ZoneImplicitOpen
		}
	}
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
