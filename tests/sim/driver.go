package sim

import (
	"encoding/binary"
	"slices"

	"github.com/zeebo/xxh3"

	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/thread"
)

// request is one IO in the device.
type request struct {
	id         uint64
	op         bdev.Op
	lba, count uint64
	bufs       [][]byte
	md         []byte
	fua        bool
	sum        uint64 // of what is written, at submission: the caller must leave it alone
	cut        uint64 // flush: what it covers
	applied    bool
	dead       bool // the host is gone
	gone       bool // the device is gone
	err        error
	by         *transfer
	io         *bdev.IO
	ch         *diskChannel
}

// arrives says whether the request leaves something on the medium.
func (q *request) arrives() bool {
	return q.op == bdev.OpWrite || q.op == bdev.OpUnmap || q.op == bdev.OpWriteZeroes
}

// Driver attaches a Disk to a World as a bdev.Driver. The channels' threads must belong to the World.
type Driver struct {
	w *World
	d *Disk
}

// Attach returns the driver of d in this life.
func Attach(w *World, d *Disk) *Driver { return &Driver{w: w, d: d} }

// Info describes the device.
func (v *Driver) Info() bdev.Info {
	o := &v.d.opt
	return bdev.Info{
		Name: o.Name, Product: "simulated disk", BlockSize: uint32(o.BlockSize), Blocks: o.Blocks,
		MDSize: uint32(o.MDSize), WriteUnit: o.WriteUnit, MaxTransfer: o.MaxTransfer,
		VolatileCache: o.Volatile, FUA: o.FUA,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes),
	}
}

// NewChannel returns the way into the device of one thread.
func (v *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	return &diskChannel{v: v, t: t}, nil
}

// Close does nothing: the media stay.
func (v *Driver) Close() error { return nil }

type diskChannel struct {
	v       *Driver
	t       *thread.Thread
	pending int
}

// Close ends the channel.
func (c *diskChannel) Close() { assert.That(c.pending == 0, "sim: channel closed with IO in flight") }

// Submit takes an IO; it completes by a message to the channel's thread after a random time, or at once if refused.
func (c *diskChannel) Submit(io *bdev.IO) {
	d, w := c.v.d, c.v.w
	d.ids++
	d.boundaries++
	if io.Op != bdev.OpFlush {
		d.checkRange(io.LBA, io.Count)
	}
	if err := d.refuse(); err != nil {
		d.note(w.now, "refuse "+io.Op.String(), d.ids, io.LBA, io.Count, err)
		io.Complete(err)
		return
	}
	q := &request{
		id: d.ids, op: io.Op, lba: io.LBA, count: io.Count, bufs: io.Bufs, md: io.MD, fua: io.FUA && d.opt.FUA,
		io: io, ch: c,
	}
	c.check(q)
	d.note(w.now, io.Op.String(), q.id, q.lba, q.count, nil)
	d.inflight = append(d.inflight, q)
	c.pending++
	delay := d.latency()
	if q.op == bdev.OpFlush {
		delay += d.r.Range(0, d.opt.Latency.Flush)
	}
	w.After(delay, arrive, q)
	if d.submitted != nil {
		d.submitted()
	}
}

// check looks at the buffers and, for a read, spoils them: nobody may use them before the IO completes.
func (c *diskChannel) check(q *request) {
	o := &c.v.d.opt
	switch q.op {
	case bdev.OpRead, bdev.OpWrite:
		n := 0
		for _, b := range q.bufs {
			n += len(b)
		}
		assert.That(n == int(q.count)*o.BlockSize, "sim: buffers do not have the length of the IO")
		assert.That(q.md == nil || len(q.md) == int(q.count)*o.MDSize, "sim: metadata does not have the length of the IO")
		if q.op == bdev.OpWrite {
			q.sum = q.checksum()
			return
		}
		for _, b := range q.bufs {
			for at := 0; at+8 <= len(b); at += SectorSize {
				binary.LittleEndian.PutUint64(b[at:], 0xdeadbeefdeadbeef)
			}
		}
	case bdev.OpFlush:
		q.cut = c.v.d.delivered
	default: // nothing to look at
	}
}

func (q *request) checksum() uint64 {
	sum := xxh3.Hash(q.md)
	for _, b := range q.bufs {
		sum = sum*31 + xxh3.Hash(b)
	}
	return sum
}

func (d *Disk) latency() int64 {
	l := &d.opt.Latency
	if d.r.Chance(l.Hang) {
		d.stats.Hung++
		return d.r.Range(l.Max, max(l.Max, l.HangMax))
	}
	if d.r.Chance(l.Slow) {
		return d.r.Range(l.Max, max(l.Max, l.SlowMax))
	}
	return d.r.Range(l.Min, l.Max)
}

