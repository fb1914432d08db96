package ftlsim

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"goftl/ftl"
	"goftl/ftl/layout"
)

// FTL is the target that matters.
type FTL struct{}

type ftlDevice struct {
	b *Boot
	d *ftl.Device
}

// Start creates or loads the FTL of a plan.
func (FTL) Start(b *Boot, create bool, done func(d Device, err error)) {
	p := b.Plan
	cfg := &ftl.Config{
		Name: "sim", System: b.World.System(), Thread: b.Thread, Manager: b.Manager, Cache: b.Cache, Base: b.Base,
		Create: create, Force: create && b.Life > 0, SparePct: p.SparePct,
		ChunkBlocks: p.ChunkBlocks, BandBlocks: p.BandBlocks, SizeBytes: p.SizeBytes,
		NoVerify: p.NoVerify, ShmDir: b.ShmDir, RedoLimitBytes: p.RedoBytes, SumCacheBytes: p.SumCacheBytes,
		AcceptLoss: b.AcceptLoss, ReadOnly: b.ReadOnly,
	}
	if p.Greedy {
		cfg.Policy = ftl.PolicyGreedy
	}
	if create {
		var id uuid.UUID
		binary.LittleEndian.PutUint64(id[:], p.ID)
		binary.LittleEndian.PutUint64(id[8:], uint64(b.Life)+1)
		cfg.UUID = id
	}
	ftl.Start(cfg, func(d *ftl.Device, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(&ftlDevice{b: b, d: d}, nil)
	})
}

// Blocks is the size of the device.
func (f *ftlDevice) Blocks() uint64 { return f.d.Blocks() }

var ftlOps = [...]ftl.Op{Read: ftl.OpRead, Write: ftl.OpWrite, Trim: ftl.OpTrim, Flush: ftl.OpFlush}

// Submit passes a request on.
func (f *ftlDevice) Submit(r *Request) {
	q, ok := r.native.(*ftl.Request)
	if !ok {
		q = &ftl.Request{Ctx: r, Done: ftlDone}
		r.native = q
	}
	q.Op, q.FUA, q.LBA, q.Count, q.Bufs = ftlOps[r.Kind], r.FUA, r.LBA, r.Count, r.Bufs
	f.d.Submit(q)
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
		if err == nil && !rep.OK() {
			err = fmt.Errorf("the check found: %v", rep.Problems)
		}
		done(err)
	})
}

// Idle says whether nothing is under way.
func (f *ftlDevice) Idle() bool { return f.d.Idle() }

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

// Counters reports how the device was started.
func (f *ftlDevice) Counters(add func(name string, n uint64)) {
	r := f.d.LoadReport()
	add("records redone", uint64(r.Redone))
	add("gaps in redo", r.Gaps)
	add("rotten pages", r.RottenPages)
	if r.FromShm {
		add("loads from shared memory", 1)
	}
}
