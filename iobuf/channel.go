package iobuf

import (
	"sync/atomic"
	"unsafe"

	"goftl/internal/assert"
	"goftl/thread"
)

// Waiter is a caller's place in the queue for a buffer. Fn is called once, on
// the channel's thread, never inside Get or Put, with the buffer. The caller
// owns the Waiter and must not touch or queue it again before Fn is called or
// Cancel has returned true.
type Waiter struct {
	Fn  func(arg any, buf []byte)
	Arg any

	next   *Waiter
	size   int
	queued bool
}

type cache struct {
	free       []uint32 // stack of buffer numbers, capacity cacheMax
	head, tail *Waiter
	stats      Stats
	starving   atomic.Bool // set while head is not nil; read by other threads
}

// Channel is one thread's access to a Pool. Only code that runs on that thread
// may use it.
type Channel struct {
	pool    *Pool
	th      *thread.Thread
	refs    int
	serving bool // a serve message is on its way
	asked   atomic.Bool
	kinds   [numKinds]cache
}

func newChannel(p *Pool, t *thread.Thread) *Channel {
	c := &Channel{pool: p, th: t, refs: 1}
	for i := range c.kinds {
		c.kinds[i].free = make([]uint32, 0, p.kinds[i].cacheMax)
	}
	return c
}

// Thread returns the channel's thread.
func (c *Channel) Thread() *thread.Thread { return c.th }

// Stats returns the counters of small and large buffers.
func (c *Channel) Stats() (smallStats, largeStats Stats) {
	return c.kinds[small].stats, c.kinds[large].stats
}

// Get returns a buffer of size bytes, page-aligned and with undefined content,
// that the caller owns until Put. When none is free, or others wait already,
// it returns nil and queues w; with a nil w it only returns nil. size must be
// between 1 and the pool's LargeSize.
func (c *Channel) Get(size int, w *Waiter) []byte {
	ki := small
	if size > c.pool.kinds[small].size {
		ki = large
		assert.That(size <= c.pool.kinds[large].size, "iobuf: Get of more than LargeSize")
	}
	k := &c.kinds[ki]
	if k.head == nil {
		if n := len(k.free); n > 0 {
			i := k.free[n-1]
			k.free = k.free[:n-1]
			k.stats.Cached++
			return c.pool.kinds[ki].buf(i, size)
		}
		if c.refill(ki) {
			n := len(k.free)
			i := k.free[n-1]
			k.free = k.free[:n-1]
			k.stats.Shared++
			return c.pool.kinds[ki].buf(i, size)
		}
	}
	if w != nil {
		c.wait(ki, w, size)
	}
	return nil
}

// Put returns a buffer that Get gave. The slice may have been shortened, but
// must begin where it began.
func (c *Channel) Put(buf []byte) {
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	ki, i := c.pool.locate(addr)
	k, pk := &c.kinds[ki], &c.pool.kinds[ki]
	if k.head != nil {
		c.keep(ki, i)
		c.serveSoon()
		return
	}
	if pk.starved.Load() != 0 {
		pk.free.push(i)
		c.pool.wakeStarving(ki)
		return
	}
	c.keep(ki, i)
}

// Cancel takes w out of the queue. It returns false when w is not queued: its
// Fn was called, or it never waited.
func (c *Channel) Cancel(w *Waiter) bool {
	if !w.queued {
		return false
	}
	for ki := range c.kinds {
		k := &c.kinds[ki]
		var prev *Waiter
		for x := k.head; x != nil; prev, x = x, x.next {
			if x != w {
				continue
			}
			if prev == nil {
				k.head = x.next
			} else {
				prev.next = x.next
			}
			if k.tail == x {
				k.tail = prev
			}
			w.next, w.queued = nil, false
			c.noteStarving(ki)
			return true
		}
	}
	return false
}

// Close drops one reference; the last gives the cache back to the pool. No
// waiter may be queued then.
func (c *Channel) Close() {
	assert.That(c.refs > 0, "iobuf: channel closed too often")
	if c.refs--; c.refs > 0 {
		return
	}
	for ki := range c.kinds {
		assert.That(c.kinds[ki].head == nil, "iobuf: channel closed with waiters")
		c.giveBack(ki, 0)
	}
	c.pool.forget(c)
}

// refill takes up to half a cache from the shared stack; one buffer only while
// another channel starves.
func (c *Channel) refill(ki int) bool {
	k, pk := &c.kinds[ki], &c.pool.kinds[ki]
	n := max(cap(k.free)/2, 1)
	if pk.starved.Load() != 0 {
		n = 1
	}
	for ; n > 0; n-- {
		i, ok := pk.free.pop()
		if !ok {
			break
		}
		k.free = append(k.free, i)
	}
	return len(k.free) > 0
}

