package sim

import (
	"fmt"

	"github.com/zeebo/xxh3"

	"goftl/internal/assert"
)

// SectorSize is the unit that a device without atomic blocks tears at.
const SectorSize = 512

// DiskOptions describe a device.
type DiskOptions struct {
	Name      string
	Blocks    uint64
	BlockSize int // bytes
	MDSize    int // bytes of separate metadata a block has; such a block is always written whole

	Volatile    bool // completed writes wait in a cache until a flush completes
	FUA         bool // the device itself makes a write with FUA durable
	TearSectors bool // power loss leaves sectors of a block whole, not blocks
	KeepOnTrim  bool // unmapped blocks keep their old content as long as they like

	MaxTransfer uint32 // blocks; 0: no limit
	WriteUnit   uint32 // blocks

	Latency Latency
	Faults  Faults
}

// Latency is how long the device takes, in ns.
type Latency struct {
	Min, Max int64
	Slow     float64 // chance of an IO that takes up to SlowMax
	SlowMax  int64
	Hang     float64 // chance of an IO that takes up to HangMax, as behind a device that resets itself
	HangMax  int64
	Flush    int64 // how much longer a flush may take
}

// RandomLatency draws a device: anything from one that keeps the order of what it is given to one that does not.
func RandomLatency(r *Rand) Latency {
	l := Latency{Min: 1000, Max: r.Range(1000, 200_000)}
	if r.Chance(0.5) {
		l.Slow, l.SlowMax = 0.02, r.Range(1e5, 2e7)
	}
	if r.Chance(0.1) {
		l.Hang, l.HangMax = 0.0005, r.Range(1e9, 6e10)
	}
	return l
}

// page is the content of one block.
type page struct {
	data []byte
	md   []byte
}

// transfer is one write (or unmap) on its way: from the cache's side of it, all that a power loss needs to know.
type transfer struct {
	id        uint64 // order of arrival in the cache, from 1
	delivered uint64 // order in which the host heard of its completion, 0 while it has not
}

// version is what one write left in a block, newest first. The oldest is what the medium has.
type version struct {
	page *page // nil: zeroes
	by   *transfer
	prev *version
}

// Disk is a device whose media outlive the World that uses it. It belongs to one run.
type Disk struct {
	opt DiskOptions
	r   *Rand
	tr  *Trace

	stable []*page    // what the medium has; nil: zeroes
	cached []*version // what the volatile cache has on top; nil: nothing
	dirty  []uint64   // blocks with a cached version, in order of arrival
	free   []*page

	losing    bool // a power loss is being worked out: everything counts as cached until it is settled
	transfers uint64
	delivered uint64
	inflight  []*request // in order of submission
	ids       uint64

	boundaries uint64
	submitted  func()
	front      uint64
	frontHits  uint64
	pages      uint64
	pageHits   uint64
	firstHits  uint64

	bad   map[uint64]badKind
	last  [recentBlocks]uint64 // blocks written last, in a ring
	lastN uint64
	aim   func(lba, count uint64) (to uint64, ok bool)
	stats DiskStats
}

// DiskStats count what a run did to a device, so that a test can tell that it tested something.
type DiskStats struct {
	Reads, Writes, Flushes, Unmaps uint64
	BlocksRead, BlocksWritten      uint64
	ReadErrors, WriteErrors        uint64
	FlushErrors, NoMem, NoSpace    uint64
	Lost, Kept, Torn               uint64 // unflushed block versions at power losses
	Interrupted                    uint64 // writes in flight at crashes
	Rotted, Strayed, Garbled       uint64
	Hung                           uint64
	PowerLosses, Kills             uint64
}

// NewDisk returns a device full of zeroes.
func NewDisk(r *Rand, tr *Trace, opt DiskOptions) *Disk {
	if opt.BlockSize == 0 {
		opt.BlockSize = 4096
	}
	if opt.Latency.Max == 0 {
		opt.Latency = Latency{Min: 10_000, Max: 100_000}
	}
	return &Disk{
		opt: opt, r: r, tr: tr,
		stable: make([]*page, opt.Blocks),
		cached: make([]*version, opt.Blocks),
		bad:    make(map[uint64]badKind),
	}
}

// Reseed gives the device another source of randomness from now on.
func (d *Disk) Reseed(r *Rand) { d.r = r }

