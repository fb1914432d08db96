package ftl

import (
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// The slow path of reads: a run of which something failed is read block by
// block, each from where it is mapped now, with its checksum fetched from the
// media again, and when the summary is unreadable or does not fit from the header
// of its record. Only a block for which all that fails is an error.

// startSlow goes on with block op.slow of the run.
func (op *readOp) startSlow() {
	d := op.d
	for op.slow < len(op.bufs) {
		lba := op.from + uint64(op.slow)
		a := d.table.Get(lba)
		if a >= l2p.First {
			op.readSlow(lba, a)
			return
		}
		clear(op.bufs[op.slow])
		if a == l2p.Lost {
			op.req.Err = unix.EIO
		}
		op.nextSlow()
	}
	op.finish()
}

func (op *readOp) nextSlow() {
	op.slow++
	op.tries = 0
	op.known, op.doubt = false, false
}

// readSlow reads one block and its checksum.
func (op *readOp) readSlow(lba uint64, a l2p.Addr) {
	d := op.d
	idx, slot := d.segOf(a)
	s := &d.segs[idx]
	op.lba, op.slot, op.seg, op.n = lba, slot, s, 1
	s.pins++
	op.err, op.serr, op.sn, op.wait = nil, nil, 0, 1
	op.known = op.known && op.at == a // not if it was moved meanwhile
	var md []byte
	if s.vss() {
		md = op.md[:d.cache.info.MDSize]
	}
	// On a chunk with metadata the summary is asked when that does not fit.
	if !d.cfg.NoVerify && s.sum == nil && !op.known && (!s.vss() || op.tries > 0) {
		op.readSums(slot/record.SummaryEntries, 1)
	}
	op.io.prepareOne(s.dev, bdev.OpRead, op.bufs[op.slow], s.off+uint64(slot), SourceUser)
	op.io.md = md
	op.io.call(readDone, op)
}

// slowArrived judges the block and goes on with it or the next.
func (op *readOp) slowArrived() {
	d := op.d
	ok, compared := op.err == nil, false
	if ok && !d.cfg.NoVerify {
		if ok = op.serr == nil || op.seg.vss(); ok {
			ok, compared = op.verify(0, op.bufs[op.slow])
		}
		if !ok && compared {
			d.stats.crc(op.seg.dev, SourceUser)
		}
	}
	if ok {
		if op.known && op.doubt {
			d.stats.Undescribed++
		}
		d.unpin(op.seg)
		op.nextSlow()
		op.startSlow()
		return
	}
	op.tries++
	if op.tries < readTries {
		// A summary that can be read need not know the block: it may be from a scan
		// that met what it could not read, or of a segment with a record that failed,
		// landed, and was found by a load that could not read the summary.
		if op.err == nil && !op.known && !op.seg.vss() {
			op.doubt = compared
			op.searchHeader() // keeps the pin
			return
		}
		d.unpin(op.seg)
		op.startSlow()
		return
	}
	d.unpin(op.seg)
	if op.req.Err == nil {
		d.log.Error("block cannot be read", "lba", op.lba, "kind", op.seg.kindName(), "id", op.seg.id,
			"slot", op.slot, "err", op.cause())
	}
	op.req.Err = unix.EIO
	op.nextSlow()
	op.startSlow()
}

func (op *readOp) cause() error {
	if op.err != nil {
		return op.err
	}
	if op.serr != nil {
		return op.serr
	}
	return errChecksum
}

// searchHeader reads what stands in front of the block, for the header of its
// record, which holds the checksum too.
func (op *readOp) searchHeader() {
	s := op.seg
	from := uint32(0)
	if op.slot > record.MaxBlocks {
		from = op.slot - record.MaxBlocks
	}
	if from == op.slot {
		op.d.unpin(s)
		op.startSlow()
		return
	}
	op.wait = 1
	buf := iobuf.Alloc(int(op.slot-from) * blockSize)
	op.sio.prepareOne(s.dev, bdev.OpRead, buf, s.off+uint64(from), SourceUser)
	op.sio.call(headerArrived, op)
}

func headerArrived(x *devIO, err error) {
	op := x.owner.(*readOp)
	buf := x.one[0]
	if err == nil {
		op.found, op.known = op.seg.findSum(buf, op.slot, op.lba)
		op.at = op.seg.addr + l2p.Addr(op.slot)
	}
	if err != nil {
		op.back = 1
		op.readBack(buf[:blockSize])
		return
	}
	op.headerSought(buf)
}

// headerSought ends the search.
func (op *readOp) headerSought(buf []byte) {
	iobuf.Free(buf)
	op.d.unpin(op.seg)
	op.startSlow()
}

// readBack looks for the header block by block, from the block backwards, when
// some of what stands in front cannot be read.
func (op *readOp) readBack(buf []byte) {
	if op.back > record.MaxBlocks || op.back > op.slot {
		op.headerSought(buf)
		return
	}
	op.sio.prepareOne(op.seg.dev, bdev.OpRead, buf, op.seg.off+uint64(op.slot-op.back), SourceUser)
	op.sio.call(backArrived, op)
}

func backArrived(x *devIO, err error) {
	op := x.owner.(*readOp)
	buf := x.one[0]
	if err == nil {
		if sum, end, ok := op.seg.sumFrom(buf, op.back, op.slot, op.lba); end {
			op.found, op.known, op.at = sum, ok, op.seg.addr+l2p.Addr(op.slot)
			op.headerSought(buf)
			return
		}
	}
	op.back++
	op.readBack(buf)
}

// findSum looks for the checksum of the block in slot, which holds lba, in the
// blocks buf that stand in front of it.
func (s *segment) findSum(buf []byte, slot uint32, lba uint64) (sum uint64, ok bool) {
	n := uint32(len(buf) / blockSize)
	for back := uint32(1); back <= n; back++ {
		if sum, end, ok := s.sumFrom(buf[(n-back)*blockSize:(n-back+1)*blockSize], back, slot, lba); end {
			return sum, ok
		}
	}
	return 0, false
}

// sumFrom takes the checksum from block b, which stands back blocks in front of
// slot, if it is a header: that ends the search.
func (s *segment) sumFrom(b []byte, back, slot uint32, lba uint64) (sum uint64, end, ok bool) {
	var h record.Header
	if h.Decode(b) != nil || h.UUID != d16(s.d) || h.Seg != s.idx || h.Gen != s.gen || h.Slot != slot-back {
		return 0, false, false
	}
	if (h.Kind != record.KindData && h.Kind != record.KindMove) || back > uint32(h.Count) {
		return 0, true, false
	}
	e := record.EntryAt(b, int(back-1))
	return e.Sum, true, e.LBA == lba
}
