package ftl

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/iobuf"
)

const (
	// maxReadBlocks bounds the blocks of one device read.
	maxReadBlocks = 32
	// maxReadOps bounds the device reads of users under way.
	maxReadOps = 512
	// readTries is how often a block is read before it counts as unreadable.
	readTries = 3
)

// readOp reads one run of blocks that lie side by side on a device.
type readOp struct {
	d    *Device
	io   devIO
	sio  devIO // checksums
	req  *Request
	bufs [][]byte // one element per block of the run
	from uint64   // LBA of bufs[0]
	lba  uint64   // what is being read: the run, or on the slow path one block of it
	slot uint32
	n    int
	seg  *segment
	vec  [][]byte // what the device reads into
	md   []byte
	sbuf []byte // two summary blocks
	sblk uint32
	sn   uint32 // summary blocks being read
	wait int
	err  error // of the data
	serr error // of the checksums

	slow  int // block of the run that the slow path reads; -1 on the fast path
	tries int
	found uint64 // checksum that the slow path found in a record header
	known bool   // found holds one, for address at
	doubt bool   // a sound summary has another checksum, or none
	back  uint32 // how far in front of the block the header is sought
	at    l2p.Addr
	next  *readOp
}

// readerState is the read side of a device.
type readerState struct {
	q     queue
	free  *readOp
	made  int
	under int
}

func (d *Device) takeReadOp() *readOp {
	rd := &d.reader
	r := rd.free
	switch {
	case r != nil:
		rd.free = r.next
	case rd.made < maxReadOps:
		rd.made++
		r = &readOp{d: d, bufs: make([][]byte, 0, maxReadBlocks), vec: make([][]byte, 0, maxReadBlocks)}
		if d.lay.VSS {
			r.md = iobuf.Alloc(maxReadBlocks * int(d.cache.info.MDSize))
		}
		d.readOps = append(d.readOps, r)
	default:
		return nil
	}
	r.next = nil
	rd.under++
	return r
}

func (d *Device) giveReadOp(r *readOp) {
	r.req = nil
	r.next = d.reader.free
	d.reader.free = r
	d.reader.under--
}

func (d *Device) freeReader() {
	for _, r := range d.readOps {
		if r.md != nil {
			iobuf.Free(r.md)
		}
		if r.sbuf != nil {
			iobuf.Free(r.sbuf)
		}
	}
	d.readOps, d.reader.free = nil, nil
}

// startReads starts what waits, as far as there are ops for it.
func (d *Device) startReads() {
	rd := &d.reader
	for rd.q.head != nil {
		r := rd.q.head
		if !d.startRead(r) {
			return
		}
		rd.q.pop()
		d.endReadPiece(r) // the share of the request itself
	}
}

// startRead splits a request along the mapping. It returns false when it has
// to be called again, with r.off telling how far it came.
func (d *Device) startRead(r *Request) bool {
	for r.off < r.Count {
		lba := r.LBA + r.off
		if src, ok := d.log_.inflight.find(lba); ok {
			b := r.block()
			r.off++
			if copy(b, src) == 0 {
				clear(b)
				r.Err = unix.EIO
			}
			continue
		}
		a := d.table.Get(lba)
		if a < l2p.First {
			b := r.block()
			r.off++
			clear(b)
			if a == l2p.Lost {
				r.Err = unix.EIO
			}
			continue
		}
		op := d.takeReadOp()
		if op == nil {
			return false
		}
		op.gather(r, lba, a)
		op.start()
	}
	return true
}

// gather takes the run of blocks that begins at lba, mapped to a.
func (op *readOp) gather(r *Request, lba uint64, a l2p.Addr) {
	d := op.d
	idx, slot := d.segOf(a)
	op.req, op.from, op.lba, op.slot, op.seg = r, lba, lba, slot, &d.segs[idx]
	op.bufs, op.slow, op.tries, op.n = op.bufs[:0], -1, 0, 0
	r.left++
	limit := min(maxReadBlocks, r.Count-r.off, uint64(op.seg.body-slot))
	for uint64(op.n) < limit {
		if op.n > 0 && (d.table.Get(lba+uint64(op.n)) != a+l2p.Addr(op.n) ||
			d.log_.inflight.has(lba+uint64(op.n))) {
			break
		}
		op.bufs = append(op.bufs, r.block())
		op.n++
	}
	r.off += uint64(op.n)
}

// start pins the segment and reads the run and what verifies it.
func (op *readOp) start() {
	d, s := op.d, op.seg
	s.pins++
	op.err, op.serr, op.sn = nil, nil, 0
	op.wait = 1
	op.joinBuffers()
	var md []byte
	if s.vss() {
		md = op.md[:op.n*int(d.cache.info.MDSize)]
	} else if !d.cfg.NoVerify && s.sum == nil {
		op.fetchSums()
	}
	op.io.prepare(s.dev, bdev.OpRead, op.vec, md, s.off+uint64(op.slot), uint64(op.n), SourceUser)
	op.io.call(readDone, op)
}

// joinBuffers makes one element of buffers that lie side by side in memory.
func (op *readOp) joinBuffers() {
	op.vec = op.vec[:0]
	for i := 0; i < op.n; {
		b, j := op.bufs[i], i+1
		for j < op.n && adjacent(b, op.bufs[j]) {
			b = unsafe.Slice(&b[0], len(b)+blockSize)
			j++
		}
		op.vec = append(op.vec, b)
		i = j
	}
}

