package model

import (
	"encoding/binary"
	"fmt"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

const (
	sectorSize  = 512
	headerWords = 2 // of a sector: ID and LBA
	sectorWords = sectorSize / 8
)

// Stamp fills a block with the content that an op gives to an LBA: a header of ID and LBA in every sector, and words
// that follow from the two, so that a block that is mixed from several contents is none of them.
func Stamp(buf []byte, id, lba uint64) {
	word := mix(id, lba) // and the number of its first byte
	for at := uint64(0); at < BlockSize; at += sectorSize {
		s := (*[sectorSize]byte)(buf[at:])
		binary.LittleEndian.PutUint64(s[:], id)
		binary.LittleEndian.PutUint64(s[8:], lba)
		for i := headerWords; i < sectorWords; i++ {
			binary.LittleEndian.PutUint64(s[i*8:i*8+8], word+at+uint64(i)*8)
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
	word := mix(id, lba)
	for at := uint64(0); at < BlockSize; at += sectorSize {
		s := (*[sectorSize]byte)(buf[at:])
		if a, b := binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:]); a != id || b != lba {
			return 0, fmt.Errorf("block %d is torn: op %d, and from byte %d on op %d for block %d", lba, id, at, a, b)
		}
		wrong := uint64(0) // bits, of any word
		for i := headerWords; i < sectorWords; i++ {
			wrong |= binary.LittleEndian.Uint64(s[i*8:i*8+8]) ^ (word + at + uint64(i)*8)
		}
		if wrong != 0 {
			return 0, damaged(s, word+at, id, lba, at)
		}
	}
	return id, nil
}

// damaged says which word of a sector is not what it should be.
func damaged(s *[sectorSize]byte, word, id, lba, at uint64) error {
	for i := uint64(headerWords * 8); i < sectorSize; i += 8 {
		if v := binary.LittleEndian.Uint64(s[i:]); v != word+i {
			return fmt.Errorf("block %d of op %d is damaged at byte %d: %#x", lba, id, at+i, v)
		}
	}
	return nil
}
