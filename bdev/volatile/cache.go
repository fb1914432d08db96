package volatile

import (
	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/iobuf"
)

// kind is what a page says of its blocks.
type kind uint8

const (
	holdsData kind = iota
	holdsZeroes
	unmapped // zeroes too, and the base is told so by an unmap
)

// page is one version of one write unit.
type page struct {
	data, md []byte
	kind     kind
	hasMD    bool   // md counts: what was written had metadata
	seq      uint64 // when it became dirty; overwriting keeps it
	waiters  []*op  // until it is durable
	next     *page  // free
}

// entry is what the cache has of one write unit: at least one version.
type entry struct {
	unit    uint64
	fresh   *page // the newest, not on its way
	writing *page // on its way to the base, older than fresh
	at      int   // place in cache.dirty while there is a fresh page
}

// cache is the content: pages by write unit.
type cache struct {
	unit    uint64 // blocks
	bytes   uint64 // of the data of a page
	mdBytes uint64
	arena   []byte
	mdArena []byte
	pages   []page
	unused  *page
	room    int // unused pages
	entries map[uint64]*entry
	spare   []*entry // to use again
	dirty   []*entry // those with a fresh page, in no order
	seq     uint64
}

func (c *cache) init(units, unit uint64, i *bdev.Info) (err error) {
	*c = cache{
		unit: unit, bytes: unit * uint64(i.BlockSize), mdBytes: unit * uint64(i.MDSize),
		entries: make(map[uint64]*entry), pages: make([]page, units), room: int(units),
	}
	if c.arena, err = alloc(units*c.bytes, "the cache"); err != nil {
		return err
	}
	if c.mdArena, err = alloc(units*c.mdBytes, "the cache's metadata"); err != nil {
		iobuf.Free(c.arena)
		return err
	}
	for n := range c.pages {
		p := &c.pages[n]
		at, md := uint64(n)*c.bytes, uint64(n)*c.mdBytes
		p.data, p.md = c.arena[at:at+c.bytes:at+c.bytes], c.mdArena[md:md+c.mdBytes:md+c.mdBytes]
		p.next, c.unused = c.unused, p
	}
	return nil
}

func (c *cache) free() {
	iobuf.Free(c.arena)
	iobuf.Free(c.mdArena)
	c.arena, c.mdArena, c.pages, c.unused = nil, nil, nil, nil
	clear(c.entries)
	c.dirty = nil
}

// missing returns how many pages a write of a range takes.
func (c *cache) missing(lba, count uint64) int {
	n := 0
	for u := lba / c.unit; u < (lba+count)/c.unit; u++ {
		if e := c.entries[u]; e == nil || e.fresh == nil {
			n++
		}
	}
	return n
}

// version returns the page that a write of a unit goes to. There must be room.
func (c *cache) version(u uint64) *page {
	e := c.entries[u]
	if e == nil {
		if n := len(c.spare); n > 0 {
			e = c.spare[n-1]
			c.spare = c.spare[:n-1]
		} else {
			e = &entry{}
		}
		e.unit = u
		c.entries[u] = e
	}
	if e.fresh != nil {
		return e.fresh
	}
	p := c.unused
	assert.That(p != nil, "volatile: a page was promised")
	c.unused, p.next = p.next, nil
	c.room--
	c.seq++
	p.seq, p.hasMD = c.seq, false
	c.setFresh(e, p)
	return p
}

func (c *cache) setFresh(e *entry, p *page) {
	e.fresh, e.at = p, len(c.dirty)
	c.dirty = append(c.dirty, e)
}

// take makes the fresh page of an entry the one that is being written.
func (c *cache) take(e *entry) *page {
	assert.That(e.fresh != nil && e.writing == nil, "volatile: one version at a time is written back")
	p := e.fresh
	last := c.dirty[len(c.dirty)-1]
	c.dirty[e.at], last.at = last, e.at
	c.dirty = c.dirty[:len(c.dirty)-1]
	e.fresh, e.writing = nil, p
	return p
}

// drop frees a page that no entry has any more.
func (c *cache) drop(p *page) {
	assert.That(len(p.waiters) == 0, "volatile: somebody waits for a page that is dropped")
	p.next, c.unused = c.unused, p
	c.room++
}

// forget removes an entry that has no version left.
func (c *cache) forget(e *entry) {
	assert.That(e.fresh == nil && e.writing == nil, "volatile: an entry is forgotten that has a version")
	delete(c.entries, e.unit)
	c.spare = append(c.spare, e)
}

// newest returns the newest version of a block, and its place in it; nil when
// the base has it.
func (c *cache) newest(lba uint64) (p *page, at uint64) {
	e := c.entries[lba/c.unit]
	switch {
	case e == nil:
		return nil, 0
	case e.fresh != nil:
		return e.fresh, lba % c.unit
	}
	return e.writing, lba % c.unit
}

// cursor walks over a list of buffers.
type cursor struct {
	bufs [][]byte
	off  int
}

// next returns up to n bytes that lie together.
func (c *cursor) next(n int) []byte {
	for len(c.bufs[0]) == c.off {
		c.bufs, c.off = c.bufs[1:], 0
	}
	b := c.bufs[0][c.off:]
	b = b[:min(n, len(b))]
	c.off += len(b)
	return b
}

// load fills dst from the buffers.
func (c *cursor) load(dst []byte) {
	for len(dst) > 0 {
		dst = dst[copy(dst, c.next(len(dst))):]
	}
}

// store fills the buffers from src.
func (c *cursor) store(src []byte) {
	for len(src) > 0 {
		src = src[copy(c.next(len(src)), src):]
	}
}

// zero clears n bytes of the buffers.
func (c *cursor) zero(n int) {
	for n > 0 {
		b := c.next(n)
		clear(b)
		n -= len(b)
	}
}

// cut appends the next n bytes of the buffers to list.
func (c *cursor) cut(list [][]byte, n int) [][]byte {
	for n > 0 {
		b := c.next(n)
		list = append(list, b)
		n -= len(b)
	}
	return list
}
