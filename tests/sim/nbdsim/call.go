package nbdsim

import (
	"encoding/binary"

	"goftl/nbd/proto"
	"goftl/tests/sim"
	"goftl/tests/sim/ftlsim"
	"goftl/tests/sim/model"
)

// call is one NBD request and what its client knows of it.
type call struct {
	q      proto.Request
	r      *ftlsim.Request // the player's; nil: the client's own
	body   []byte          // of a write of the client's own
	cells  *cells          // of a write of the player's: its body are cells of r
	skip   uint64          // bytes that a read asks for in front of the player's
	want   proto.Errno     // the answer to the client's own
	fails  bool            // ... which is a read and may meet what cannot be read
	data   []byte          // what a read returned
	mem    *memory         // where data come from
	filled uint64
	chunks int
	err    proto.Errno

	asked uint8  // 1: asks for the status of what it will read; 2: has asked
	holes []span // that it was told of
	told  uint64 // bytes that it was told of
}

// span is a range of bytes.
type span struct{ from, to uint64 }

// asking says whether the call is a read that asks for the status of its blocks first.
func (k *call) asking() bool { return k.asked == 1 }

// read makes a call that has asked for the status of its blocks read them.
func (k *call) read() {
	k.q.Command, k.q.Flags, k.asked, k.err, k.chunks = proto.CmdRead, 0, 2, proto.OK, 0
}

// allHole says whether there is nothing to read.
func (k *call) allHole() bool {
	n := uint64(0)
	for _, h := range k.holes {
		n += h.to - h.from
	}
	return n == uint64(k.q.Length)
}

// dig puts zeroes where there are holes, whatever was read there since.
func (k *call) dig() {
	k.takeData()
	for _, h := range k.holes {
		clear(k.data[h.from-k.q.Offset : h.to-k.q.Offset])
	}
}

func (k *call) takeData() {
	if k.data == nil {
		k.data = k.mem.take(int(k.q.Length))
	}
}

// memory is what data of reads lay in that are over.
type memory struct{ free [][]byte }

// take returns n bytes of zeroes.
func (m *memory) take(n int) []byte {
	if l := len(m.free); l > 0 && cap(m.free[l-1]) >= n {
		b := m.free[l-1][:n]
		m.free = m.free[:l-1]
		clear(b)
		return b
	}
	return make([]byte, n, max(n, 64<<10))
}

func (m *memory) give(b []byte) {
	if len(m.free) < 16 {
		m.free = append(m.free, b)
	}
}

// extents takes the status of blocks. It reports whether that fits what was asked for.
func (k *call) extents(data []byte, context uint32) bool {
	if k.q.Command != proto.CmdBlockStatus || len(data) < 4+proto.ExtentSize || len(data)%proto.ExtentSize != 4 ||
		binary.BigEndian.Uint32(data) != context || k.chunks > 0 {
		return false
	}
	k.chunks++
	data = data[4:]
	if k.q.Flags&proto.CmdFlagReqOne != 0 && len(data) != proto.ExtentSize {
		return false
	}
	for ; len(data) > 0; data = data[proto.ExtentSize:] {
		n, state := proto.ParseExtent(data)
		if n == 0 || state != 0 && state != proto.StateHole|proto.StateZero {
			return false
		}
		at := k.q.Offset + k.told
		k.told += uint64(n)
		if state != 0 {
			k.holes = append(k.holes, span{at, at + uint64(n)})
		}
	}
	return k.told <= uint64(k.q.Length)
}

// encode appends the request as it is sent.
func (k *call) encode(b []byte) []byte {
	var h [proto.RequestSize]byte
	proto.PutRequest(h[:], &k.q)
	b = append(append(b, h[:]...), k.body...)
	if k.cells != nil {
		b = k.cells.pack(b, k.r.Bufs, k.r.LBA, k.r.Count)
	}
	return b
}

func (k *call) bodySize() int {
	if k.cells != nil {
		return int(k.q.Length)
	}
	return len(k.body)
}

