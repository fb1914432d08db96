// Package l2p maps logical blocks to physical addresses.
//
// The table is owned by the device's core thread; nothing here is safe from
// another. Entries are reached after Pin, which may complete later for a table
// that keeps part of itself on a device; the flat table of this package is
// always resident, so its Pin completes at once.
package l2p

import (
	"math/bits"
	"unsafe"

	"goftl/ftl/record"
)

// Addr is a physical address: a slot of the device's segments, or one of the
// values below.
type Addr uint64

// Values of Addr that name no slot.
const (
	Unmapped Addr = 0 // reads as zeroes
	Lost     Addr = 1 // its content could not be saved: reads fail
	First    Addr = 2 // the address of slot 0 of segment 0
)

// PinRequest asks for the entries of [LBA, LBA+Count). The caller owns it and
// leaves it alone from Pin to Unpin; once the entries are pinned a copy of it may
// take its place.
type PinRequest struct {
	LBA, Count uint64
	Done       func(*PinRequest) // called later when Pin returned false
	Arg        any
	Err        error // set before Done: the entries cannot be had; nothing is pinned
}

// Table is the mapping as the translation layer uses it.
type Table interface {
	// Pin makes entries resident until Unpin. It returns true when they are;
	// else it calls r.Done later, on the owning thread, never from inside Pin.
	Pin(r *PinRequest) bool
	Unpin(r *PinRequest)
	// Get and Set reach pinned entries; without pins they may be used only
	// while the device loads or is checked. Set marks the page dirty.
	Get(lba uint64) Addr
	Set(lba uint64, a Addr)
	// Peek is Get for an entry that need not be pinned: ok says whether it
	// happened to be resident.
	Peek(lba uint64) (a Addr, ok bool)
	// Run returns how many of the n entries from lba on, at least one, are
	// Unmapped, or are not. None need be pinned: one that is not resident counts
	// as mapped.
	Run(lba, n uint64) (count uint64, unmapped bool)

	Pages() uint64
	PageEntries() uint64
	// DirtyPages is the number of pages changed since they were snapshot.
	DirtyPages() uint64
	// BeginCheckpoint makes the dirty pages the set to write and returns it
	// as a bitmap; AbortCheckpoint makes them dirty again, EndCheckpoint
	// forgets them.
	BeginCheckpoint() []uint64
	AbortCheckpoint()
	EndCheckpoint()
	// Snapshot copies the entries of page p to a page block and clears its
	// dirty mark, in one step.
	Snapshot(p uint64, block []byte)
	// Load sets the entries of page p from a page block that was checked.
	Load(p uint64, block []byte)
	MarkDirty(p uint64)
}

const (
	perPage32 = record.PageBytes / 4
	perPage64 = record.PageBytes / 8
)

// Flat is the table as one array, off the Go heap, of 4 or 8 bytes an entry.
type Flat struct {
	t32   []uint32
	t64   []uint64
	lbas  uint64
	pages uint64
	dirty []uint64 // changed since their last snapshot
	ckpt  []uint64 // to be written by the checkpoint that runs
	nd    uint64
}

var _ Table = (*Flat)(nil)

// Pages returns the number of pages of a table of lbas entries of entryBytes.
func Pages(lbas uint64, entryBytes int) uint64 {
	per := uint64(record.PageBytes / entryBytes)
	return (lbas + per - 1) / per
}

// MemorySize is the number of bytes that NewFlat needs: the entries, then two
// bitmaps of pages.
func MemorySize(lbas uint64, entryBytes int) uint64 {
	entries := (lbas*uint64(entryBytes) + 7) &^ 7
	words := (Pages(lbas, entryBytes) + 63) / 64
	return entries + 2*words*8
}

// NewFlat lays a table over mem, which has MemorySize bytes, is 8-byte aligned
// and either zeroed (everything unmapped) or the memory of an earlier table of
// the same shape (kept in shared memory).
func NewFlat(mem []byte, lbas uint64, entryBytes int) *Flat {
	f := &Flat{lbas: lbas, pages: Pages(lbas, entryBytes)}
	entries := (lbas*uint64(entryBytes) + 7) &^ 7
	words := int((f.pages + 63) / 64)
	base := unsafe.Pointer(&mem[0])
	if entryBytes == 8 {
		f.t64 = unsafe.Slice((*uint64)(base), lbas)
	} else {
		f.t32 = unsafe.Slice((*uint32)(base), lbas)
	}
	f.dirty = unsafe.Slice((*uint64)(unsafe.Add(base, entries)), words)
	f.ckpt = unsafe.Slice((*uint64)(unsafe.Add(base, entries+uint64(words)*8)), words)
	f.recount()
	return f
}

