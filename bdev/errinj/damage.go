package errinj

import (
	"goftl/bdev"
	"goftl/iobuf"
)

const sector = 512

// corrupt flips bits of what is read, or of a copy of what is written.
func (c *channel) corrupt(io *bdev.IO, s *state) {
	switch {
	case io.Op == bdev.OpRead:
		c.base.Forward(io, io.LBA, corruptRead)
	case (io.Op == bdev.OpWrite || io.Op == bdev.OpZoneAppend) && s.take(io, io.Count):
		flip([][]byte{s.copy}, s.rnd, s.rule.r.Bits)
		c.write(io, s)
	default:
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
	}
}

func corruptRead(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	if inner.Err() == nil {
		s := io.Driver.(*state)
		flip(io.Bufs, s.rnd, s.rule.r.Bits)
	}
	bdev.ForwardDone(inner)
}

// flip inverts bits at places that rnd says.
func flip(bufs [][]byte, rnd uint64, bits int) {
	var total uint64
	for _, b := range bufs {
		total += uint64(len(b))
	}
	if total == 0 {
		return
	}
	for range max(bits, 1) {
		at := rnd % (total * 8)
		rnd = mix(rnd)
		off := at / 8
		for _, b := range bufs {
			if off < uint64(len(b)) {
				b[off] ^= 1 << (at % 8)
				break
			}
			off -= uint64(len(b))
		}
	}
}

// take copies the first blocks of what io writes into memory of the state's.
func (s *state) take(io *bdev.IO, blocks uint64) bool {
	n := blocks * uint64(io.BlockSize())
	s.copy = iobuf.Alloc(int(n))
	if s.copy == nil {
		io.Complete(bdev.ErrNoBuffer)
		return false
	}
	s.n = blocks
	dst := s.copy
	for _, b := range io.Bufs {
		dst = dst[copy(dst, b):]
	}
	return true
}

// write writes the state's copy in place of io's data.
func (c *channel) write(io *bdev.IO, s *state) {
	var md []byte
	if io.MD != nil {
		md = io.MD[:uint64(len(io.MD))/io.Count*s.n]
	}
	bufs := [][]byte{s.copy}
	var err error
	switch {
	case io.Op == bdev.OpZoneAppend:
		err = c.base.ZoneAppendv(bufs, md, io.LBA, s.n, copyDone, io)
	case io.FUA:
		err = c.base.WritevFUA(bufs, md, io.LBA, s.n, copyDone, io)
	default:
		err = c.base.Writev(bufs, md, io.LBA, s.n, copyDone, io)
	}
	if err != nil {
		s.drop()
		io.Complete(err)
	}
}

func copyDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	s := io.Driver.(*state)
	s.drop()
	io.Result = inner.Result
	if inner.Err() == nil && s.rule.r.Action == Tear {
		io.Complete(s.rule.tornErr())
		return
	}
	io.Complete(inner.Err())
}

func (s *state) drop() {
	iobuf.Free(s.copy)
	s.copy = nil
}

func (a *Active) tornErr() error {
	if a.r.Err == 0 {
		return nil
	}
	return a.r.Err
}

// tear writes some of io from the front.
func (c *channel) tear(io *bdev.IO, s *state) {
	if io.Op == bdev.OpRead || io.Op == bdev.OpZoneInfo || io.Op == bdev.OpCompare {
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
		return
	}
	whole := uint64(0)
	if io.Op == bdev.OpWrite || io.Op == bdev.OpZoneAppend {
		whole = s.rnd % io.Count
		if u := uint64(c.d.info.WriteUnit); u > 1 {
			whole -= whole % u
		}
	}
	sectors := uint64(io.BlockSize() / sector)
	if io.Op == bdev.OpWrite && s.rule.r.Sectors && sectors > 1 && c.d.info.WriteUnit <= 1 {
		if s.take(io, whole+1) {
			c.mixSectors(io, s)
		}
		return
	}
	if whole == 0 {
		io.Complete(s.rule.tornErr())
		return
	}
	if s.take(io, whole) {
		c.write(io, s)
	}
}

// mixSectors reads what is in the last block of the copy, so that only its
// first sectors become new.
func (c *channel) mixSectors(io *bdev.IO, s *state) {
	bs := uint64(io.BlockSize())
	old := iobuf.Alloc(int(bs))
	if old == nil {
		s.drop()
		io.Complete(bdev.ErrNoBuffer)
		return
	}
	keep := 1 + mix(s.rnd)%(bs/sector-1)
	err := c.base.Read(old, io.LBA+s.n-1, 1, func(inner *bdev.IO) {
		last := s.copy[(s.n-1)*bs : s.n*bs]
		copy(last[keep*sector:], old[keep*sector:])
		iobuf.Free(old)
		if err := inner.Err(); err != nil {
			s.drop()
			io.Complete(err)
			return
		}
		c.write(io, s)
	}, nil)
	if err != nil {
		iobuf.Free(old)
		s.drop()
		io.Complete(err)
	}
}
