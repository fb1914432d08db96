package nbd

import (
	"math/bits"

	"goftl/internal/assert"
	"goftl/iobuf"
)

// Sizes of the arena. Units are powers of two; what is longer than the largest
// one takes several.
const (
	slabShift    = 21 // 2 MiB: one transparent hugepage
	slabSize     = 1 << slabShift
	unitShiftMin = 12
	unitShiftMax = 20
	slabUnitMax  = 1 << unitShiftMax
	numUnitKinds = unitShiftMax - unitShiftMin + 1
	maxUnits     = slabSize >> unitShiftMin
)

// arena hands out 4 KiB-aligned memory off the Go heap. It belongs to one
// thread. Its slabs are mapped when first needed, at most max of them, and each
// serves one size of unit until all of its units are back; so fragmentation
// cannot eat the arena. Memory is committed by the kernel when it is touched,
// and stays so until trim gives the slab back.
type arena struct {
	max, mapped int
	keep        int                 // idle slabs that trim leaves
	idle        int                 // slabs with all of their units, with a size or without
	low         int                 // the fewest idle ones since the last trim
	spare       *slab               // slabs without a size
	partial     [numUnitKinds]*slab // slabs with free units, doubly linked
	all         []*slab
	used        int // bytes in units that are out
}

// slab is 2 MiB cut into units of one size.
type slab struct {
	mem        []byte
	pos        int // in arena.all
	shift      uint8
	total      uint16
	nfree      uint16
	prev, next *slab
	free       [maxUnits / 64]uint64
}

// unit is a piece of a slab.
type unit struct {
	s *slab
	i uint16
}

func (u unit) bytes() []byte {
	lo := int(u.i) << u.s.shift
	return u.s.mem[lo : lo+1<<u.s.shift : lo+1<<u.s.shift]
}

// unitShift returns the size that serves n bytes, n at most slabUnitMax.
func unitShift(n int) uint8 {
	if n <= 1<<unitShiftMin {
		return unitShiftMin
	}
	return uint8(bits.Len(uint(n - 1)))
}

// arenaBytes returns what n bytes take.
func arenaBytes(n int) int {
	if n > slabUnitMax {
		return (n + slabUnitMax - 1) &^ (slabUnitMax - 1)
	}
	return 1 << unitShift(n)
}

// get returns one unit. ok is false when the arena is exhausted.
func (a *arena) get(shift uint8) (u unit, ok bool) {
	s := a.partial[shift-unitShiftMin]
	if s == nil {
		if s = a.slab(shift); s == nil {
			return unit{}, false
		}
	}
	for w := range s.free {
		if s.free[w] == 0 {
			continue
		}
		b := bits.TrailingZeros64(s.free[w])
		s.free[w] &^= 1 << b
		if s.nfree == s.total {
			a.idle--
			a.low = min(a.low, a.idle)
		}
		if s.nfree--; s.nfree == 0 {
			a.unlink(s)
		}
		a.used += 1 << shift
		return unit{s, uint16(w<<6 | b)}, true
	}
	assert.That(false, "nbd: a slab without free units is listed as having some")
	return unit{}, false
}

// slab gives a spare or new slab the size.
//
//go:noinline
func (a *arena) slab(shift uint8) *slab {
	s := a.spare
	if s != nil {
		a.spare = s.next
	} else {
		if a.mapped >= a.max {
			return nil
		}
		mem := iobuf.Alloc(slabSize)
		if mem == nil {
			return nil
		}
		s = &slab{mem: mem, pos: len(a.all)}
		a.mapped++
		a.idle++
		a.all = append(a.all, s)
	}
	s.shift = shift
	s.total = 1 << (slabShift - shift)
	s.nfree = s.total
	s.free = [maxUnits / 64]uint64{}
	for i := range int(s.total) {
		s.free[i>>6] |= 1 << (i & 63)
	}
	a.link(s)
	return s
}

func (a *arena) link(s *slab) {
	head := &a.partial[s.shift-unitShiftMin]
	s.prev, s.next = nil, *head
	if *head != nil {
		(*head).prev = s
	}
	*head = s
}

func (a *arena) unlink(s *slab) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		a.partial[s.shift-unitShiftMin] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
}

// put gives a unit back.
func (a *arena) put(u unit) {
	s := u.s
	w, bit := u.i>>6, uint64(1)<<(u.i&63)
	assert.That(s.free[w]&bit == 0, "nbd: a buffer was freed twice")
	s.free[w] |= bit
	a.used -= 1 << s.shift
	if s.nfree == 0 {
		a.link(s)
	}
	if s.nfree++; s.nfree < s.total {
		return
	}
	a.idle++
	// One slab of a size stays, so that a lone request does not shuttle it.
	if s.prev != nil || s.next != nil {
		a.unlink(s)
		s.next = a.spare
		a.spare = s
	}
}

// reclaim takes idle slabs away from all sizes.
//
//go:noinline
func (a *arena) reclaim() bool {
	found := false
	for _, s := range a.partial {
		for s != nil {
			next := s.next
			if s.nfree == s.total {
				a.unlink(s)
				s.next = a.spare
				a.spare = s
				found = true
			}
			s = next
		}
	}
	return found
}

// getN appends units for n bytes to us, all or none of them.
func (a *arena) getN(us []unit, n int) ([]unit, bool) {
	if n <= slabUnitMax {
		u, ok := a.take(unitShift(n))
		if !ok {
			return us, false
		}
		return append(us, u), true
	}
	from := len(us)
	for ; n > 0; n -= slabUnitMax {
		u, ok := a.take(unitShiftMax)
		if !ok {
			a.putAll(us[from:])
			return us[:from], false
		}
		us = append(us, u)
	}
	return us, true
}

// take is get that takes idle slabs from other sizes when it must.
func (a *arena) take(shift uint8) (unit, bool) {
	u, ok := a.get(shift)
	if !ok && a.reclaim() {
		return a.get(shift)
	}
	return u, ok
}

func (a *arena) putAll(us []unit) {
	for i, u := range us {
		a.put(u)
		us[i] = unit{}
	}
}

// trim unmaps at most most slabs that were idle ever since the last trim, but
// leaves keep idle ones. What a load takes again and again thus stays.
func (a *arena) trim(most int) (freed int) {
	for most = min(most, a.low-a.keep); freed < most && (a.spare != nil || a.reclaim()); freed++ {
		s := a.spare
		a.spare = s.next
		last := a.all[len(a.all)-1]
		a.all[s.pos], last.pos = last, s.pos
		a.all[len(a.all)-1] = nil
		a.all = a.all[:len(a.all)-1]
		iobuf.Free(s.mem)
		a.mapped--
		a.idle--
	}
	a.low = a.idle
	return freed
}

// excess says that there is something to trim, now or later.
func (a *arena) excess() bool { return a.idle > a.keep }

// close unmaps everything. All units must be back.
func (a *arena) close() {
	assert.That(a.used == 0, "nbd: buffers are in use while their memory is unmapped")
	for _, s := range a.all {
		iobuf.Free(s.mem)
	}
	*a = arena{max: a.max, keep: a.keep}
}
