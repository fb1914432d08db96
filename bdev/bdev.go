package bdev

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

// Bdev is a registered block device. Its methods may be called on any thread,
// except where they take one: then on that.
type Bdev struct {
	m      *Manager
	d      Driver
	dev    *thread.IODevice
	blocks atomic.Uint64
	info   atomic.Pointer[Info]

	state     atomic.Pointer[bstate]
	qos       atomic.Pointer[qosState]
	resetting atomic.Pointer[IO]
	locks     atomic.Pointer[[]*rangeLock]
	retired   atomic.Pointer[Stats]
	below     atomic.Pointer[Base] // what the driver stands on, when it said so
	removal   removal
}

// bstate is who uses a device and how. It is immutable; update replaces it.
type bstate struct {
	descs   []*Desc
	claim   ClaimKind
	module  string
	holders []*Desc // descriptors that hold the claim

	removing bool // Unregister was called
	told     bool // all channels refuse IOs, all descriptors have the event
	ending   bool // told, and the last descriptor was closed
}

// removal is what Unregister was given; it is set before bstate.removing.
type removal struct {
	t    *thread.Thread
	done func(arg any, err error)
	arg  any
}

// update replaces the state by what change makes of a copy of it.
func (b *Bdev) update(change func(s *bstate) error) (*bstate, error) {
	for {
		old := b.state.Load()
		s := *old
		s.descs = slices.Clone(old.descs)
		s.holders = slices.Clone(old.holders)
		if err := change(&s); err != nil {
			return nil, err
		}
		if b.state.CompareAndSwap(old, &s) {
			return &s, nil
		}
	}
}

// Info returns what the device is like now. It must not be changed.
func (b *Bdev) Info() *Info { return b.info.Load() }

// Name returns the device's name.
func (b *Bdev) Name() string { return b.info.Load().Name }

// Driver returns the driver, for those who know its kind.
func (b *Bdev) Driver() Driver { return b.d }

// Manager returns the registry that the device is in.
func (b *Bdev) Manager() *Manager { return b.m }

// NotifyResize changes the size of the device and tells all descriptors. A
// device cannot shrink below what is in flight: that is for its driver to fail.
func (b *Bdev) NotifyResize(blocks uint64) error {
	for {
		old := b.info.Load()
		info := *old
		info.Blocks = blocks
		if err := info.check(); err != nil {
			return err
		}
		if b.info.CompareAndSwap(old, &info) {
			break
		}
	}
	b.blocks.Store(blocks)
	b.tell(Resize, nil)
	return nil
}

var errRemovedTwice = errors.New("the device is being removed already")

// Unregister removes the device from the registry while it may be in use: from
// then on submissions fail with ENODEV, what is in flight completes with
// ENODEV, and every descriptor gets the event Remove. When the last descriptor
// is closed and the last channel is put, the driver is closed and done is
// called on t, the calling thread, with the driver's error. A second call gets
// EALREADY. done may be nil.
func (b *Bdev) Unregister(t *thread.Thread, done func(arg any, err error), arg any) {
	_, err := b.update(func(s *bstate) error {
		if s.removing {
			return fmt.Errorf("bdev %s: unregister: %w: %w", b.Name(), errRemovedTwice, unix.EALREADY)
		}
		s.removing = true
		return nil
	})
	if err != nil {
		if done != nil {
			t.Post(func(any) { done(arg, err) }, nil)
		}
		return
	}
	b.removal = removal{t, done, arg}
	b.m.forget(b)
	b.dev.ForEachChannel(t, removeVisit, removeTold, b)
}

func removeVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	k.gate |= gateRemoved
	k.unfreeze(ErrRemoved) // no walk over the channels may come to do it
	k.abortQueued(ErrRemoved)
	k.abortDriver()
	it.Continue(nil)
}

// abortDriver asks the driver to end what it has, if it can do that.
func (k *core) abortDriver() {
	if !k.limits.ops.Has(OpAbort) || k.inflight == 0 {
		return
	}
	for _, batch := range append(slices.Clone(k.batches), k.children.batches...) {
		for i := range batch {
			io := &batch[i]
			if io.state != ioDriver || io.Op == OpAbort {
				continue
			}
			a := k.get()
			if a == nil { // nothing must keep the driver from letting go
				a = &IO{k: k}
				k.used++
			}
			a.Op, a.LBA, a.Count, a.done, a.ch, a.Target = OpAbort, 0, 0, ignore, io.ch, io
			io.flags |= ioAborted
			k.toDriver(a)
		}
	}
}

func ignore(*IO) {}

func removeTold(arg any, _ error) {
	b := arg.(*Bdev)
	s, _ := b.update(func(s *bstate) error {
		s.told = true
		s.ending = len(s.descs) == 0
		return nil
	})
	if s.ending {
		endRemoval(b)
		return
	}
	b.tell(Remove, nil)
}

// endRemoval runs on the thread of Unregister when all descriptors are closed.
func endRemoval(arg any) {
	b := arg.(*Bdev)
	if err := b.dev.Unregister(b.removal.t, closeDriver, b); err != nil {
		closeDriver(b)
	}
}

func closeDriver(arg any) {
	b := arg.(*Bdev)
	err := b.d.Close()
	if err != nil {
		err = fmt.Errorf("bdev %s: close: %w", b.Name(), err)
	}
	if b.removal.done != nil {
		b.removal.done(b.removal.arg, err)
	}
}
