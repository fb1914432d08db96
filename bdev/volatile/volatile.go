package volatile

import (
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/thread"
)

// SizeDefault is how many bytes a cache keeps when Options do not say.
const SizeDefault = 16 << 20

// EarlyDefault is the usual chance that a block is written back early.
const EarlyDefault = 0.05

// unitsMin is the least number of write units that a cache holds.
const unitsMin = 16

// Options describe a device with a volatile cache.
type Options struct {
	Name string
	Base string // name of the device below
	Own  bool   // the device below is unregistered with this one

	Blocks uint64  // most blocks in the cache; 0: SizeDefault bytes of them
	Early  float64 // chance of every block written that some block is written back early
	Seed   uint64  // of the choice of blocks and of their order
	// Die is the chance of every block written back that the process is killed
	// right behind it, as by kill -9: in the middle of a flush, for instance.
	Die  float64
	Kill func() // in place of that, for tests of this package

	// Lie has flushes and FUA do nothing but answer: a broken device, for
	// tests that must find out.
	Lie bool
}

// Stats count what left the cache, and why.
type Stats struct {
	Dirty   int    // blocks (write units, where they are larger) in the cache now
	Early   uint64 // written back by chance
	Room    uint64 // written back because the cache was full
	Asked   uint64 // written back for a flush, FUA, or a read of old metadata
	Flushes uint64 // flushes of the base
	Failed  uint64 // write backs that failed
}

// Driver is a device with a volatile cache.
type Driver struct {
	base *bdev.Base
	info bdev.Info
	o    Options
	th   *thread.Thread // owns all below
	ch   *bdev.Channel  // of the base

	cache
	rnd     *rand.Rand
	stats   Stats
	live    map[*bdev.IO]*op
	inners  *inner // free ones
	busy    int    // inners in use
	writing int    // write backs under way
	depth   int    // most of them
	waiting []*op  // writes for which there is no room, in order
	flush   flush
	closed  bool
}

// Create claims the base and registers the device. It must be called on t,
// which becomes the owner of the cache.
func Create(m *bdev.Manager, t *thread.Thread, o Options) (*bdev.Bdev, error) {
	base, err := bdev.OpenBase(m, o.Base, "volatile", t)
	if err != nil {
		return nil, err
	}
	d, err := newDriver(base, t, o)
	if err != nil {
		base.Close()
		return nil, err
	}
	b, err := m.Register(d)
	if err != nil {
		_ = d.Close() // the first error counts
		return nil, err
	}
	if o.Own {
		base.Own()
	}
	base.Attach(b, func(blocks uint64) uint64 { return blocks })
	return b, nil
}

func newDriver(base *bdev.Base, t *thread.Thread, o Options) (*Driver, error) {
	d := &Driver{base: base, info: base.Info(o.Name, "Volatile cache"), th: t, o: o, live: make(map[*bdev.IO]*op)}
	i := &d.info
	unit := uint64(max(i.WriteUnit, 1))
	if o.Blocks == 0 {
		o.Blocks = max(SizeDefault/uint64(i.BlockSize), unitsMin*unit)
	}
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("volatile %s: %s is %v, it must be %s: %w", o.Name, field, v, want, unix.EINVAL)
	}
	switch {
	case i.Zoned:
		return nil, bad("base", o.Base, "a conventional device: a zoned one is not written in random order (put zone: in front)")
	case o.Blocks < unitsMin*unit || o.Blocks*uint64(i.BlockSize) > 1<<40:
		return nil, bad("the size of the cache in blocks", o.Blocks, fmt.Sprintf("at least %d, and at most 1 TiB", unitsMin*unit))
	case !(o.Early >= 0 && o.Early <= 1):
		return nil, bad("the chance of writing back early", o.Early, "from 0 to 1")
	case !(o.Die >= 0 && o.Die <= 1):
		return nil, bad("the chance of dying", o.Die, "from 0 to 1")
	}
	if err := d.cache.init(o.Blocks/unit, unit, i); err != nil {
		return nil, fmt.Errorf("volatile %s: %w", o.Name, err)
	}
	d.depth = depthMax
	if d.o.Die > 0 {
		d.depth = 1
	}
	if d.o.Kill == nil {
		d.o.Kill = killProcess
	}
	d.rnd = rand.New(rand.NewPCG(o.Seed, 0x766F6C6174696C65))
	d.limit(unit, o.Blocks)
	ch, err := base.Desc.Channel(t)
	if err != nil {
		d.cache.free()
		return nil, err
	}
	d.ch = ch
	return d, nil
}

