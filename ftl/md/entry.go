package md

import (
	"goftl/bdev"
	"goftl/internal/assert"
)

// EntryOp is an operation on some entries of an object. The caller owns it,
// fills Done and Arg (and Data for objects without memory), and must not touch
// or reuse it until Done was called; then it may be used again. Nothing is
// allocated.
type EntryOp struct {
	Done DoneFunc
	Arg  any
	// Data is what PersistEntry and PersistEntryOrdered write, whole blocks;
	// nil: the object's buffer. Trailers are written into it.
	Data []byte
	// VSS goes with it, when the object has VSS; nil: zeroes and the version.
	VSS []byte

	o         *Object
	kind      entryKind
	at, n     uint64 // blocks
	buf       []byte
	io, io2   devIO
	remaining int
	err       error
	next      *EntryOp
	busy      bool
}

type entryKind uint8

const (
	entryPersist entryKind = iota
	entryOrdered
	entryRead
)

var entryNames = [...]string{"persist of entries", "ordered persist of entries", "read of entries"}

// start checks a request and makes op its own; false: it was refused.
func (o *Object) startEntry(op *EntryOp, kind entryKind, first, count uint64) bool {
	assert.That(!op.busy, "md: an entry operation has two users")
	assert.That(op.Done != nil, "md: an entry operation without Done")
	assert.That(o.region != nil && o.region.EntryBlocks != 0, "md: a region without entries")
	u := o.unit()
	op.o, op.kind, op.err, op.next = o, kind, nil, nil
	op.at, op.n = first*u, count*u
	entries := o.region.Blocks / u
	var err error
	switch {
	case o.destroyed || count == 0 || first >= entries || count > entries-first:
		err = ErrInvalid
	case o.bulk.op != opNone:
		err = ErrBusy
	case kind != entryRead && o.cfg.ReadOnly:
		err = errReadOnly
	case kind == entryRead && uint64(len(op.buf)) != op.n*BlockSize:
		err = ErrInvalid
	case kind != entryRead:
		err = o.source(op)
	}
	if err != nil {
		o.refuse(entryNames[kind], err, op.Done, op.Arg)
		return false
	}
	op.busy = true
	o.entries++
	return true
}

// source sets op.buf to what will be written.
func (o *Object) source(op *EntryOp) error {
	switch {
	case op.Data != nil && uint64(len(op.Data)) != op.n*BlockSize:
		return ErrInvalid
	case op.VSS != nil && uint64(len(op.VSS)) != op.n*uint64(o.cfg.VSS):
		return ErrInvalid
	case op.Data != nil:
		op.buf = op.Data
	case o.buf == nil:
		return errNoBuffer
	default:
		op.buf = o.buf[op.at*BlockSize : (op.at+op.n)*BlockSize]
	}
	if o.cfg.VSS != 0 && op.VSS == nil {
		o.growStamp(op.n)
	}
	return nil
}

// growStamp makes pre-stamped VSS for n blocks (M13); it allocates only when
// more is needed than ever before.
func (o *Object) growStamp(n uint64) {
	if need := n * uint64(o.cfg.VSS); uint64(len(o.entry)) < need {
		o.entry = make([]byte, need)
		stampVSS(o.entry, o.stamp[:o.cfg.VSS])
	}
}

// vssOf returns the VSS that goes with blocks [at, at+n) of op to a copy.
func (op *EntryOp) vssOf(a *area, at, n uint64) []byte {
	if !a.md {
		return nil
	}
	v := uint64(op.o.cfg.VSS)
	if op.VSS == nil {
		return op.o.entry[:n*v]
	}
	return op.VSS[(at-op.at)*v : (at-op.at+n)*v]
}

// PersistEntry writes entries [first, first+count) to both copies at once
// (M24). It is only for data that something else can rebuild: a crash may tear
// both copies. What is written must not be changed until Done. Any failure of
// a copy is an error; RetryEntry writes both again.
func (o *Object) PersistEntry(op *EntryOp, first, count uint64) {
	if o.startEntry(op, entryPersist, first, count) {
		op.writeBoth()
	}
}

