package ftl

import "goftl/ftl/record"

// inflightMap finds the newest data of a block that is on its way to the log,
// so that reads of it are answered from the writer's buffer. It is a hash table
// with linear probing whose size is fixed: records under way are bounded.
type inflightMap struct {
	keys []uint64 // LBA + 1; 0 is empty
	recs []*recordOp
	idx  []uint8
	n    int
}

const (
	inflightSlots = 1 << 15 // at least twice maxRecords * record.MaxBlocks
	inflightMask  = inflightSlots - 1
)

func (m *inflightMap) init() {
	m.keys = make([]uint64, inflightSlots)
	m.recs = make([]*recordOp, inflightSlots)
	m.idx = make([]uint8, inflightSlots)
}

func inflightHash(lba uint64) uint64 {
	return (lba * 0x9e3779b97f4a7c15) >> (64 - 15)
}

// put remembers block i of r as the newest of its LBA.
func (m *inflightMap) put(lba uint64, r *recordOp, i int) {
	h := inflightHash(lba)
	for m.keys[h] != 0 && m.keys[h] != lba+1 {
		h = (h + 1) & inflightMask
	}
	if m.keys[h] == 0 {
		m.keys[h] = lba + 1
		m.n++
	}
	m.recs[h], m.idx[h] = r, uint8(i)
}

// find returns the buffer of the newest data of lba under way, or nil.
func (m *inflightMap) find(lba uint64) []byte {
	if m.n == 0 {
		return nil
	}
	for h := inflightHash(lba); m.keys[h] != 0; h = (h + 1) & inflightMask {
		if m.keys[h] == lba+1 {
			return m.recs[h].bufs[1+int(m.idx[h])]
		}
	}
	return nil
}

// remove forgets lba if r is still the record that put it last.
func (m *inflightMap) remove(lba uint64, r *recordOp) {
	h := inflightHash(lba)
	for m.keys[h] != lba+1 {
		if m.keys[h] == 0 {
			return
		}
		h = (h + 1) & inflightMask
	}
	if m.recs[h] != r {
		return
	}
	m.n--
	m.recs[h] = nil
	// Close the gap: move up entries that probed past it.
	for gap := h; ; {
		m.keys[gap] = 0
		for {
			h = (h + 1) & inflightMask
			if m.keys[h] == 0 {
				return
			}
			home := inflightHash(m.keys[h] - 1)
			if (h-home)&inflightMask >= (h-gap)&inflightMask {
				break
			}
		}
		m.keys[gap], m.recs[gap], m.idx[gap] = m.keys[h], m.recs[h], m.idx[h]
		m.recs[h] = nil
		gap = h
	}
}

var _ [inflightSlots - 2*maxRecords*record.MaxBlocks]struct{}
