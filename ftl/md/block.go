package md

import (
	"encoding/binary"

	"github.com/google/uuid"
	"github.com/zeebo/xxh3"
)

// A block is PayloadSize bytes of the owner's and a trailer:
//
//	[4080:4088)  XXH3 (64 bits) of the payload, combined with place, version and number
//	[4088:4092)  version of the region's format
//	[4092:4096)  number of the write that the block belongs to
//
// Place is the FTL's UUID, the type of the primary's region and the index of
// the block in it, so a block that lies in the wrong place is not whole. Both
// copies of a block may be exchanged for each other. All blocks of an entry,
// and all blocks of a region without entries, must be of the same write: else
// the write was cut off and the entry is not whole.
//
// XXH3 and not XXH64, which is as strong but four times slower: with XXH64 the
// checksum alone takes as long as copying the block, and a persist or restore
// of memory-speed devices is bound by it.
const (
	PayloadSize = BlockSize - trailerSize

	trailerSize = 16
	offSum      = PayloadSize
	offVersion  = PayloadSize + 8
	offNumber   = PayloadSize + 12
)

var le = binary.LittleEndian

// mix64 is the finisher of SplitMix64: a bijection that spreads every bit.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func placeSeed(id uuid.UUID, region uint64) uint64 {
	return mix64(le.Uint64(id[:8]) ^ mix64(le.Uint64(id[8:])^region))
}

func place(seed, index uint64, version, number uint32) uint64 {
	return mix64(seed^mix64(index)) ^ mix64(uint64(version)<<32|uint64(number))
}

// sealBlock writes the trailer of block index.
func sealBlock(b []byte, seed, index uint64, version, number uint32) {
	b = b[:BlockSize:BlockSize]
	le.PutUint32(b[offVersion:], version)
	le.PutUint32(b[offNumber:], number)
	le.PutUint64(b[offSum:], xxh3.Hash(b[:PayloadSize])^place(seed, index, version, number))
}

// checkBlock verifies block index and returns the version and the number that
// it carries.
func checkBlock(b []byte, seed, index uint64) (version, number uint32, ok bool) {
	b = b[:BlockSize:BlockSize]
	version, number = le.Uint32(b[offVersion:]), le.Uint32(b[offNumber:])
	ok = le.Uint64(b[offSum:]) == xxh3.Hash(b[:PayloadSize])^place(seed, index, version, number)
	return version, number, ok
}

// sameWrite says whether all blocks of b are of the same write.
func sameWrite(b []byte) bool {
	for at := BlockSize; at < len(b); at += BlockSize {
		if le.Uint32(b[at+offNumber:]) != le.Uint32(b[offNumber:]) {
			return false
		}
	}
	return true
}

func putVersion(vss []byte, version uint32) { le.PutUint64(vss, uint64(version)) }

// stampVSS fills the metadata of blocks with the pattern of one.
func stampVSS(vss, pattern []byte) {
	for len(vss) > 0 {
		vss = vss[copy(vss, pattern):]
	}
}
