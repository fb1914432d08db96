package ftl

import (
	"math/bits"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/internal/assert"
	"goftl/iobuf"
)

// A checkpoint writes the L2P pages that changed since the last one, beside
// user IO, each once into the one of its two slots that the committed
// directory does not name; then the directory; then flushes both devices; then
// the superblock commits it (Rules 11 and 12).

const (
	ckptBuffers  = 4
	ckptBufPages = 32
	// maxSBRetries bounds how often the superblock is written again after an
	// error, which is ambiguous.
	maxSBRetries = 3
)

// ckptStage is where a checkpoint stands.
type ckptStage uint8

const (
	ckptPages ckptStage = iota
	ckptDir
	ckptFlushMeta
	ckptFlushBase
	ckptCommit
)

// ckptBuf is one device write of pages that lie side by side.
type ckptBuf struct {
	d    *Device
	io   devIO
	buf  []byte
	busy bool
}

// ckptState is the checkpoint machine.
type ckptState struct {
	d        *Device
	active   bool
	blocked  bool // the last attempt failed; a timer unblocks
	stage    ckptStage
	attempts uint64 // started since the device was
	attempt  uint64 // the one that runs
	failures int    // in a row
	failErr  error  // of the last attempt; nil when that was committed
	k        uint64 // number of the attempt that runs, or of the last
	cu, cm   uint64
	flushed  uint64 // acknowledged when the flush that runs was submitted
	startAt  uint64 // logBlocks at its start
	from     uint64 // logBlocks at the start of the one that is committed
	nextAt   uint64 // logBlocks at which the next one starts
	redo     uint64 // blocks of log between two
	incBy    uint32 // added to the incarnation by the commit

	pages []uint64 // bitmap of pages to write
	word  int      // where the walk over it stands
	rest  uint64   // bits of that word not looked at
	slot  uint32   // directory slot of the attempt
	dirs  [2][]byte
	bufs  [ckptBuffers]ckptBuf
	under int
	err   error
	io    devIO
	done  func(d *Device, err error)
}

func (d *Device) initCheckpoint() {
	c := &d.ckpt
	c.d = d
	c.redo = max(1, min(d.cfg.RedoLimitBytes/blockSize, d.logSpan()/2))
	c.nextAt = c.redo
	for i := range c.dirs {
		c.dirs[i] = iobuf.Alloc(int(d.lay.DirBlocks) * blockSize)
	}
	for i := range c.bufs {
		c.bufs[i] = ckptBuf{d: d, buf: iobuf.Alloc(ckptBufPages * blockSize)}
	}
}

func (d *Device) freeCheckpoint() {
	c := &d.ckpt
	for i := range c.dirs {
		if c.dirs[i] != nil {
			iobuf.Free(c.dirs[i])
		}
		c.dirs[i] = nil
	}
	for i := range c.bufs {
		if c.bufs[i].buf != nil {
			iobuf.Free(c.bufs[i].buf)
		}
		c.bufs[i].buf = nil
	}
}

// dirEntry reads the committed directory's entry of page p.
func (c *ckptState) dirEntry(dir uint32, p uint64) *uint32 {
	b := c.dirs[dir][p/record.DirEntries*blockSize:]
	return &record.U32s(b[:blockSize])[p%record.DirEntries]
}

// startCheckpoint begins an attempt for the running device.
func (d *Device) startCheckpoint() { d.checkpoint(0, nil) }

