package ftl

import (
	"log/slog"
	"unsafe"

	"github.com/google/uuid"

	"goftl/ftl/l2p"
	"goftl/ftl/layout"
	"goftl/ftl/md"
	"goftl/ftl/record"
	"goftl/ftl/superblock"
	"goftl/ftl/zoned"
	"goftl/iobuf"
	"goftl/poller"
	"goftl/thread"
)

// Device is one FTL. It belongs to its core thread.
type Device struct {
	cfg Config
	th  *thread.Thread
	log *slog.Logger
	lay *layout.Layout
	sb  superblock.Superblock

	cache, base dev
	meta        *dev        // holds the metadata: the cache, or the base when there is none
	logDev      *dev        // holds the user records: the cache when there are chunks, else the base
	zones       *zoned.Base // of a zoned base
	mdChunks    *md.Object
	mdBands     *md.Object
	mdStats     md.IOStats

	// Mapping.
	table   l2p.Table
	tabMem  []byte // of a table that is not in shared memory
	shm     *shmTable
	seed    uint64 // binds pages to this FTL
	mapped  uint64
	touched l2p.Addr // keeps the prefetch loop of mapData alive

	// Segments.
	segs                  []segment
	valid                 []uint32 // valid blocks by segment
	chunks, bands         [numSegStates]int
	freeChunks, freeBands fifo
	urgent                [2]int // chunks, bands to be emptied before others
	rounds                int    // bands that relocation has emptied since anybody else wrote
	maxGen                uint32 // of the bands: the most worn one
	chunkShift, bandShift uint
	chunkMask, bandMask   uint64
	cacheSpan, span       uint64
	bandBody              uint64 // slots for records of a whole band
	sumPool               [2][]record.Summary
	sums                  *sumCache
	lim                   limits

	// Records.
	lastG      uint64
	ackedU     uint64
	durableU   uint64
	logBlocks  uint64 // slots of the log used since the start
	bandBlocks uint64

	channels   channelSet
	own        *Channel // for Submit
	log_       logState
	flusher    flushState
	reader     readerState
	asked      questions
	readOps    []*readOp
	compaction mover
	gc         mover
	ckpt       ckptState
	sbw        sbWriter
	sbErrs     [2]error

	retry, idleTimer *poller.Poller
	quiet            *poller.Poller // while stopping
	lastActive       int64

	// Health.
	health       Health
	failure      error
	baseErr      error
	zoneErr      error // why zones could not be finished last, nil if they were
	zoneFails    int   // how often in a row not, but for want of space
	flushBroken  error // a flush failed: nothing can be promised any more
	descFailures int

	// Life.
	running      bool // IO is accepted
	stopping     bool
	halted       bool // nothing may be started any more
	quiesce      bool // background work winds down
	abandonMoves bool
	userAwake    bool
	awake        bool
	inUse        int // requests under way
	life         lifecycle

	// Loading.
	ld            *loader
	rs            *redoState
	redoFrom      uint64
	redoTo        uint64
	redoGaps      uint64
	lossAccepted  bool // redoGaps and rottenPages are what somebody decided to go on without
	redone        int
	rottenPages   uint64
	fromShm       bool
	found         LoadReport // the rest of it
	closesLeft    int
	recoveredDone func(d *Device, err error)

	stats Stats
}

// Blocks is the number of 4 KiB blocks that users see.
func (d *Device) Blocks() uint64 { return d.lay.LBAs }

// Name is the device's name.
func (d *Device) Name() string { return d.sb.Name }

// UUID is the device's identity.
func (d *Device) UUID() uuid.UUID { return d.sb.UUID }

// Layout is where everything lies. It must not be changed.
func (d *Device) Layout() *layout.Layout { return d.lay }

// Superblock is the superblock as it is on media.
func (d *Device) Superblock() superblock.Superblock { return d.sb }

// Thread is the core thread.
func (d *Device) Thread() *thread.Thread { return d.th }

// UserIOPool is the number of IOs that one thread may have in flight.
func (d *Device) UserIOPool() int { return d.cfg.UserIOPool }

// Health says what the device still serves, and the error that made it so.
func (d *Device) Health() (Health, error) { return d.health, d.failure }

// Idle says whether nothing is under way and nothing waits: no request, move,
// checkpoint or segment transition.
func (d *Device) Idle() bool {
	return d.compaction.rests() && d.gc.rests() && d.idleBut(0)
}

// idleBut says whether nothing is under way but so many moves.
func (d *Device) idleBut(moves int) bool {
	return d.inUse == 0 && d.gc.under+d.compaction.under == moves && !d.ckpt.active && !d.awake && !d.userAwake &&
		d.log_.under == 0 && !d.flusher.under &&
		d.sbw.stage == sbIdle && d.chunks[segOpening]+d.bands[segOpening] == 0 && d.closing() == 0
}

// Stats fills s with the device's statistics.
func (d *Device) Stats(s *Stats) {
	*s = d.stats
	m, c := &d.mdStats, &s.Cache[SourceMDCache]
	c.Read.IOs += m.Reads
	c.Read.Blocks += m.ReadBlocks
	c.Read.ErrorsMedia += m.ReadErrors
	c.Read.ErrorsCRC += m.CRC
	c.Write.IOs += m.Writes
	c.Write.Blocks += m.WriteBlocks
	c.Write.ErrorsMedia += m.WriteErrors
	s.FreeChunks, s.FreeBands = uint64(d.freeChunks.n), uint64(d.freeBands.n)
	s.FullChunks, s.FullBands = uint64(d.chunks[segFull]), uint64(d.bands[segFull])
	s.QuarantinedChunks = uint64(d.chunks[segQuarantine])
	s.QuarantinedBands = uint64(d.bands[segQuarantine])
	s.ValidBlocks = d.mapped
	s.DirtyPages = d.table.DirtyPages()
	s.Acked, s.Durable = d.ackedU, d.durableU
	s.Channels = uint64(d.channels.open)
	s.RedoBlocks = d.logBlocks - d.ckpt.from
	s.Buffered = d.bufferedBlocks()
}

