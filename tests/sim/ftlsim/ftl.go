package ftlsim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"goftl/ftl"
	"goftl/ftl/layout"
	"goftl/ftl/superblock"
	"goftl/tests/sim/model"
)

// FTL is the target that matters.
type FTL struct{}

type ftlDevice struct {
	b     *Boot
	d     *ftl.Device
	stats ftl.Stats

	chans []*ftl.Channel
	turn  int
}

// Start creates or loads the FTL of a plan.
func (FTL) Start(b *Boot, create bool, done func(d Device, err error)) {
	g, c := &b.Plan.Geometry, &b.Plan.Config
	cfg := &ftl.Config{
		Name: "sim", System: b.World.System(), Thread: b.Thread, Manager: b.Manager,
		Cache: diskNames[Cache], Base: diskNames[Base],
		Create: create, Force: b.Force, SparePct: g.SparePct,
		ChunkBlocks: g.ChunkBlocks, BandBlocks: g.BandBlocks, SizeBytes: g.SizeBlocks * model.BlockSize,
		NoVerify: c.NoVerify, ShmDir: b.ShmDir, RedoLimitBytes: c.RedoBytes, SumCacheBytes: c.SumCacheBytes,
		Limits: c.Limits, AcceptLoss: b.AcceptLoss, ReadOnly: b.ReadOnly, Logger: b.Watch.Logger(),
		RewriteSuperblock: b.Rewrite, DetourEvery: c.DetourEvery,
	}
	if g.NoCache {
		cfg.NoCache = true
		if g.Alone {
			cfg.Cache = ""
		}
	}
	if g.Zones.Blocks > 0 {
		cfg.Base, cfg.ZoneAppend = zonesName, g.Zones.Append
	}
	cfg.VolatileWriteCache, cfg.WriteBufferBytes = c.WriteBuffer > 0, c.WriteBuffer*model.BlockSize
	if c.Greedy {
		cfg.Policy = ftl.PolicyGreedy
	}
	if create {
		var id uuid.UUID
		binary.LittleEndian.PutUint64(id[:], b.Plan.Seed^0x9e3779b97f4a7c15)
		binary.LittleEndian.PutUint64(id[8:], uint64(b.Life)+1)
		cfg.UUID = id
	}
	ftl.Start(cfg, func(d *ftl.Device, err error) {
		if create && !b.Force && b.Tried && (errors.Is(err, ftl.ErrExists) || errors.Is(err, ftl.ErrNotEmpty)) {
			FTL{}.startAgain(b, err, done)
			return
		}
		if b.Strayed && !b.Rewrite && errors.Is(err, superblock.ErrForeign) {
			// A superblock was hit. A person knows that it is the right device, and gives leave.
			b.Rewrite = true
			b.Count("superblock rewritten with leave", 1)
			FTL{}.Start(b, create, done)
			return
		}
		if err != nil {
			done(nil, err)
			return
		}
		f := &ftlDevice{b: b, d: d}
		for range c.Channels {
			if err := f.open(); err != nil {
				done(nil, err)
				return
			}
		}
		done(f, nil)
	})
}

// startAgain loads a device that cannot be made because it is there: the creation had come to its end, and only the
// answer was lost. If that fails, and the power failed in the middle of a sector, what stands in the first block may be
// anybody's data: then it takes force.
func (f FTL) startAgain(b *Boot, refused error, done func(d Device, err error)) {
	f.Start(b, false, func(d Device, err error) {
		if err != nil && b.Spoilt {
			b.Force = true
			b.Count("creation repeated by force", 1)
			f.Start(b, true, done)
			return
		}
		if err != nil {
			err = fmt.Errorf("creation repeated: %w, and %w", refused, err)
		}
		done(d, err)
	})
}

// FTL returns the device itself, for a target that puts something in front of it.
func (f *ftlDevice) FTL() *ftl.Device { return f.d }

// Blocks is the size of the device.
func (f *ftlDevice) Blocks() uint64 { return f.d.Blocks() }