// Options returns the device's description.
func (d *Disk) Options() DiskOptions { return d.opt }

// Faults returns the faults to inject, which may be changed at any time.
func (d *Disk) Faults() *Faults { return &d.opt.Faults }

// Stats returns what happened so far.
func (d *Disk) Stats() DiskStats { return d.stats }

// InFlight is the number of IOs that were submitted and have not completed.
func (d *Disk) InFlight() int { return len(d.inflight) }

// Boundaries counts the moments between which a crash can make a difference: submission, arrival and completion of
// every IO.
func (d *Disk) Boundaries() uint64 { return d.boundaries }

// OnSubmit has fn called whenever an IO was submitted, in the middle of what the thread that did so is about.
func (d *Disk) OnSubmit(fn func()) { d.submitted = fn }

// SetFront says how many blocks in front of the device FrontWrites is about, and the last how many of these PageWrites.
func (d *Disk) SetFront(blocks, pages uint64) { d.front, d.pages = blocks, pages }

// FrontWrites counts the writes that have arrived in the front of the device.
func (d *Disk) FrontWrites() uint64 { return d.frontHits }

// PageWrites counts those that have arrived in the last blocks of the front.
func (d *Disk) PageWrites() uint64 { return d.pageHits }

// FirstWrites counts the writes that have arrived at the first block.
func (d *Disk) FirstWrites() uint64 { return d.firstHits }

// Dirty is the number of blocks that a power loss may change now.
func (d *Disk) Dirty() int { return len(d.dirty) }

// Read copies the present content of a block; data and md may be nil.
func (d *Disk) Read(lba uint64, data, md []byte) {
	p := d.stable[lba]
	if v := d.cached[lba]; v != nil {
		p = v.page
	}
	if p == nil {
		clear(data)
		clear(md)
		return
	}
	copy(data, p.data)
	copy(md, p.md)
}

const recentBlocks = 256

// Recent returns the blocks that were written last; one may come twice.
func (d *Disk) Recent() []uint64 { return d.last[:min(d.lastN, recentBlocks)] }

// Latest returns the same, the last one first.
func (d *Disk) Latest() []uint64 {
	list := make([]uint64, 0, recentBlocks)
	for n := range min(d.lastN, recentBlocks) {
		list = append(list, d.last[(d.lastN-1-n)%recentBlocks])
	}
	return list
}

// Blank says whether a block holds zeroes because nothing else was written to it.
func (d *Disk) Blank(lba uint64) bool {
	if v := d.cached[lba]; v != nil {
		return v.page == nil
	}
	return d.stable[lba] == nil
}

// Hash is equal for devices that hold the same now.
func (d *Disk) Hash() uint64 {
	h, p := uint64(1), d.newPage()
	for lba := range d.opt.Blocks {
		if d.Blank(lba) {
			h *= 31
			continue
		}
		d.Read(lba, p.data, p.md)
		h = h*31 + xxh3.Hash(p.data) + xxh3.Hash(p.md)
	}
	d.freePage(p)
	return h
}

// Poke changes a block behind everybody's back: it is on the medium at once.
func (d *Disk) Poke(lba uint64, data, md []byte) {
	p := d.newPage()
	copy(p.data, data)
	copy(p.md, md)
	d.dropChain(lba)
	d.setStable(lba, p)
	d.forgetDirty(lba)
}

// Rot flips one bit of a block, of its data or metadata, wherever its present content is.
func (d *Disk) Rot(lba uint64) { d.rot(lba, d.r.IntN(4) == 0) }

// RotMetadata flips one bit of a block's metadata, if it has any.
func (d *Disk) RotMetadata(lba uint64) { d.rot(lba, true) }

func (d *Disk) rot(lba uint64, metadata bool) {
	p := d.newPage()
	d.Read(lba, p.data, p.md)
	bit := d.r.IntN((len(p.data) + len(p.md)) * 8)
	if len(p.md) > 0 && metadata {
		bit = (len(p.data) + d.r.IntN(len(p.md))) * 8 // it is small, and says what the block is
	}
	if at := bit / 8; at < len(p.data) {
		p.data[at] ^= 1 << (bit % 8)
	} else {
		p.md[at-len(p.data)] ^= 1 << (bit % 8)
	}
	d.stats.Rotted++
	if v := d.cached[lba]; v != nil {
		d.freePage(v.page)
		v.page = p
		return
	}
	d.setStable(lba, p)
}

