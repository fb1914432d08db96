package bdev

import (
	"goftl/internal/assert"
	"goftl/iobuf"
)

// plan is how a parent makes its children.
type plan uint8

const (
	planTransfer plan = iota // the same operation on parts of the buffers
	planRange                // the same operation on parts of the range
	planZero                 // writes of zeroes
	planCompare              // reads that are compared with Bufs
	planCopy                 // reads that are written elsewhere
	planSwap                 // compare, then write, under a lock of the range
)

// Stages of a parent.
const (
	stageFirst uint8 = iota
	stageFlush       // planTransfer: the flush after a write with FUA
	stageLock        // planSwap, in this order
	stageCompare
	stageWrite
	stageUnlock
)

const (
	maxTransferChildren = 32
	maxRangeChildren    = 8 // unmap, write zeroes, copy, compare
	maxChildren         = 4096
	childStep           = 32
)

// child is what an IO that is part of another one has in addition.
type child struct {
	parent *IO
	iov    [][]byte // backing of Bufs, reused
	off    uint64   // first block, counted from the parent's
	need   int      // bytes of a buffer that must be got before it can go
	buf    []byte   // that buffer
	own    bool     // and it is not of the pool
	second bool     // planCopy: the data was read, it is being written
	waiter iobuf.Waiter
}

// childPool holds the IOs for parts. It is apart from the users' pool, so that
// parents can never use up what their children need.
type childPool struct {
	free    *IO
	batches [][]IO
	starved ioQueue // parents that wait for one
}

func (k *core) getChild(p *IO) *IO {
	pool := &k.children
	if pool.free == nil {
		if len(pool.batches)*childStep >= maxChildren {
			return nil
		}
		batch := make([]IO, childStep)
		kids := make([]child, childStep)
		for i := range batch {
			c := &batch[i]
			c.k, c.child, c.flags = k, &kids[i], ioInternal
			kids[i].waiter = iobuf.Waiter{Fn: bufferReady, Arg: c}
			c.next = pool.free
			pool.free = c
		}
		pool.batches = append(pool.batches, batch)
	}
	c := pool.free
	pool.free = c.next
	c.child.parent = p
	c.ch = p.ch
	c.t0 = p.t0
	return c
}

func (k *core) putChild(c *IO) {
	x := c.child
	k.putBuffer(x.buf, x.own)
	clear(x.iov)
	x.parent, x.iov, x.buf, x.need, x.own, x.second = nil, x.iov[:0], nil, 0, false, false
	c.state, c.flags, c.FUA = ioFree, ioInternal, false
	c.Bufs, c.MD, c.Bufs2, c.one[0] = nil, nil, nil, nil
	c.next = k.children.free
	k.children.free = c
}

// split begins an IO that the driver cannot take as it is.
func (k *core) split(p *IO) {
	p.state = ioParent
	p.err = nil
	p.plan = k.planFor(p)
	p.rewind(stageFirst)
	k.stats.SplitIOs++
	if p.plan == planSwap {
		p.stage = stageLock
		k.lockRange(p)
		return
	}
	k.pump(p)
}

func (io *IO) rewind(stage uint8) {
	io.stage, io.issued, io.out, io.seg, io.segOff = stage, 0, 0, 0, 0
}

func (k *core) planFor(p *IO) plan {
	native := k.limits.ops.Has(p.Op)
	switch {
	case p.Op == OpCompareAndWrite:
		return planSwap
	case native && (p.Op == OpUnmap || p.Op == OpWriteZeroes || p.Op == OpCopy):
		return planRange
	case p.Op == OpWriteZeroes:
		return planZero
	case p.Op == OpCompare && !native:
		return planCompare
	case p.Op == OpCopy:
		return planCopy
	}
	return planTransfer
}

// pump sends as many children as may be in flight.
func (k *core) pump(p *IO) {
	most := uint32(maxRangeChildren)
	switch {
	case p.Op == OpWrite && k.limits.zone != 0:
		most = maxChildren + 1 // all at once, before another write of the zone comes, or it waits in front of that
	case p.plan == planTransfer:
		most = maxTransferChildren
	}
	for p.issued < p.Count && p.err == nil && p.out < most {
		c := k.getChild(p)
		if c == nil {
			p.starve = true
			k.children.starved.push(p)
			return
		}
		k.fill(p, c)
		p.issued += c.Count
		p.out++
		k.send(c)
	}
}

