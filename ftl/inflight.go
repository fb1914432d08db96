package ftl

import (
	"unsafe"

	"goftl/ftl/record"
)

// inflightMap finds the newest data of a block that is on its way to the log,
// so that reads of it are answered from memory: from a write buffer, or from the
// buffer of whoever waits for the write. It is a hash table with linear probing.
// Records under way are bounded and so are the write buffers of channels; the
// table grows when a channel is opened, never while it is used.
//
// What waits for the log is numbered in the order of the log (Request.seq).
// Nothing replaces what has a higher number: a write that was acknowledged from
// a write buffer is in the table from then on, and an older one that is packed
// into a record later must not hide it.
type inflightMap struct {
	slots []inflightSlot
	shift uint // 64 - log2(groups of slots)
	room  int  // entries for which there is room
	n     int
}

type inflightSlot struct {
	key  uint64 // LBA + 1; 0 is empty
	seq  uint64
	data *[blockSize]byte // nil: lost
}

// inflightGroup is the number of blocks, a power of two, whose entries stand side
// by side.
const inflightGroup = 8

// inflightRecords is the number of entries that records under way may need.
const inflightRecords = maxRecords * record.MaxBlocks

func (m *inflightMap) init() {
	*m = inflightMap{}
	m.grow(inflightRecords)
}

// inflightSlots is the size of a table for n entries: at most half full.
func inflightSlots(n int) int {
	size := 1 << 10
	for size < 2*n {
		size *= 2
	}
	return size
}

// grow makes room for n more entries.
func (m *inflightMap) grow(n int) {
	m.room += n
	size := inflightSlots(m.room)
	if size <= len(m.slots) {
		return
	}
	old := m.slots
	m.slots = make([]inflightSlot, size)
	m.shift = 64 - log2(uint64(size)/inflightGroup)
	for i := range old {
		if s := &old[i]; s.key != 0 {
			m.slots[m.at(s.key-1)] = *s
		}
	}
}

// shrink gives room back. What was lost stays in the table for good: it keeps
// its room, because nothing new comes then.
func (m *inflightMap) shrink(n int) { m.room -= n }

func (m *inflightMap) mask() uint64 { return uint64(len(m.slots) - 1) }

// hash spreads groups of blocks and keeps the blocks of a group side by side, so
// that large writes touch few cache lines.
func (m *inflightMap) hash(lba uint64) uint64 {
	return (lba/inflightGroup*0x9e3779b97f4a7c15)>>m.shift*inflightGroup + lba%inflightGroup
}

// at is the place of lba: where it is, or where it belongs.
func (m *inflightMap) at(lba uint64) uint64 {
	h := m.hash(lba)
	for m.slots[h].key != 0 && m.slots[h].key != lba+1 {
		h = (h + 1) & m.mask()
	}
	return h
}

// put remembers a block unless a newer one of its LBA is known.
func (m *inflightMap) put(lba, seq uint64, block []byte) {
	s := &m.slots[m.at(lba)]
	if s.key == 0 {
		s.key = lba + 1
		m.n++
	} else if s.seq > seq {
		return
	}
	s.seq, s.data = seq, (*[blockSize]byte)(block)
}

// lose notes that the newest data of lba, which was acknowledged, is gone.
func (m *inflightMap) lose(lba, seq uint64) {
	s := &m.slots[m.at(lba)]
	if s.key == 0 {
		m.n++
	}
	*s = inflightSlot{key: lba + 1, seq: seq}
}

// find returns the newest data of lba under way; ok is false when there is
// none, and block nil when it was lost.
func (m *inflightMap) find(lba uint64) (block []byte, ok bool) {
	if m.n == 0 {
		return nil, false
	}
	s := &m.slots[m.at(lba)]
	if s.key == 0 {
		return nil, false
	}
	if s.data == nil {
		return nil, true
	}
	return s.data[:], true
}

// has says whether there is anything newer of lba than what it is mapped to.
func (m *inflightMap) has(lba uint64) bool {
	return m.n != 0 && m.slots[m.at(lba)].key != 0
}

// run returns how many of the n blocks from lba on, at least one, have nothing
// under way, or have.
func (m *inflightMap) run(lba, n uint64) (count uint64, none bool) {
	if m.n == 0 {
		return n, true
	}
	none = !m.has(lba)
	for count = 1; count < n && m.has(lba+count) != none; count++ {
	}
	return count, none
}

// remove forgets lba if the block with that number is still the newest. Of blocks
// that follow one another the last one is removed cheapest, because it has the
// fewest entries behind it.
func (m *inflightMap) remove(lba, seq uint64) {
	h := m.at(lba)
	if m.slots[h].key == 0 || m.slots[h].seq != seq {
		return
	}
	m.n--
	// Close the gap: move up entries that probed past it.
	for gap := h; ; {
		m.slots[gap] = inflightSlot{}
		for {
			h = (h + 1) & m.mask()
			if m.slots[h].key == 0 {
				return
			}
			home := m.hash(m.slots[h].key - 1)
			if (h-home)&m.mask() >= (h-gap)&m.mask() {
				break
			}
		}
		m.slots[gap] = m.slots[h]
		gap = h
	}
}

const inflightSlotBytes = uint64(unsafe.Sizeof(inflightSlot{}))
