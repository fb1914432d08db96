package nbd

import (
	"unsafe"

	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// Block status. The device fills in extents (bdev.OpExtents) at the beginning of
// the request's memory; they become what is sent in the same place, because an
// extent of the protocol is the smaller one.

const (
	// statusBytes is the memory of a request for the status of blocks.
	statusBytes = 8 << 10
	// maxExtents is how many extents a reply has at most. Clients ask again for
	// what is left.
	maxExtents = statusBytes / int(unsafe.Sizeof(bdev.Extent{}))
)

var _ [unsafe.Sizeof(bdev.Extent{}) - proto.ExtentSize]struct{}

// extents is the memory of a request as what the device fills in.
func (r *request) extents() []bdev.Extent {
	return unsafe.Slice((*bdev.Extent)(unsafe.Pointer(unsafe.SliceData(r.units[0].bytes()))), maxExtents)
}

// submitStatus asks the device for extents: from the block in which the range
// begins, which with write units need not be the first of r.block.
func (r *request) submitStatus(l *lane) error {
	bs := uint64(l.x.info.BlockSize)
	out := r.extents()
	if r.flags&proto.CmdFlagReqOne != 0 {
		out = out[:1]
	}
	first := r.offset / bs
	return l.ch.Extents(first, (r.offset+uint64(r.length)+bs-1)/bs-first, out, statusDone, r)
}

func statusDone(io *bdev.IO) {
	r := io.Ctx.(*request)
	if err := io.Err(); err != nil {
		r.step(err)
		return
	}
	r.s.replyStatus(r, r.encodeExtents(int(io.Result)))
}

// encodeExtents makes what is sent of n extents of the device: their part inside
// the range.
func (r *request) encodeExtents(n int) []byte {
	in, out := r.extents(), r.units[0].bytes()
	bs := uint64(r.s.lane.x.info.BlockSize)
	skip, left := r.offset%bs, uint64(r.length)
	at := 0
	for _, e := range in[:n] {
		size := min(e.Blocks*bs-skip, left)
		skip, left = 0, left-size
		if size == 0 {
			break
		}
		state := uint32(0)
		if e.Hole {
			state = proto.StateHole | proto.StateZero
		}
		proto.PutExtent(out[at:], uint32(size), state)
		at += proto.ExtentSize
	}
	assert.That(at > 0, "nbd: a device says nothing about its extents")
	return out[:at]
}

// replyStatus answers with extents, which lie in the memory of the request.
func (s *Session) replyStatus(r *request, extents []byte) {
	s.inflight--
	s.kick()
	if s.state == sessionDead {
		s.release(r)
		return
	}
	proto.PutBlockStatus(s.replyHeader(proto.BlockStatusSize), r.cookie, allocationID, len(extents)/proto.ExtentSize)
	s.out.data(extents, r)
}
