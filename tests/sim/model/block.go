package model

import (
	"encoding/binary"
	"fmt"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Stamp fills a block with the content that an op gives to an LBA: a header of ID and LBA in every sector, and words
// that follow from the two, so that a block that is mixed from several contents is none of them.
func Stamp(buf []byte, id, lba uint64) {
	seed := mix(id, lba)
	for at := 0; at < BlockSize; at += 512 {
		binary.LittleEndian.PutUint64(buf[at:], id)
		binary.LittleEndian.PutUint64(buf[at+8:], lba)
		for i := at + 16; i < at+512; i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], seed+uint64(i))
		}
	}
}

func mix(id, lba uint64) uint64 {
	x := id*0x9e3779b97f4a7c15 ^ lba*0xc2b2ae3d27d4eb4f
	x ^= x >> 31
	return x*0xbf58476d1ce4e5b9 | 1
}

// Identify returns the op whose content a block has; 0 for zeroes. It fails when the block is no op's content for that
// LBA.
func Identify(buf []byte, lba uint64) (uint64, error) {
	id := binary.LittleEndian.Uint64(buf)
	if id == 0 {
		for at := 0; at < BlockSize; at += 8 {
			if v := binary.LittleEndian.Uint64(buf[at:]); v != 0 {
				return 0, fmt.Errorf("block %d begins with zeroes but has %#x at byte %d", lba, v, at)
			}
		}
		return 0, nil
	}
	if got := binary.LittleEndian.Uint64(buf[8:]); got != lba {
		return 0, fmt.Errorf("block %d has the content of op %d for block %d", lba, id, got)
	}
	seed := mix(id, lba)
	for at := 0; at < BlockSize; at += 512 {
		if a, b := binary.LittleEndian.Uint64(buf[at:]), binary.LittleEndian.Uint64(buf[at+8:]); a != id || b != lba {
			return 0, fmt.Errorf("block %d is torn: op %d, and from byte %d on op %d for block %d", lba, id, at, a, b)
		}
		for i := at + 16; i < at+512; i += 8 {
			if v := binary.LittleEndian.Uint64(buf[i:]); v != seed+uint64(i) {
				return 0, fmt.Errorf("block %d of op %d is damaged at byte %d: %#x", lba, id, i, v)
			}
		}
	}
	return id, nil
}
