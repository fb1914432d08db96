package verify

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"goftl/apps/ftlperf/internal/gen"
)

// The header of a unit, little-endian. Sector marks are at the start of every
// later 512-byte sector.
const (
	magicAt      = 0
	offsetAt     = 8
	generationAt = 16
	seedAt       = 24
	sumAt        = 32
	headerSize   = 40
	sectorSize   = 512

	magic = 0x31_66_72_65_70_6c_74_66 // "ftlperf1"
)

// MinUnit and MaxUnit bound the unit that carries a stamp.
const (
	MinUnit = sectorSize
	MaxUnit = 4096
)

// Stamp makes unit the generation-th content of the unit at offset bytes. What
// is not stamped stays as it is and is covered by the checksum.
func Stamp(unit []byte, offset, generation, seed uint64) {
	le := binary.LittleEndian
	le.PutUint64(unit[magicAt:], magic)
	le.PutUint64(unit[offsetAt:], offset)
	le.PutUint64(unit[generationAt:], generation)
	le.PutUint64(unit[seedAt:], seed)
	for at := sectorSize; at < len(unit); at += sectorSize {
		le.PutUint64(unit[at:], sectorMark(offset, generation, at))
	}
	le.PutUint64(unit[sumAt:], checksum(unit))
}

func sectorMark(offset, generation uint64, at int) uint64 {
	return (offset + uint64(at)) ^ generation<<40 ^ generation>>24
}

func checksum(unit []byte) uint64 {
	le := binary.LittleEndian
	header := gen.Mix(le.Uint64(unit[offsetAt:])) ^ gen.Mix(le.Uint64(unit[generationAt:])+1) ^ le.Uint64(unit[seedAt:])
	return xxh3.Hash(unit[headerSize:]) ^ header
}

// Verdict says what a unit contains.
type Verdict uint8

// The verdicts of Read.
const (
	Good      Verdict = iota // a stamp of this run, for this address
	Zeroes                   // nothing but zeroes
	Foreign                  // no stamp, or one of another run
	Misplaced                // a good stamp of another address
	Torn                     // sectors of different writes
	Rotten                   // the checksum is wrong
)

// String describes the content.
func (v Verdict) String() string {
	switch v {
	case Good:
		return "a good stamp"
	case Zeroes:
		return "zeroes"
	case Foreign:
		return "data without a stamp of this run"
	case Misplaced:
		return "a block of another address"
	case Torn:
		return "a torn block"
	case Rotten:
		return "a block with a wrong checksum"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Read judges the unit read from offset; generation is meaningful when Good
// (and, as far as the header can be trusted, when Misplaced, Torn or Rotten).
func Read(unit []byte, offset, seed uint64) (generation uint64, v Verdict) {
	le := binary.LittleEndian
	if le.Uint64(unit[magicAt:]) != magic {
		if allZero(unit) {
			return 0, Zeroes
		}
		return 0, Foreign
	}
	generation = le.Uint64(unit[generationAt:])
	if checksum(unit) != le.Uint64(unit[sumAt:]) {
		found := le.Uint64(unit[offsetAt:])
		for at := sectorSize; at < len(unit); at += sectorSize {
			if le.Uint64(unit[at:]) != sectorMark(found, generation, at) {
				return generation, Torn
			}
		}
		return generation, Rotten
	}
	switch {
	case le.Uint64(unit[seedAt:]) != seed:
		return generation, Foreign
	case le.Uint64(unit[offsetAt:]) != offset:
		return generation, Misplaced
	}
	return generation, Good
}

func allZero(b []byte) bool {
	le := binary.LittleEndian
	for ; len(b) >= 8; b = b[8:] {
		if le.Uint64(b) != 0 {
			return false
		}
	}
	return true
}
