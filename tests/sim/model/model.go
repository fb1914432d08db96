// Package model knows what a block device may contain: a history of writes, trims and flushes, and from it what a read
// may return, and what may be there after a power loss or the kill of a process. It has no clock and knows no device.
package model

import (
	"fmt"
	"sort"
)

// Op is one write or trim in the history of the device. Its ID is stamped into every block that it writes.
type Op struct {
	ID         uint64
	Trim       bool
	FUA        bool
	LBA, Count uint64

	before uint64 // how many ops were acknowledged when this one was submitted: all of them come before it
	ack    uint64 // its place in the order of acknowledgements, from 1; 0: not acknowledged
	end    uint64 // how many were acknowledged when it ended, itself included; never: still in flight
	seen   uint64 // blocks found with its ID, while a recovered device is looked through
}

// content is the ID that a block has after the op: trimmed blocks are zeroes.
func (o *Op) content() uint64 {
	if o.Trim {
		return 0
	}
	return o.ID
}

// String describes the op for a report.
func (o *Op) String() string {
	kind := "write"
	if o.Trim {
		kind = "trim"
	}
	if o.FUA {
		kind += " FUA"
	}
	state := "in flight"
	switch {
	case o.ack == 0 && o.end != never:
		state = "failed"
	case o.ack != 0:
		state = fmt.Sprintf("acknowledged as %d.", o.ack)
	}
	return fmt.Sprintf("%s #%d [%d +%d], submitted after %d acknowledgements, %s", kind, o.ID, o.LBA, o.Count, o.before, state)
}

const never = ^uint64(0)

// pruneAt is the least number of ops of a block among which some may be forgotten.
const pruneAt = 16

// block is what the model knows of one LBA: a content from which everything starts, unless something has certainly
// replaced it, and the ops since then, in order of submission.
type block struct {
	base     uint64
	baseGone bool
	ops      []*Op
	limit    int // length at which it is worth the while to forget old ops

	// A read that nothing overlapped has settled which of several ops that were side by side came last: winner, among
	// those that had ended when so many were acknowledged.
	winner *Op
	wonAt  uint64
}

// Model is the history of a device and what it allows to be read.
//
// An op comes before another if it was acknowledged before the other was submitted; the acknowledgements are in the
// order of the log. What is read outside a crash is the content of an op that no acknowledged op has certainly
// replaced. After a power loss there is a point in the order of acknowledgements, at or behind the last that a
// completed flush covers, such that everything up to it is there; of what comes later, nothing is there but what was
// written side by side with the last that is. After the kill of the process the point is the end.
type Model struct {
	blocks  map[uint64]*block
	acks    uint64
	durable uint64 // acknowledgements that a completed flush covers
	logged  uint64 // acknowledgements that a durable op with FUA comes behind: durable too in a log
	ids     uint64
	loose   bool           // see Unordered
	reads   map[uint64]int // reads in flight, by the acknowledgements at their submission
}

// NewModel returns the model of a device full of zeroes.
func NewModel() *Model { return &Model{blocks: make(map[uint64]*block), reads: make(map[uint64]int)} }

// Unordered says that acknowledgements do not arrive in the order of the log.
func (m *Model) Unordered() { m.loose = true }

// Submit begins a write or trim.
func (m *Model) Submit(trim, fua bool, lba, count uint64) *Op {
	m.ids++
	o := &Op{ID: m.ids, Trim: trim, FUA: fua, LBA: lba, Count: count, before: m.acks, end: never}
	for i := lba; i < lba+count; i++ {
		b := m.blocks[i]
		if b == nil {
			b = &block{limit: pruneAt}
			m.blocks[i] = b
		}
		if len(b.ops) >= b.limit {
			m.prune(b)
		}
		b.ops = append(b.ops, o)
	}
	return o
}

// Ack notes that the op was acknowledged.
func (m *Model) Ack(o *Op) {
	m.acks++
	o.ack, o.end = m.acks, m.acks
	if o.FUA {
		m.logged = max(m.logged, o.before)
	}
}

// Fail notes that the op ended with an error: its blocks may have the old or the new content. The end takes a number
// among the acknowledgements, so that what was submitted before it is not taken for later.
func (m *Model) Fail(o *Op) {
	m.acks++
	o.end = m.acks
}

