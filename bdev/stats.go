package bdev

import "goftl/thread"

// Class groups operations for latency histograms.
type Class uint8

// The classes.
const (
	ClassRead Class = iota
	ClassWrite
	ClassFlush
	ClassUnmap // unmap and write zeroes
	ClassOther

	NumClasses = int(ClassOther) + 1
)

var classNames = [NumClasses]string{"read", "write", "flush", "unmap", "other"}

func (c Class) String() string {
	if int(c) < NumClasses {
		return classNames[c]
	}
	return "unknown"
}

// Class returns the class of an operation.
func (o Op) Class() Class { return classOf[o] }

var classOf = [32]Class{
	OpRead: ClassRead, OpWrite: ClassWrite, OpFlush: ClassFlush, OpUnmap: ClassUnmap, OpWriteZeroes: ClassUnmap,
	OpReset: ClassOther, OpAbort: ClassOther, OpCompare: ClassRead, OpCompareAndWrite: ClassWrite, OpCopy: ClassOther,
	OpZoneReset: ClassOther, OpZoneOpen: ClassOther, OpZoneClose: ClassOther, OpZoneFinish: ClassOther,
	OpZoneOffline: ClassOther, OpZoneAppend: ClassWrite, OpZoneInfo: ClassOther,
	OpExtents: ClassOther,
}

// OpStats counts the completed IOs of one kind.
type OpStats struct {
	IOs, Bytes, Errors uint64
	LatencyNs          int64 // sum
}

// Stats counts what users of a channel or of a device had done. The parts
// that an IO was split into do not count.
type Stats struct {
	Ops     [NumOps]OpStats
	Latency [NumClasses]Histogram
	// SplitIOs were sent to the driver in parts, BouncedIOs through buffers of
	// the layer; NoMemRetries is how often a driver was out of memory.
	SplitIOs, BouncedIOs uint64
}

func (s *Stats) count(op Op, bytes uint64, ns int64, err error) {
	o := &s.Ops[op]
	o.IOs++
	o.Bytes += bytes
	o.LatencyNs += ns
	s.Latency[classOf[op&31]].Record(ns)
	if err != nil {
		o.Errors++
	}
}

// Merge adds o.
func (s *Stats) Merge(o *Stats) {
	for i := range s.Ops {
		a, b := &s.Ops[i], &o.Ops[i]
		a.IOs += b.IOs
		a.Bytes += b.Bytes
		a.Errors += b.Errors
		a.LatencyNs += b.LatencyNs
	}
	for i := range s.Latency {
		s.Latency[i].Merge(&o.Latency[i])
	}
	s.SplitIOs += o.SplitIOs
	s.BouncedIOs += o.BouncedIOs
}

// Stats returns the counters of all channels of the thread to the device. It
// may be read on that thread; they go on counting.
func (c *Channel) Stats() *Stats { return &c.k.stats }

// retire keeps the counts of a channel that ends.
func (b *Bdev) retire(s *Stats) {
	for {
		old := b.retired.Load()
		sum := &Stats{}
		if old != nil {
			*sum = *old
		}
		sum.Merge(s)
		if b.retired.CompareAndSwap(old, sum) {
			return
		}
	}
}

// CollectStats adds up the counters of all channels there are and were, and
// calls done on t, the calling thread. With reset they start again at zero.
func (b *Bdev) CollectStats(t *thread.Thread, reset bool, done func(arg any, s *Stats), arg any) {
	sum := &Stats{}
	if reset {
		if old := b.retired.Swap(nil); old != nil {
			sum.Merge(old)
		}
	} else if old := b.retired.Load(); old != nil {
		sum.Merge(old)
	}
	visit := func(it *thread.ChannelIter) {
		k := it.Channel().Ctx().(*core)
		sum.Merge(&k.stats)
		if reset {
			k.stats = Stats{}
		}
		it.Continue(nil)
	}
	b.dev.ForEachChannel(t, visit, func(any, error) { done(arg, sum) }, nil)
}
