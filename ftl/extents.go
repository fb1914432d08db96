package ftl

import (
	"goftl/bdev"
)

// Questions about extents. Holes are the blocks that the mapping says are
// unmapped and of which nothing is under way to the log: never written, trimmed
// or written with zeroes. What was lost is none, because it does not read as
// zeroes. The mapping is not paged in for a question: what is not resident counts
// as stored (with the flat table everything is resident and the answer exact).

// maxExtentScan bounds the blocks that a question looks at, and after how many of
// them questions leave the rest of the turn to others. With blocks on their way
// to the log, each of which may have to be looked up, that is about 0.2 ms.
const maxExtentScan = 32 << 10

// questions are those of a device that wait for an answer.
type questions struct {
	q     queue
	awake bool
	scan  uint64 // maxExtentScan, but for tests
}

func (d *Device) queueExtents(r *Request) {
	d.asked.q.push(r)
	d.wakeExtents()
}

func (d *Device) wakeExtents() {
	if !d.asked.awake {
		d.asked.awake = true
		d.th.Post(serveExtents, d)
	}
}

// serveExtents answers questions in order, as many as one turn has room for.
func serveExtents(arg any) {
	d := arg.(*Device)
	x := &d.asked
	x.awake = false
	for n := uint64(0); x.q.head != nil && n < x.scan; {
		r := x.q.head
		x.q.pop()
		n += d.findExtents(r)
		d.complete(r)
	}
	if x.q.head != nil {
		d.wakeExtents()
	}
}

// findExtents fills in what r asks for, as far as one question may go, and
// returns how many blocks that are.
func (d *Device) findExtents(r *Request) uint64 {
	most := min(r.Count, d.asked.scan)
	r.Filled = 0
	for at := uint64(0); at < most; {
		n, hole := d.table.Run(r.LBA+at, most-at)
		if hole {
			n, hole = d.log_.inflight.run(r.LBA+at, n)
		}
		switch last := r.Filled - 1; {
		case last >= 0 && r.Extents[last].Hole == hole:
			r.Extents[last].Blocks += n
		case r.Filled == len(r.Extents):
			return at
		default:
			r.Extents[r.Filled] = bdev.Extent{Blocks: n, Hole: hole}
			r.Filled++
		}
		at += n
	}
	return most
}