// keep puts a buffer into the cache, half of which moves out when it is full.
func (c *Channel) keep(ki int, i uint32) {
	k := &c.kinds[ki]
	if len(k.free) == cap(k.free) {
		c.giveBack(ki, cap(k.free)/2)
	}
	k.free = append(k.free, i)
}

func (c *Channel) giveBack(ki, leave int) {
	k, pk := &c.kinds[ki], &c.pool.kinds[ki]
	for len(k.free) > leave {
		n := len(k.free) - 1
		pk.free.push(k.free[n])
		k.free = k.free[:n]
	}
	if pk.starved.Load() != 0 {
		c.pool.wakeStarving(ki)
	}
}

func (c *Channel) wait(ki int, w *Waiter, size int) {
	assert.That(!w.queued && w.Fn != nil, "iobuf: waiter queued twice or without Fn")
	w.queued, w.size, w.next = true, size, nil
	k := &c.kinds[ki]
	if k.head == nil {
		k.head = w
	} else {
		k.tail.next = w
	}
	k.tail = w
	c.noteStarving(ki)
}

// noteStarving keeps the shared count of starving channels in step with the
// queue. The count is raised before the other channels are asked and before
// the shared stack is looked at again, so a buffer that is put at the same
// moment is either seen here or makes its channel wake this one.
func (c *Channel) noteStarving(ki int) {
	k, pk := &c.kinds[ki], &c.pool.kinds[ki]
	if (k.head != nil) == k.starving.Load() {
		return
	}
	if k.head == nil {
		k.starving.Store(false)
		pk.starved.Add(-1)
		return
	}
	k.starving.Store(true)
	pk.starved.Add(1)
	for _, o := range *c.pool.channels.Load() {
		if o != c && o.asked.CompareAndSwap(false, true) {
			o.th.Send(surrender, o)
		}
	}
	c.serveSoon()
}

// surrender runs on the thread of a channel whose cache others may need.
func surrender(arg any) {
	c := arg.(*Channel)
	c.asked.Store(false)
	for ki := range c.kinds {
		if c.pool.kinds[ki].starved.Load() != 0 && c.kinds[ki].head == nil {
			c.giveBack(ki, 0)
		}
	}
}

func (c *Channel) serveSoon() {
	if !c.serving {
		c.serving = true
		c.th.Post(serve, c)
	}
}

// serve gives buffers to waiters, oldest first, as far as they go.
func serve(arg any) {
	c := arg.(*Channel)
	c.serving = false
	for ki := range c.kinds {
		c.serveKind(ki)
	}
}

func (c *Channel) serveKind(ki int) {
	k, pk := &c.kinds[ki], &c.pool.kinds[ki]
	for last := k.tail; k.head != nil; {
		if len(k.free) == 0 && !c.refill(ki) {
			return
		}
		w := k.head
		if k.head = w.next; k.head == nil {
			k.tail = nil
		}
		n := len(k.free) - 1
		i := k.free[n]
		k.free = k.free[:n]
		w.next, w.queued = nil, false
		k.stats.Waited++
		c.noteStarving(ki)
		done := w == last
		w.Fn(w.Arg, pk.buf(i, w.size))
		if done {
			// Those who came while others were served wait for another turn.
			if k.head != nil {
				c.serveSoon()
			}
			return
		}
	}
}

func serveRemote(arg any) {
	c := arg.(*Channel)
	for ki := range c.kinds {
		c.serveKind(ki)
	}
}

// wakeStarving tells the starving channels that a buffer came back. It is
// called by any channel's thread.
func (p *Pool) wakeStarving(ki int) {
	for _, o := range *p.channels.Load() {
		if o.kinds[ki].starving.Load() {
			o.th.Send(serveRemote, o)
		}
	}
}

func (p *Pool) locate(addr uintptr) (ki int, i uint32) {
	for ki = range p.kinds {
		k := &p.kinds[ki]
		if off := addr - k.base; off < uintptr(k.size*k.count) {
			i = uint32(off / uintptr(k.size))
			assert.That(uintptr(i)*uintptr(k.size) == off, "iobuf: Put of a slice that does not begin at its buffer")
			return ki, i
		}
	}
	assert.That(false, "iobuf: Put of memory that is not the pool's")
	return 0, 0
}

func (k *kind) buf(i uint32, size int) []byte {
	off := int(i) * k.size
	return k.area[off : off+size : off+k.size]
}
