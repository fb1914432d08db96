package record

import "github.com/cespare/xxhash/v2"

// A summary is the P2L of a segment: one entry per slot of its body, kept in
// memory in the form in which it is written, so that closing a segment is one
// device write. Entries of slots that hold no data carry a mark in LBA.
const (
	SummaryHeaderSize = 64
	// SummaryEntries is the number of slots that one summary block describes.
	SummaryEntries = (BlockSize - SummaryHeaderSize) / EntrySize

	summaryMagic = 0x5353464f47434552
)

// Marks in the LBA field of a summary entry.
const (
	MarkBase   = ^uint64(0) - 15
	MarkUnused = MarkBase + 0 // nothing was written here
	MarkHeader = MarkBase + 1 // header of a data or move record; U = its U, Sum = its G
	MarkTrim   = MarkBase + 2 // trim record; U = its U, Sum = its G
	MarkPad    = MarkBase + 3 // pad; U = D
	MarkVoid   = MarkBase + 4 // void; U = first, Sum = last
)

// IsMark says whether lba is a mark and not the address of user data.
func IsMark(lba uint64) bool { return lba >= MarkBase }

// SummaryBlocks is the number of summary blocks of a segment with body slots.
func SummaryBlocks(body uint64) uint64 {
	return (body + SummaryEntries - 1) / SummaryEntries
}

// SummaryID is the identity of a segment's summary.
type SummaryID struct {
	UUID [16]byte
	Seg  uint32
	Gen  uint32
}

// Summary is a view of summary blocks in memory.
type Summary []byte

func (s Summary) at(slot uint32) []byte {
	blk := slot / SummaryEntries
	o := int(blk)*BlockSize + SummaryHeaderSize + int(slot-blk*SummaryEntries)*EntrySize
	return s[o : o+EntrySize : o+EntrySize]
}

// Put stores the entry of a slot.
func (s Summary) Put(slot uint32, e Entry) {
	b := s.at(slot)
	le.PutUint64(b[0:], e.LBA)
	le.PutUint64(b[8:], e.U)
	le.PutUint64(b[16:], e.Sum)
}

// At reads the entry of a slot.
func (s Summary) At(slot uint32) Entry {
	b := s.at(slot)
	return Entry{LBA: le.Uint64(b[0:]), U: le.Uint64(b[8:]), Sum: le.Uint64(b[16:])}
}

// SumAt reads only the checksum of a slot.
func (s Summary) SumAt(slot uint32) uint64 { return le.Uint64(s.at(slot)[16:]) }

// LBAAt reads only the LBA or mark of a slot.
func (s Summary) LBAAt(slot uint32) uint64 { return le.Uint64(s.at(slot)) }

// Clear marks the slots [from, to) unused.
func (s Summary) Clear(from, to uint32) {
	for i := from; i < to; i++ {
		s.Put(i, Entry{LBA: MarkUnused})
	}
}

// Seal stamps every block with identity, position and checksum.
func (s Summary) Seal(id SummaryID) {
	for i := 0; i*BlockSize < len(s); i++ {
		b := s[i*BlockSize : (i+1)*BlockSize]
		le.PutUint64(b[0:], summaryMagic)
		le.PutUint32(b[16:], formatV1)
		le.PutUint32(b[20:], uint32(i))
		copy(b[24:40], id.UUID[:])
		le.PutUint32(b[40:], id.Seg)
		le.PutUint32(b[44:], id.Gen)
		clear(b[48:SummaryHeaderSize])
		le.PutUint64(b[8:], xxhash.Sum64(b[16:]))
	}
}

// CheckSummaryBlock verifies one summary block, index i of its segment.
func CheckSummaryBlock(b []byte, i uint32, id SummaryID) error {
	if le.Uint64(b) != summaryMagic || le.Uint32(b[16:]) != formatV1 || le.Uint32(b[20:]) != i ||
		[16]byte(b[24:40]) != id.UUID || le.Uint32(b[40:]) != id.Seg || le.Uint32(b[44:]) != id.Gen ||
		le.Uint64(b[8:]) != xxhash.Sum64(b[16:]) {
		return ErrInvalid
	}
	return nil
}

// Check verifies every block.
func (s Summary) Check(id SummaryID) error {
	for i := 0; i*BlockSize < len(s); i++ {
		if err := CheckSummaryBlock(s[i*BlockSize:(i+1)*BlockSize], uint32(i), id); err != nil {
			return err
		}
	}
	return nil
}

// ExtractSums copies the checksums of one summary block to out, which holds
// SummaryEntries values.
func ExtractSums(b []byte, out []uint64) {
	for i := range out[:SummaryEntries] {
		out[i] = le.Uint64(b[SummaryHeaderSize+i*EntrySize+16:])
	}
}
