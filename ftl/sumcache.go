package ftl

import "goftl/ftl/record"

// sumCache keeps the checksums of summary blocks that reads needed, so that a
// read of a closed segment usually costs one device read and not two. It is a
// 4-way set-associative table of fixed size: memory is bounded by its
// configuration, whatever the capacity of the device.
type sumCache struct {
	tags []uint64
	sums []uint64
	mask uint64
	turn uint32
}

// defaultSumCache bounds the cache when the configuration does not.
const defaultSumCache = 64 << 20

const (
	sumWays      = 4
	sumLineBytes = record.SummaryEntries*8 + 8
)

func newSumCache(bytes uint64) *sumCache {
	sets := uint64(1)
	for sets*2*sumWays*sumLineBytes <= bytes {
		sets *= 2
	}
	return &sumCache{
		tags: make([]uint64, sets*sumWays),
		sums: make([]uint64, sets*sumWays*record.SummaryEntries),
		mask: sets - 1,
	}
}

// sumKey names summary block blk of the segment's present generation.
func sumKey(s *segment, blk uint32) uint64 {
	return record.Mix(uint64(s.gen)<<32|uint64(s.idx)) ^ record.Mix(uint64(blk)+1) | 1
}

// find returns the checksums of a summary block, or nil.
func (c *sumCache) find(key uint64) []uint64 {
	set := (key >> 1 & c.mask) * sumWays
	for w := range uint64(sumWays) {
		if c.tags[set+w] == key {
			o := (set + w) * record.SummaryEntries
			return c.sums[o : o+record.SummaryEntries]
		}
	}
	return nil
}

// insert takes the checksums of a summary block that was verified.
func (c *sumCache) insert(key uint64, block []byte) {
	if c.find(key) != nil {
		return
	}
	c.turn++
	line := (key>>1&c.mask)*sumWays + uint64(c.turn%sumWays)
	c.tags[line] = key
	o := line * record.SummaryEntries
	record.ExtractSums(block, c.sums[o:o+record.SummaryEntries])
}
