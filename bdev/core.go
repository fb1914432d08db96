package bdev

import (
	"goftl/internal/assert"
	"goftl/iobuf"
	"goftl/poller"
	"goftl/thread"
)

// Bits of core.gate. While any is set a new IO takes the slow way.
const (
	gateLimits  uint32 = 1 << iota // the device has limits that an IO may have to be split or bounced for
	gateFrozen                     // a reset is running
	gateRemoved                    // the device is gone
	gateQoS                        // there are rate limits
	gateNoMem                      // IOs wait because the driver said ENOMEM
	gateLocked                     // ranges are locked
)

// core is what all channels of one thread to one device share. It belongs to
// that thread.
type core struct {
	// The hot part.
	th         *thread.Thread
	b          *Bdev
	dc         DriverChannel
	free       *IO
	gate       uint32
	shift      uint8
	submitting bool // the driver is inside Submit: completions are put off
	posted     bool // a message that runs the finished IOs is under way
	onRelease  bool // somebody waits for a free IO, or for the last one
	inflight   int  // IOs in the driver
	used       int  // IOs that users hold
	finished   ioQueue
	mdSize     uint64
	stats      Stats

	// The pool.
	batches  [][]IO
	poolMax  int
	poolStep int
	waiters  waitQueue
	puts     []*thread.IOChannel // handles put while IOs were in flight

	// What the slow way needs.
	held      ioQueue // frozen or locked out
	throttled ioQueue
	nomem     ioQueue
	retry     *poller.Poller // pending ENOMEM with nothing in flight
	qosTimer  *poller.Poller
	idleTimer *poller.Poller
	idleWaits []idleWait
	locks     []*rangeLock
	resets    ioQueue // wait for a reset that is running
	frozenFor *IO     // the reset that froze this

	limits   limits
	children childPool
	iobufs   *iobuf.Channel
	bounces  [][]byte // buffers of our own that are free
}

func newCore(b *Bdev, t *thread.Thread) (*core, error) {
	dc, err := b.d.NewChannel(t)
	if err != nil {
		return nil, err
	}
	info := b.Info()
	k := &core{
		th: t, b: b, dc: dc, shift: blockShift(info.BlockSize), mdSize: uint64(info.MDSize),
		poolMax: b.m.poolMax, poolStep: b.m.poolStep, limits: limitsOf(info),
	}
	if n := int(info.PoolMax); n != 0 {
		k.poolStep = min(k.poolStep, n)
		k.poolMax = n
	}
	if k.limits.any {
		k.gate |= gateLimits
	}
	if b.qos.Load() != nil {
		k.gate |= gateQoS
	}
	if r := b.resetting.Load(); r != nil {
		k.gate |= gateFrozen
		k.frozenFor = r
	}
	if b.state.Load().removing {
		k.gate |= gateRemoved
	}
	k.locks = append(k.locks, b.locksNow()...)
	if len(k.locks) > 0 {
		k.gate |= gateLocked
	}
	return k, nil
}

// destroy runs when the last channel of the thread was put.
func (k *core) destroy() {
	assert.That(k.used == 0 && k.inflight == 0, "bdev: channel destroyed with IOs in flight")
	for _, p := range []*poller.Poller{k.retry, k.qosTimer, k.idleTimer} {
		if p != nil {
			p.Unregister()
		}
	}
	k.dc.Close()
	for _, buf := range k.bounces {
		iobuf.Free(buf)
	}
	if k.iobufs != nil {
		k.iobufs.Close()
	}
	k.b.retire(&k.stats)
}

// get takes an IO from the pool, nil when all are in use.
func (k *core) get() *IO {
	io := k.free
	if io == nil {
		if io = k.grow(); io == nil {
			return nil
		}
	}
	k.free = io.next
	k.used++
	return io
}

//go:noinline
func (k *core) grow() *IO {
	n := min(k.poolStep, k.poolMax-len(k.batches)*k.poolStep)
	if n <= 0 {
		return nil
	}
	batch := make([]IO, n)
	for i := range batch {
		batch[i].k = k
		if i+1 < n {
			batch[i].next = &batch[i+1]
		}
	}
	k.batches = append(k.batches, batch)
	k.free = &batch[0]
	return k.free
}

// release puts an IO back whose callback has run.
func (k *core) release(io *IO) {
	io.state = ioFree
	io.flags = 0
	io.FUA = false
	io.done = nil
	io.Ctx = nil
	io.Bufs = nil
	io.MD = nil
	io.one[0] = nil
	if io.Op > OpWrite {
		io.Bufs2, io.Zones, io.Extents, io.Target, io.abortCtx = nil, nil, nil, nil, nil
	}
	io.next = k.free
	k.free = io
	k.used--
	if k.onRelease {
		k.released()
	}
}

