package ftl

import (
	"fmt"

	"goftl/bdev"
	"goftl/ftl/l2p"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// CheckReport is what an offline verification found.
type CheckReport struct {
	Mapped    uint64 // blocks that the mapping names
	Verified  uint64 // of them, read and right
	Lost      uint64 // blocks marked as lost
	BadSums   uint64 // content that does not match its checksum, or cannot be read
	Orphans   uint64 // mapped to a slot that does not describe them
	BadCounts uint64 // segments whose valid count is not what the mapping says
	Gaps      uint64 // durable user records that cannot be read
	Rotten    uint64 // pages of the mapping
	// Accepted is how many of such records and pages the device goes on without
	// because it was told to (Config.AcceptLoss). They are no fault of what is
	// there now and do not count. What they held and nobody has written since
	// may be older than it was; the blocks of a page are Lost until they are
	// written.
	Accepted uint64
	// Undescribed is how many blocks the summaries of their segments do not
	// describe, though they are sound. Headers do, or they are Orphans. That is
	// right only where a record failed and landed (see drain.mayKnowMore).
	Undescribed uint64
	Problems    []string
}

// OK says whether nothing is wrong, but for what was accepted.
func (r *CheckReport) OK() bool {
	return r.Lost+r.BadSums+r.Orphans+r.BadCounts+r.Gaps+r.Rotten == 0
}

// maxProblems bounds the problems that are kept as text.
const maxProblems = 100

func (r *CheckReport) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// checker verifies a device segment by segment.
type checker struct {
	d    *Device
	rep  CheckReport
	done func(rep *CheckReport, err error)
	seg  int
	slot uint32
	sum  record.Summary
	own  bool
	buf  []byte
	md   []byte
	io   devIO
	scan *segScan
	n    uint32
	// Of the segment: mapped blocks found in its P2L, those of them that are right.
	found, good uint32
	scanned     bool // sum is from a scan
	single      bool
}

const checkBlocks = 256

// Check verifies everything that a loaded device maps: mapping against the
// records' own description, content against checksums, valid counts against
// the mapping. The device must be idle or read-only; nothing is written. done
// is called on the core thread.
func (d *Device) Check(done func(rep *CheckReport, err error)) {
	c := &checker{d: d, done: done, seg: -1, buf: iobuf.Alloc(checkBlocks * blockSize)}
	if d.lay.VSS {
		c.md = iobuf.Alloc(checkBlocks * int(d.cache.info.MDSize))
	}
	switch {
	case d.lossAccepted:
		c.rep.Accepted = d.redoGaps + d.rottenPages
	case d.redoGaps > 0:
		c.rep.problem("%d durable user records cannot be read", d.redoGaps)
		fallthrough
	default:
		c.rep.Gaps, c.rep.Rotten = d.redoGaps, d.rottenPages
	}
	c.countLost()
	c.nextSegment()
}

// countLost counts what the mapping says by itself.
func (c *checker) countLost() {
	d := c.d
	for lba := range d.lay.LBAs {
		switch a := d.table.Get(lba); {
		case a == l2p.Lost:
			c.rep.Lost++
			c.rep.problem("lba %d: lost", lba)
		case a >= l2p.First:
			c.rep.Mapped++
		}
	}
}

// nextSegment loads the P2L of the next segment that holds something.
func (c *checker) nextSegment() {
	d := c.d
	for c.seg++; c.seg < len(d.segs); c.seg++ {
		if d.valid[c.seg] > 0 {
			break
		}
	}
	d.progressOf("checking", uint64(c.seg), uint64(len(d.segs)))
	if c.seg == len(d.segs) {
		c.end()
		return
	}
	s := &d.segs[c.seg]
	c.slot, c.found, c.good, c.scanned = 0, 0, 0, false
	if s.sum != nil {
		c.sum, c.own = s.sum, true
		c.step()
		return
	}
	c.own = false
	c.sum = d.takeSummary(s.band)
	c.io.prepareOne(s.dev, bdev.OpRead, c.sum, s.sumOff(), s.mdSource())
	c.io.call(checkSummary, c)
}

func checkSummary(x *devIO, err error) {
	c := x.owner.(*checker)
	s := &c.d.segs[c.seg]
	if err == nil {
		err = c.sum.Check(s.summaryID())
	}
	if err == nil {
		c.step()
		return
	}
	c.rep.problem("%s %d: summary unreadable: %v", s.kindName(), s.id, err)
	c.rescan(s)
}

// rescan makes the P2L from the headers of the records.
func (c *checker) rescan(s *segment) {
	c.scanned = true
	c.scan = newSegScan(c.d, s, c.sum, s.mdSource())
	c.scan.start(checkScanned, c)
}

func checkScanned(arg any, _ error) {
	c := arg.(*checker)
	c.scan.free()
	c.scan = nil
	c.step()
}

// mappedAt says whether the mapping names this slot for the block that the
// slot says it holds.
func (c *checker) mappedAt(s *segment, slot uint32) bool {
	lba := c.sum.LBAAt(slot)
	return lba < c.d.lay.LBAs && c.d.table.Get(lba) == s.addr+l2p.Addr(slot)
}

// step reads the next run of slots that are mapped.
func (c *checker) step() {
	s := &c.d.segs[c.seg]
	for c.slot < s.body && !c.mappedAt(s, c.slot) {
		c.slot++
	}
	if c.slot == s.body {
		c.endSegment(s)
		return
	}
	limit := uint32(checkBlocks)
	if c.single {
		limit = 1
	}
	c.n = 1
	for c.n < limit && c.slot+c.n < s.body && c.mappedAt(s, c.slot+c.n) {
		c.n++
	}
	c.io.prepareOne(s.dev, bdev.OpRead, c.buf[:c.n*blockSize], s.off+uint64(c.slot), s.mdSource())
	if s.vss() {
		c.io.md = c.md[:int(c.n)*int(c.d.cache.info.MDSize)]
	}
	c.io.call(checkRead, c)
}

func checkRead(x *devIO, err error) {
	c := x.owner.(*checker)
	s := &c.d.segs[c.seg]
	if err != nil && c.n > 1 {
		c.single = true // find out which of them
		c.step()
		return
	}
	c.single = false
	for i := range c.n {
		slot := c.slot + i
		lba := c.sum.LBAAt(slot)
		c.found++
		switch {
		case err != nil:
			c.rep.BadSums++
			c.rep.problem("lba %d: %s %d slot %d: %v", lba, s.kindName(), s.id, slot, err)
		case record.DataSum(c.buf[i*blockSize:(i+1)*blockSize], lba) != c.sum.SumAt(slot):
			c.rep.BadSums++
			c.rep.problem("lba %d: %s %d slot %d: checksum mismatch", lba, s.kindName(), s.id, slot)
		default:
			c.rep.Verified++
			c.good++
		}
	}
	c.slot += c.n
	c.d.th.Post(checkMore, c)
}

func checkMore(arg any) { arg.(*checker).step() }

// endSegment compares the number of mapped slots with the valid count.
func (c *checker) endSegment(s *segment) {
	d := c.d
	mapped := uint32(0)
	if c.found < d.valid[c.seg] && c.found == c.good && !c.own && !c.scanned {
		// Headers may know more than the summary does: see mayKnowMore.
		c.rep.Verified -= uint64(c.good)
		c.rep.Undescribed += uint64(d.valid[c.seg] - c.found)
		c.slot, c.found, c.good = 0, 0, 0
		c.rescan(s)
		return
	}
	if c.found != d.valid[c.seg] {
		for lba := range d.lay.LBAs {
			if a := d.table.Get(lba); a >= s.addr && a < s.addr+l2p.Addr(s.body) {
				mapped++
			}
		}
		if mapped != d.valid[c.seg] {
			c.rep.BadCounts++
			c.rep.problem("%s %d: valid count %d, the mapping says %d", s.kindName(), s.id, d.valid[c.seg], mapped)
		}
		if mapped != c.found {
			c.rep.Orphans += uint64(mapped - c.found)
			c.rep.problem("%s %d: %d mapped blocks are not described by it", s.kindName(), s.id, mapped-c.found)
		}
	}
	if !c.own {
		d.returnSummary(s.band, c.sum)
	}
	c.sum = nil
	c.nextSegment()
}

func (c *checker) end() {
	iobuf.Free(c.buf)
	if c.md != nil {
		iobuf.Free(c.md)
	}
	if sum := c.d.validTotal(); sum != c.rep.Mapped {
		c.rep.BadCounts++
		c.rep.problem("valid counts add up to %d, the mapping names %d", sum, c.rep.Mapped)
	}
	c.done(&c.rep, nil)
}

func (d *Device) validTotal() (n uint64) {
	for _, v := range d.valid {
		n += uint64(v)
	}
	return n
}

// CheckInvariants verifies in memory what must always hold between turns. It
// walks the whole mapping: for tests and the simulator.
func (d *Device) CheckInvariants() error {
	counts := make([]uint32, len(d.segs))
	mapped := uint64(0)
	for lba := range d.lay.LBAs {
		a := d.table.Get(lba)
		if a < l2p.First {
			continue
		}
		if !d.addrSound(a) {
			return fmt.Errorf("lba %d is mapped to address %d, which names no slot", lba, a)
		}
		idx, slot := d.segOf(a)
		counts[idx]++
		mapped++
		s := &d.segs[idx]
		if s.state == segFree || s.state == segQuarantine || s.state == segOpening || s.state == segBad {
			return fmt.Errorf("lba %d is mapped to %s %d, which is %s", lba, s.kindName(), s.id, s.state)
		}
		if s.sum != nil && !s.draining && !s.blind && slot < s.next && s.sum.LBAAt(slot) != lba {
			return fmt.Errorf("lba %d is mapped to %s %d slot %d, which holds %d", lba, s.kindName(), s.id, slot, s.sum.LBAAt(slot))
		}
	}
	if mapped != d.mapped {
		return fmt.Errorf("%d blocks are mapped, %d are counted", mapped, d.mapped)
	}
	for i, n := range counts {
		if n != d.valid[i] {
			return fmt.Errorf("%s %d: %d blocks are mapped to it, %d are counted", d.segs[i].kindName(), d.segs[i].id, n, d.valid[i])
		}
	}
	return nil
}