var commandOf = [...]proto.Command{
	ftlsim.Read: proto.CmdRead, ftlsim.Write: proto.CmdWrite, ftlsim.Trim: proto.CmdWriteZeroes, ftlsim.Flush: proto.CmdFlush,
	ftlsim.Zero: proto.CmdWrite,
}

// newCall makes an NBD request of a player's: one of many that do the same.
func newCall(rnd *sim.Rand, c *cells, r *ftlsim.Request) *call {
	k := &call{r: r}
	q := &k.q
	q.Command = commandOf[r.Kind]
	if r.Kind == ftlsim.Flush {
		return k
	}
	lo, hi := c.start[r.LBA], c.start[r.LBA+r.Count]
	if r.FUA || rnd.IntN(16) == 0 {
		q.Flags = proto.CmdFlagFUA
	}
	const mask = model.BlockSize - 1
	whole := (lo|hi)&mask == 0
	if r.Kind == ftlsim.Zero && rnd.IntN(2) == 0 {
		q.Command = proto.CmdWriteZeroes
	}
	switch {
	case r.Kind == ftlsim.Read && rnd.IntN(4) == 0:
		// More than the player asked for.
		k.skip = rnd.Uint64N(min(lo, 5000) + 1)
		lo -= k.skip
		hi += rnd.Uint64N(min(c.bytes()-hi, 5000) + 1)
	case q.Command == proto.CmdWrite:
		k.cells = c
	case r.Kind == ftlsim.Trim && whole && rnd.IntN(2) == 0:
		// A trim leaves alone what it covers in part.
		q.Command = proto.CmdTrim
		lo -= rnd.Uint64N(min(lo, mask) + 1)
		hi += rnd.Uint64N(min(c.bytes()-hi, mask) + 1)
	case q.Command == proto.CmdWriteZeroes:
		if rnd.IntN(2) == 0 {
			q.Flags |= proto.CmdFlagNoHole
		}
		if whole && rnd.IntN(2) == 0 {
			q.Flags |= proto.CmdFlagFastZero
		}
	}
	q.Offset, q.Length = lo, uint32(hi-lo)
	return k
}

// fill takes a piece of the data of a read. It reports whether it fits.
func (k *call) fill(offset uint64, data []byte, hole uint64) bool {
	n := uint64(len(data)) + hole
	if k.q.Command != proto.CmdRead || offset < k.q.Offset || offset+n > k.q.Offset+uint64(k.q.Length) {
		return false
	}
	k.takeData()
	copy(k.data[offset-k.q.Offset:], data)
	k.filled += n
	k.chunks++
	return true
}

// complete reports whether a read that succeeded returned what it was asked for.
func (k *call) complete() bool {
	if k.q.Command == proto.CmdBlockStatus {
		return k.told > 0
	}
	return k.q.Command != proto.CmdRead || k.filled == uint64(k.q.Length) &&
		(k.q.Flags&proto.CmdFlagDF == 0 || k.chunks <= 1)
}

// take takes a chunk of a structured reply. It reports whether it fits.
func (k *call) take(h *proto.Chunk, data []byte, context uint32) bool {
	switch {
	case h.Type == proto.ReplyBlockStatus:
		return k.extents(data, context)
	case h.Type == proto.ReplyNone:
		return len(data) == 0 && h.Flags&proto.ReplyFlagDone != 0
	case h.Type == proto.ReplyOffsetData && len(data) > 8:
		return k.fill(binary.BigEndian.Uint64(data), data[8:], 0)
	case h.Type == proto.ReplyOffsetHole && len(data) == 12:
		return k.fill(binary.BigEndian.Uint64(data), nil, uint64(binary.BigEndian.Uint32(data[8:])))
	case h.Type.IsError() && len(data) >= 6 && len(data) >= 6+int(binary.BigEndian.Uint16(data[4:])):
		if e := proto.Errno(binary.BigEndian.Uint32(data)); k.err == proto.OK {
			k.err = e
		}
		return k.err != proto.OK
	}
	return false
}
