package verify

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
)

// One entry a unit: the generation acknowledged last, how many later ones were
// issued and not acknowledged, and flags.
const (
	genBits     = 25
	genMask     = 1<<genBits - 1
	aheadOne    = 1 << genBits
	aheadMask   = 7 * aheadOne
	trimmed     = 1 << 28 // the last acknowledged operation was a trim
	pendingTrim = 1 << 29 // a trim was issued and not acknowledged
	locked      = 1 << 30 // an IO of this run is on the unit
	lost        = 1 << 31 // found wrong or no longer known: not checked until written again
)

// The header of a state file.
const (
	tableMagic    = 0x3174_6576_7066_7431
	tableVersion  = 1
	tableHeader   = 4096
	headerWords   = 5
	maxTableUnits = 1 << 36
)

// Table is the expected content of the units [0, Units).
type Table struct {
	// TrimZeroes says that the device promises zeroes after a trim; else the old content may stay.
	TrimZeroes bool

	entries []uint32
	header  []uint64
	mapping []byte
	unit    uint64
	seed    uint64
}

// ErrState is wrapped when a state file cannot be used.
var ErrState = errors.New("verify state")

// NewTable maps a table for units of unit bytes in anonymous memory.
func NewTable(units, unit, seed uint64) (*Table, error) {
	if units == 0 || units > maxTableUnits {
		return nil, fmt.Errorf("%w: %d units: %w", ErrState, units, unix.EINVAL)
	}
	m, err := unix.Mmap(-1, 0, int(tableHeader+units*4), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%w: map %d MiB: %w", ErrState, units*4>>20, err)
	}
	return newTable(m, units, unit, seed), nil
}

func newTable(m []byte, units, unit, seed uint64) *Table {
	return &Table{
		mapping: m, unit: unit, seed: seed,
		header:  unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(m))), headerWords),
		entries: unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(m[tableHeader:]))), units),
	}
}

// OpenTable keeps the table in a file. A file that is there already is
// continued: it must be of the same units, and its seed is used. What was in
// flight when its writer died may or may not be on the device.
func OpenTable(path string, units, unit, seed uint64) (*Table, error) {
	if units == 0 || units > maxTableUnits {
		return nil, fmt.Errorf("%w: %d units: %w", ErrState, units, unix.EINVAL)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	defer func() { _ = f.Close() }() // the mapping stays
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	size := int64(tableHeader + units*4)
	fresh := st.Size() == 0
	if !fresh && st.Size() != size {
		return nil, fmt.Errorf("%w: %s is for another range (%d bytes, this run needs %d): %w",
			ErrState, path, st.Size(), size, unix.EINVAL)
	}
	if err := f.Truncate(size); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrState, path, err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("%w: map %s: %w", ErrState, path, err)
	}
	t := newTable(m, units, unit, seed)
	if fresh {
		copy(t.header, []uint64{tableMagic, tableVersion, units, unit, seed})
		return t, nil
	}
	if t.header[0] != tableMagic || t.header[1] != tableVersion || t.header[2] != units || t.header[3] != unit {
		return nil, errors.Join(fmt.Errorf("%w: %s is not the state of a run over %d units of %d bytes: %w",
			ErrState, path, units, unit, unix.EINVAL), t.Close())
	}
	t.seed = t.header[4]
	t.Interrupted()
	return t, nil
}

// Close unmaps the table; a file is kept.
func (t *Table) Close() error {
	m := t.mapping
	t.mapping, t.entries, t.header = nil, nil, nil
	return unix.Munmap(m)
}

// Units returns how many units the table covers.
func (t *Table) Units() uint64 { return uint64(len(t.entries)) }

// Unit returns the size of a unit in bytes.
func (t *Table) Unit() uint64 { return t.unit }

// Seed returns the seed of the stamps.
func (t *Table) Seed() uint64 { return t.seed }

// Free reports whether no IO is on the units.
func (t *Table) Free(first, count uint64) bool {
	for i := first; i < first+count; i++ {
		if t.entries[i]&locked != 0 {
			return false
		}
	}
	return true
}

// TryLock takes the units of an IO, all or none.
func (t *Table) TryLock(first, count uint64) bool {
	if !t.Free(first, count) {
		return false
	}
	for i := first; i < first+count; i++ {
		t.entries[i] |= locked
	}
	return true
}

// Unlock releases units without changing what is expected, after a read.
func (t *Table) Unlock(first, count uint64) {
	for i := first; i < first+count; i++ {
		t.entries[i] &^= locked
	}
}

// Known reports whether something is known of the content of a unit.
func (t *Table) Known(i uint64) bool {
	e := t.entries[i]
	return e&lost == 0 && e&(genMask|aheadMask|trimmed|pendingTrim) != 0
}

