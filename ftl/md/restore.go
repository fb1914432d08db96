package md

import (
	"fmt"

	"goftl/bdev"
	"goftl/internal/assert"
)

// Restore reads the object from its devices.
//
// The primary is read first. Of a region made of entries both copies are read,
// and of each entry the whole one counts whose write is the later: a write that
// was lost, or went elsewhere, leaves an older copy that is whole (compare.go).
// Of another region the mirror is taken, as a whole, when the primary cannot be
// read or is not whole. The primary is then repaired from what the mirror gave,
// and flushed, before any mirror is written (Rule 2). Last come mirrors of
// entries that are not like the primary, and after a shutdown that was not
// clean the whole mirror (M22).
//
// Entries that no copy has are zeroed and named by a *BadError; the others are
// restored all the same. On any other error the content is undefined.
func (o *Object) Restore(done DoneFunc, arg any) {
	if o.begin(opRestore, done, arg) {
		o.advance()
	}
}

// Upgraded returns the number of blocks that Config.Upgrade changed in the last
// Restore. If there are any, the object should be persisted.
func (o *Object) Upgraded() uint64 { return o.bulk.upgrade }

// advanceRestore is advance for a restore.
func (o *Object) advanceRestore() {
	b := &o.bulk
	switch b.stage {
	case stageStart:
		b.bad = newBitmap(o.region.Blocks / o.unit())
		b.whole = o.region.EntryBlocks == 0
		b.stage = stageReadPrimary
		o.run(&o.primary, bdev.OpRead, nil)
	case stageReadPrimary:
		o.checkCut(nil)
		o.primaryRead()
	case stageCompareMirror:
		o.compared()
	case stageFlushNewer:
		o.repairPrimary()
	case stageReadMirror:
		o.checkCut(b.repair)
		o.mirrorRead()
	case stageRepairPrimary:
		b.stage = stageFlushRepair
		o.flush(&o.primary)
	case stageFlushRepair:
		b.repair = nil
		o.syncMirror()
	case stageSyncMirror:
		b.stage = stageFlushSync
		o.flush(&o.mirror)
	case stageFlushSync:
		o.endRestore()
	default:
		assert.That(false, "md: a restore has no such stage")
	}
}

// primaryRead decides what the mirror is needed for.
func (o *Object) primaryRead() {
	b := &o.bulk
	if !o.mirrored {
		o.endRestore()
		return
	}
	if o.compares() {
		o.compareMirror()
		return
	}
	if !b.bad.any() {
		o.flushBeforeSync()
		return
	}
	o.log.Warn("metadata: primary not readable, the mirror is used", "region", o.name(), "err", b.first)
	b.bad.fill(o.region.Blocks)
	b.mirrors = true
	b.repair = append(bitmap(nil), b.bad...)
	clear(b.bad)
	b.first = nil
	b.stage = stageReadMirror
	o.run(&o.mirror, bdev.OpRead, b.repair)
}

// mirrorRead has the primary rewritten from what the mirror gave.
func (o *Object) mirrorRead() {
	b := &o.bulk
	if b.bad.any() {
		o.endRestore()
		return
	}
	o.repairPrimary()
}

// repairPrimary rewrites the primary of what the mirror gave.
func (o *Object) repairPrimary() {
	b := &o.bulk
	if !b.repair.any() || o.cfg.ReadOnly {
		o.flushBeforeSync()
		return
	}
	o.keepNumbers()
	b.stage = stageRepairPrimary
	o.run(&o.primary, bdev.OpWrite, b.repair)
}

// flushBeforeSync makes the primary durable before the mirror is touched (Rule
// 1: after a kill, what was read may come from a volatile cache).
func (o *Object) flushBeforeSync() {
	if !o.mustSync() {
		o.endRestore()
		return
	}
	o.bulk.stage = stageFlushRepair
	o.flush(&o.primary)
}

func (o *Object) mustSync() bool {
	return o.mirrored && !o.bulk.mirrors && !o.cfg.ReadOnly && (!o.clean() || o.bulk.stale.any())
}

// clean says whether the last shutdown was.
func (o *Object) clean() bool { return o.cfg.Clean == nil || o.cfg.Clean() }