// fill makes c the next part of p.
func (k *core) fill(p, c *IO) {
	x := c.child
	x.off = p.issued
	c.LBA = p.LBA + p.issued
	left := p.Count - p.issued
	how := p.plan
	switch p.stage {
	case stageCompare:
		how = planCompare
	case stageWrite:
		how = planTransfer
	}
	switch how {
	case planTransfer:
		k.fillTransfer(p, c, left)
		return
	case planRange:
		c.Op, c.Src = p.Op, p.Src+p.issued
		c.Count = min(left, k.limits.rangeLimit(p.Op))
	case planZero:
		zero := k.b.m.zeroes()
		c.Op = OpWrite
		c.Count = k.roundUnit(k.limits.piece(c.LBA, min(left, uint64(len(zero))>>k.shift)))
		c.one[0] = zero[:c.Count<<k.shift]
		c.Bufs = c.one[:]
		if k.mdSize > 0 {
			c.MD = zero[:c.Count*k.mdSize]
		}
	case planCompare:
		c.Op = OpRead
		c.Count = k.limits.piece(c.LBA, min(left, k.bounceBlocks(false)))
		x.need = int(c.Count << k.shift)
	case planCopy:
		c.Op = OpRead
		c.LBA = p.Src + p.issued
		n := min(left, max(k.bounceBlocks(true), k.limits.writeUnit))
		c.Count = k.roundUnit(k.limits.piece(p.LBA+p.issued, k.limits.piece(c.LBA, n)))
		x.need = int(c.Count << k.shift)
	default:
		assert.That(false, "bdev: parent without a plan")
	}
	if (how == planCompare && p.MD != nil) || (how == planCopy && k.mdSize > 0) {
		x.need += int(c.Count * k.mdSize)
	}
}

func (l *limits) rangeLimit(op Op) uint64 {
	switch op {
	case OpUnmap:
		return l.maxUnmap
	case OpWriteZeroes:
		return l.maxZeroes
	default:
		return l.maxCopy
	}
}

// roundUnit rounds a number of blocks down to write units, but not to nothing.
func (k *core) roundUnit(n uint64) uint64 {
	if r := n - n%k.limits.writeUnit; r > 0 {
		return r
	}
	return n
}

// fillTransfer cuts the next part of a read or write out of p's buffers, and
// has it go through a buffer of the layer where that cannot be done within
// the limits.
func (k *core) fillTransfer(p, c *IO, left uint64) {
	x := c.child
	l := &k.limits
	c.Op, c.FUA = p.Op, p.FUA && !l.emulFUA
	bufs := p.Bufs
	unit := uint64(1)
	if p.stage == stageWrite {
		c.Op, bufs = OpWrite, p.Bufs2
	}
	if c.Op == OpWrite || c.Op == OpZoneAppend {
		unit = l.writeUnit
	}
	n := left
	if c.Op != OpZoneAppend {
		n = l.piece(c.LBA, left)
	}
	got := k.cut(p, x, bufs, n<<k.shift)
	whole := got >> k.shift
	whole -= whole % unit
	if whole > 0 && got < n<<k.shift {
		x.iov = trim(x.iov, whole<<k.shift)
	}
	if c.Op == OpZoneAppend && whole < n || whole == 0 || misaligned(x.iov, l.align) {
		clear(x.iov)
		x.iov = x.iov[:0]
		if c.Op != OpZoneAppend {
			n = min(n, max(k.bounceBlocks(false)/unit*unit, unit))
		}
		x.need = int(n << k.shift)
		whole = n
		k.stats.BouncedIOs++
	} else {
		c.Bufs = x.iov
	}
	c.Count = whole
	p.advance(bufs, whole<<k.shift)
	if p.MD != nil {
		c.MD = p.MD[x.off*k.mdSize : (x.off+c.Count)*k.mdSize]
	}
}

