package md

import (
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
)

var errReadOnly = fmt.Errorf("the object is read-only: %w", unix.EROFS)

// Rule 1: one copy may be overwritten only while the other is valid and
// durable. So: mirror, flush, primary, flush, and one update of an object in
// flight at a time; others wait in order. When writing the primary failed, the
// mirror is the good copy: then the next update of that entry begins with the
// primary.

// orderedBatch is the most blocks that are updated between two flushes.
const orderedBatch = 32

type orderedStage uint8

const (
	orderedIdle orderedStage = iota
	orderedWrite1
	orderedFlush1
	orderedWrite2
	orderedFlush2
)

// ordered is the update in flight. What is written is a copy, taken when the
// update begins, so that both copies are the same whatever the owner does.
type ordered struct {
	stage      orderedStage
	head, tail *EntryOp // head is the one in flight
	at, n      uint64   // blocks of the batch
	reverse    bool     // the primary first, because it is suspect
	buf        []byte   // the copy
	io         devIO
	o          *Object
}

// PersistEntryOrdered writes entries [first, first+count): the mirror, a
// flush, the primary, a flush. Done means that both copies are durable. After
// an error the mirror may hold the new content and the primary the old one, or
// the primary may be torn, never both. Updates of an object follow each other
// in the order of the calls. The entries must not be changed until Done.
// Entries beyond orderedBatch blocks are updated batch by batch.
func (o *Object) PersistEntryOrdered(op *EntryOp, first, count uint64) {
	if !o.startEntry(op, entryOrdered, first, count) {
		return
	}
	q := &o.ordered
	if q.tail != nil {
		q.tail.next = op
		q.tail = op
		return
	}
	q.head, q.tail = op, op
	o.beginOrdered()
}

// beginOrdered starts the update at the head of the queue.
func (o *Object) beginOrdered() {
	q := &o.ordered
	assert.That(q.stage == orderedIdle, "md: two ordered updates at once")
	q.o = o
	q.at, q.n = q.head.at, 0
	if o.stageBuffer() == nil {
		q.head.err = o.errorf("staging", ErrNoMem)
		o.th.Post(orderedFailed, o)
		return
	}
	o.nextBatch()
}

func (o *Object) stageBuffer() []byte {
	if o.ordered.buf == nil {
		n := max(orderedBatch/o.unit()*o.unit(), o.unit())
		o.ordered.buf = o.cfg.Alloc(int(n * BlockSize))
	}
	return o.ordered.buf
}

func orderedFailed(arg any) { arg.(*Object).endOrdered() }

// nextBatch takes the next blocks of the head of the queue: as many as go in
// the same order.
func (o *Object) nextBatch() {
	q := &o.ordered
	op, u := q.head, o.unit()
	q.at += q.n
	q.n = min(uint64(len(q.buf))/BlockSize, op.at+op.n-q.at)
	q.reverse = o.suspected(q.at / u)
	for i := u; i < q.n; i += u {
		if o.suspected((q.at+i)/u) != q.reverse {
			q.n = i
		}
	}
	src := (q.at - op.at) * BlockSize
	copy(q.buf, op.buf[src:src+q.n*BlockSize])
	op.seal(q.buf[:q.n*BlockSize], q.at)
	q.stage = orderedWrite1
	o.runOrdered()
}

func (o *Object) suspected(entry uint64) bool { return o.suspect != nil && o.suspect.has(entry) }

// area returns the copy that the stage is about.
func (q *ordered) area() *area {
	first, second := &q.o.mirror, &q.o.primary
	if q.reverse || !q.o.mirrored {
		first, second = second, first
	}
	if q.stage <= orderedFlush1 {
		return first
	}
	return second
}

// runOrdered starts the stage.
func (o *Object) runOrdered() {
	q := &o.ordered
	x := &q.io
	x.o, x.fn, x.owner = o, orderedDone, q
	x.at, x.n, x.buf, x.vss = q.at, q.n, nil, nil
	x.a = q.area()
	x.op = bdev.OpFlush
	if q.stage == orderedWrite1 || q.stage == orderedWrite2 {
		x.op = bdev.OpWrite
		x.buf = q.buf[:q.n*BlockSize]
		x.vss = q.head.vssOf(x.a, q.at, q.n)
	}
	x.start()
}

func orderedDone(x *devIO, err error) {
	q := x.owner.(*ordered)
	o, op := q.o, q.head
	if err != nil {
		if x.a == &o.primary {
			o.mistrust(q.at, q.n)
		}
		op.err = o.ioError("ordered write of entries to", x.a, err)
		o.endOrdered()
		return
	}
	if q.reverse && q.stage == orderedFlush1 {
		for i := uint64(0); i < q.n; i += o.unit() {
			o.suspect.drop((q.at + i) / o.unit())
		}
	}
	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {
		q.stage++
		o.runOrdered()
		return
	}
	if q.at+q.n < op.at+op.n {
		o.nextBatch()
		return
	}
	o.endOrdered()
}

// endOrdered begins the next update before it tells the owner of this one, who
// may queue another or destroy the object when it is idle.
func (o *Object) endOrdered() {
	q := &o.ordered
	op := q.head
	q.stage = orderedIdle
	q.head = op.next
	op.next = nil
	if q.head == nil {
		q.tail = nil
	} else {
		o.beginOrdered()
	}
	op.finish()
}
