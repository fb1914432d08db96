package md

import (
	"bytes"

	"goftl/bdev"
)

// A write that a device loses, or puts elsewhere, leaves in one copy what was
// there before, whole and with a good checksum. So a restore of a region that
// is made of entries reads both copies, and of each entry the later write
// counts: every write has a number in its trailers, higher than that of any
// write before. When power fails between the two copies of an ordered update,
// the new one is taken: what had to be durable before the update began is, and
// the old one alone is what the reader could not tell from a lost write.
//
// Both copies of a write have its number, also when one is repaired from the
// other; so copies that are alike are known by their trailers.

// compares says whether a restore reads both copies.
func (o *Object) compares() bool { return o.mirrored && o.region.EntryBlocks != 0 }

// compareMirror reads the mirror beside the memory, which has the primary.
func (o *Object) compareMirror() {
	b := &o.bulk
	n := o.region.Blocks / o.unit()
	b.repair, b.stale = newBitmap(n), newBitmap(n)
	b.stage = stageCompareMirror
	o.run(&o.mirror, bdev.OpRead, nil)
}

// comparePart looks at the entries of the mirror that were read.
func (o *Object) comparePart(s *part) {
	io, u := &s.io, o.unit()
	for i := uint64(0); i < io.n; i += u {
		blk := io.buf[i*BlockSize : (i+u)*BlockSize]
		var vss []byte
		if v := uint64(o.cfg.VSS); io.vss != nil {
			vss = io.vss[i*v : (i+u)*v]
		}
		o.compareEntry(io.a, io.at+i, blk, vss)
	}
}

// compareEntry takes the mirror's entry at block at if the primary's is not
// whole or older.
func (o *Object) compareEntry(a *area, at uint64, blk, vss []byte) {
	b, u := &o.bulk, o.unit()
	entry, upgraded := at/u, b.upgrade
	mem := o.buf[at*BlockSize : (at+u)*BlockSize]
	err := o.checkEntry(a, blk, vss, at)
	switch bad := b.bad.has(entry); {
	case err == nil && (bad || newer(blk, mem)):
		copy(mem, blk)
		o.takeVSS(at, vss)
		b.bad.drop(entry)
		b.repair.set(entry)
		if !bad {
			b.older = true
			o.log.Warn("metadata: the primary is older than the mirror", "region", o.name(), "entry", entry)
		}
		return
	case err != nil:
		b.stale.set(entry)
	case !bytes.Equal(trailer(blk), trailer(mem)):
		b.stale.set(entry)
		o.log.Warn("metadata: the mirror is older than the primary", "region", o.name(), "entry", entry)
	}
	b.upgrade = upgraded
}

// checkEntry verifies an entry that was read from a.
func (o *Object) checkEntry(a *area, blk, vss []byte, at uint64) error {
	if !sameWrite(blk) {
		return ErrCut
	}
	for i := range o.unit() {
		if err := o.checkContent(a, blk[i*BlockSize:(i+1)*BlockSize], at+i); err != nil {
			return err
		}
		if vss != nil {
			if err := o.auditVSS(vss[i*uint64(o.cfg.VSS):]); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeVSS keeps the VSS of an entry of the mirror; nil: its device has none.
func (o *Object) takeVSS(at uint64, vss []byte) {
	if o.vss == nil {
		return
	}
	v := uint64(o.cfg.VSS)
	mem := o.vss[at*v : (at+o.unit())*v]
	if vss == nil {
		stampVSS(mem, o.stamp[:v])
		return
	}
	copy(mem, vss)
}

func trailer(blk []byte) []byte { return blk[offSum:BlockSize] }

// newer says whether entry a is of a later write than b. Numbers go round after
// 2^32 writes of the object.
func newer(a, b []byte) bool {
	return int32(le.Uint32(a[offNumber:])-le.Uint32(b[offNumber:])) > 0
}

// compared has the primary rewritten where the mirror was taken.
func (o *Object) compared() {
	b := &o.bulk
	if b.first != nil {
		o.log.Warn("metadata: primary not readable, the mirror is used", "region", o.name(), "err", b.first)
	}
	if !b.bad.any() {
		b.first = nil
	}
	if b.older && !o.cfg.ReadOnly {
		// Rule 1: a whole primary is overwritten only when the mirror is durable.
		b.stage = stageFlushNewer
		o.flush(&o.mirror)
		return
	}
	o.repairPrimary()
}

// keepNumbers has a copy written with the trailers that were read, so that both
// copies are alike; what was upgraded needs new ones.
func (o *Object) keepNumbers() {
	if o.compares() && o.bulk.upgrade == 0 {
		o.bulk.sealed = true
		return
	}
	o.number++
}
