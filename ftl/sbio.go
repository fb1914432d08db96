package ftl

import (
	"errors"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/ftl/superblock"
	"goftl/internal/assert"
	"goftl/iobuf"
)

// The superblock's two copies. The primary is the first block of the device of
// the metadata. The mirror is the first block of the base; where that is the
// same device, or zoned, it is as far from the primary as it can be
// (layout.MirrorAt). Rule 1: mirror, flush, primary, flush; one update at a time.

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
		v, role, at := d.mirrorDev(), superblock.RoleBase, d.mirrorAt()
		if st == sbPrimary {
			v, role, at = d.meta, superblock.RoleCache, 0
		}
		w.encode(w.buf, role)
		w.io.prepareOne(v, bdev.OpWrite, w.buf, at, v.mdSource())
	case sbMirrorFlush:
		v := d.mirrorDev()
		w.io.prepare(v, bdev.OpFlush, nil, nil, 0, 0, v.mdSource())
	case sbPrimaryFlush:
		w.io.prepare(d.meta, bdev.OpFlush, nil, nil, 0, 0, d.meta.mdSource())
	case sbIdle:
	}
	w.io.call(sbStep, d)
}

// mirrorDev is the device of the superblock's mirror.
func (d *Device) mirrorDev() *dev {
	if d.base.info.Zoned {
		return d.meta
	}
	return &d.base
}

// mirrorAt is the block of the superblock's mirror.
func (d *Device) mirrorAt() uint64 {
	if d.lay != nil {
		return d.lay.Region(layout.RegionSBMirror).Offset
	}
	cacheBlocks, bandsAt := uint64(0), uint64(0)
	if d.meta == &d.cache {
		cacheBlocks = d.cache.info.Blocks
	}
	if d.zones != nil {
		bandsAt = d.zones.Shape().First * d.base.info.ZoneBlocks
	}
	return layout.MirrorAt(cacheBlocks, d.base.info.Blocks, d.zones != nil, bandsAt)
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
	v := d.mirrorDev()
	w.io.prepareOne(d.meta, bdev.OpRead, w.buf, 0, d.meta.mdSource())
	w.io2.prepareOne(v, bdev.OpRead, w.buf2, d.mirrorAt(), v.mdSource())
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
	leave := d.cfg.RewriteSuperblock
	c, err := superblock.Choose(
		superblock.Copy{Device: d.meta.name(), Blocks: d.meta.info.Blocks, Block: d.sbw.buf, Err: d.sbErrs[0], Overwrite: leave},
		superblock.Copy{Device: d.base.name(), Blocks: d.base.info.Blocks, Block: d.sbw.buf2, Err: d.sbErrs[1], Overwrite: leave},
		d.cfg.UUID)
	if d.meta == &d.base && errors.Is(err, superblock.ErrSwapped) {
		return nil, d.lacksCache()
	}
	return c, err
}

// resyncSuperblock rewrites the copy that was unreadable or older, before any
// other write (Rule 2): from then on either copy may be the one that counts.
func (d *Device) resyncSuperblock(c *superblock.Choice, done func(d *Device, err error)) {
	w := &d.sbw
	w.next, w.done = d.sb, done
	v, role, at := d.mirrorDev(), superblock.RoleBase, d.mirrorAt()
	if c.RewriteCache {
		v, role, at = d.meta, superblock.RoleCache, 0
	}
	d.log.Warn("superblock copy rewritten from the other", "device", v.name())
	w.encode(w.buf, role)
	w.io.prepareOne(v, bdev.OpWrite, w.buf, at, v.mdSource())
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

// flushBoth flushes all devices, then calls done (Rule 13: before anything is
// read in a load, because after a kill reads come from volatile caches).
func (d *Device) flushBoth(done func(d *Device, err error)) {
	w := &d.sbw
	w.done = done
	w.io.prepare(d.meta, bdev.OpFlush, nil, nil, 0, 0, d.meta.mdSource())
	if d.meta == &d.base {
		w.io.call(resyncDone, d)
		return
	}
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
