package bdev

import "strings"

// Op is a kind of IO.
type Op uint8

// The kinds of IO.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpUnmap
	OpWriteZeroes
	OpReset
	OpAbort
	OpCompare
	OpCompareAndWrite
	OpCopy
	OpZoneReset
	OpZoneOpen
	OpZoneClose
	OpZoneFinish
	OpZoneOffline
	OpZoneAppend
	OpZoneInfo
	OpExtents

	NumOps = int(OpExtents) + 1
)

var opNames = [NumOps]string{
	"read", "write", "flush", "unmap", "write_zeroes", "reset", "abort", "compare", "compare_and_write", "copy",
	"zone_reset", "zone_open", "zone_close", "zone_finish", "zone_offline", "zone_append", "zone_info", "extents",
}

func (o Op) String() string {
	if int(o) < NumOps {
		return opNames[o]
	}
	return "unknown"
}

// ParseOp returns the Op that String names.
func ParseOp(name string) (Op, bool) {
	for i, n := range opNames {
		if n == name {
			return Op(i), true
		}
	}
	return 0, false
}

// Modifies says whether the operation changes the device's content or zones,
// so that it needs a descriptor that is open for write.
func (o Op) Modifies() bool { return modifying.Has(o) }

// HasData says whether the operation moves Bufs between caller and device.
func (o Op) HasData() bool { return dataOps.Has(o) }

// OpSet is a set of Ops.
type OpSet uint32

// Ops returns the set of the given operations.
func Ops(list ...Op) OpSet {
	var s OpSet
	for _, o := range list {
		s |= 1 << o
	}
	return s
}

// Has says whether o is in the set.
func (s OpSet) Has(o Op) bool { return s>>o&1 != 0 }

// With returns the set with the given operations added.
func (s OpSet) With(list ...Op) OpSet { return s | Ops(list...) }

// Without returns the set with the given operations removed.
func (s OpSet) Without(list ...Op) OpSet { return s &^ Ops(list...) }

func (s OpSet) String() string {
	var names []string
	for i := range NumOps {
		if s.Has(Op(i)) {
			names = append(names, opNames[i])
		}
	}
	return strings.Join(names, ",")
}

const (
	modifying = OpSet(1<<OpWrite | 1<<OpUnmap | 1<<OpWriteZeroes | 1<<OpCompareAndWrite | 1<<OpCopy |
		1<<OpZoneReset | 1<<OpZoneOpen | 1<<OpZoneClose | 1<<OpZoneFinish | 1<<OpZoneOffline | 1<<OpZoneAppend)
	dataOps = OpSet(1<<OpRead | 1<<OpWrite | 1<<OpCompare | 1<<OpCompareAndWrite | 1<<OpZoneAppend)
	zoneOps = OpSet(1<<OpZoneReset | 1<<OpZoneOpen | 1<<OpZoneClose | 1<<OpZoneFinish | 1<<OpZoneOffline)
)
