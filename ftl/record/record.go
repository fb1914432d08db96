package record

import (
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
	"github.com/zeebo/xxh3"
)

// Sizes of the formats, in bytes unless said otherwise.
const (
	BlockSize  = 4096
	HeaderSize = 128
	EntrySize  = 24
	VSSSize    = 64

	// MaxBlocks is the largest number of data blocks in one record, so that a
	// record with its header is 128 slots, 512 KiB.
	MaxBlocks = 127
	// MaxTrims is the largest number of ranges in one trim record.
	MaxTrims = (BlockSize - HeaderSize) / EntrySize
)

const (
	headerMagic = 0x4c54464f47434552 // "RECGOFTL"
	formatV1    = 1
)

// Kind says what a record is.
type Kind uint8

// Kinds of record.
const (
	KindData Kind = 1 // user data
	KindTrim Kind = 2 // user trim: entries are {LBA, count}
	KindPad  Kind = 3 // nothing; carries D
	KindVoid Kind = 4 // user records [U, U+Count) failed and do not exist
	KindMove Kind = 5 // data moved by compaction or relocation
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindData:
		return "data"
	case KindTrim:
		return "trim"
	case KindPad:
		return "pad"
	case KindVoid:
		return "void"
	case KindMove:
		return "move"
	}
	return "unknown"
}

// IsUser says whether the kind carries a user record number.
func (k Kind) IsUser() bool { return k == KindData || k == KindTrim || k == KindVoid }

// Header is what stands at the front of a record.
type Header struct {
	UUID  [16]byte
	Seg   uint32 // index of the segment in the device's segment table
	Slot  uint32 // slot of the header (VSS: of the first block)
	Gen   uint32 // generation of the segment
	Inc   uint32 // incarnation
	Kind  Kind
	Count uint16 // data: blocks that follow; trim: ranges; void: U numbers
	G     uint64
	U     uint64
	D     uint64
}

// Entry describes one slot or one range.
type Entry struct {
	LBA uint64
	U   uint64
	Sum uint64
}

// ErrInvalid says that bytes are not a header, summary, descriptor or page of
// this device at this place.
var ErrInvalid = errors.New("record: not a valid block at this place")

var le = binary.LittleEndian

// Mix spreads x over 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// DataSum is the checksum of one block of user data: XXH3 of its bytes, bound
// to its LBA, so that the right bytes in the wrong place do not pass.
func DataSum(block []byte, lba uint64) uint64 {
	return xxh3.Hash(block) ^ Mix(lba)
}

// PutEntry stores entry i in a header block.
func PutEntry(block []byte, i int, e Entry) {
	o := HeaderSize + i*EntrySize
	b := block[o : o+EntrySize : o+EntrySize]
	le.PutUint64(b[0:], e.LBA)
	le.PutUint64(b[8:], e.U)
	le.PutUint64(b[16:], e.Sum)
}

// EntryAt reads entry i of a header block.
func EntryAt(block []byte, i int) Entry {
	o := HeaderSize + i*EntrySize
	b := block[o : o+EntrySize : o+EntrySize]
	return Entry{LBA: le.Uint64(b[0:]), U: le.Uint64(b[8:]), Sum: le.Uint64(b[16:])}
}

// entries is the number of 24-byte entries that a header of kind k holds.
func (h *Header) entries() int {
	if h.Kind == KindData || h.Kind == KindMove || h.Kind == KindTrim {
		return int(h.Count)
	}
	return 0
}

// Seal writes the header's fields and checksum to the front of block, whose
// entries were stored before with PutEntry. The rest of the block is left as
// it is and is not covered.
func (h *Header) Seal(block []byte) {
	le.PutUint64(block[0:], headerMagic)
	le.PutUint32(block[16:], formatV1)
	block[20] = byte(h.Kind)
	block[21] = 0
	le.PutUint16(block[22:], h.Count)
	copy(block[24:40], h.UUID[:])
	le.PutUint32(block[40:], h.Seg)
	le.PutUint32(block[44:], h.Slot)
	le.PutUint32(block[48:], h.Gen)
	le.PutUint32(block[52:], h.Inc)
	le.PutUint64(block[56:], h.G)
	le.PutUint64(block[64:], h.U)
	le.PutUint64(block[72:], h.D)
	clear(block[80:HeaderSize])
	le.PutUint64(block[8:], headerSum(block, h.entries()))
}

