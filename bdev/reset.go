package bdev

import (
	"time"

	"goftl/poller"
	"goftl/thread"
)

// A reset runs in three steps: every channel is frozen (new IOs wait, waiting
// ones are aborted); the driver resets, or, when it cannot, has completed
// everything; every channel goes on. Only one reset of a device runs at a
// time; those that come meanwhile end with it.

func (k *core) startReset(r *IO) {
	r.state = ioParent
	if !k.b.resetting.CompareAndSwap(nil, r) {
		r.state = ioHeld
		k.resets.push(r)
		return
	}
	r.flags |= ioInternal
	r.one[0] = nil
	k.b.dev.ForEachChannel(k.th, freezeVisit, frozen, r)
}

func freezeVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	r := it.Arg().(*IO)
	k.gate |= gateFrozen
	k.frozenFor = r
	k.abortQueued(ErrAborted)
	if k.limits.ops.Has(OpReset) || k.inflight == 0 {
		it.Continue(nil)
		return
	}
	k.whenIdle(func() bool { return k.inflight == 0 }, func() { it.Continue(nil) })
}

func frozen(arg any, status error) {
	r := arg.(*IO)
	k := r.k
	if status != nil || !k.limits.ops.Has(OpReset) {
		r.err = status
		k.unfreezeAll(r)
		return
	}
	k.toDriver(r)
}

func (k *core) unfreezeAll(r *IO) {
	r.state = ioParent
	k.b.resetting.Store(nil)
	k.b.dev.ForEachChannel(k.th, unfreezeVisit, unfrozen, r)
}

func unfreezeVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	if r := it.Arg().(*IO); k.frozenFor == r {
		k.unfreeze(r.err)
	}
	it.Continue(nil)
}

func (k *core) unfreeze(status error) {
	k.gate &^= gateFrozen
	k.frozenFor = nil
	for q := k.resets.take(); !q.empty(); {
		r := q.pop()
		r.err = status
		k.finishLater(r)
	}
	k.readmit()
}

// readmit lets those try again that a reset or a lock held back.
func (k *core) readmit() {
	for q := k.held.take(); !q.empty(); {
		k.admit(q.pop())
	}
}

func unfrozen(arg any, _ error) {
	r := arg.(*IO)
	if r.k.frozenFor == r { // the walk was cut short by a removal
		r.k.unfreeze(r.err)
	}
	r.flags &^= ioInternal
	r.k.finish(r)
}

// abortQueued ends everything that waits in the layer.
func (k *core) abortQueued(err error) {
	for _, q := range []*ioQueue{&k.held, &k.throttled, &k.nomem} {
		for list := q.take(); !list.empty(); {
			io := list.pop()
			io.err = err
			io.flags |= ioAborted
			k.finishLater(io)
		}
	}
	k.gate &^= gateNoMem
}

// idleWait is a continuation for when something is no longer in flight.
type idleWait struct {
	idle func() bool
	then func()
}

const idlePeriod = 20 * time.Microsecond

// whenIdle calls then as soon as idle returns true. It is for rare events.
func (k *core) whenIdle(idle func() bool, then func()) {
	k.idleWaits = append(k.idleWaits, idleWait{idle, then})
	if k.idleTimer == nil {
		k.idleTimer = k.th.RegisterPoller("bdev_idle_"+k.b.Name(), idleTick, k, idlePeriod)
		return
	}
	k.idleTimer.Resume()
}

func idleTick(arg any) poller.Result {
	k := arg.(*core)
	waits := k.idleWaits
	k.idleWaits = nil
	busy := poller.Idle
	for _, w := range waits {
		if w.idle() {
			busy = poller.Busy
			w.then()
		} else {
			k.idleWaits = append(k.idleWaits, w)
		}
	}
	if len(k.idleWaits) == 0 {
		k.idleTimer.Pause()
	}
	return busy
}

// startAbort looks for the IOs that an abort names.
func (k *core) startAbort(a *IO) {
	found := false
	for _, batch := range k.batches {
		for i := range batch {
			io := &batch[i]
			if io != a && io.state != ioFree && io.state != ioFinished && (io.Ctx == a.abortCtx || any(io) == a.abortCtx) {
				found = true
				if !k.abortOne(io, a) {
					return // the driver has both now
				}
			}
		}
	}
	if !found {
		a.err = ErrNotFound
	}
	if a.state != ioFinished {
		k.finishLater(a)
	}
}

// abortOne cuts one IO short. It returns false when a was given to the driver.
func (k *core) abortOne(io, a *IO) bool {
	switch io.state {
	case ioHeld, ioNoMem:
		if k.held.remove(io) || k.throttled.remove(io) || k.nomem.remove(io) {
			io.err = ErrAborted
			io.flags |= ioAborted
			k.finishLater(io)
		}
		if k.nomem.empty() {
			k.gate &^= gateNoMem
		}
	case ioParent:
		// Its parts run to their end; there will be no more of them.
		if io.err == nil && io.Op != OpReset {
			io.err = ErrAborted
		}
	case ioFree, ioFinished:
	case ioDriver:
		if !k.limits.ops.Has(OpAbort) {
			a.err = ErrUnsupported
			return true
		}
		io.flags |= ioAborted
		a.Target = io
		k.toDriver(a)
		return false
	}
	return true
}