// checkpoint begins an attempt. incBy is added to the incarnation by its
// commit (Rule 19); done, which may be nil, hears how it ended.
func (d *Device) checkpoint(incBy uint32, done func(d *Device, err error)) {
	c := &d.ckpt
	assert.That(!c.active, "one checkpoint at a time")
	c.active = true
	c.attempts++
	d.stats.CkptStarted++
	c.attempt = c.attempts
	c.k++
	c.cu, c.cm = d.ackedU, d.lastG
	c.incBy, c.done = incBy, done
	c.startAt = d.logBlocks
	c.nextAt = c.startAt + c.redo
	c.err = nil
	c.under = 0
	if c.k > record.MaxK {
		c.active = false
		d.stats.CkptAborted++
		d.fail(HealthReadOnly, "too many checkpoints failed in a row", errCheckpoint)
		d.ckptEnd(errCheckpoint)
		return
	}
	// The new directory goes to the directory slot that is not committed.
	c.slot = d.sb.DirSlot ^ 1
	copy(c.dirs[c.slot], c.dirs[d.sb.DirSlot])
	c.pages = d.table.BeginCheckpoint()
	c.word, c.rest = -1, 0
	c.stage = ckptPages
	c.fill()
}

// fill keeps page writes under way until there are none left.
func (c *ckptState) fill() {
	for i := range c.bufs {
		b := &c.bufs[i]
		if b.busy || c.err != nil {
			continue
		}
		if !c.nextRun(b) {
			break
		}
	}
	if c.under == 0 {
		c.pagesDone()
	}
}

// nextPage returns the next page of the set without taking it.
func (c *ckptState) nextPage() (uint64, bool) {
	for c.rest == 0 {
		if c.word+1 >= len(c.pages) {
			return 0, false
		}
		c.word++
		c.rest = c.pages[c.word]
	}
	return uint64(c.word)*64 + uint64(bits.TrailingZeros64(c.rest)), true
}

// nextRun snapshots pages that lie side by side and go to the same slot array,
// and writes them with one device write.
func (c *ckptState) nextRun(b *ckptBuf) bool {
	d := c.d
	first, ok := c.nextPage()
	if !ok {
		return false
	}
	slot := c.freeSlot(first)
	n := uint64(0)
	for n < ckptBufPages {
		p, ok := c.nextPage()
		if !ok || p != first+n || c.freeSlot(p) != slot {
			break
		}
		c.rest &= c.rest - 1
		block := b.buf[n*blockSize : (n+1)*blockSize]
		d.table.Snapshot(p, block)
		record.SealPage(block, p, c.k, d.seed)
		*c.dirEntry(c.slot, p) = record.DirEntry(c.k, slot)
		n++
	}
	region := layout.RegionL2PSlot0
	if slot == 1 {
		region = layout.RegionL2PSlot1
	}
	b.busy = true
	c.under++
	b.io.prepareOne(d.meta, bdev.OpWrite, b.buf[:n*blockSize], d.lay.Region(region).Offset+first, SourceL2P)
	b.io.call(ckptPageDone, b)
	return true
}

// freeSlot is the slot of page p that the committed directory does not name.
func (c *ckptState) freeSlot(p uint64) uint32 {
	e := *c.dirEntry(c.d.sb.DirSlot, p)
	if e == 0 {
		return 0
	}
	_, slot := record.SplitDirEntry(e)
	return slot ^ 1
}

func ckptPageDone(x *devIO, err error) {
	b := x.owner.(*ckptBuf)
	c := &b.d.ckpt
	b.busy = false
	c.under--
	if err != nil && c.err == nil {
		c.err = x.failed("checkpoint write", err)
	}
	c.fill()
}

// pagesDone writes the directory, both copies side by side.
func (c *ckptState) pagesDone() {
	d := c.d
	if c.err != nil {
		c.abort(c.err)
		return
	}
	dir := c.dirs[c.slot]
	for i := uint64(0); i < d.lay.DirBlocks; i++ {
		record.SealDir(dir[i*blockSize:(i+1)*blockSize], i, c.k, d.seed)
	}
	c.stage = ckptDir
	c.io.idx = 0
	c.writeDirCopy(0)
}

// dirOffset is the first block of a copy of a directory slot.
func (d *Device) dirOffset(slot uint32, cp int) uint64 {
	return d.lay.Region(layout.L2PDir(slot, uint32(cp))).Offset
}

