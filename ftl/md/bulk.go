package md

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

// A bulk operation moves the whole object. It is a sequence of stages; each
// stage is one transfer or one flush of one copy, and the end of a stage
// chooses the next (advance). Transfers run in parts, several at a time.

type opKind uint8

const (
	opNone opKind = iota
	opPersist
	opClear
	opRestore
)

var opNames = [...]string{"none", "persist", "clear", "restore"}

type stage uint8

const (
	stageStart stage = iota

	// Writing: the mirror first, so that the primary stays untouched when it
	// fails (M20). Before that, entries whose primary is suspect.
	stageWriteSuspect
	stageFlushSuspect
	stageWriteMirror
	stageFlushMirror
	stageWritePrimary
	stageFlushPrimary

	// Restoring (restore.go).
	stageReadPrimary
	stageCompareMirror
	stageFlushNewer
	stageReadMirror
	stageRepairPrimary
	stageFlushRepair
	stageSyncMirror
	stageFlushSync
)

const (
	defaultDepth = 4
	maxDepth     = 32
	minXfer      = 1 << 20 / BlockSize
)

// bulk is the operation under way, at most one for each object.
type bulk struct {
	op    opKind
	stage stage
	done  DoneFunc
	arg   any

	x     xfer
	flush devIO

	pattern byte   // clear without memory
	vssPat  []byte // clear: VSS of every block

	bad     bitmap // entries without content so far
	repair  bitmap // entries whose primary must be rewritten
	stale   bitmap // entries whose mirror is not like the primary
	first   error  // of the first bad entry
	older   bool   // a whole primary is to be rewritten
	whole   bool   // copies are good only as a whole
	sealed  bool   // every block has its trailer
	mirrors bool   // the content came from the mirror as a whole
	upgrade uint64 // blocks brought up to date
}

// xfer is a transfer of all blocks, or of some entries, between memory and one
// copy.
type xfer struct {
	a      *area
	op     bdev.Op
	only   bitmap // entries to move; nil: all
	next   uint64 // block
	active int
	err    error // of a write
	slots  []part
}

// part is a run of blocks in flight. A read that failed is repeated entry by
// entry, to lose no more than what the device lost.
type part struct {
	io     devIO
	lo, hi uint64 // what is left of it
	step   uint64
	buf    []byte // staging, when the object has no memory
	vss    []byte
}

type failure struct {
	done DoneFunc
	arg  any
	err  error
}

func failNow(arg any) {
	f := arg.(*failure)
	f.done(f.arg, f.err)
}

// refuse reports that an operation cannot start: by message, never inside the
// call (M19).
func (o *Object) refuse(what string, err error, done DoneFunc, arg any) {
	err = o.errorf(what, err)
	o.log.Error("metadata operation refused", "region", o.name(), "err", err)
	o.th.Post(failNow, &failure{done, arg, err})
}

// canStart verifies that a bulk operation may begin (M17).
func (o *Object) canStart(op opKind) error {
	switch {
	case o.destroyed:
		return ErrInvalid
	case o.region == nil:
		return errNoRegion
	case !o.Idle():
		return ErrBusy
	case o.region.Blocks > o.blocks:
		return errTooBig
	case o.buf == nil && op != opClear:
		return errNoBuffer
	case o.cfg.ReadOnly && op != opRestore:
		return unix.EROFS
	}
	return nil
}

// begin starts a bulk operation, or refuses it.
func (o *Object) begin(op opKind, done DoneFunc, arg any) bool {
	err := o.canStart(op)
	if err == nil && op != opRestore {
		err = o.auditMemory()
	}
	if err == nil {
		err = o.prepareSlots(op)
	}
	if err != nil {
		o.refuse(opNames[op], err, done, arg)
		return false
	}
	o.number++
	b := &o.bulk
	b.op, b.stage, b.done, b.arg = op, stageStart, done, arg
	b.first, b.bad, b.repair, b.stale, b.upgrade = nil, nil, nil, nil, 0
	b.mirrors, b.sealed, b.older = false, false, false
	return true
}

// prepareSlots makes the parts, and their staging when the object has no
// memory, or its copies are compared (M18).
func (o *Object) prepareSlots(op opKind) error {
	x := &o.bulk.x
	if x.slots == nil {
		depth := o.cfg.Depth
		if depth <= 0 {
			depth = defaultDepth
		}
		x.slots = make([]part, min(depth, maxDepth))
	}
	if o.buf != nil && (op != opRestore || !o.compares()) {
		return nil
	}
	n := int(o.xferBlocks())
	for i := range x.slots {
		s := &x.slots[i]
		s.buf = o.cfg.Alloc(n * BlockSize)
		if s.buf != nil && o.cfg.VSS != 0 {
			s.vss = o.cfg.Alloc(n * int(o.cfg.VSS))
		}
		if s.buf == nil || o.cfg.VSS != 0 && s.vss == nil {
			o.freeSlots()
			return ErrNoMem
		}
	}
	return nil
}