// Acks is the number of acknowledgements so far: taken at the submission of a flush or a read, it says what that
// covers.
func (m *Model) Acks() uint64 { return m.acks }

// Flushed notes that a flush has completed that was submitted after that many acknowledgements.
func (m *Model) Flushed(acks uint64) { m.durable = max(m.durable, acks) }

// Durable is the number of acknowledgements that survive a power loss of a device that keeps a log.
func (m *Model) Durable() uint64 { return max(m.durable, m.logged) }

// Known says whether a block was ever written or trimmed.
func (m *Model) Known(lba uint64) bool { return m.blocks[lba] != nil }

// Touched returns the blocks that were ever written or trimmed, in order.
func (m *Model) Touched() []uint64 {
	list := make([]uint64, 0, len(m.blocks))
	for lba := range m.blocks {
		list = append(list, lba)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list
}

// last finds, among the ops that are certainly there up to the given acknowledgement, the one that was submitted last:
// what ended before its submission, it has replaced.
func (b *block) last(upTo uint64, fua bool) *Op {
	var last *Op
	for _, w := range b.ops {
		if !w.there(upTo, fua) {
			continue
		}
		if last == nil || w.before > last.before {
			last = w
		}
	}
	return last
}

// there says whether the op is certainly there up to an acknowledgement.
func (o *Op) there(upTo uint64, fua bool) bool {
	return o.ack != 0 && (o.ack <= upTo || fua && o.FUA)
}

// replaces says whether o, if there is one, comes after v.
func (o *Op) replaces(v *Op) bool { return o != nil && o.before >= v.end }

// allowed says whether a block may have the content id when everything up to the acknowledgement upTo is there, and,
// with fua, every op with FUA that was acknowledged.
func (m *Model) allowed(lba, id, upTo uint64, fua bool) error {
	b := m.blocks[lba]
	if b == nil {
		if id == 0 {
			return nil
		}
		return fmt.Errorf("block %d was never written and has the content of op %d", lba, id)
	}
	newer := b.last(upTo, fua)
	won := b.winner != nil && b.winner.there(upTo, fua)
	known := b.base == id
	if known && newer == nil && !b.baseGone {
		return nil
	}
	for _, v := range b.ops {
		if v.content() == id {
			known = true
			switch {
			case won && v != b.winner && v.end <= b.wonAt:
				newer = b.winner
			case !newer.replaces(v):
				return nil
			}
		}
	}
	switch {
	case !known:
		return fmt.Errorf("block %d has the content of op %d, which is too old or never wrote it; %s", lba, id, b.describe())
	case newer == nil:
		return fmt.Errorf("block %d has its old content %d, which a durable op has replaced; %s", lba, id, b.describe())
	}
	return fmt.Errorf("block %d has the content %d, but must have that of %v, or a later one; %s", lba, id, newer, b.describe())
}

func (b *block) describe() string {
	s := fmt.Sprintf("began with %d (replaced: %v)", b.base, b.baseGone)
	for _, o := range b.ops[max(0, len(b.ops)-12):] {
		s += "\n    " + o.String()
	}
	return s
}

// prune forgets what can never be allowed again: what an op has replaced that is durable and was acknowledged before
// the oldest read in flight began.
func (m *Model) prune(b *block) {
	upTo := m.durable
	for acks := range m.reads {
		upTo = min(upTo, acks)
	}
	last := b.last(upTo, false)
	if last != nil {
		b.baseGone = true
	}
	keep := b.ops[:0]
	for _, v := range b.ops {
		if !last.replaces(v) {
			keep = append(keep, v)
		}
	}
	clear(b.ops[len(keep):])
	b.ops = keep
	b.limit = max(pruneAt, 2*len(keep))
}

// ReadBegins notes the submission of a read; what it returns goes to CheckRead and ReadEnds.
func (m *Model) ReadBegins() (acks uint64) {
	m.reads[m.acks]++
	return m.acks
}

// ReadEnds notes the end of a read, after its blocks were checked.
func (m *Model) ReadEnds(acks uint64) {
	if m.reads[acks]--; m.reads[acks] == 0 {
		delete(m.reads, acks)
	}
}

// CheckRead says whether a read that began after that many acknowledgements may return the content id.
func (m *Model) CheckRead(lba, id, acks uint64) error {
	if err := m.allowed(lba, id, acks, false); err != nil {
		return err
	}
	if b := m.blocks[lba]; b != nil && id != 0 {
		b.settle(id, acks)
	}
	return nil
}

// settle notes the op that a read has found on top, unless something was under way beside the read.
func (b *block) settle(id, acks uint64) {
	var winner *Op
	for _, o := range b.ops {
		if o.end > acks || o.ack == 0 { // also one that failed: it may show up, or not
			return
		}
		if o.content() == id {
			winner = o
		}
	}
	if winner != nil {
		b.winner, b.wonAt = winner, acks
	}
}

// CheckLost says whether a block of a plain device, which keeps no order among writes that were not flushed, may have
// the content id after a power loss.
func (m *Model) CheckLost(lba, id uint64) error { return m.allowed(lba, id, m.durable, true) }

// Restart makes what was found the beginning of a new history, without checking it.
func (m *Model) Restart(found map[uint64]uint64) { m.restart(found) }

// Killed notes that the process was killed while its devices lived on: everything that was acknowledged is there.
// But nothing of it has become durable: should a power loss follow, that decides.
func (m *Model) Killed() Point { return Point{upTo: m.acks} }

// PowerLost notes a power loss: only what is durable is there for certain.
func (m *Model) PowerLost() Point { return Point{upTo: m.Durable()} }

// Point is the least that must be there after a crash.
type Point struct{ upTo uint64 }

// Weaker is the point after two crashes without anything in between.
func (p Point) Weaker(q Point) Point { return Point{min(p.upTo, q.upTo)} }

// Recovered compares the whole device with what a crash allows, and goes on from what was found. found has the
// content of every block that was ever touched; a block that could not be read is absent, which is allowed if
// mayFail says so.
func (m *Model) Recovered(p Point, found map[uint64]uint64, mayFail bool) error {
	if err := m.CheckRecovered(p, found, mayFail); err != nil {
		return err
	}
	m.restart(found)
	return nil
}

// CheckRecovered is Recovered that only looks: for a device that was looked at and not started.
func (m *Model) CheckRecovered(p Point, found map[uint64]uint64, mayFail bool) error {
	upTo := p.upTo
	touched := m.Touched()
	for _, b := range m.blocks {
		for _, o := range b.ops {
			o.seen = 0
		}
	}
	for _, lba := range touched {
		if o := m.writerOf(lba, found); o != nil {
			o.seen++
			// What was acknowledged before this op was even submitted precedes it in the log.
			upTo = max(upTo, o.before)
		}
	}
	for _, lba := range touched {
		if o := m.writerOf(lba, found); o != nil && o.seen == o.Count && !o.FUA {
			// All of the op is there, so everything that was acknowledged before it is. An op with FUA is answered
			// later than its place in the log says.
			if o.ack != 0 && !m.loose {
				upTo = max(upTo, o.ack)
			} else {
				upTo = max(upTo, o.before)
			}
		}
	}
	for _, lba := range touched {
		id, ok := found[lba]
		if !ok {
			if !mayFail {
				return fmt.Errorf("block %d cannot be read", lba)
			}
			continue
		}
		if err := m.allowed(lba, id, upTo, true); err != nil {
			return fmt.Errorf("everything up to acknowledgement %d of %d must be there (%d are durable): %w",
				upTo, m.acks, p.upTo, err)
		}
	}
	return nil
}

// writerOf is the op whose content was found in a block, if that is certain.
func (m *Model) writerOf(lba uint64, found map[uint64]uint64) *Op {
	id, ok := found[lba]
	if !ok || id == 0 {
		return nil
	}
	for _, o := range m.blocks[lba].ops {
		if o.ID == id {
			return o
		}
	}
	return nil
}

// restart makes what was found the beginning of a new history.
func (m *Model) restart(found map[uint64]uint64) {
	for lba, b := range m.blocks {
		id, ok := found[lba]
		if !ok {
			// Unknown: whatever was allowed stays allowed, with no order among it.
			b.winner = nil
			for _, o := range b.ops {
				o.before, o.ack, o.end = 0, 0, 0
			}
			continue
		}
		*b = block{base: id, limit: pruneAt, ops: b.ops[:0]}
	}
	m.acks, m.durable, m.logged = 0, 0, 0
	clear(m.reads)
}
