package nbdsim

import (
	"encoding/binary"
	"slices"

	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// minCell is the least that a cell needs to say whose content it has: the beginning of a stamp.
const minCell = 16

// cells divide a device into what the player takes for blocks. Most are whole blocks. In one stretch of the device
// blocks are cut into several cells at any byte, so that requests begin and end in the middle of blocks, and requests
// for different cells share blocks. A cell holds the beginning of the player's block.
type cells struct {
	start []uint64 // byte at which each begins, and the end of the device
}

// newCells divides so many blocks.
func newCells(r *sim.Rand, blocks uint64) *cells {
	rough := 1 + r.Uint64N(min(128, blocks/2))
	from := r.Uint64N(blocks - rough + 1)
	c := &cells{}
	for b := range blocks {
		at := b * model.BlockSize
		c.start = append(c.start, at)
		if b < from || b >= from+rough {
			continue
		}
		for _, cut := range cuts(r) {
			c.start = append(c.start, at+cut)
		}
	}
	c.start = append(c.start, blocks*model.BlockSize)
	return c
}

// cuts chooses where a block is cut.
func cuts(r *sim.Rand) []uint64 {
	var list []uint64
	for range r.IntN(8) {
		list = append(list, minCell+r.Uint64N(model.BlockSize-2*minCell+1))
	}
	slices.Sort(list)
	keep, last := list[:0], uint64(0)
	for _, at := range list {
		if at-last >= minCell {
			keep, last = append(keep, at), at
		}
	}
	return keep
}

func (c *cells) count() uint64 { return uint64(len(c.start) - 1) }

// bytes is the size of the device.
func (c *cells) bytes() uint64 { return c.start[c.count()] }

// size is the length of cell i.
func (c *cells) size(i uint64) uint64 { return c.start[i+1] - c.start[i] }

// block is the i-th of the player's blocks in the buffers of a request.
func block(bufs [][]byte, i uint64) []byte {
	at := i * model.BlockSize
	for at >= uint64(len(bufs[0])) {
		at -= uint64(len(bufs[0]))
		bufs = bufs[1:]
	}
	return bufs[0][at : at+model.BlockSize]
}

// pack appends what the cells from first on hold of the player's blocks.
func (c *cells) pack(dst []byte, bufs [][]byte, first, count uint64) []byte {
	dst = slices.Grow(dst, int(c.start[first+count]-c.start[first]))
	for i := range count {
		dst = append(dst, block(bufs, i)[:c.size(first+i)]...)
	}
	return dst
}

// unpack makes the player's blocks of what the cells hold: whole, if the cell has the beginning of one.
func (c *cells) unpack(bufs [][]byte, src []byte, first, count uint64) {
	for i := range count {
		b, cell := block(bufs, i), src[:c.size(first+i)]
		src = src[len(cell):]
		if id := binary.LittleEndian.Uint64(cell); id != 0 {
			model.Stamp(b, id, first+i)
		} else {
			clear(b)
		}
		copy(b, cell)
	}
}
