package ftl

import (
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// Loading a checkpoint (Rule 12): the directory of exactly k, either copy; of
// each page the slot that it names, readable and with the number that it names.
// Any other page is rotten: the other slot is never taken for it, and its
// blocks are lost until they are written again.

const (
	loadWindow = 64 // pages of one slot array read at a time
	loadDepth  = 8
)

// loader reads the directory and the pages.
type loader struct {
	d      *Device
	done   func(d *Device, err error)
	io     devIO
	copyNo int
	ops    [loadDepth]loadOp
	window uint64 // next window
	slot   uint32
	under  int
	rotten uint64 // pages
	bad    uint64 // entries that named nothing
	ended  bool
}

// loadOp is one window of one slot array on its way.
type loadOp struct {
	ld    *loader
	io    devIO
	buf   []byte
	first uint64
	n     uint64
	slot  uint32
	page  uint64 // next page to read by itself after the window failed
	tries int    // of that page
	busy  bool
}

// loadCheckpoint reads the committed checkpoint into the table.
func (d *Device) loadCheckpoint(done func(d *Device, err error)) {
	ld := &loader{d: d, done: done}
	d.ld = ld
	ld.readDir(0)
}

func (ld *loader) readDir(cp int) {
	d := ld.d
	ld.copyNo = cp
	ld.io.prepareOne(d.meta, bdev.OpRead, d.ckpt.dirs[d.sb.DirSlot], d.dirOffset(d.sb.DirSlot, cp), SourceL2P)
	ld.io.call(loadDirDone, ld)
}

func loadDirDone(x *devIO, err error) {
	ld := x.owner.(*loader)
	d := ld.d
	if err == nil {
		err = d.checkDir()
	}
	if err == nil {
		ld.readOtherDir()
		return
	}
	d.log.Warn("checkpoint directory unreadable", "copy", ld.copyNo, "err", err)
	if ld.copyNo == 0 {
		ld.readDir(1)
		return
	}
	ld.end(fmt.Errorf("checkpoint directory %d: both copies are unreadable: %w (%w)", d.sb.CkptK, unix.EIO, err))
}

func (d *Device) checkDir() error {
	dir := d.ckpt.dirs[d.sb.DirSlot]
	for i := uint64(0); i < d.lay.DirBlocks; i++ {
		if err := record.CheckDir(dir[i*blockSize:(i+1)*blockSize], i, d.sb.CkptK, d.seed); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	return nil
}

// readOtherDir looks at the directory slot that is not committed, only for the
// number of an attempt that never committed, so that it is not used again.
func (ld *loader) readOtherDir() {
	d := ld.d
	other := d.sb.DirSlot ^ 1
	d.ckpt.k = d.sb.CkptK
	ld.io.prepareOne(d.meta, bdev.OpRead, d.ckpt.dirs[other][:blockSize], d.dirOffset(other, 0), SourceL2P)
	ld.io.call(otherDirDone, ld)
}

func otherDirDone(x *devIO, err error) {
	ld := x.owner.(*loader)
	d := ld.d
	if err == nil {
		if k, ok := record.DirNumber(x.one[0], 0, d.seed); ok && k < record.MaxK {
			d.found.DeadAttempt = k > d.ckpt.k
			d.ckpt.k = max(d.ckpt.k, k)
		}
	}
	if d.fromShm {
		ld.fromShm()
		return
	}
	for i := range ld.ops {
		ld.ops[i] = loadOp{ld: ld, buf: iobuf.Alloc(loadWindow * blockSize)}
	}
	ld.fill()
}

// fromShm takes the table as the killed process left it (Rule 21).
func (ld *loader) fromShm() {
	d := ld.d
	d.table.AbortCheckpoint() // pages of an interrupted checkpoint are dirty again
	for p := range d.table.Pages() {
		ld.account(p)
	}
	ld.end(nil)
}

// fill keeps window reads under way.
func (ld *loader) fill() {
	for i := range ld.ops {
		op := &ld.ops[i]
		if !op.busy && !ld.next(op) {
			break
		}
	}
	if ld.under == 0 && !ld.ended {
		for i := range ld.ops {
			iobuf.Free(ld.ops[i].buf)
		}
		ld.end(nil)
	}
}

// next starts the next window of a slot array that holds a page that counts.
func (ld *loader) next(op *loadOp) bool {
	d := ld.d
	pages := d.table.Pages()
	for ld.window*loadWindow < pages && !d.cancelled() {
		w, slot := ld.window, ld.slot
		if ld.slot++; ld.slot == 2 {
			ld.slot = 0
			ld.window++
		}
		first, n := w*loadWindow, uint64(0)
		from, to := pages, uint64(0)
		for p := first; p < min(first+loadWindow, pages); p++ {
			if ld.names(p, slot) {
				from, to = min(from, p), p+1
			}
		}
		if to == 0 {
			continue
		}
		n = to - from
		op.first, op.n, op.slot, op.busy = from, n, slot, true
		ld.under++
		op.io.prepareOne(d.meta, bdev.OpRead, op.buf[:n*blockSize], op.offset(from), SourceL2P)
		op.io.call(loadWindowDone, op)
		d.progressOf("loading the mapping", first, pages)
		return true
	}
	return false
}

func (op *loadOp) offset(p uint64) uint64 {
	return op.ld.d.lay.Region(layout.L2PSlot(op.slot)).Offset + p
}

// names says whether the directory names the slot for page p.
func (ld *loader) names(p uint64, slot uint32) bool {
	e := *ld.d.ckpt.dirEntry(ld.d.sb.DirSlot, p)
	_, s := record.SplitDirEntry(e)
	return e != 0 && s == slot
}

func loadWindowDone(x *devIO, err error) {
	op := x.owner.(*loadOp)
	ld := op.ld
	op.page, op.tries = op.first, 0
	for i := uint64(0); err == nil && i < op.n; i++ {
		op.page = op.first + i
		if ld.names(op.page, op.slot) {
			err = ld.take(op.page, op.buf[i*blockSize:(i+1)*blockSize])
		}
	}
	if err == nil {
		op.release()
		return
	}
	op.nextPage()
}

// nextPage reads, one by one, what is left of a window that failed.
func (op *loadOp) nextPage() {
	ld := op.ld
	for op.page < op.first+op.n && !ld.names(op.page, op.slot) {
		op.page++
	}
	if op.page >= op.first+op.n {
		op.release()
		return
	}
	op.io.prepareOne(ld.d.meta, bdev.OpRead, op.buf[:blockSize], op.offset(op.page), SourceL2P)
	op.io.call(loadPageDone, op)
}

func loadPageDone(x *devIO, err error) {
	op := x.owner.(*loadOp)
	if err == nil {
		err = op.ld.take(op.page, op.buf[:blockSize])
	}
	if op.tries++; err != nil && op.tries < readTries {
		op.nextPage()
		return
	}
	if err != nil {
		op.ld.rot(op.page, err)
	}
	op.page++
	op.tries = 0
	op.nextPage()
}

func (op *loadOp) release() {
	op.busy = false
	op.ld.under--
	op.ld.fill()
}

// take checks a page and loads it.
func (ld *loader) take(p uint64, block []byte) error {
	d := ld.d
	k, _ := record.SplitDirEntry(*d.ckpt.dirEntry(d.sb.DirSlot, p))
	if err := record.CheckPage(block, p, k, d.seed); err != nil {
		d.stats.crc(d.meta, SourceL2P)
		return err
	}
	d.table.Load(p, block)
	if d.lay.L2PEntryBytes == 8 {
		ld.account(p)
	} else {
		ld.count(p, block)
	}
	return nil
}

// count is account for a page of 4-byte entries that lies in a buffer: a load
// spends most of its time here.
func (ld *loader) count(p uint64, block []byte) {
	d := ld.d
	from, to := d.pageSpan(p)
	valid, mapped, sound := d.valid, uint64(0), true
	cacheSpan, chunks, span := d.cacheSpan, d.lay.Chunks, d.span
	chunkMask, bandMask := d.chunkMask, d.bandMask
	chunkBody, bandBody := uint64(d.segs[0].body), d.bandBody
	for _, e := range record.U32s(block)[:to-from] {
		if l2p.Addr(e) < l2p.First {
			continue
		}
		i := uint64(e) - uint64(l2p.First)
		idx := i >> d.chunkShift
		if i < cacheSpan && i&chunkMask < chunkBody {
			valid[idx]++
			mapped++
			continue
		}
		b := i - cacheSpan
		if i < cacheSpan || i >= span || b&bandMask >= bandBody {
			sound = false
			continue
		}
		valid[chunks+b>>d.bandShift]++
		mapped++
	}
	d.mapped += mapped
	if !sound {
		ld.dropUnsound(from, to)
	}
}

// dropUnsound marks entries that name no slot as lost. A page that has some is
// as good as rotten.
func (ld *loader) dropUnsound(from, to uint64) {
	d := ld.d
	ld.rotten++
	for lba := from; lba < to; lba++ {
		if a := d.table.Get(lba); a >= l2p.First && !d.addrSound(a) {
			ld.drop(lba)
		}
	}
}

func (ld *loader) drop(lba uint64) {
	ld.bad++
	ld.d.stats.Lost++
	ld.d.table.Set(lba, l2p.Lost)
}

// dropFree marks entries as lost that name a segment which was never opened.
func (ld *loader) dropFree() {
	d := ld.d
	held := false
	for i := range d.segs {
		held = held || d.segs[i].state == segFree && d.valid[i] > 0
	}
	if !held {
		return
	}
	for p := range d.table.Pages() {
		bad := ld.bad
		from, to := d.pageSpan(p)
		for lba := from; lba < to; lba++ {
			a := d.table.Get(lba)
			if a < l2p.First {
				continue
			}
			if idx, _ := d.segOf(a); d.segs[idx].state == segFree {
				d.valid[idx]--
				d.mapped--
				ld.drop(lba)
			}
		}
		if ld.bad > bad {
			ld.rotten++
		}
	}
}

// span returns the blocks of page p.
func (d *Device) pageSpan(p uint64) (from, to uint64) {
	per := d.table.PageEntries()
	return p * per, min((p+1)*per, d.lay.LBAs)
}

// account counts what the entries of page p map to, and refuses entries that
// name nothing.
func (ld *loader) account(p uint64) {
	d := ld.d
	from, to := d.pageSpan(p)
	bad := ld.bad
	for lba := from; lba < to; lba++ {
		a := d.table.Get(lba)
		if a < l2p.First {
			continue
		}
		if !d.addrSound(a) {
			ld.drop(lba)
			continue
		}
		idx, _ := d.segOf(a)
		d.valid[idx]++
		d.mapped++
	}
	if ld.bad > bad {
		ld.rotten++
	}
}

// rot marks the blocks of a page that cannot be trusted as lost.
func (ld *loader) rot(p uint64, err error) {
	d := ld.d
	ld.rotten++
	from, to := d.pageSpan(p)
	for lba := from; lba < to; lba++ {
		d.table.Set(lba, l2p.Lost)
	}
	d.stats.Lost += to - from
	d.log.Error("L2P page is rotten: its blocks fail until they are written again",
		"page", p, "first_lba", from, "blocks", to-from, "err", err)
}

func (ld *loader) end(err error) {
	d := ld.d
	ld.ended = true
	if err == nil {
		ld.dropFree()
	}
	if ld.bad > 0 {
		d.log.Error("mapping entries that name nothing were dropped", "entries", ld.bad)
	}
	d.rottenPages = ld.rotten
	d.ld = nil
	ld.done(d, err)
}
