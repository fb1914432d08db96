package record

import (
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// An L2P page and a block of the checkpoint directory share one form: 32 bytes
// of header {magic, index, number, checksum}, then 4064 bytes of entries.
const (
	PageHeaderSize = 32
	PageBytes      = BlockSize - PageHeaderSize

	pageMagic = 0x4750_324c // "L2PG"
	dirMagic  = 0x5249_444c // "LDIR"

	// DirEntries is the number of pages that one directory block describes.
	DirEntries = PageBytes / 4
)

// SealPage stamps page index p, written by checkpoint k, of the device whose
// Place(uuid, 0) is seed. Entries must be in place.
func SealPage(b []byte, p uint64, k uint64, seed uint64) { sealPage(b, pageMagic, p, k, seed) }

// CheckPage verifies that b is page p written by checkpoint k.
func CheckPage(b []byte, p uint64, k uint64, seed uint64) error {
	return checkPage(b, pageMagic, p, k, seed)
}

// SealDir and CheckDir do the same for block i of the directory of checkpoint k.
func SealDir(b []byte, i uint64, k uint64, seed uint64) { sealPage(b, dirMagic, i, k, seed) }

// CheckDir verifies that b is block i of the directory of checkpoint k.
func CheckDir(b []byte, i uint64, k uint64, seed uint64) error {
	return checkPage(b, dirMagic, i, k, seed)
}

func sealPage(b []byte, magic uint32, p, k, seed uint64) {
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[4:], formatV1)
	le.PutUint64(b[8:], p)
	le.PutUint64(b[16:], k)
	le.PutUint64(b[24:], pageSum(b, seed))
}

func checkPage(b []byte, magic uint32, p, k, seed uint64) error {
	if le.Uint32(b) != magic || le.Uint32(b[4:]) != formatV1 || le.Uint64(b[8:]) != p ||
		le.Uint64(b[16:]) != k || le.Uint64(b[24:]) != pageSum(b, seed) {
		return ErrInvalid
	}
	return nil
}

func pageSum(b []byte, seed uint64) uint64 {
	return xxhash.Sum64(b[PageHeaderSize:BlockSize]) ^ xxhash.Sum64(b[:24]) ^ seed
}

// DirEntry packs the number of the checkpoint that wrote a page and the slot
// in which it stands; 0 means that the page was never written.
func DirEntry(k uint64, slot uint32) uint32 { return uint32(k)<<1 | slot }

// SplitDirEntry is the inverse of DirEntry.
func SplitDirEntry(e uint32) (k uint64, slot uint32) { return uint64(e >> 1), e & 1 }

// MaxK is the highest checkpoint number that a directory can hold.
const MaxK = 1<<31 - 1

// U32s views the entries of a page or directory block as 4-byte values. The
// host is little endian, as the formats are; b must be 8-byte aligned.
func U32s(b []byte) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(&b[PageHeaderSize])), PageBytes/4)
}

// U64s views the entries as 8-byte values.
func U64s(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(&b[PageHeaderSize])), PageBytes/8)
}

// DirNumber returns the checkpoint number of block i of a directory, if b is
// one.
func DirNumber(b []byte, i uint64, seed uint64) (k uint64, ok bool) {
	k = le.Uint64(b[16:])
	return k, CheckDir(b, i, k, seed) == nil
}
