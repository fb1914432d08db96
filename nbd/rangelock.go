package nbd

import "goftl/internal/assert"

// The range lock. lane.first..last holds, in order of arrival, every request
// of the export that modifies data and is not finished. Two of them exclude
// each other when they touch the same block and at least one is a
// read-modify-write; the later one waits for the earlier one. Whole-block
// writes that overlap run side by side, as the protocol allows.
//
// Invariants: a request waits for exactly one earlier request and is in its
// list of waiters; a request that runs excludes no other one that runs; so
// there is no cycle, and nobody is overtaken by a later request that excludes
// it.

// lock enters r. It reports whether r may run now; if not, r.advance will be
// called when it may.
func (l *lane) lock(r *request) bool {
	assert.That(!r.locked, "nbd: request locked twice")
	r.locked = true
	r.prev, r.succ = l.last, nil
	if l.last != nil {
		l.last.succ = r
	} else {
		l.first = r
	}
	l.last = r
	if r.partial() {
		l.partial++
	}
	return l.partial == 0 || l.free(r)
}

// free reports whether no earlier request excludes r. If one does, r becomes
// its waiter.
func (l *lane) free(r *request) bool {
	for o := r.prev; o != nil; o = o.prev {
		if (o.partial() || r.partial()) && o.block < r.block+r.blocks && r.block < o.block+o.blocks {
			r.waitNext = nil
			end := &o.waiters
			for *end != nil {
				end = &(*end).waitNext
			}
			*end = r
			return false
		}
	}
	return true
}

// unlock takes r out and lets those run that waited for it, unless something
// else is in their way.
func (l *lane) unlock(r *request) {
	if r.prev != nil {
		r.prev.succ = r.succ
	} else {
		l.first = r.succ
	}
	if r.succ != nil {
		r.succ.prev = r.prev
	} else {
		l.last = r.prev
	}
	r.prev, r.succ, r.locked = nil, nil, false
	if r.partial() {
		l.partial--
	}
	w := r.waiters
	r.waiters = nil
	for w != nil {
		next := w.waitNext
		w.waitNext = nil
		if l.free(w) {
			w.advance()
		}
		w = next
	}
}