func (o *Object) freeSlots() {
	for i := range o.bulk.x.slots {
		s := &o.bulk.x.slots[i]
		o.freeBuf(&s.buf)
		o.freeBuf(&s.vss)
	}
}

// xferBlocks is the size of a part (M16): whole entries.
func (o *Object) xferBlocks() uint64 {
	n := o.cfg.XferBlocks
	if n == 0 {
		unit := uint64(1)
		if o.cfg.Target.Desc != nil {
			unit = max(unit, uint64(o.cfg.Target.Desc.Bdev().Info().WriteUnit))
		}
		n = max(4*unit, minXfer/unit*unit)
	}
	u := o.unit()
	return min(max(n/u*u, u), o.region.Blocks)
}

// unit is the size of an entry, 1 when the region is not made of entries.
func (o *Object) unit() uint64 { return max(uint64(o.region.EntryBlocks), 1) }

// run begins a transfer; advance is called when it is over.
func (o *Object) run(a *area, op bdev.Op, only bitmap) {
	x := &o.bulk.x
	x.a, x.op, x.only, x.next, x.err = a, op, only, 0, nil
	assert.That(x.active == 0, "md: two transfers at once")
	for i := range x.slots {
		s := &x.slots[i]
		s.io.o, s.io.a, s.io.op, s.io.fn, s.io.owner = o, a, op, partDone, s
		if !o.pull(s) {
			break
		}
		x.active++
		o.submitPart(s)
	}
	if x.active == 0 { // nothing to move
		o.th.Post(transferEmpty, o)
	}
}

func transferEmpty(arg any) { arg.(*Object).advance() }

// pull gives s the next run of blocks, at most a part; false: none is left.
func (o *Object) pull(s *part) bool {
	x := &o.bulk.x
	if x.err != nil {
		return false
	}
	end, u := o.region.Blocks, o.unit()
	if x.only != nil {
		for x.next < end && !x.only.has(x.next/u) {
			x.next += u
		}
	}
	if x.next >= end {
		return false
	}
	s.lo, s.hi = x.next, min(x.next+o.xferBlocks(), end)
	if x.only != nil {
		for at := s.lo; at < s.hi; at += u {
			if !x.only.has(at / u) {
				s.hi = at
			}
		}
	}
	s.step = s.hi - s.lo
	x.next = s.hi
	return true
}

func (o *Object) submitPart(s *part) {
	n := min(s.step, s.hi-s.lo)
	s.io.at, s.io.n = s.lo, n
	if o.buf != nil && o.bulk.stage != stageCompareMirror {
		s.io.buf = o.buf[s.lo*BlockSize : (s.lo+n)*BlockSize]
		s.io.vss = o.vssFor(s.io.a, s.lo, n)
	} else {
		s.io.buf = s.buf[:n*BlockSize]
		s.io.vss = nil
		if s.io.a.md {
			s.io.vss = s.vss[:n*uint64(o.cfg.VSS)]
		}
	}
	if s.io.op == bdev.OpWrite {
		o.fillPart(s)
	}
	s.io.start()
}

// vssFor returns the VSS that goes with blocks, nil when the device takes none
// (M28).
func (o *Object) vssFor(a *area, at, n uint64) []byte {
	if !a.md {
		return nil
	}
	v := uint64(o.cfg.VSS)
	return o.vss[at*v : (at+n)*v]
}

// fillPart completes what is about to be written: pattern and trailers.
func (o *Object) fillPart(s *part) {
	if o.buf == nil { // clear through staging
		fill(s.io.buf, o.bulk.pattern)
		if s.io.vss != nil {
			stampVSS(s.io.vss, o.bulk.vssPat)
		}
	}
	if o.bulk.sealed {
		return
	}
	v := o.region.Version
	for i := uint64(0); i < s.io.n; i++ {
		sealBlock(s.io.buf[i*BlockSize:], o.seed, s.io.at+i, v, o.number)
	}
}

func partDone(io *devIO, err error) {
	s, o := io.owner.(*part), io.o
	x := &o.bulk.x
	if x.op == bdev.OpWrite {
		if err != nil {
			if x.err == nil {
				x.err = err
			}
			s.hi = s.lo
		} else {
			s.lo += io.n
		}
	} else {
		o.partRead(s, err)
	}
	if s.lo < s.hi || o.pull(s) {
		o.submitPart(s)
		return
	}
	if x.active--; x.active == 0 {
		o.advance()
	}
}

