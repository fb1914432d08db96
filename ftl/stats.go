package ftl

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// Source says on whose behalf a device operation was made.
type Source uint8

// Sources of device operations. SourceUser covers the log of user records and
// user reads.
const (
	SourceUser Source = iota
	SourceCompaction
	SourceGC
	SourceMDBase
	SourceMDCache
	SourceL2P
	NumSources
)

var sourceNames = [NumSources]string{"user", "compaction", "gc", "md_base", "md_cache", "l2p"}

// String names the source as the statistics do.
func (s Source) String() string { return sourceNames[s] }

// Counter counts operations of one direction.
type Counter struct {
	IOs         uint64 `json:"ios"`
	Blocks      uint64 `json:"blocks"`
	ErrorsMedia uint64 `json:"errors_media"`
	ErrorsCRC   uint64 `json:"errors_crc"`
	ErrorsOther uint64 `json:"errors_other"`
}

// ReadWrite is a pair of counters.
type ReadWrite struct {
	Read  Counter `json:"read"`
	Write Counter `json:"write"`
}

// Stats are the statistics of a device since it was started. Blocks are
// 4096-byte blocks.
type Stats struct {
	// Requests as the user made them; Trim and Flush count in their own
	// fields.
	User      ReadWrite `json:"user"`
	TrimIOs   uint64    `json:"trim_ios"`
	TrimBlock uint64    `json:"trim_blocks"`
	Flushes   uint64    `json:"flushes"`

	// Operations on the devices, by source. For compaction and GC, reads are
	// of the source and writes go to the base.
	Cache [NumSources]ReadWrite `json:"-"`
	Base  [NumSources]ReadWrite `json:"-"`

	Records     uint64 `json:"records"`      // user records written
	Rehomed     uint64 `json:"rehomed"`      // records written again elsewhere after an error
	Voided      uint64 `json:"voided"`       // user records given up (no space, failing device)
	Lost        uint64 `json:"lost"`         // blocks whose content could not be saved
	CkptStarted uint64 `json:"ckpt_started"` // one that is neither committed nor aborted is under way
	Checkpoints uint64 `json:"checkpoints"`  // committed
	CkptAborted uint64 `json:"ckpt_aborted"` // given up before their commit
	Compacted   uint64 `json:"compacted"`    // chunks emptied by compaction
	Relocated   uint64 `json:"relocated"`    // bands emptied by relocation
	Detoured    uint64 `json:"detoured"`     // blocks that relocation wrote through the log, for want of a band
	Throttled   uint64 `json:"throttled"`    // times that user records waited for space
	NoChunk     uint64 `json:"no_chunk"`     // times that they waited for a chunk in quarantine
	BufferWaits uint64 `json:"buffer_waits"` // times that a write found the write buffer full
	BufferLost  uint64 `json:"buffer_lost"`  // blocks that were acknowledged from a write buffer and never written
	SumMisses   uint64 `json:"sum_misses"`   // reads that had to fetch checksums
	Undescribed uint64 `json:"undescribed"`  // blocks that a sound summary does not describe: a record failed and landed
	SlowReads   uint64 `json:"slow_reads"`   // runs read again block by block because something failed
	Overtaken   uint64 `json:"overtaken"`    // blocks left out of moves: replaced by users meanwhile, or not readable
	Outdated    uint64 `json:"outdated"`     // ... while a move wrote them: written in vain
	MediaEvents uint64 `json:"media_events"` // segments that a device asked to be relocated

	// Gauges.
	FreeChunks, FullChunks, QuarantinedChunks uint64
	FreeBands, FullBands, QuarantinedBands    uint64
	ValidBlocks, DirtyPages                   uint64
	Acked, Durable                            uint64
	Channels                                  uint64 // IO channels of users
	RedoBlocks                                uint64 // of log that a load after a crash would look at
	Buffered                                  uint64 // blocks in write buffers
}

// count books a completed device operation.
func (s *Stats) count(x *devIO, err error) {
	if x.op != bdev.OpRead && x.op != bdev.OpWrite {
		return
	}
	rw := &s.Cache[x.src]
	if x.dev.kind != devCache {
		rw = &s.Base[x.src]
	}
	c := &rw.Read
	if x.op == bdev.OpWrite {
		c = &rw.Write
	}
	c.IOs++
	if err == nil {
		c.Blocks += x.n
		return
	}
	if errors.Is(err, unix.EIO) {
		c.ErrorsMedia++
		return
	}
	c.ErrorsOther++
}

// crc books a checksum that did not match.
func (s *Stats) crc(v *dev, src Source) {
	if v.kind == devCache {
		s.Cache[src].Read.ErrorsCRC++
		return
	}
	s.Base[src].Read.ErrorsCRC++
}

// BaseWrites is the number of blocks written to the base device, all sources.
func (s *Stats) BaseWrites() uint64 { return sumWrites(&s.Base) }

// CacheWrites is the number of blocks written to the cache device, all sources.
func (s *Stats) CacheWrites() uint64 { return sumWrites(&s.Cache) }

func sumWrites(a *[NumSources]ReadWrite) (n uint64) {
	for i := range a {
		n += a[i].Write.Blocks
	}
	return n
}

// WAF is the write amplification of the base device: blocks written to it for
// every block that users wrote. It is 0 before the first user write.
func (s *Stats) WAF() float64 {
	if s.User.Write.Blocks == 0 {
		return 0
	}
	return float64(s.BaseWrites()) / float64(s.User.Write.Blocks)
}

// WAFTotal counts the writes of both devices.
func (s *Stats) WAFTotal() float64 {
	if s.User.Write.Blocks == 0 {
		return 0
	}
	return float64(s.BaseWrites()+s.CacheWrites()) / float64(s.User.Write.Blocks)
}
