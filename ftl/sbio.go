package ftl

import (
	"goftl/bdev"
	"goftl/ftl/superblock"
	"goftl/internal/assert"
	"goftl/iobuf"
)

// The superblock's two copies: the primary on the cache device, the mirror on
// the base device, each the first block. Rule 1: mirror, flush, primary, flush;
// one update at a time.

// sbStage is where an update stands.
type sbStage uint8

const (
	sbIdle sbStage = iota
	sbMirror
	sbMirrorFlush
	sbPrimary
	sbPrimaryFlush
)

// sbWriter updates the superblock.
type sbWriter struct {
	d     *Device
	stage sbStage
	io    devIO
	io2   devIO
	buf   []byte
	buf2  []byte
	next  superblock.Superblock
	tries int
	done  func(d *Device, err error)
}

func (d *Device) initSuperblock() {
	d.sbw.d = d
	d.sbw.buf = iobuf.Alloc(blockSize)
	d.sbw.buf2 = iobuf.Alloc(blockSize)
}

func (d *Device) freeSuperblock() {
	for _, b := range [][]byte{d.sbw.buf, d.sbw.buf2} {
		if b != nil {
			iobuf.Free(b)
		}
	}
	d.sbw.buf, d.sbw.buf2 = nil, nil
}

// writeSuperblock makes next the superblock. The device's own copy changes
// when the primary is durable. An error is ambiguous: what is on media may be
// the old one or the new one.
func (d *Device) writeSuperblock(next superblock.Superblock, done func(d *Device, err error)) {
	w := &d.sbw
	assert.That(w.stage == sbIdle, "one update of the superblock at a time")
	next.Seq = d.sb.Seq + 1
	w.next, w.done, w.tries = next, done, 0
	w.write(sbMirror)
}

// write starts a stage.
func (w *sbWriter) write(st sbStage) {
	d := w.d
	w.stage = st
	switch st {
	case sbMirror, sbPrimary:
		v, role := &d.base, superblock.RoleBase
		if st == sbPrimary {
			v, role = &d.cache, superblock.RoleCache
		}
		w.encode(w.buf, role)
		w.io.prepareOne(v, bdev.OpWrite, w.buf, 0, v.mdSource())
	case sbMirrorFlush:
		w.io.prepare(&d.base, bdev.OpFlush, nil, nil, 0, 0, SourceMDBase)
	case sbPrimaryFlush:
		w.io.prepare(&d.cache, bdev.OpFlush, nil, nil, 0, 0, SourceMDCache)
	case sbIdle:
	}
	w.io.call(sbStep, d)
}

func (v *dev) mdSource() Source {
	if v.kind == devCache {
		return SourceMDCache
	}
	return SourceMDBase
}

func (w *sbWriter) encode(buf []byte, role superblock.Role) {
	clear(buf)
	w.next.Role = role
	w.next.Encode(buf)
}

func sbStep(x *devIO, err error) {
	d := x.owner.(*Device)
	w := &d.sbw
	if err != nil {
		// Ambiguous: write the same copy again, a few times. The other one is
		// whole and durable, and stays so (Rule 1).
		w.tries++
		if w.stage == sbMirrorFlush || w.stage == sbPrimaryFlush {
			d.flushFailed(x.dev, err)
			w.end(x.failed("flush of superblock", err))
			return
		}
		if w.tries <= maxSBRetries && !x.dev.removed {
			d.log.Warn("superblock write failed, trying again", "device", x.dev.name(), "err", err)
			w.write(w.stage)
			return
		}
		w.end(x.failed("write of superblock", err))
		return
	}
	if w.stage != sbPrimaryFlush {
		w.write(w.stage + 1)
		return
	}
	d.sb = w.next
	w.end(nil)
}

func (w *sbWriter) end(err error) {
	w.stage = sbIdle
	done := w.done
	w.done = nil
	done(w.d, err)
}

// readSuperblocks reads both copies.
func (d *Device) readSuperblocks(done func(d *Device, err error)) {
	w := &d.sbw
	w.done = done
	w.tries = 2
	w.io.prepareOne(&d.cache, bdev.OpRead, w.buf, 0, SourceMDCache)
	w.io2.prepareOne(&d.base, bdev.OpRead, w.buf2, 0, SourceMDBase)
	w.io.call(sbRead, d)
	w.io2.call(sbRead, d)
}

func sbRead(x *devIO, err error) {
	d := x.owner.(*Device)
	if x == &d.sbw.io {
		d.sbErrs[0] = err
	} else {
		d.sbErrs[1] = err
	}
	d.sbw.tries--
	if d.sbw.tries == 0 {
		d.sbw.end(nil)
	}
}

// chooseSuperblock takes the newer whole copy of the two that were read.
func (d *Device) chooseSuperblock() (*superblock.Choice, error) {
	return superblock.Choose(
		superblock.Copy{Device: d.cache.name(), Blocks: d.cache.info.Blocks, Block: d.sbw.buf, Err: d.sbErrs[0]},
		superblock.Copy{Device: d.base.name(), Blocks: d.base.info.Blocks, Block: d.sbw.buf2, Err: d.sbErrs[1]},
		d.cfg.UUID)
}

// resyncSuperblock rewrites the copy that was unreadable or older, before any
// other write (Rule 2): from then on either copy may be the one that counts.
func (d *Device) resyncSuperblock(c *superblock.Choice, done func(d *Device, err error)) {
	w := &d.sbw
	w.next, w.done = d.sb, done
	v, role := &d.base, superblock.RoleBase
	if c.RewriteCache {
		v, role = &d.cache, superblock.RoleCache
	}
	d.log.Warn("superblock copy rewritten from the other", "device", v.name())
	w.encode(w.buf, role)
	w.io.prepareOne(v, bdev.OpWrite, w.buf, 0, v.mdSource())
	w.io.call(resyncFlush, d)
}

func resyncFlush(x *devIO, err error) {
	d := x.owner.(*Device)
	if err != nil {
		d.sbw.end(err)
		return
	}
	d.sbw.io.prepare(x.dev, bdev.OpFlush, nil, nil, 0, 0, x.dev.mdSource())
	d.sbw.io.call(resyncDone, d)
}

func resyncDone(x *devIO, err error) { x.owner.(*Device).sbw.end(err) }

// flushBoth flushes both devices, then calls done (Rule 13: before anything is
// read in a load, because after a kill reads come from volatile caches).
func (d *Device) flushBoth(done func(d *Device, err error)) {
	w := &d.sbw
	w.done = done
	w.io.prepare(&d.cache, bdev.OpFlush, nil, nil, 0, 0, SourceMDCache)
	w.io.call(flushedCache, d)
}

func flushedCache(x *devIO, err error) {
	d := x.owner.(*Device)
	if err != nil {
		d.sbw.end(err)
		return
	}
	d.sbw.io.prepare(&d.base, bdev.OpFlush, nil, nil, 0, 0, SourceMDBase)
	d.sbw.io.call(resyncDone, d)
}