// arrive is the moment in which the device does what it was asked; the host hears of it later.
func arrive(arg any) {
	q := arg.(*request)
	if q.dead || q.gone {
		return
	}
	c := q.ch
	d, w := c.v.d, c.v.w
	d.boundaries++
	switch q.op {
	case bdev.OpRead:
		if q.err = d.readFault(q.lba, q.count); q.err == nil {
			d.fill(q)
		}
	case bdev.OpFlush:
		d.stats.Flushes++
		if q.err = d.flushFault(); q.err == nil {
			d.destage(q.cut)
		}
	default:
		d.write(q)
	}
	q.applied = true
	d.note(w.now, "done "+q.op.String(), q.id, q.lba, q.count, q.err)
	c.t.Send(deliver, q)
}

// deliver tells the host, on the channel's thread.
func deliver(arg any) {
	q := arg.(*request)
	c := q.ch
	d := c.v.d
	if q.dead {
		return
	}
	d.boundaries++
	if i := slices.Index(d.inflight, q); i >= 0 {
		d.inflight = slices.Delete(d.inflight, i, i+1)
	}
	if q.by != nil && q.err == nil {
		d.deliver(q.by)
	}
	c.pending--
	q.io.Complete(q.err)
}

// write does a write, unmap or write-zeroes, or a part of it when it fails.
func (d *Disk) write(q *request) {
	if q.op == bdev.OpWrite {
		assert.That(q.sum == q.checksum(), "sim: buffer of a write was changed while it was in flight")
		d.stats.Writes++
		d.stats.BlocksWritten += q.count
	} else {
		d.stats.Unmaps++
	}
	if q.lba == 0 {
		d.firstHits++
	}
	if q.lba < d.front {
		d.frontHits++
		if q.lba >= d.front-d.pages {
			d.pageHits++
		}
	}
	q.by = d.newTransfer()
	if q.err = d.writeFault(q.lba, q.count); q.err != nil {
		part := d.r.Float64()
		for i := range q.count {
			if d.opt.Faults.Gone || !d.r.Chance(part) {
				continue
			}
			d.apply(q, i, q.lba+i, q.by, false)
		}
		return
	}
	if to, ok := d.stray(q); ok {
		for i := range q.count {
			d.apply(q, i, to+i, q.by, q.fua)
		}
		return
	}
	for i := range q.count {
		d.apply(q, i, q.lba+i, q.by, q.fua)
		d.repair(q.lba + i)
	}
}

// stray decides whether a write lands elsewhere, and where.
func (d *Disk) stray(q *request) (to uint64, ok bool) {
	if d.aim == nil || q.op != bdev.OpWrite || !d.r.Chance(d.opt.Faults.Stray) {
		return 0, false
	}
	if to, ok = d.aim(q.lba, q.count); ok {
		d.checkRange(to, q.count)
		d.stats.Strayed++
		d.note(q.ch.v.w.now, "goes astray to", q.id, to, q.count, nil)
	}
	return to, ok
}

// apply stores block i of a request at an address.
func (d *Disk) apply(q *request, i, at uint64, by *transfer, durable bool) {
	if q.op != bdev.OpWrite {
		if q.op == bdev.OpUnmap && d.opt.KeepOnTrim && d.r.IntN(2) == 0 {
			return
		}
		d.put(at, nil, nil, by, durable)
		return
	}
	var md []byte
	if q.md != nil {
		md = q.md[i*uint64(d.opt.MDSize) : (i+1)*uint64(d.opt.MDSize)]
	}
	d.put(at, d.block(q, i), md, by, durable)
}

// block is the content of block i of a write: a slice of one of its buffers, or a copy if it lies across them.
func (d *Disk) block(q *request, i uint64) []byte {
	size := d.opt.BlockSize
	at := int(i) * size
	for n, b := range q.bufs {
		if at >= len(b) {
			at -= len(b)
			continue
		}
		if at+size <= len(b) {
			return b[at : at+size]
		}
		out := make([]byte, 0, size)
		for _, b := range q.bufs[n:] {
			out = append(out, b[at:min(len(b), at+size-len(out))]...)
			if at = 0; len(out) == size {
				return out
			}
		}
	}
	panic("sim: block outside the buffers")
}

// fill copies the content of the device into the buffers of a read.
func (d *Disk) fill(q *request) {
	d.stats.Reads++
	d.stats.BlocksRead += q.count
	size := d.opt.BlockSize
	scratch := d.newPage()
	n, at := 0, 0 // buffer, offset in it
	for i := range q.count {
		var md []byte
		if q.md != nil {
			md = q.md[i*uint64(d.opt.MDSize) : (i+1)*uint64(d.opt.MDSize)]
		}
		for n < len(q.bufs) && at == len(q.bufs[n]) {
			n, at = n+1, 0
		}
		if len(q.bufs[n])-at >= size {
			d.Read(q.lba+i, q.bufs[n][at:at+size], md)
			at += size
			continue
		}
		d.Read(q.lba+i, scratch.data, md)
		for rest := scratch.data; len(rest) > 0; {
			k := copy(q.bufs[n][at:], rest)
			rest, at = rest[k:], at+k
			if at == len(q.bufs[n]) && len(rest) > 0 {
				n, at = n+1, 0
			}
		}
	}
	d.freePage(scratch)
}