var ftlOps = [NumKinds]ftl.Op{Read: ftl.OpRead, Write: ftl.OpWrite, Trim: ftl.OpTrim, Flush: ftl.OpFlush, Zero: ftl.OpWrite}

// Submit passes a request on.
func (f *ftlDevice) Submit(r *Request) {
	q, ok := r.native.(*ftl.Request)
	if !ok {
		q = &ftl.Request{Ctx: r, Done: ftlDone}
		r.native = q
	}
	q.Op, q.FUA, q.LBA, q.Count, q.Bufs = ftlOps[r.Kind], r.FUA, r.LBA, r.Count, r.Bufs
	if f.turn++; len(f.chans) == 0 {
		f.d.Submit(q)
		return
	}
	if f.turn%renewAfter == 0 {
		f.renew()
	}
	f.chans[f.turn%len(f.chans)].Submit(q)
}

// renewAfter says after how many operations one of the channels is closed.
const renewAfter = 97

func (f *ftlDevice) open() error {
	c, err := f.d.OpenChannel()
	if err == nil {
		f.chans = append(f.chans, c)
	}
	return err
}

// renew closes a channel, in the middle of its work, and goes on with a new one, unless too many are still closing.
func (f *ftlDevice) renew() {
	if f.open() != nil {
		return
	}
	f.chans[0].Close(func(error) {}) // a stop says it too, if something was lost
	f.chans = f.chans[1:]
}

func ftlDone(q *ftl.Request) {
	r := q.Ctx.(*Request)
	r.Err = q.Err
	r.Done(r)
}

// Stop ends the device.
func (f *ftlDevice) Stop(fast bool, done func(err error)) { f.d.Stop(fast, done) }

// Check compares counts, mapping, records and checksums.
func (f *ftlDevice) Check(done func(problem error)) {
	if err := f.d.CheckInvariants(); err != nil {
		f.b.Thread.Post(func(any) { done(err) }, nil)
		return
	}
	f.d.Check(func(rep *ftl.CheckReport, err error) {
		f.b.Count(headersOnly, rep.Undescribed)
		if err == nil && !rep.OK() {
			err = fmt.Errorf("the check found: %v", rep.Problems)
		}
		done(err)
	})
}

// Idle says whether nothing is under way, or all that is waits for users to make room.
func (f *ftlDevice) Idle() bool { return f.d.Idle() || f.d.Cramped() }

// ReadOnly says whether writes are refused.
func (f *ftlDevice) ReadOnly() bool {
	h, _ := f.d.Health()
	return h != ftl.HealthOK
}

// Sole is true of everything but second copies.
func (f *ftlDevice) Sole(cache bool, lba uint64) bool {
	second := []layout.RegionType{layout.RegionChunkMDMirror, layout.RegionBandMDMirror, layout.L2PDir(0, 1), layout.L2PDir(1, 1)}
	if !cache {
		second = []layout.RegionType{layout.RegionSBMirror}
	}
	for _, t := range second {
		if r := f.d.Layout().Region(t); lba >= r.Offset && lba < r.Offset+r.Blocks {
			return false
		}
	}
	return true
}

// Descriptor is true of both copies.
func (f *ftlDevice) Descriptor(cache bool, lba uint64) bool {
	if !cache {
		return false
	}
	for _, t := range []layout.RegionType{
		layout.RegionChunkMD, layout.RegionChunkMDMirror, layout.RegionBandMD, layout.RegionBandMDMirror,
	} {
		if r := f.d.Layout().Region(t); lba >= r.Offset && lba < r.Offset+r.Blocks {
			return true
		}
	}
	return false
}

// Body is true of chunks, bands and slots of the mapping.
func (f *ftlDevice) Body(cache bool, lba uint64) bool {
	t := layout.RegionBands
	if cache {
		t = layout.L2PSlot(0)
	}
	return lba >= f.d.Layout().Region(t).Offset
}