// released serves those who wait for an IO, and puts handles off which all
// IOs are.
//
//go:noinline
func (k *core) released() {
	for last := k.waiters.tail; k.waiters.head != nil && k.hasFree(); {
		w := k.waiters.pop()
		w.Fn(w.Arg)
		if w == last {
			break
		}
	}
	if k.used == 0 && len(k.puts) > 0 {
		puts := k.puts
		k.puts = nil
		for _, c := range puts {
			c.Put()
		}
	}
	k.onRelease = k.waiters.head != nil || len(k.puts) > 0
}

func (k *core) hasFree() bool {
	return k.free != nil || len(k.batches)*k.poolStep < k.poolMax
}

// start sends a filled-in IO on its way.
func (k *core) start(io *IO) error {
	io.t0 = k.th.Now()
	if k.gate != 0 {
		return k.startSlow(io)
	}
	k.toDriver(io)
	return nil
}

// startAny is start for operations that the layer always looks at.
func (k *core) startAny(io *IO) error {
	io.t0 = k.th.Now()
	return k.startSlow(io)
}

func (k *core) toDriver(io *IO) {
	io.state = ioDriver
	io.err = nil
	k.inflight++
	k.submitting = true
	k.dc.Submit(io)
	k.submitting = false
}

// startSlow is start with something in the way.
//
//go:noinline
func (k *core) startSlow(io *IO) error {
	if k.gate&gateRemoved != 0 {
		k.release(io)
		return ErrRemoved
	}
	k.admit(io)
	return nil
}

// admit lets an IO pass every gate, or queues it at the first closed one.
func (k *core) admit(io *IO) {
	io.err = nil
	switch {
	case k.gate&gateRemoved != 0:
		io.err = ErrRemoved
		k.finishLater(io)
	case k.gate&gateQoS != 0 && io.flags&ioCharged == 0 && io.Op != OpReset && io.Op != OpAbort &&
		(!k.throttled.empty() || !k.within(io)):
		io.state = ioHeld
		k.throttle(io)
	default:
		k.admitCharged(io)
	}
}

// admitCharged is admit behind the rate limits.
func (k *core) admitCharged(io *IO) {
	if k.gate&gateFrozen != 0 && io.Op != OpReset && io.Op != OpAbort ||
		k.gate&gateLocked != 0 && k.lockedOut(io) {
		io.state = ioHeld
		k.held.push(io)
		return
	}
	k.dispatch(io)
}

// dispatch sends an admitted IO to the driver, whole or in parts.
func (k *core) dispatch(io *IO) {
	switch {
	case io.Op == OpReset:
		k.startReset(io)
	case io.Op == OpAbort:
		k.startAbort(io)
	case io.Op == OpFlush && !k.limits.ops.Has(OpFlush):
		k.finishLater(io) // nothing is volatile
	case (k.gate&gateLimits != 0 || io.Op > OpWrite || io.FUA) && k.limits.exceeded(io),
		io.Op == OpWrite && k.limits.zone != 0 && !k.children.starved.empty(): // a write that must not be overtaken may wait there
		k.split(io)
	default:
		k.drive(io)
	}
}

// drive is toDriver behind the queue of those that met ENOMEM.
func (k *core) drive(io *IO) {
	if k.gate&gateNoMem != 0 {
		io.state = ioNoMem
		k.nomem.push(io)
		return
	}
	k.toDriver(io)
}

// finishLater runs finish from a message, so that no callback runs inside a
// submit method.
func (k *core) finishLater(io *IO) {
	io.state = ioFinished
	k.finished.push(io)
	if !k.posted {
		k.posted = true
		k.th.Post(runFinished, k)
	}
}

func runFinished(arg any) {
	k := arg.(*core)
	k.posted = false
	io := k.finished.head
	k.finished = ioQueue{}
	for io != nil {
		next := io.next
		k.finish(io)
		io = next
	}
}

// finish counts an IO that is done and tells its user.
func (k *core) finish(io *IO) {
	if io.err != nil || io.flags != 0 || k.gate&(gateRemoved|gateNoMem) != 0 {
		if k.finishSlow(io) {
			return
		}
	}
	k.stats.count(io.Op, io.Count<<k.shift, k.th.Now()-io.t0, io.err)
	io.state = ioFinished
	io.done(io)
	k.release(io)
}

// finishSlow handles what is not a plain success. It returns true when the
// user is not to be told (now).
//
//go:noinline
func (k *core) finishSlow(io *IO) bool {
	if k.gate&gateRemoved != 0 && io.child == nil {
		io.err = ErrRemoved
	}
	if io.err != nil && io.state != ioParent && k.noMemory(io) {
		k.requeue(io)
		return true
	}
	if k.gate&gateNoMem != 0 {
		k.retryNoMem(2)
	}
	if io.child != nil {
		k.childDone(io)
		return true
	}
	if io.Op == OpReset && io.flags&ioInternal != 0 {
		k.unfreezeAll(io)
		return true
	}
	return false
}

func blockShift(size uint32) uint8 {
	s := uint8(0)
	for size>>s > 1 {
		s++
	}
	return s
}