func (f *Flat) recount() {
	f.nd = 0
	for _, w := range f.dirty {
		f.nd += uint64(bits.OnesCount64(w))
	}
}

// Pin implements Table.
func (f *Flat) Pin(*PinRequest) bool { return true }

// Unpin implements Table.
func (f *Flat) Unpin(*PinRequest) {}

// Get implements Table.
func (f *Flat) Get(lba uint64) Addr {
	if f.t32 != nil {
		return Addr(f.t32[lba])
	}
	return Addr(f.t64[lba])
}

// Peek implements Table.
func (f *Flat) Peek(lba uint64) (Addr, bool) { return f.Get(lba), true }

// Run implements Table.
func (f *Flat) Run(lba, n uint64) (count uint64, unmapped bool) {
	if f.t32 != nil {
		return run(f.t32[lba : lba+n])
	}
	return run(f.t64[lba : lba+n])
}

// run is the length of the run of entries that begins e.
func run[T uint32 | uint64](e []T) (count uint64, unmapped bool) {
	unmapped = e[0] == T(Unmapped)
	for i, a := range e {
		if (a == T(Unmapped)) != unmapped {
			return uint64(i), unmapped
		}
	}
	return uint64(len(e)), unmapped
}

// Set implements Table.
func (f *Flat) Set(lba uint64, a Addr) {
	var p uint64
	if f.t32 != nil {
		f.t32[lba] = uint32(a)
		p = lba / perPage32
	} else {
		f.t64[lba] = uint64(a)
		p = lba / perPage64
	}
	f.MarkDirty(p)
}

// MarkDirty implements Table.
func (f *Flat) MarkDirty(p uint64) {
	w, b := p/64, uint64(1)<<(p%64)
	if f.dirty[w]&b == 0 {
		f.dirty[w] |= b
		f.nd++
	}
}

// Pages implements Table.
func (f *Flat) Pages() uint64 { return f.pages }

// PageEntries implements Table.
func (f *Flat) PageEntries() uint64 {
	if f.t32 != nil {
		return perPage32
	}
	return perPage64
}

// DirtyPages implements Table.
func (f *Flat) DirtyPages() uint64 { return f.nd }

// BeginCheckpoint implements Table. The returned bitmap is valid until End or
// Abort. A page that is set in it and in dirty is written once; its snapshot
// clears dirty.
func (f *Flat) BeginCheckpoint() []uint64 {
	for i, w := range f.dirty {
		f.ckpt[i] |= w
		f.dirty[i] = 0
	}
	f.nd = 0
	return f.ckpt
}

// AbortCheckpoint implements Table.
func (f *Flat) AbortCheckpoint() {
	for i, w := range f.ckpt {
		f.dirty[i] |= w
		f.ckpt[i] = 0
	}
	f.recount()
}

// EndCheckpoint implements Table.
func (f *Flat) EndCheckpoint() { clear(f.ckpt) }

func (f *Flat) span(p uint64) (from, to uint64) {
	per := f.PageEntries()
	return p * per, min((p+1)*per, f.lbas)
}

// Snapshot implements Table.
func (f *Flat) Snapshot(p uint64, block []byte) {
	w, b := p/64, uint64(1)<<(p%64)
	if f.dirty[w]&b != 0 {
		f.dirty[w] &^= b
		f.nd--
	}
	from, to := f.span(p)
	if f.t32 != nil {
		e := record.U32s(block)
		clear(e[copy(e, f.t32[from:to]):])
		return
	}
	e := record.U64s(block)
	clear(e[copy(e, f.t64[from:to]):])
}

// Load implements Table.
func (f *Flat) Load(p uint64, block []byte) {
	from, to := f.span(p)
	if f.t32 != nil {
		copy(f.t32[from:to], record.U32s(block))
		return
	}
	copy(f.t64[from:to], record.U64s(block))
}