// put stores one block of a write. data nil stores zeroes.
func (d *Disk) put(lba uint64, data, md []byte, by *transfer, durable bool) {
	d.last[d.lastN%recentBlocks] = lba
	d.lastN++
	var p *page
	if data != nil {
		p = d.newPage()
		copy(p.data, data)
		if md != nil {
			copy(p.md, md)
		} else {
			clear(p.md)
		}
	}
	if durable || !d.opt.Volatile && !d.losing {
		if d.cached[lba] != nil {
			d.dropChain(lba)
			d.forgetDirty(lba)
		}
		d.setStable(lba, p)
		return
	}
	if d.cached[lba] == nil {
		d.dirty = append(d.dirty, lba)
	}
	d.cached[lba] = &version{page: p, by: by, prev: d.cached[lba]}
}

// newTransfer begins a write that arrives in the cache now.
func (d *Disk) newTransfer() *transfer {
	d.transfers++
	return &transfer{id: d.transfers}
}

// deliver notes that the host heard of the completion of a write.
func (d *Disk) deliver(t *transfer) {
	d.delivered++
	t.delivered = d.delivered
}

// destage makes durable what was delivered up to the cut. A version older than a durable one of its block is gone.
func (d *Disk) destage(cut uint64) {
	keep := d.dirty[:0]
	for _, lba := range d.dirty {
		var newer *version
		v := d.cached[lba]
		for v != nil && (v.by.delivered == 0 || v.by.delivered > cut) {
			newer, v = v, v.prev
		}
		if v != nil {
			for old := v.prev; old != nil; old = old.prev {
				d.freePage(old.page)
			}
			d.setStable(lba, v.page)
			if newer == nil {
				d.cached[lba] = nil
			} else {
				newer.prev = nil
			}
		}
		if d.cached[lba] != nil {
			keep = append(keep, lba)
		}
	}
	d.dirty = keep
}

func (d *Disk) setStable(lba uint64, p *page) {
	d.freePage(d.stable[lba])
	d.stable[lba] = p
}

func (d *Disk) dropChain(lba uint64) {
	for v := d.cached[lba]; v != nil; v = v.prev {
		d.freePage(v.page)
	}
	d.cached[lba] = nil
}

func (d *Disk) forgetDirty(lba uint64) {
	for i, l := range d.dirty {
		if l == lba {
			d.dirty = append(d.dirty[:i], d.dirty[i+1:]...)
			return
		}
	}
}

func (d *Disk) newPage() *page {
	if n := len(d.free); n > 0 {
		p := d.free[n-1]
		d.free = d.free[:n-1]
		return p
	}
	if p := spare.take(d.pageKind()); p != nil {
		return p
	}
	return &page{data: make([]byte, d.opt.BlockSize), md: make([]byte, d.opt.MDSize)}
}

// Release ends the use of the device and keeps its memory for those that come after it.
func (d *Disk) Release() {
	for lba := range d.stable {
		d.dropChain(uint64(lba))
		d.setStable(uint64(lba), nil)
	}
	spare.give(d.pageKind(), d.free)
	d.stable, d.cached, d.dirty, d.free, d.inflight = nil, nil, nil, nil, nil
}

func (d *Disk) pageKind() pageKind { return pageKind{d.opt.BlockSize, d.opt.MDSize} }

func (d *Disk) freePage(p *page) {
	if p != nil {
		d.free = append(d.free, p)
	}
}

// note adds an entry to the trace.
func (d *Disk) note(at int64, what string, id, lba, count uint64, err error) {
	d.tr.Add(Entry{At: at, Who: d.opt.Name, What: what, ID: id, LBA: lba, Count: count, Err: err})
}

func (d *Disk) checkRange(lba, count uint64) {
	assert.That(lba+count >= lba && lba+count <= d.opt.Blocks, "sim: IO beyond the end of the device")
}

// String names the device and its state.
func (d *Disk) String() string {
	return fmt.Sprintf("%s: %d blocks, %d in flight, %d unflushed", d.opt.Name, d.opt.Blocks, len(d.inflight), len(d.dirty))
}
