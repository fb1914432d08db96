package zone

import (
	"encoding/binary"
	"slices"

	"github.com/zeebo/xxh3"

	"goftl/bdev"
	"goftl/iobuf"
)

// Of every block behind a zone's write pointer in the table there is a sum: a
// checksum bound to the block's address and the zone's generation. Zones have
// sum units of their own, each a write unit of the base in two slots that are
// written in turn, so that a torn write leaves the sums that were there. No
// header, no checksum over a unit: a sum that does not fit its block counts as
// none.
const sumBytes = 8

func sumSeed(gen uint32, lba uint64) uint64 { return uint64(gen)*0x9E3779B97F4A7C15 ^ lba }

// sumOf is the sum of a block; 0 stands for none.
func sumOf(block []byte, gen uint32, lba uint64) uint64 {
	return max(xxh3.HashSeed(block, sumSeed(gen, lba)), 1)
}

var holeText = []byte("a write of this block failed")

// holeOf is the sum of a block whose write failed: it fits any content.
func holeOf(gen uint32, lba uint64) uint64 { return max(xxh3.HashSeed(holeText, sumSeed(gen, lba)), 1) }

// appendSums appends the sums of the blocks in bufs, the first of which goes to
// lba.
func appendSums(sums []uint64, bufs [][]byte, size int, gen uint32, lba uint64, scratch *[]byte) []uint64 {
	part := (*scratch)[:0]
	for _, b := range bufs {
		if len(part) > 0 {
			n := min(size-len(part), len(b))
			part = append(part, b[:n]...)
			b = b[n:]
			if len(part) < size {
				continue
			}
			sums = append(sums, sumOf(part, gen, lba))
			lba++
			part = part[:0]
		}
		for ; len(b) >= size; b = b[size:] {
			sums = append(sums, sumOf(b[:size], gen, lba))
			lba++
		}
		part = append(part, b...)
	}
	*scratch = part[:0]
	return sums
}

// holes replaces the sums of a write that failed.
func (s *state) holes() {
	first := s.zone*s.c.d.zone + s.off
	for i := range s.sums {
		s.sums[i] = holeOf(s.gen, first+uint64(i))
	}
}

// sumUnit is the sums of a part of a zone that is being written.
type sumUnit struct {
	op    tableOp
	key   uint64 // which of all
	zone  uint64
	sums  []uint64
	out   []byte // as it is being written
	slot  uint64 // to write next
	dirty bool
}

// sumsOf returns how many blocks a sum unit is for.
func sumsOf(unitBytes uint64) uint64 { return unitBytes / sumBytes }

// sumBlocks returns how many blocks of the base the sums of all zones take.
func sumBlocks(zones uint64, i *bdev.Info, o *Options) uint64 {
	blocks, _ := tableUnit(i)
	per := sumsOf(blocks * uint64(i.BlockSize))
	return (zones - min(o.ConvZones, zones)) * ((o.Capacity + per - 1) / per) * 2 * blocks
}

// sumLBA returns where both slots of a sum unit are.
func (t *table) sumLBA(key uint64) uint64 { return t.sumFirst + key*2*t.unit }

// sumKey returns which sum unit a block of a zone belongs to.
func (t *table) sumKey(zone, off uint64) uint64 {
	return (zone-t.d.m.conv)*t.perZone + off/sumsOf(t.bytes)
}

// putSums enters the sums of a write into their units, which are dirty then.
func (t *table) putSums(s *state) {
	per := sumsOf(t.bytes)
	for i := uint64(0); i < s.count; {
		off := s.off + i
		u := t.sumUnit(s.zone, off)
		n := uint64(copy(u.sums[off%per:], s.sums[i:]))
		if !u.dirty {
			u.dirty = true
			t.zones[s.zone].dirty++
			t.dirtySums = append(t.dirtySums, u)
		}
		i += n
	}
}

func (t *table) sumUnit(zone, off uint64) *sumUnit {
	key := t.sumKey(zone, off)
	if u := t.sums[key]; u != nil {
		return u
	}
	var u *sumUnit
	if n := len(t.spare); n > 0 {
		u, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		u = &sumUnit{sums: make([]uint64, sumsOf(t.bytes)), out: iobuf.Alloc(int(t.bytes))}
		if u.out == nil {
			u.out = make([]byte, t.bytes)
		} else {
			t.owned = append(t.owned, u.out)
		}
		u.op.init(t, sumsWritten, u)
	}
	u.key, u.zone, u.slot, u.dirty = key, zone, 0, false
	clear(u.sums)
	t.sums[key] = u
	return u
}

// dropSums forgets the units of a zone that hold nothing but sums from the
// offset from on and before end.
func (t *table) dropSums(zone, from, end uint64) {
	per := sumsOf(t.bytes)
	for off := from / per * per; off+per <= end; off += per {
		key := t.sumKey(zone, off)
		u := t.sums[key]
		if u == nil || u.dirty {
			continue
		}
		delete(t.sums, key)
		t.spare = append(t.spare, u)
	}
}

// dropAllSums forgets the units of a zone, those too that could not be written.
func (t *table) dropAllSums(zone uint64) {
	t.dirtySums = slices.DeleteFunc(t.dirtySums, func(u *sumUnit) bool {
		if u.zone == zone {
			u.dirty = false
		}
		return u.zone == zone
	})
	t.zones[zone].dirty = 0
	t.dropSums(zone, 0, t.perZone*sumsOf(t.bytes))
}

// writeSums writes a unit to the slot that was not written last.
func (t *table) writeSums(u *sumUnit) {
	for i, v := range u.sums {
		binary.LittleEndian.PutUint64(u.out[i*sumBytes:], v)
	}
	u.op.write(u.out, t.sumLBA(u.key)+u.slot*t.unit, t.unit, false)
}

func sumsWritten(arg any, err error) {
	u := arg.(*sumUnit)
	t := u.op.t
	if err == nil {
		u.slot ^= 1
		u.dirty = false
		t.zones[u.zone].dirty--
	} else {
		t.sumErr = err
	}
	t.partDone()
}
