package iobuf

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

// Options sizes a Pool. A zero field takes its default.
type Options struct {
	SmallSize  int // bytes of a small buffer, rounded up to 4096; default 8 KiB
	SmallCount int // default 8192
	LargeSize  int // bytes of a large buffer, rounded up to 4096; default 132 KiB
	LargeCount int // default 1024
	SmallCache int // small buffers that a channel may keep, default 128
	LargeCache int // large buffers that a channel may keep, default 16
}

const (
	small = iota
	large
	numKinds
)

// Stats counts what a channel did with one kind of buffer.
type Stats struct {
	Cached, Shared, Waited uint64 // served from the cache, from the shared stack, after waiting
}

type kind struct {
	size     int // bytes of a buffer
	count    int
	cacheMax int
	area     []byte
	base     uintptr
	free     *stack
	starved  atomic.Int32 // channels with waiters
}

// Pool is a fixed number of small and large buffers. Its methods may be called
// from any thread; buffers are taken and returned through a Channel.
type Pool struct {
	kinds    [numKinds]kind
	channels atomic.Pointer[[]*Channel] // immutable list, replaced as a whole
}

// NewPool maps the memory of a pool. A size or count that is out of range is
// an EINVAL that names the field; memory that cannot be had is ENOMEM.
func NewPool(o Options) (*Pool, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p := &Pool{}
	p.channels.Store(new([]*Channel))
	sizes := [numKinds][3]int{{o.SmallSize, o.SmallCount, o.SmallCache}, {o.LargeSize, o.LargeCount, o.LargeCache}}
	for i, s := range sizes {
		k := &p.kinds[i]
		k.size, k.count, k.cacheMax = s[0], s[1], s[2]
		k.area = Alloc(k.size * k.count)
		if k.area == nil {
			p.Close()
			return nil, fmt.Errorf("iobuf: map %d buffers of %d bytes: %w", k.count, k.size, unix.ENOMEM)
		}
		k.base = uintptr(unsafe.Pointer(unsafe.SliceData(k.area)))
		k.free = newStack(k.count)
	}
	return p, nil
}

func (o *Options) complete() error {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SmallSize, 8<<10)
	def(&o.SmallCount, 8192)
	def(&o.LargeSize, 132<<10)
	def(&o.LargeCount, 1024)
	def(&o.SmallCache, min(128, o.SmallCount))
	def(&o.LargeCache, min(16, o.LargeCount))
	o.SmallSize, o.LargeSize = roundUp(o.SmallSize, Align), roundUp(o.LargeSize, Align)
	checks := []struct {
		name        string
		v, min, max int
	}{
		{"SmallSize", o.SmallSize, Align, 1 << 30},
		{"SmallCount", o.SmallCount, 1, 1 << 24},
		{"LargeSize", o.LargeSize, o.SmallSize + 1, 1 << 30},
		{"LargeCount", o.LargeCount, 1, 1 << 24},
		{"SmallCache", o.SmallCache, 1, o.SmallCount},
		{"LargeCache", o.LargeCache, 1, o.LargeCount},
	}
	for _, c := range checks {
		if c.v < c.min || c.v > c.max {
			return fmt.Errorf("iobuf: %s is %d, it must be between %d and %d: %w", c.name, c.v, c.min, c.max, unix.EINVAL)
		}
	}
	return nil
}

// SmallSize and LargeSize return the sizes of the buffers in bytes.
func (p *Pool) SmallSize() int { return p.kinds[small].size }

// LargeSize returns the size of the largest buffer that Get can return.
func (p *Pool) LargeSize() int { return p.kinds[large].size }

// Shared returns how many small and large buffers no channel holds or caches.
func (p *Pool) Shared() (smallFree, largeFree int) {
	return int(p.kinds[small].free.size.Load()), int(p.kinds[large].free.size.Load())
}

// Counts returns the numbers of small and large buffers of the pool.
func (p *Pool) Counts() (smallCount, largeCount int) {
	return p.kinds[small].count, p.kinds[large].count
}

// Close unmaps the buffers. No buffer may be in use and no channel may be
// used any more.
func (p *Pool) Close() {
	for i := range p.kinds {
		Free(p.kinds[i].area)
		p.kinds[i].area = nil
	}
}

// Channel returns the channel of thread t, the same one for every call, and
// counts the reference. It must be called on t.
func (p *Pool) Channel(t *thread.Thread) *Channel {
	for {
		old := p.channels.Load()
		for _, c := range *old {
			if c.th == t {
				c.refs++
				return c
			}
		}
		c := newChannel(p, t)
		list := append(append(make([]*Channel, 0, len(*old)+1), *old...), c)
		if p.channels.CompareAndSwap(old, &list) {
			return c
		}
	}
}

func (p *Pool) forget(c *Channel) {
	for {
		old := p.channels.Load()
		list := make([]*Channel, 0, len(*old))
		for _, o := range *old {
			if o != c {
				list = append(list, o)
			}
		}
		if p.channels.CompareAndSwap(old, &list) {
			return
		}
	}
}