// syncMirror writes every readable entry to the mirror, after a clean shutdown
// only those that it has not.
func (o *Object) syncMirror() {
	b := &o.bulk
	if b.mirrors { // the mirror is what was read; only durable it may not be
		b.stage = stageFlushSync
		o.flush(&o.mirror)
		return
	}
	if !o.mustSync() {
		o.endRestore()
		return
	}
	var good bitmap
	if b.bad.any() || o.clean() {
		good = newBitmap(o.region.Blocks / o.unit())
		for i := range o.region.Blocks / o.unit() {
			if !b.bad.has(i) && (!o.clean() || b.stale.has(i)) {
				good.set(i)
			}
		}
	}
	o.keepNumbers()
	b.stage = stageSyncMirror
	o.run(&o.mirror, bdev.OpWrite, good)
}

func (o *Object) endRestore() {
	b := &o.bulk
	if !b.bad.any() {
		o.end(nil)
		return
	}
	bad := &BadError{Region: o.name(), First: b.first}
	u := o.unit()
	for i := range o.region.Blocks / u {
		if !b.bad.has(i) {
			continue
		}
		if bad.Count++; bad.Count <= MaxBadListed {
			bad.Entries = append(bad.Entries, i)
		}
		clear(o.buf[i*u*BlockSize : (i+1)*u*BlockSize])
		if v := u * uint64(o.cfg.VSS); v != 0 {
			stampVSS(o.vss[i*v:(i+1)*v], o.stamp[:o.cfg.VSS])
		}
	}
	o.end(bad)
}

// lost notes that blocks could not be read from a copy.
func (o *Object) lost(at, n uint64, err error) {
	b := &o.bulk
	set := b.bad
	if b.stage == stageCompareMirror {
		set = b.stale
	} else if b.first == nil {
		b.first = fmt.Errorf("%s block %d: %w", b.x.a.name, at, err)
	}
	u := o.unit()
	for i := at / u; i*u < at+n; i++ {
		set.set(i)
	}
}

// checkCut finds entries whose blocks are not of the same write, among those
// that were just read: all, or only some.
func (o *Object) checkCut(only bitmap) {
	b, u := &o.bulk, o.unit()
	if b.whole {
		if !b.bad.any() && !sameWrite(o.buf[:o.region.Blocks*BlockSize]) {
			o.lost(0, 1, ErrCut)
		}
		return
	}
	if u == 1 {
		return
	}
	for i := range o.region.Blocks / u {
		if (only == nil || only.has(i)) && !b.bad.has(i) && !sameWrite(o.buf[i*u*BlockSize:(i+1)*u*BlockSize]) {
			o.lost(i*u, u, ErrCut)
		}
	}
}

// checkRead verifies block at, just read from a.
func (o *Object) checkRead(a *area, at uint64) error {
	blk := o.buf[at*BlockSize : (at+1)*BlockSize]
	err := o.checkContent(a, blk, at)
	if err != nil || o.vss == nil {
		return err
	}
	v := uint64(o.cfg.VSS)
	vss := o.vss[at*v : (at+1)*v]
	if !a.md { // this device has none: not what the other one gave
		stampVSS(vss, o.stamp[:o.cfg.VSS])
		return nil
	}
	return o.auditVSS(vss)
}

// checkContent verifies one block and brings it up to date if it is older than
// the region.
func (o *Object) checkContent(a *area, blk []byte, at uint64) error {
	version, number, ok := checkBlock(blk, o.seed, at)
	if !ok {
		if s := a.t.Stats; s != nil {
			s.CRC++
		}
		return ErrSum
	}
	o.number = max(o.number, number)
	if version == o.region.Version {
		return nil
	}
	if version > o.region.Version || o.cfg.Upgrade == nil {
		return fmt.Errorf("version %d, the region's is %d: %w", version, o.region.Version, ErrVersion)
	}
	if err := o.cfg.Upgrade(version, at, blk[:PayloadSize:PayloadSize]); err != nil {
		return fmt.Errorf("upgrade from version %d: %w", version, err)
	}
	o.bulk.upgrade++
	return nil
}

// auditVSS verifies the version in a block's VSS (M30).
func (o *Object) auditVSS(vss []byte) error {
	if got := le.Uint64(vss); got != uint64(o.region.Version) {
		return fmt.Errorf("version %d in the block's metadata, the region's is %d: %w", got, o.region.Version, ErrVersion)
	}
	return nil
}