func (c *ckptState) writeDirCopy(cp int) {
	d := c.d
	c.io.idx = cp
	c.io.prepareOne(d.meta, bdev.OpWrite, c.dirs[c.slot], d.dirOffset(c.slot, cp), SourceL2P)
	c.io.call(ckptStep, d)
}

// ckptStep goes from stage to stage. Any error before the superblock aborts
// the attempt, which then never happened.
func ckptStep(x *devIO, err error) {
	d := x.owner.(*Device)
	c := &d.ckpt
	if err != nil {
		what := "checkpoint write"
		if c.stage != ckptDir {
			what = "checkpoint flush"
			d.flushFailed(x.dev, err)
		}
		c.abort(x.failed(what, err))
		return
	}
	if d.flushBroken != nil {
		// Somebody else's flush failed: what it dropped may be pages of this
		// attempt, and a flush that succeeds now says nothing about them.
		c.abort(d.flushBroken)
		return
	}
	switch c.stage {
	case ckptDir:
		if x.idx == 0 {
			c.writeDirCopy(1)
			return
		}
		c.stage = ckptFlushMeta
		c.flushed = d.ackedU
		c.io.prepare(d.meta, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)
		c.io.call(ckptStep, d)
	case ckptFlushMeta:
		c.logFlushed(x.dev)
		c.stage = ckptFlushBase
		c.flushed = d.ackedU
		c.io.prepare(&d.base, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)
		c.io.call(ckptStep, d)
	case ckptFlushBase:
		c.logFlushed(x.dev)
		c.stage = ckptCommit
		next := d.sb
		next.CkptK, next.DirSlot, next.CU, next.CM = c.k, c.slot, c.cu, c.cm
		next.Inc += c.incBy
		next.Durable = d.durableU
		next.Clean = false
		d.writeSuperblock(next, ckptCommitted)
	default:
		assert.That(false, "a checkpoint has no such stage")
	}
}

// logFlushed notes that what was acknowledged when the flush was submitted is
// durable, if v is the log's device. That is more than cu, and pages that were
// copied late may map to it: what becomes of these records must not look like a
// torn tail (Rule 17).
func (c *ckptState) logFlushed(v *dev) {
	if v == c.d.logDev {
		c.d.durableU = max(c.d.durableU, c.flushed)
	}
}

// ckptCommitted is called when the primary superblock is durable.
func ckptCommitted(d *Device, err error) {
	c := &d.ckpt
	if err != nil {
		// Ambiguous: a copy may have landed. Never go on as if it had not.
		c.active = false
		d.fail(HealthReadOnly, "the superblock cannot be written", err)
		d.ckptEnd(err)
		return
	}
	d.table.EndCheckpoint()
	d.stats.Checkpoints++
	c.active = false
	c.from = c.startAt
	c.failures, c.failErr = 0, nil
	d.releaseQuarantine(c.attempt, c.cu)
	d.ckptEnd(nil)
}

// abort forgets the attempt: its pages are dirty again, the directory is as
// before.
func (c *ckptState) abort(err error) {
	d := c.d
	c.active = false
	c.failures++
	c.failErr = err
	c.blocked = true
	d.table.AbortCheckpoint()
	d.stats.CkptAborted++
	d.log.Warn("checkpoint aborted", "k", c.k, "err", err)
	d.retryLater()
	if d.log_.q.head != nil || d.log_.rehome != nil {
		d.wakeUser() // what waited for this attempt
	}
	if c.failures > maxCkptFailures && !isNoSpace(err) {
		d.fail(HealthReadOnly, "checkpoints cannot be written", err)
	}
	d.ckptEnd(err)
}

// maxCkptFailures is how many attempts in a row may fail.
const maxCkptFailures = 8

func (d *Device) ckptEnd(err error) {
	done := d.ckpt.done
	d.ckpt.done = nil
	if done != nil {
		done(d, err)
	}
	d.wake()
}