// RetryEntry repeats a PersistEntry or PersistEntryOrdered that failed, both
// copies (M26).
func (o *Object) RetryEntry(op *EntryOp) {
	u := o.unit()
	if op.kind == entryOrdered {
		o.PersistEntryOrdered(op, op.at/u, op.n/u)
		return
	}
	o.PersistEntry(op, op.at/u, op.n/u)
}

func (op *EntryOp) writeBoth() {
	o := op.o
	op.seal(op.buf, op.at)
	// Both are counted before either starts: a completion must not see 0.
	op.remaining = 1
	if o.mirrored {
		op.remaining = 2
	}
	op.prepare(&op.io, &o.primary, bdev.OpWrite, entryWritten)
	if o.mirrored {
		op.prepare(&op.io2, &o.mirror, bdev.OpWrite, entryWritten)
		op.io2.start()
	}
	op.io.start()
}

// seal writes the trailers of blocks from at on, as those of a new write.
func (op *EntryOp) seal(buf []byte, at uint64) {
	o := op.o
	o.number++
	for i := uint64(0); i*BlockSize < uint64(len(buf)); i++ {
		sealBlock(buf[i*BlockSize:], o.seed, at+i, o.region.Version, o.number)
	}
}

func (op *EntryOp) prepare(x *devIO, a *area, kind bdev.Op, fn func(*devIO, error)) {
	x.o, x.a, x.op, x.fn, x.owner = op.o, a, kind, fn, op
	x.at, x.n, x.buf, x.vss = op.at, op.n, op.buf, nil
	if kind == bdev.OpWrite {
		x.vss = op.vssOf(a, op.at, op.n)
	}
}

func entryWritten(x *devIO, err error) {
	op := x.owner.(*EntryOp)
	if err != nil && op.err == nil {
		op.err = op.o.ioError("write of entries to", x.a, err)
	}
	if err != nil && x.a == &op.o.primary {
		op.o.mistrust(op.at, op.n)
	}
	if op.remaining--; op.remaining == 0 {
		op.finish()
	}
}

// finish gives the operation back before its owner is told.
func (op *EntryOp) finish() {
	o := op.o
	op.busy = false
	op.buf = nil
	o.entries--
	op.Done(op.Arg, op.err)
}

// ReadEntry reads entries [first, first+count) into buf, which has count times
// the entry's blocks: from the primary, else from the mirror (M25). On an error
// buf is zeroed. Nothing is repaired. op.VSS, when the object has VSS and it is
// not nil, receives the blocks' metadata.
func (o *Object) ReadEntry(op *EntryOp, first, count uint64, buf []byte) {
	op.buf = buf
	if !o.startEntry(op, entryRead, first, count) {
		return
	}
	op.readFrom(&o.primary)
}

func (op *EntryOp) readFrom(a *area) {
	op.prepare(&op.io, a, bdev.OpRead, entryReadDone)
	if a.md && uint64(len(op.VSS)) == op.n*uint64(op.o.cfg.VSS) {
		op.io.vss = op.VSS
	}
	op.io.start()
}

func entryReadDone(x *devIO, err error) {
	op := x.owner.(*EntryOp)
	o, cut := op.o, op.buf
	for i := uint64(0); err == nil && i < op.n; i++ {
		err = o.checkContent(x.a, op.buf[i*BlockSize:(i+1)*BlockSize], op.at+i)
		if err == nil && x.vss != nil {
			err = o.auditVSS(x.vss[i*uint64(o.cfg.VSS):])
		}
	}
	for u := o.unit(); err == nil && u > 1 && len(cut) > 0; cut = cut[u*BlockSize:] {
		if !sameWrite(cut[:u*BlockSize]) {
			err = ErrCut
		}
	}
	if err == nil {
		op.err = nil // whatever the primary said
		op.finish()
		return
	}
	if op.err == nil {
		op.err = o.ioError("read of entries from", x.a, err)
	}
	if o.mirrored && x.a == &o.primary {
		op.readFrom(&o.mirror)
		return
	}
	clear(op.buf)
	op.finish()
}

// mistrust notes that the primary of blocks may be neither old nor new.
func (o *Object) mistrust(at, n uint64) {
	m, u := o.suspects(), o.unit()
	for i := at / u; i*u < at+n; i++ {
		m.set(i)
	}
}