// LoadReport says what a load found.
type LoadReport struct {
	FromShm     bool
	From, To    uint64 // user records up to From were in the mapping, those up to To are now
	Redone      int    // user records applied
	Voids       int    // void records among them
	Torn        int    // user records behind the end of the log, which do not count
	Rotten      int    // user records applied although blocks of theirs are damaged
	Gaps        uint64 // durable user records that could not be read
	RottenPages uint64
	Scanned     int  // segments that had no summary
	DeadAttempt bool // a checkpoint had come as far as its directory, and was not committed
}

// LoadReport returns what the load of this device found.
func (d *Device) LoadReport() LoadReport {
	r := d.found
	r.FromShm, r.From, r.To, r.Redone, r.Gaps, r.RottenPages = d.fromShm, d.redoFrom, d.redoTo, d.redone, d.redoGaps, d.rottenPages
	return r
}

func (d *Device) mdOf(s *segment) *md.Object {
	if s.band {
		return d.mdBands
	}
	return d.mdChunks
}

// progressOf tells whoever asked how far a load is.
func (d *Device) progressOf(phase string, done, total uint64) {
	if d.cfg.Progress != nil {
		d.cfg.Progress(phase, done, total)
	}
}

// buildMemory allocates what the device needs in memory, once its layout is
// known.
func (d *Device) buildMemory() error {
	d.seed = record.Place(d.sb.UUID, 0)
	d.buildSegments()
	d.freeChunks.q = make([]uint32, d.lay.Chunks)
	d.freeBands.q = make([]uint32, d.lay.Bands)
	d.lim = limitsFor(d.lay, &d.cfg.Limits)
	d.sums = newSumCache(min(d.cfg.SumCacheBytes, sumCacheNeed(d.lay)))
	d.initLog()
	d.initCheckpoint()
	d.compaction.init(d, "compaction", SourceCompaction, d.lim.gcReserve)
	d.compaction.pick, d.compaction.wanted = pickChunk, compactionWanted
	d.gc.init(d, "relocation", SourceGC, 0)
	d.gc.pick, d.gc.wanted = pickBand, gcWanted
	d.asked.scan = maxExtentScan
	return d.initChannels()
}

// sumCacheNeed is the size of a cache that would hold every checksum.
func sumCacheNeed(l *layout.Layout) uint64 {
	slots := l.Bands * l.BandSlots
	if !l.VSS {
		slots += l.Chunks * l.ChunkBlocks
	}
	return max(slots/record.SummaryEntries*sumLineBytes*2, 64*sumLineBytes)
}

// freeMemory gives back what buildMemory took.
func (d *Device) freeMemory() {
	d.freeChannels()
	d.freeLog()
	d.freeReader()
	d.freeCheckpoint()
	d.compaction.release()
	d.gc.release()
	for i := range d.segs {
		if s := &d.segs[i]; s.sum != nil {
			d.giveSummary(s)
		}
	}
	for _, pool := range d.sumPool {
		for _, m := range pool {
			iobuf.Free(m)
		}
	}
	d.sumPool = [2][]record.Summary{}
}

// Memory is what a device takes, in bytes.
type Memory struct {
	Table     uint64 // the mapping
	Fixed     uint64 // descriptors, buffers and tables that do not grow
	Checksums uint64 // at most, as data of closed segments is read
}

// MemoryNeed is the memory of a device of layout l with config c, whose zero
// values are the defaults.
func MemoryNeed(l *layout.Layout, c *Config) Memory {
	tuned, _ := c.Tuned() // what is wrong is told elsewhere
	segments := uint64(tuned.MoveSegments)
	chunkSum := layout.SummaryBlocks(l.ChunkBlocks) * blockSize
	bandSum := layout.SummaryBlocks(l.BandSlots) * blockSize
	perRecord := uint64(blockSize + record.MaxTrims*32)
	if l.VSS {
		perRecord += (record.MaxBlocks + 1) * record.VSSSize
	}
	perMove := uint64((record.MaxBlocks + 1) * blockSize)
	return Memory{
		Table: l2p.MemorySize(l.LBAs, int(l.L2PEntryBytes)),
		// Open and closing segments, drains. That of a detour is there only while
		// relocation has no band open.
		Fixed: 4*chunkSum + 3*bandSum + segments*(chunkSum+bandSum) +
			maxRecords*perRecord + (2*uint64(tuned.MoveDepth)+1)*perMove +
			2*l.DirBlocks*blockSize + ckptBuffers*ckptBufPages*blockSize +
			2*(l.Chunks+l.Bands)*blockSize + // descriptors, with staging
			(l.Chunks+l.Bands)*uint64(unsafe.Sizeof(segment{})) + uint64(inflightSlots(inflightRecords))*inflightSlotBytes,
		Checksums: min(tuned.SumCacheBytes, sumCacheNeed(l)),
	}
}

func stepMemory(p *process) {
	d := enter(p)
	if err := d.layZones(); err != nil {
		p.Fail(err)
		return
	}
	if err := d.buildMemory(); err != nil {
		d.freeMemory()
		p.Fail(err)
		return
	}
	p.Next()
}

func stepFreeMemory(p *process) {
	enter(p).freeMemory()
	p.Next()
}