// headerSum covers the header and n entries, less the magic and itself.
func headerSum(block []byte, n int) uint64 {
	return xxhash.Sum64(block[16 : HeaderSize+n*EntrySize])
}

// Decode reads and checks a header. It returns ErrInvalid for anything that is
// not a whole header; identity (UUID, segment, slot, generation) is for the
// caller to compare.
func (h *Header) Decode(block []byte) error {
	if len(block) < BlockSize || le.Uint64(block) != headerMagic || le.Uint32(block[16:]) != formatV1 {
		return ErrInvalid
	}
	h.Kind = Kind(block[20])
	h.Count = le.Uint16(block[22:])
	if !h.countSound() || headerSum(block, h.entries()) != le.Uint64(block[8:]) {
		return ErrInvalid
	}
	copy(h.UUID[:], block[24:40])
	h.Seg = le.Uint32(block[40:])
	h.Slot = le.Uint32(block[44:])
	h.Gen = le.Uint32(block[48:])
	h.Inc = le.Uint32(block[52:])
	h.G = le.Uint64(block[56:])
	h.U = le.Uint64(block[64:])
	h.D = le.Uint64(block[72:])
	return nil
}

func (h *Header) countSound() bool {
	switch h.Kind {
	case KindData, KindMove:
		return h.Count >= 1 && h.Count <= MaxBlocks
	case KindTrim:
		return h.Count >= 1 && h.Count <= MaxTrims
	case KindVoid:
		return h.Count >= 1
	case KindPad:
		return h.Count == 0
	}
	return false
}

// Meta is the VSS of one block on a cache device with separate metadata.
type Meta struct {
	LBA   uint64
	U     uint64
	G     uint64
	D     uint64
	Sum   uint64 // DataSum of the block (of a header block: with LBA 0)
	Gen   uint32
	Inc   uint32
	Index uint16 // of this block in its record
	Count uint16 // blocks of the record
	Kind  Kind
}

// Place binds metadata to one block of one device: the device's identity and
// the block's address, mixed.
func Place(uuid [16]byte, addr uint64) uint64 {
	return Mix(le.Uint64(uuid[:8])^addr) ^ le.Uint64(uuid[8:])
}

// Put stores m in 64 bytes; place is Place of the block it belongs to.
func (m *Meta) Put(b []byte, place uint64) {
	b = b[:VSSSize:VSSSize]
	le.PutUint64(b[0:], m.LBA)
	le.PutUint64(b[8:], m.U)
	le.PutUint64(b[16:], m.G)
	le.PutUint64(b[24:], m.D)
	le.PutUint64(b[32:], m.Sum)
	le.PutUint32(b[40:], m.Gen)
	le.PutUint32(b[44:], m.Inc)
	le.PutUint16(b[48:], m.Index)
	le.PutUint16(b[50:], m.Count)
	le.PutUint32(b[52:], uint32(m.Kind)|formatV1<<8)
	le.PutUint64(b[56:], xxhash.Sum64(b[:56])^place)
}

// Decode reads and checks 64 bytes of metadata.
func (m *Meta) Decode(b []byte, place uint64) error {
	if len(b) < VSSSize || xxhash.Sum64(b[:56])^place != le.Uint64(b[56:]) {
		return ErrInvalid
	}
	k := le.Uint32(b[52:])
	if k>>8 != formatV1 {
		return ErrInvalid
	}
	m.LBA = le.Uint64(b[0:])
	m.U = le.Uint64(b[8:])
	m.G = le.Uint64(b[16:])
	m.D = le.Uint64(b[24:])
	m.Sum = le.Uint64(b[32:])
	m.Gen = le.Uint32(b[40:])
	m.Inc = le.Uint32(b[44:])
	m.Index = le.Uint16(b[48:])
	m.Count = le.Uint16(b[50:])
	m.Kind = Kind(k)
	if m.Count == 0 || m.Count > MaxBlocks+1 || m.Index >= m.Count {
		return ErrInvalid
	}
	return nil
}