// partRead verifies what was read, or narrows down what cannot be read.
func (o *Object) partRead(s *part, err error) {
	io := &s.io
	if err != nil {
		u := o.unit()
		switch {
		case errors.Is(err, unix.ENODEV): // nothing more will come
			o.lost(io.at, s.hi-s.lo, err)
			s.lo = s.hi
		case io.n > u:
			s.step = u
		default:
			o.lost(io.at, io.n, err)
			s.lo += io.n
		}
		return
	}
	s.lo += io.n
	if o.bulk.stage == stageCompareMirror {
		o.comparePart(s)
		return
	}
	for i := uint64(0); i < io.n; i++ {
		if err := o.checkRead(io.a, io.at+i); err != nil {
			o.lost(io.at+i, 1, err)
		}
	}
}

// advance ends a stage and begins the next.
func (o *Object) advance() {
	b := &o.bulk
	if b.x.err != nil {
		err := o.ioError("write", b.x.a, b.x.err)
		b.x.err = nil
		if b.stage == stageSyncMirror && o.clean() {
			// The primary is whole and durable, and that is enough.
			o.log.Warn("metadata: the mirror cannot be repaired", "region", o.name(), "err", err)
			o.endRestore()
			return
		}
		o.writeFailed()
		o.end(err)
		return
	}
	if b.op == opRestore {
		o.advanceRestore()
		return
	}
	switch b.stage {
	case stageStart:
		if o.mirrored && o.suspect.any() {
			// Rule 1: the mirror may not be touched while a primary is bad.
			b.stage = stageWriteSuspect
			o.run(&o.primary, bdev.OpWrite, o.suspect)
			return
		}
		o.writeFirst()
	case stageWriteSuspect:
		b.stage = stageFlushSuspect
		o.flush(&o.primary)
	case stageFlushSuspect:
		o.suspect.clear()
		o.writeFirst()
	case stageWriteMirror:
		// Rule 1: the mirror is durable before the primary is touched.
		b.sealed = o.buf != nil
		b.stage = stageFlushMirror
		o.flush(&o.mirror)
	case stageFlushMirror:
		o.writePrimary()
	case stageWritePrimary:
		b.stage = stageFlushPrimary
		o.flush(&o.primary)
	case stageFlushPrimary:
		o.suspect.clear()
		o.end(nil)
	default:
		assert.That(false, "md: a write has no such stage")
	}
}

func (o *Object) writeFirst() {
	if !o.mirrored {
		o.writePrimary()
		return
	}
	o.bulk.stage = stageWriteMirror
	o.run(&o.mirror, bdev.OpWrite, nil)
}

func (o *Object) writePrimary() {
	o.bulk.stage = stageWritePrimary
	o.run(&o.primary, bdev.OpWrite, nil)
}

// writeFailed notes that the primary may be neither old nor new.
func (o *Object) writeFailed() {
	switch o.bulk.stage {
	case stageWritePrimary, stageFlushPrimary:
		o.suspects().fill(o.region.Blocks / o.unit())
	case stageRepairPrimary, stageFlushRepair:
		m := o.suspects()
		for i, w := range o.bulk.repair {
			m[i] |= w
		}
	default: // the primary was not touched, or is suspect already
	}
}

// suspects returns the set of entries whose primary is not known to be whole
// and durable.
func (o *Object) suspects() bitmap {
	if o.suspect == nil {
		o.suspect = newBitmap(o.blocks)
	}
	return o.suspect
}

func (o *Object) flush(a *area) {
	f := &o.bulk.flush
	f.o, f.a, f.op, f.fn = o, a, bdev.OpFlush, flushDone
	f.start()
}

func flushDone(io *devIO, err error) {
	if err != nil {
		io.o.writeFailed()
		io.o.end(io.o.ioError("flush", io.a, err))
		return
	}
	io.o.advance()
}

// end ends the bulk operation: everything is put away before the owner is
// told, because the owner may destroy the object.
func (o *Object) end(err error) {
	b := &o.bulk
	if err != nil {
		o.log.Error("metadata operation failed", "region", o.name(), "op", opNames[b.op], "err", err)
	}
	o.freeSlots()
	done, arg := b.done, b.arg
	b.op, b.stage, b.done, b.arg = opNone, stageStart, nil, nil
	b.bad, b.repair, b.stale, b.first, b.vssPat = nil, nil, nil, nil, nil
	done(arg, err)
}

func fill(b []byte, pattern byte) {
	if pattern == 0 {
		clear(b)
		return
	}
	for i := range b {
		b[i] = pattern
	}
}

// bitmap is a set of entries.
type bitmap []uint64

func newBitmap(n uint64) bitmap { return make(bitmap, (n+63)/64) }

func (m bitmap) has(i uint64) bool { return m[i/64]>>(i%64)&1 != 0 }
func (m bitmap) set(i uint64)      { m[i/64] |= 1 << (i % 64) }
func (m bitmap) drop(i uint64)     { m[i/64] &^= 1 << (i % 64) }
func (m bitmap) clear()            { clear(m) }

func (m bitmap) fill(n uint64) {
	for i := range n {
		m.set(i)
	}
}

func (m bitmap) any() bool {
	for _, w := range m {
		if w != 0 {
			return true
		}
	}
	return false
}