// cut collects into x.iov what follows in bufs, at most bytes and at most as
// many pieces as the driver takes, and returns how much that is.
func (k *core) cut(p *IO, x *child, bufs [][]byte, bytes uint64) uint64 {
	x.iov = x.iov[:0]
	var got uint64
	off := p.segOff
	for i := p.seg; i < len(bufs) && got < bytes && len(x.iov) < k.limits.maxSeg; i++ {
		b := bufs[i][off:]
		off = 0
		if room := bytes - got; uint64(len(b)) > room {
			b = b[:room]
		}
		if len(b) > 0 {
			x.iov = append(x.iov, b)
			got += uint64(len(b))
		}
	}
	return got
}

// trim shortens a list of buffers to bytes.
func trim(iov [][]byte, bytes uint64) [][]byte {
	for i, b := range iov {
		if uint64(len(b)) >= bytes {
			iov[i] = b[:bytes]
			return iov[:i+1]
		}
		bytes -= uint64(len(b))
	}
	return iov
}

// advance moves the cursor of p past bytes of its buffers.
func (io *IO) advance(bufs [][]byte, bytes uint64) {
	for bytes > 0 {
		rest := uint64(len(bufs[io.seg]) - io.segOff)
		if bytes < rest {
			io.segOff += int(bytes)
			return
		}
		bytes -= rest
		io.seg++
		io.segOff = 0
	}
}

// childDone ends a part, and with the last one the stage of its parent. It
// never runs inside Submit.
func (k *core) childDone(c *IO) {
	x := c.child
	p := x.parent
	if c.err == nil && x.need > 0 && !k.landed(p, c) {
		return
	}
	if c.err != nil && p.err == nil {
		p.err = c.err
	}
	if c.Op == OpZoneAppend {
		p.Result = c.Result
	}
	k.putChild(c)
	p.out--
	switch {
	case p.starve:
	case p.err == nil && p.issued < p.Count:
		k.pump(p)
	case p.out == 0:
		k.stageDone(p)
	}
	k.feed()
}

// feed lets the parent that has waited for a child longest go on.
func (k *core) feed() {
	starved := &k.children.starved
	if k.children.free == nil || starved.empty() {
		return
	}
	w := starved.pop()
	w.starve = false
	k.pump(w)
	switch {
	case w.starve: // it stays in front: it may be a write that must not be overtaken
		starved.remove(w)
		starved.pushFront(w)
	case w.out == 0:
		k.stageDone(w)
	}
}

// landed uses what a part got in a buffer of the layer. It returns false when
// the part goes on.
func (k *core) landed(p, c *IO) bool {
	x := c.child
	data := x.buf[:c.Count<<k.shift]
	switch {
	case p.plan == planCopy && !x.second:
		x.second = true
		c.Op, c.LBA = OpWrite, p.LBA+x.off
		k.drive(c)
		return false
	case p.plan == planCompare || p.stage == stageCompare:
		same := equal(p.Bufs, x.off<<k.shift, data)
		if p.MD != nil {
			md := p.MD[x.off*k.mdSize : (x.off+c.Count)*k.mdSize]
			same = same && string(md) == string(c.MD)
		}
		if !same {
			c.err = ErrMiscompare
		}
	case c.Op == OpRead:
		scatter(p.Bufs, x.off<<k.shift, data)
	}
	return true
}

// stageDone goes on with a parent of which all parts of a stage are done.
func (k *core) stageDone(p *IO) {
	switch {
	case p.stage == stageCompare && p.err == nil:
		p.rewind(stageWrite)
		k.pump(p)
	case p.stage == stageCompare, p.stage == stageWrite:
		p.stage = stageUnlock
		k.unlockRange(p)
	case p.stage == stageFirst && p.err == nil && p.Op == OpWrite && p.FUA && k.limits.emulFUA:
		k.flushBehind(p)
	default:
		k.finish(p)
	}
}

// flushBehind makes a write with FUA durable on a device that has only flush.
func (k *core) flushBehind(p *IO) {
	c := k.getChild(p)
	if c == nil {
		p.starve = true
		k.children.starved.push(p)
		return
	}
	p.stage = stageFlush
	p.out = 1
	c.Op, c.LBA, c.Count, c.child.off = OpFlush, 0, 0, 0
	k.drive(c)
}
