package md

import (
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	errNoRegion = fmt.Errorf("no region: %w", unix.EINVAL)
	errTooBig   = fmt.Errorf("the region is larger than the object: %w", unix.EINVAL)
	errNoBuffer = fmt.Errorf("the object has no memory: %w", unix.EINVAL)
)

// Persist writes the whole object: the mirror, a flush, the primary, a flush
// (M20). An error in the mirror leaves the primary untouched. The buffer must
// not be changed until done.
func (o *Object) Persist(done DoneFunc, arg any) {
	if o.begin(opPersist, done, arg) {
		o.advance()
	}
}

// Clear fills the object with a byte and persists it; without memory only the
// devices are filled. vss, when not nil, is the VSS of every block; it must
// begin with the version of the region. Nil: zeroes and the version (M23).
func (o *Object) Clear(pattern byte, vss []byte, done DoneFunc, arg any) {
	if vss != nil {
		if len(vss) != int(o.cfg.VSS) {
			o.refuse("clear", ErrInvalid, done, arg)
			return
		}
		if o.region != nil && le.Uint64(vss) != uint64(o.region.Version) {
			o.refuse("clear", ErrVersion, done, arg)
			return
		}
	} else {
		vss = o.stamp[:o.cfg.VSS]
	}
	if !o.begin(opClear, done, arg) {
		return
	}
	o.bulk.pattern, o.bulk.vssPat = pattern, vss
	if o.buf != nil {
		fill(o.buf, pattern)
		stampVSS(o.vss, vss)
	}
	o.advance()
}

// auditMemory verifies the version of every block's VSS before it is written
// (M30). In trailers the version is written by the object itself.
func (o *Object) auditMemory() error {
	if o.bulk.op != opNone || o.vss == nil {
		return nil
	}
	v := uint64(o.cfg.VSS)
	for i := uint64(0); i < o.region.Blocks; i++ {
		if got := le.Uint64(o.vss[i*v:]); got != uint64(o.region.Version) {
			return fmt.Errorf("block %d has version %d, the region %d: %w", i, got, o.region.Version, ErrVersion)
		}
	}
	return nil
}
