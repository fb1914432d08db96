package zone

import (
	"errors"

	"goftl/bdev"
)

// What channels ask of the table goes in rounds. A round takes what waits,
// writes all sums and units of the table that it changes side by side, and
// when all are written answers everything that it took. So there is one writer
// of a unit, and many requests share one write.
//
// A flush first notes how far each zone is written, flushes the base, and then
// has the next round write that into the table: only then is it known to be
// durable.

// reqKind is what the table is asked for.
type reqKind uint8

const (
	reqWrite reqKind = iota
	reqFlush
	reqCommit // the second half of a flush
	reqReset
	reqFinish
	reqReadOnly
	reqOffline
)

// isStructural says whether a request changes what the table says of a zone. A
// round has at most one of these for a zone, and nothing else.
func (t *table) isStructural(s *state) bool { return s.kind >= reqReset || t.isFirst(s) }

// isFirst says whether a write is the first since the zone was reset. The
// table has to know that there was one before any of its sums is written: of a
// zone that it calls empty there are no sums of the present generation, which
// a later load could take for its own.
func (t *table) isFirst(s *state) bool {
	if s.kind != reqWrite {
		return false
	}
	e := &t.zones[s.zone]
	return e.flags&flagUsed == 0 && s.gen == e.gen && e.broken == nil
}

// state is what an IO carries in its Driver field: a request to the table.
type state struct {
	c    *channel
	io   *bdev.IO // nil: nobody waits for the answer
	kind reqKind
	err  error
	next *state

	zone       uint64
	off, count uint64 // of a write, in the zone
	gen        uint32 // in which it was written
	stale      bool   // the zone was reset behind it
	marking    bool   // the first write since, which the table has to know of
	sums       []uint64
	old        zoneEntry
}

// queue is a list of requests.
type queue struct{ head, tail *state }

func (q *queue) push(s *state) {
	s.next = nil
	if q.head == nil {
		q.head, q.tail = s, s
		return
	}
	q.tail.next = s
	q.tail = s
}

func (q *queue) pushFront(s *state) {
	if q.head == nil {
		q.push(s)
		return
	}
	s.next = q.head
	q.head = s
}

func (q *queue) pop() *state {
	s := q.head
	q.head = s.next
	s.next = nil
	return s
}

// flusher is the flush that is under way, and the ones that wait for the next.
type flusher struct {
	op      tableOp
	running bool
	waiting queue
	now     queue
	zones   []flushed
	commit  state
}

// flushed is how far a zone was written when a flush began.
type flushed struct {
	zone, done uint64
	gen        uint32
}

func tableRequest(arg any) {
	s := arg.(*state)
	t := s.c.d.table
	if t.loaded.Load() && (t.err != nil || t.readOnly) && s.kind != reqFlush {
		t.answer(s) // only worsened comes here
		return
	}
	if s.kind == reqFlush {
		t.flush.waiting.push(s)
		t.startFlush()
		return
	}
	t.pending.push(s)
	t.kick()
}

// worsened has the table remember that a zone turned read-only or offline. It
// may be called on any thread.
func (t *table) worsened(zone uint64, st bdev.ZoneState) {
	s := &state{c: &channel{d: t.d}, kind: reqReadOnly, zone: zone}
	if st == bdev.ZoneOffline {
		s.kind = reqOffline
	}
	t.th.Send(tableRequest, s)
}

// kick begins a round when there is something to do and none runs.
func (t *table) kick() {
	if t.parts > 0 || t.pending.head == nil || !t.loaded.Load() {
		return
	}
	t.roundNo++
	t.structural = t.isStructural(t.pending.head)
	for s := t.pending.head; s != nil && t.isStructural(s) == t.structural; s = t.pending.head {
		if t.structural && t.zones[s.zone].round == t.roundNo {
			break
		}
		t.active.push(t.pending.pop())
		t.apply(s)
	}
	t.writeRound()
}

// apply enters a request into what the table is to be.
func (t *table) apply(s *state) {
	if s.kind == reqCommit {
		t.applyCommit()
		return
	}
	e := &t.zones[s.zone]
	s.old = *e
	switch s.kind {
	case reqWrite:
		if s.stale = s.gen != e.gen || e.broken != nil; s.stale {
			return
		}
		if s.marking = t.isFirst(s); !s.marking {
			t.putSums(s)
			return
		}
		e.flags |= flagUsed
	case reqReset:
		e.gen, e.durable, e.done = nextGen(e.gen), 0, 0
		e.flags &= flagReadOnly | flagOffline
	case reqFinish:
		e.flags |= flagUsed | flagFinished
	case reqReadOnly:
		e.flags |= flagReadOnly
	default:
		e.flags |= flagOffline
	}
	e.round = t.roundNo
	t.dirty(s.zone)
}

// writeRound writes everything that differs from the base.
func (t *table) writeRound() {
	t.sumErr = nil
	t.parts = 1
	for _, u := range t.dirtySums {
		t.parts++
		t.writeSums(u)
	}
	for _, u := range t.dirtyUnits {
		t.parts++
		t.writeUnit(u)
	}
	t.partDone()
}

