package volatile

import (
	"slices"

	"goftl/bdev"
)

// serve lets the writes that wait into the cache, in order, while there is
// room, and makes room for the first that does not fit.
func (d *Driver) serve() {
	for len(d.waiting) > 0 {
		o := d.waiting[0]
		need := d.missing(o.io.LBA, o.io.Count)
		if need > d.room {
			d.evict(need)
			return
		}
		d.waiting = slices.Delete(d.waiting, 0, 1)
		d.write(o)
	}
}

// evict writes random pages back, until those on their way will be room enough,
// and some more.
func (d *Driver) evict(need int) {
	need += d.rnd.IntN(len(d.pages)/8 + 1)
	for n := need - d.room - d.writing; n > 0 && d.writing < d.depth; n-- {
		if !d.writeRandom() {
			return
		}
		d.stats.Room++
	}
}

// write takes a write into the cache, where there is room for it.
func (d *Driver) write(o *op) {
	io := o.io
	data, first := cursor{bufs: io.Bufs}, io.LBA/d.unit
	fua := io.Op == bdev.OpWrite && io.FUA && !d.o.Lie
	for n := range io.Count / d.unit {
		p := d.version(first + n)
		switch io.Op {
		case bdev.OpWrite:
			p.kind = holdsData
			data.load(p.data)
			if io.MD != nil {
				p.hasMD = true
				copy(p.md, io.MD[n*d.mdBytes:])
			}
		case bdev.OpUnmap:
			p.kind, p.hasMD = unmapped, true
			clear(p.md)
		default:
			p.kind, p.hasMD = holdsZeroes, true
			clear(p.md)
		}
		if fua {
			o.left++
			p.waiters = append(p.waiters, o)
		}
	}
	if fua {
		for n := range io.Count / d.unit {
			d.hurry(d.entries[first+n])
		}
		return // the last page answers
	}
	d.early(io.Count / d.unit)
	d.finish(o, nil)
}

// early writes back a random page for some of n that were written.
func (d *Driver) early(n uint64) {
	for range n {
		if d.rnd.Float64() < d.o.Early && d.writing < d.depth && d.writeRandom() {
			d.stats.Early++
		}
	}
}

// read copies what the cache has, and reads the rest from the base. A block
// whose cached version has no metadata, where metadata is asked for, goes to
// the base first.
func (d *Driver) read(o *op) {
	io := o.io
	if io.MD != nil && d.splitMD(o) {
		return
	}
	o.parts = o.parts[:0]
	data, bs, ms := cursor{bufs: io.Bufs}, int(d.bytes/d.unit), d.mdBytes/d.unit
	var part *inner
	for n := range io.Count {
		var md []byte
		if io.MD != nil {
			md = io.MD[n*ms : (n+1)*ms]
		}
		p, at := d.newest(io.LBA + n)
		if p == nil {
			if part == nil {
				part = d.newInner(bdev.OpRead, io.LBA+n, 0)
				part.o = o
				o.parts = append(o.parts, part)
			}
			part.count++
			part.bufs = data.cut(part.bufs, bs)
			if io.MD != nil {
				part.md = io.MD[(part.lba-io.LBA)*ms : (n+1)*ms]
			}
			continue
		}
		part = nil
		copy(md, p.md[at*ms:])
		if p.kind == holdsData {
			data.store(p.data[at*uint64(bs) : (at+1)*uint64(bs)])
		} else {
			data.zero(bs)
		}
	}
	o.left = len(o.parts)
	if o.left == 0 {
		d.finish(o, nil)
		return
	}
	for _, part := range o.parts {
		part.submit()
	}
}

// splitMD has pages without metadata written back, and the read tried again
// behind that. It returns false when there are none.
func (d *Driver) splitMD(o *op) bool {
	io := o.io
	o.left = 0
	for u := io.LBA / d.unit; u <= (io.LBA+io.Count-1)/d.unit; u++ {
		e := d.entries[u]
		if e == nil {
			continue
		}
		p := e.fresh
		if p == nil {
			p = e.writing
		}
		if !p.hasMD {
			o.left++
			p.waiters = append(p.waiters, o)
			d.hurry(e)
		}
	}
	o.split = o.left > 0
	return o.split
}

// arrived counts one thing that an IO waited for.
func (d *Driver) arrived(o *op, err error) {
	if err != nil && o.err == nil {
		o.err = err
	}
	if o.left--; o.left > 0 {
		return
	}
	if o.split && o.err == nil {
		o.split = false
		d.read(o)
		return
	}
	d.finish(o, o.err)
}

// reset ends what waits in the cache and resets the base.
func (d *Driver) reset(o *op) {
	for len(d.waiting) > 0 {
		w := d.waiting[0]
		d.waiting = slices.Delete(d.waiting, 0, 1)
		d.finish(w, bdev.ErrAborted)
	}
	for len(d.flush.next) > 0 {
		w := d.flush.next[0]
		d.flush.next = slices.Delete(d.flush.next, 0, 1)
		d.finish(w, bdev.ErrAborted)
	}
	in := d.newInner(bdev.OpReset, 0, 0)
	in.o = o
	in.submit()
}

// abort ends an IO that waits for the cache, or for a page, and passes on what
// reads from the base.
func (d *Driver) abort(o *op) {
	t := d.live[o.target]
	switch {
	case t == nil:
		d.finish(o, bdev.ErrNotFound)
	case len(t.parts) > 0:
		d.abortParts(o, t)
	case t.io.Op == bdev.OpReset || t.io.Op == bdev.OpAbort:
		d.finish(o, bdev.ErrUnsupported)
	default:
		is := func(w *op) bool { return w == t }
		d.waiting = slices.DeleteFunc(d.waiting, is)
		d.flush.ops = slices.DeleteFunc(d.flush.ops, is)
		d.flush.next = slices.DeleteFunc(d.flush.next, is)
		for _, e := range d.entries {
			for _, p := range [...]*page{e.fresh, e.writing} {
				if p != nil {
					p.waiters = slices.DeleteFunc(p.waiters, is)
				}
			}
		}
		d.finish(t, bdev.ErrAborted)
		d.finish(o, nil)
		d.serve()
	}
}

// abortParts asks the base to abort the parts of a read.
func (d *Driver) abortParts(o, t *op) {
	o.left = len(t.parts)
	for _, part := range slices.Clone(t.parts) {
		in := d.newInner(bdev.OpAbort, 0, 0)
		in.o, in.target = o, part
		in.submit()
	}
}