// KnownUnits counts the units of which something is known.
func (t *Table) KnownUnits() uint64 {
	n := uint64(0)
	for i := range t.entries {
		if t.Known(uint64(i)) {
			n++
		}
	}
	return n
}

// newest returns the generation issued last; generations wrap around and skip 0.
func newest(e uint32) uint32 { return advance(e&genMask, e&aheadMask/aheadOne) }

func advance(generation, by uint32) uint32 {
	if generation += by; generation > genMask {
		generation -= genMask
	}
	return generation
}

// BeginWrite stamps buf, which covers locked units from first on.
func (t *Table) BeginWrite(buf []byte, first uint64) {
	for i, at := first, uint64(0); at < uint64(len(buf)); i, at = i+1, at+t.unit {
		e := t.entries[i]
		assert.That(e&locked != 0, "a verified write begins on a unit that is not locked")
		if e&aheadMask == aheadMask { // seven failed writes: give up on what could be there
			e = e&^(genMask|aheadMask) | newest(e) | lost
		}
		e += aheadOne
		t.entries[i] = e
		Stamp(buf[at:at+t.unit], i*t.unit, uint64(newest(e)), t.seed)
	}
}

// EndWrite settles and unlocks units after a write. After an error both the
// old and the new content are possible.
func (t *Table) EndWrite(first, count uint64, ok bool) {
	for i := first; i < first+count; i++ {
		e := t.entries[i] &^ locked
		if ok {
			e = newest(e)
		}
		t.entries[i] = e
	}
}

// BeginTrim notes that locked units are being trimmed.
func (t *Table) BeginTrim(first, count uint64) {
	for i := first; i < first+count; i++ {
		t.entries[i] |= pendingTrim
	}
}

// EndTrim settles and unlocks units after a trim, like EndWrite.
func (t *Table) EndTrim(first, count uint64, ok bool) {
	for i := first; i < first+count; i++ {
		e := t.entries[i] &^ locked
		if ok {
			e = newest(e) | trimmed
		}
		t.entries[i] = e
	}
}

// Interrupted says that whatever is in flight will never be answered: after a
// crash either content may be found.
func (t *Table) Interrupted() {
	for i := range t.entries {
		t.entries[i] &^= locked
	}
}

// Mismatch says what was wrong with a unit.
type Mismatch struct {
	Offset       uint64 // in bytes
	Found        Verdict
	Generation   uint64 // of what was found
	Acknowledged uint64 // generation acknowledged last
	Issued       uint64 // generation issued last
	Trimmed      bool
}

// String explains the mismatch to a person.
func (m Mismatch) String() string {
	want := fmt.Sprintf("generation %d", m.Acknowledged)
	if m.Issued != m.Acknowledged {
		want = fmt.Sprintf("generation %d to %d", m.Acknowledged, m.Issued)
	}
	if m.Trimmed {
		want += ", or zeroes after a trim"
	}
	found := m.Found.String()
	if m.Found != Zeroes && m.Found != Foreign {
		found += fmt.Sprintf(" of generation %d", m.Generation)
	}
	return fmt.Sprintf("offset %d (block %d): found %s, expected %s", m.Offset, m.Offset/MaxUnit, found, want)
}

// Check judges a unit read while nothing was being written to it. When two
// contents were possible, the one that was found counts from then on. It
// reports each wrong unit once.
func (t *Table) Check(unit []byte, i uint64) (m Mismatch, ok bool) {
	if !t.Known(i) {
		return Mismatch{}, true
	}
	e := t.entries[i]
	generation, v := Read(unit, i*t.unit, t.seed)
	acknowledged, ahead := e&genMask, e&aheadMask/aheadOne
	switch {
	case v == Good && t.possible(e, uint32(generation)):
		t.entries[i] = e&locked | uint32(generation)
		return Mismatch{}, true
	case v == Zeroes && e&(trimmed|pendingTrim) != 0:
		t.entries[i] = e&locked | newest(e) | trimmed
		return Mismatch{}, true
	case acknowledged == 0 && (e&trimmed == 0 || !t.TrimZeroes) && (ahead > 0 || e&(trimmed|pendingTrim) != 0) &&
		(v == Foreign || v == Zeroes):
		return Mismatch{}, true // what was there before the run is not known
	}
	t.entries[i] = e | lost
	return Mismatch{
		Offset: i * t.unit, Found: v, Generation: generation,
		Acknowledged: uint64(acknowledged), Issued: uint64(newest(e)), Trimmed: e&(trimmed|pendingTrim) != 0,
	}, false
}

// possible reports whether a good stamp of a generation may be found.
func (t *Table) possible(e, generation uint32) bool {
	acknowledged, ahead := e&genMask, e&aheadMask/aheadOne
	for k := range ahead {
		if generation == advance(acknowledged, k+1) {
			return true
		}
	}
	return generation == acknowledged && acknowledged != 0 && (e&trimmed == 0 || !t.TrimZeroes)
}