// partDone ends the round with its last part. What failed stays dirty and is
// written again in the next round.
func (t *table) partDone() {
	if t.parts--; t.parts > 0 {
		return
	}
	sums := t.dirtySums[:0]
	for _, u := range t.dirtySums {
		if u.dirty {
			sums = append(sums, u)
		}
	}
	t.dirtySums = sums
	units := t.dirtyUnits[:0]
	for _, u := range t.dirtyUnits {
		if u.dirty {
			units = append(units, u)
		}
	}
	t.dirtyUnits = units
	if !t.loaded.Load() {
		t.loader.committed()
		return
	}
	for t.active.head != nil {
		t.finish(t.active.pop())
	}
	t.structural = false
	t.startFlush()
	t.kick()
	t.endIfIdle()
}

// finish ends a request of which all is written, or failed.
func (t *table) finish(s *state) {
	if s.kind == reqCommit {
		t.committed()
		return
	}
	e := &t.zones[s.zone]
	err := t.units[s.zone/t.perUnit()].err
	switch {
	case s.kind == reqWrite && s.stale:
		s.err = errors.Join(s.err, e.broken)
		t.answer(s)
	case s.kind == reqWrite && s.marking && err == nil:
		t.pending.pushFront(s)
	case s.kind == reqWrite && s.marking: // no sums, so nothing that comes later can be found again
		e.flags, e.broken = s.old.flags, err
		s.err = err
		t.answer(s)
	case s.kind == reqWrite:
		if err == nil && e.dirty > 0 {
			err = t.sumErr
		}
		t.land(e, s, err)
	case err != nil:
		old := s.old
		e.gen, e.flags, e.durable, e.done = old.gen, old.flags, old.durable, old.done
		if s.kind == reqReadOnly || s.kind == reqOffline {
			e.flags |= flagReadOnly // it is so, whatever the table says; it is written with the next round
			if s.kind == reqOffline {
				e.flags |= flagOffline
			}
		}
		s.err = err
		t.answer(s)
	default:
		if s.kind == reqReset {
			e.broken = nil
			t.dropAllSums(s.zone)
			for e.ahead != nil {
				w := e.ahead
				e.ahead = w.next
				t.answer(w)
			}
		}
		t.answer(s)
	}
}

// land counts a write as done, and answers all writes that have no gap before
// them: as on a real device no write is done before those in front of it. err
// is why sums of the zone, or its entry, could not be written: all of them
// fail then, because a load would not get to them.
func (t *table) land(e *zoneEntry, s *state, err error) {
	at := &e.ahead
	for *at != nil && (*at).off < s.off {
		at = &(*at).next
	}
	s.next = *at
	*at = s
	before := e.done
	for e.ahead != nil && e.ahead.off == e.done {
		w := e.ahead
		e.ahead = w.next
		e.done += w.count
		if w.err == nil {
			w.err = err
		}
		t.answer(w)
	}
	if e.done == before {
		return
	}
	t.dropSums(s.zone, before, e.done)
	if !e.moved {
		e.moved = true
		t.moved = append(t.moved, s.zone)
	}
	if !t.volatile && e.done == t.d.m.capacity {
		t.dirty(s.zone) // spares the next load a look at its sums
	}
}

// answer tells the channel that asked.
func (t *table) answer(s *state) {
	s.next = nil
	if s.io != nil {
		s.c.th.Send(tableDone, s)
	}
}

// startFlush begins a flush for all that wait for one.
func (t *table) startFlush() {
	f := &t.flush
	if f.running || f.waiting.head == nil || t.structural {
		return // while a zone may be about to lose what is written there, or not, it cannot be noted
	}
	f.running = true
	f.now, f.waiting = f.waiting, queue{}
	f.zones = f.zones[:0]
	for _, z := range t.moved {
		e := &t.zones[z]
		e.moved = false
		f.zones = append(f.zones, flushed{z, e.done, e.gen})
	}
	t.moved = t.moved[:0]
	f.op.flush()
}

func baseFlushed(arg any, err error) {
	t := arg.(*table)
	f := &t.flush
	switch {
	case err != nil:
		t.endFlush(err)
	case len(f.zones) == 0 && len(t.dirtyUnits) == 0:
		t.endFlush(nil)
	default:
		f.commit.kind = reqCommit
		t.pending.push(&f.commit)
		t.kick()
	}
}

// applyCommit notes what the flush made durable.
func (t *table) applyCommit() {
	for _, z := range t.flush.zones {
		if e := &t.zones[z.zone]; e.gen == z.gen && z.done > e.durable {
			e.durable = z.done
			t.dirty(z.zone)
		}
	}
}

// committed ends the flush whose round is over.
func (t *table) committed() {
	var err error
	for _, u := range t.dirtyUnits { // those that failed
		err = u.err
	}
	t.endFlush(err)
}

func (t *table) endFlush(err error) {
	f := &t.flush
	if err != nil {
		for _, z := range f.zones {
			if e := &t.zones[z.zone]; e.gen == z.gen && !e.moved {
				e.moved = true
				t.moved = append(t.moved, z.zone)
			}
		}
	}
	for f.now.head != nil {
		s := f.now.pop()
		s.err = err
		t.answer(s)
	}
	f.running = false
	t.startFlush()
}