// adjacent says whether b begins where a ends. Both are pieces of one request.
func adjacent(a, b []byte) bool {
	return uintptr(unsafe.Pointer(&b[0])) == uintptr(unsafe.Pointer(&a[0]))+uintptr(len(a))
}

// fetchSums reads the summary blocks that cover the run, unless their
// checksums are cached.
func (op *readOp) fetchSums() {
	d, s := op.d, op.seg
	first := op.slot / record.SummaryEntries
	last := (op.slot + uint32(op.n) - 1) / record.SummaryEntries
	for first <= last && d.sums.find(sumKey(s, first)) != nil {
		first++
	}
	for last > first && d.sums.find(sumKey(s, last)) != nil {
		last--
	}
	if first > last {
		return
	}
	d.stats.SumMisses++
	op.readSums(first, last-first+1)
}

func (op *readOp) readSums(first, n uint32) {
	if op.sbuf == nil {
		op.sbuf = iobuf.Alloc(2 * layout.BlockSize)
	}
	s := op.seg
	op.sblk, op.sn = first, n
	op.wait++
	op.sio.prepareOne(s.dev, bdev.OpRead, op.sbuf[:n*blockSize], s.sumOff()+uint64(first), SourceUser)
	op.sio.call(readSumsDone, op)
}

func readDone(x *devIO, err error) {
	op := x.owner.(*readOp)
	op.err = err
	op.arrived()
}

func readSumsDone(x *devIO, err error) {
	op := x.owner.(*readOp)
	op.serr = err
	if err == nil {
		op.serr = op.takeSums()
	}
	if op.serr != nil {
		op.sn = 0 // verify must not look at what came
	}
	op.arrived()
}

// takeSums checks the summary blocks and caches their checksums.
func (op *readOp) takeSums() error {
	for i := range op.sn {
		b := op.sbuf[i*blockSize : (i+1)*blockSize]
		if err := record.CheckSummaryBlock(b, op.sblk+i, op.seg.summaryID()); err != nil {
			op.d.stats.crc(op.seg.dev, SourceUser)
			return err
		}
		op.d.sums.insert(sumKey(op.seg, op.sblk+i), b)
	}
	return nil
}

// arrived goes on when data and checksums are there.
func (op *readOp) arrived() {
	op.wait--
	if op.wait > 0 {
		return
	}
	d := op.d
	if op.slow >= 0 {
		op.slowArrived()
		return
	}
	if op.err != nil || !op.verifyAll() {
		// One bad block must not fail its neighbours: read them one by one.
		d.stats.SlowReads++
		d.unpin(op.seg)
		op.slow, op.tries, op.known, op.doubt = 0, 0, false, false
		op.startSlow()
		return
	}
	d.unpin(op.seg)
	op.finish()
}

func (op *readOp) finish() {
	r, d := op.req, op.d
	d.giveReadOp(op)
	d.endReadPiece(r)
	if d.reader.q.head != nil {
		d.wakeUser()
	}
}

// endReadPiece books that a piece of a request is done.
func (d *Device) endReadPiece(r *Request) {
	r.left--
	if r.left == 0 {
		d.complete(r)
	}
}

func (op *readOp) verifyAll() bool {
	if op.d.cfg.NoVerify {
		return true
	}
	if op.serr != nil {
		return false
	}
	for i := range op.n {
		ok, known := op.verify(i, op.bufs[i])
		if !ok && known {
			op.d.stats.crc(op.seg.dev, SourceUser)
		}
		if !ok {
			return false
		}
	}
	return true
}

// verify compares block i of the run with its checksum. known is false when
// the checksum is not at hand any more: its line of the cache was displaced
// while the read was under way, and the slow path reads it again.
func (op *readOp) verify(i int, block []byte) (ok, known bool) {
	d, s := op.d, op.seg
	lba, slot := op.lba+uint64(i), op.slot+uint32(i)
	var want uint64
	switch {
	case op.slow >= 0 && op.known:
		want = op.found
	case s.vss() && op.metaFits(i, block, lba):
		return true, true
	case s.vss() && (op.slow < 0 || op.tries == 0):
		return false, true
	case s.sum != nil:
		want = s.sum.SumAt(slot)
	default: // of a chunk whose metadata does not fit too: the summary knows better
		blk := slot / record.SummaryEntries
		if line := d.sums.find(sumKey(s, blk)); line != nil {
			want = line[slot-blk*record.SummaryEntries]
		} else if blk-op.sblk < op.sn { // sound: see readSumsDone
			b := op.sbuf[(blk-op.sblk)*blockSize:]
			want = record.Summary(b[:blockSize]).SumAt(slot - blk*record.SummaryEntries)
		} else {
			return false, false
		}
	}
	return record.DataSum(block, lba) == want, true
}

// metaFits compares block i of the run with the metadata that came with it. The
// generation tells what an earlier use of the segment left there, should the
// device have lost the write, and the place what was meant for elsewhere.
func (op *readOp) metaFits(i int, block []byte, lba uint64) bool {
	d, s := op.d, op.seg
	var m record.Meta
	place := record.Place(d.sb.UUID, s.off+uint64(op.slot)+uint64(i))
	return m.Decode(op.md[i*int(d.cache.info.MDSize):], place) == nil && m.LBA == lba && m.Gen == s.gen &&
		record.DataSum(block, lba) == m.Sum
}