// killProcess ends the process as kill -9 does.
func killProcess() {
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL) // one's own process may be killed
	select {}
}

// limit turns the base's Info into that of the device.
func (d *Driver) limit(unit, blocks uint64) {
	i := &d.info
	most := uint32(min(blocks/4/unit*unit, 1<<20/unit*unit))
	i.VolatileCache = true
	// The layer of the base splits and bounces for the base. Here only room matters.
	i.MaxTransfer, i.MaxUnmap, i.MaxWriteZeroes, i.MaxCopy = most, most, most, 0
	i.MaxSegments, i.BufAlign, i.OptimalBoundary = 0, 0, 0
	ops := bdev.Ops(bdev.OpFlush, bdev.OpReset, bdev.OpAbort)
	for _, op := range [...]bdev.Op{bdev.OpRead, bdev.OpWrite, bdev.OpUnmap, bdev.OpWriteZeroes} {
		// Unmap and write zeroes need not be whole units, which the cache is made of.
		if i.Ops.Has(op) && (unit == 1 || op == bdev.OpRead || op == bdev.OpWrite) {
			ops = ops.With(op)
		}
	}
	i.Ops = ops
}

// Info implements bdev.Driver.
func (d *Driver) Info() bdev.Info { return d.info }

// Stats returns what happened so far. It must be called on the thread that
// created the device.
func (d *Driver) Stats() Stats {
	s := d.stats
	s.Dirty = len(d.entries)
	return s
}

// Close implements bdev.Driver. What was not written back is gone.
func (d *Driver) Close() error {
	d.th.Send(closeDriver, d)
	d.base.Close() // behind that
	return nil
}

func closeDriver(arg any) {
	d := arg.(*Driver)
	d.closed = true
	d.ch.Put()
	d.freeIfIdle()
}

// freeIfIdle gives the memory back once no write back uses it.
func (d *Driver) freeIfIdle() {
	if d.closed && d.busy == 0 {
		d.cache.free()
	}
}

// NewChannel implements bdev.Driver.
func (d *Driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	return &channel{d: d, th: t, home: t == d.th}, nil
}

// channel is one thread's part of the device.
type channel struct {
	d    *Driver
	th   *thread.Thread
	home bool // th owns the cache
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() {}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	o, _ := io.Driver.(*op)
	if o == nil {
		o = &op{}
		io.Driver = o
	}
	o.c, o.io, o.target, o.err, o.left, o.split = c, io, io.Target, nil, 0, false
	if c.home {
		begin(o)
		return
	}
	c.d.th.Send(begin, o)
}

// op is an IO of a user. Between begin and finish it belongs to the owner of
// the cache.
type op struct {
	c      *channel
	io     *bdev.IO
	target *bdev.IO // of an abort; only its address counts
	left   int      // what it waits for: parts that are read, pages that are written back
	err    error
	parts  []*inner // a read's that are under way
	split  bool     // a read that waits for metadata, to be tried again
}

func begin(arg any) {
	o := arg.(*op)
	d := o.c.d
	d.live[o.io] = o
	switch o.io.Op {
	case bdev.OpRead:
		d.read(o)
	case bdev.OpWrite, bdev.OpUnmap, bdev.OpWriteZeroes:
		d.waiting = append(d.waiting, o)
		if len(d.waiting) == 1 {
			d.serve()
		}
	case bdev.OpFlush:
		d.beginFlush(o)
	case bdev.OpReset:
		d.reset(o)
	case bdev.OpAbort:
		d.abort(o)
	default:
		d.finish(o, bdev.ErrUnsupported)
	}
}

// finish answers an IO. Its user may submit more before finish returns.
func (d *Driver) finish(o *op, err error) {
	delete(d.live, o.io)
	if o.c.home {
		o.io.Complete(err)
		return
	}
	o.err = err
	o.c.th.Send(completed, o)
}

func completed(arg any) {
	o := arg.(*op)
	o.io.Complete(o.err)
}

// memory for pages is asked for here, so that what it is can be seen in one place.
func alloc(n uint64, what string) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	buf := iobuf.Alloc(int(n))
	if buf == nil {
		return nil, fmt.Errorf("%d bytes for %s: %w", n, what, unix.ENOMEM)
	}
	return buf, nil
}
