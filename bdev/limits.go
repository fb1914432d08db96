package bdev

import "unsafe"

// limits is what a driver's Info asks of IOs, in the form that checks need.
type limits struct {
	any       bool // reads and writes have limits
	boundary  uint64
	maxXfer   uint64
	maxUnmap  uint64
	maxZeroes uint64
	maxCopy   uint64
	writeUnit uint64 // at least 1
	zone      uint64 // blocks of a zone, 0: not zoned
	conv      uint64 // blocks in front that can be written at random, across zones too
	maxSeg    int
	align     uintptr // mask
	ops       OpSet
	emulFUA   bool // a write with FUA needs a flush behind it
	dropFUA   bool // every write is durable at once
}

const noLimit = 1 << 62

func limitsOf(i *Info) limits {
	some := func(v uint32) uint64 {
		if v == 0 {
			return noLimit
		}
		return uint64(v)
	}
	l := limits{
		boundary: uint64(i.OptimalBoundary), maxXfer: some(i.MaxTransfer), maxUnmap: some(i.MaxUnmap),
		maxZeroes: some(i.MaxWriteZeroes), maxCopy: some(i.MaxCopy), writeUnit: max(uint64(i.WriteUnit), 1),
		maxSeg: i.MaxSegments, ops: i.Ops,
		emulFUA: !i.FUA && i.VolatileCache, dropFUA: !i.FUA && !i.VolatileCache,
	}
	if i.Zoned {
		l.zone = i.ZoneBlocks
		l.conv = i.ConvZones * i.ZoneBlocks
	}
	if l.maxSeg == 0 {
		l.maxSeg = 1 << 30
	}
	if i.BufAlign > 1 {
		l.align = uintptr(i.BufAlign - 1)
	}
	l.any = i.OptimalBoundary != 0 || i.MaxTransfer != 0 || i.MaxSegments != 0 || l.align != 0
	return l
}

// exceeded says whether the driver cannot take the IO as it is.
func (l *limits) exceeded(io *IO) bool {
	switch io.Op {
	case OpWrite:
		if io.FUA && l.dropFUA {
			io.FUA = false
		}
		return io.FUA && l.emulFUA || l.transferExceeded(io)
	case OpRead:
		return l.transferExceeded(io)
	case OpCompare:
		return !l.ops.Has(OpCompare) || l.transferExceeded(io)
	case OpCompareAndWrite:
		return !l.ops.Has(OpCompareAndWrite) || l.transferExceeded(io)
	case OpUnmap:
		return io.Count > l.maxUnmap
	case OpWriteZeroes:
		return !l.ops.Has(OpWriteZeroes) || io.Count > l.maxZeroes
	case OpCopy:
		return !l.ops.Has(OpCopy) || io.Count > l.maxCopy
	case OpZoneAppend:
		return l.unusable(io.Bufs)
	default:
		return false
	}
}

func (l *limits) transferExceeded(io *IO) bool {
	if !l.any {
		return false
	}
	if io.Count > l.maxXfer {
		return true
	}
	if l.boundary != 0 && io.LBA/l.boundary != (io.LBA+io.Count-1)/l.boundary {
		return true
	}
	return l.unusable(io.Bufs) || io.Op == OpCompareAndWrite && l.unusable(io.Bufs2)
}

// unusable says whether the buffers are too many or not aligned.
func (l *limits) unusable(bufs [][]byte) bool {
	return len(bufs) > l.maxSeg || l.align != 0 && misaligned(bufs, l.align)
}

func misaligned(bufs [][]byte, mask uintptr) bool {
	var bits uintptr
	for _, b := range bufs {
		bits |= uintptr(unsafe.Pointer(unsafe.SliceData(b))) | uintptr(len(b))
	}
	return bits&mask != 0
}

// piece returns how many of the next count blocks at lba one transfer may have.
func (l *limits) piece(lba, count uint64) uint64 {
	n := min(count, l.maxXfer)
	if l.boundary != 0 {
		n = min(n, l.boundary-lba%l.boundary)
	}
	return n
}