// Front is where the log begins.
func (f *ftlDevice) Front(cache bool) uint64 {
	if cache {
		return f.d.Layout().Region(layout.RegionChunks).Offset
	}
	return f.d.Layout().Region(layout.RegionBands).Offset
}

// fewFree is how many free bands are few; keptFree of them are left where there is no cache: relocation needs one, users
// may take one before it is known what was lost, and the next reset may fail.
const fewFree, keptFree = 6, 3

// FreeZones are all free bands where there is a cache through which relocation can go with what a full one holds, and
// where it can win bands enough to replace them. Without a cache they are few, and some are left.
func (f *ftlDevice) FreeZones(most int) (zones []uint64) {
	l := f.d.Layout()
	free, chunks, least, garbage := 0, uint64(0), l.BandSlots, uint64(0)
	for _, g := range f.d.Segments() {
		switch {
		case g.Kind == "chunk" && g.State == "free":
			chunks++
		case g.Kind == "band" && g.State == "full":
			least = min(least, uint64(g.Valid))
			garbage += uint64(g.Slots - g.Valid)
		case g.Kind == "band" && g.State == "free":
			free++
			for _, z := range g.Zones {
				zones = append(zones, z.Zone)
			}
		}
	}
	switch {
	case free == 0 || free > most:
	case l.NoCache && free <= fewFree && free > keptFree:
		return zones[keptFree*l.Zones.Units:]
	case !l.NoCache && chunks >= 2 && least <= (chunks-1)*l.ChunkBlocks/2 && garbage >= fewFree*l.BandSlots:
		return zones
	}
	return nil
}

// Acked is the number of the last record that was acknowledged.
func (f *ftlDevice) Acked() uint64 {
	f.d.Stats(&f.stats)
	return f.stats.Acked
}

// Forgotten is true of records whose chunk was used again.
func (f *ftlDevice) Forgotten(u uint64) bool {
	r := f.d.LoadReport()
	if r.FromShm || u > r.From {
		return false
	}
	for _, s := range f.d.Segments() {
		if s.FirstU != 0 && s.FirstU <= u && u <= s.LastU {
			return false
		}
	}
	return true
}

// Loaded reports how the device was started.
func (f *ftlDevice) Loaded(add func(name string, n uint64)) {
	r := f.d.LoadReport()
	add("records redone", uint64(r.Redone))
	some := func(name string, n uint64) { add(name, min(n, 1)) }
	some("void record found", uint64(r.Voids))
	some("torn record at the tail", uint64(r.Torn))
	some("damaged record applied", uint64(r.Rotten))
	some("gap judged as rot", r.Gaps)
	some("rotten page", r.RottenPages)
	some("open segment scanned", uint64(r.Scanned))
	if r.DeadAttempt {
		add("checkpoint interrupted behind its directory", 1)
	}
	if r.FromShm {
		add("shared memory taken over", 1)
	}
}

// Ended reports what happened in a life.
func (f *ftlDevice) Ended(add func(name string, n uint64)) {
	s := &f.stats
	f.d.Stats(s)
	if s.CkptStarted > s.Checkpoints+s.CkptAborted {
		add("checkpoint interrupted", 1)
	}
	add("checkpoints", s.Checkpoints)
	add("checkpoint aborted", s.CkptAborted)
	add("record rehomed", s.Rehomed)
	add("record voided", s.Voided)
	add("block lost", s.Lost)
	add("chunks compacted", s.Compacted)
	add("bands relocated", s.Relocated)
	add("blocks moved through the log", s.Detoured)
	add("writes throttled", s.Throttled)
	add("write buffer full", s.BufferWaits)
	add("answered write given up", s.BufferLost)
	add("quarantine waited for", s.NoChunk)
	add("slow read path", s.SlowReads)
	add(headersOnly, s.Undescribed)
	add("checksums fetched", s.SumMisses)
	add("block replaced before its move", s.Overtaken)
	add("move raced a write", s.Outdated)
	for _, i := range f.d.Segments() {
		if i.Kind == "band" && i.State == "bad" {
			add("band dropped", 1)
		}
	}
}
