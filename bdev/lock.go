package bdev

import (
	"slices"
	"sync/atomic"

	"goftl/thread"
)

// rangeLock keeps all other modifying IOs of the device away from a range
// while its owner compares and writes. The locks of a device form a list that
// is replaced as a whole; a lock is in force when no earlier one overlaps it
// and all channels have been told.
type rangeLock struct {
	lba, count uint64
	owner      *IO
	asked      bool        // the walk over the channels has begun; the owner's thread only
	released   atomic.Bool // a new channel need not know it any more
}

func (l *rangeLock) overlaps(lba, count uint64) bool {
	return lba < l.lba+l.count && l.lba < lba+count
}

func (b *Bdev) locksNow() []*rangeLock {
	var list []*rangeLock
	if all := b.locks.Load(); all != nil {
		for _, l := range *all {
			if !l.released.Load() {
				list = append(list, l)
			}
		}
	}
	return list
}

func (b *Bdev) updateLocks(change func([]*rangeLock) []*rangeLock) []*rangeLock {
	for {
		old := b.locks.Load()
		var list []*rangeLock
		if old != nil {
			list = slices.Clone(*old)
		}
		list = change(list)
		if b.locks.CompareAndSwap(old, &list) {
			return list
		}
	}
}

// lockRange begins a compare-and-write: it goes on in the stage compare once
// the range is its own.
func (k *core) lockRange(p *IO) {
	l := &rangeLock{lba: p.LBA, count: p.Count, owner: p}
	p.lock = l
	k.b.updateLocks(func(list []*rangeLock) []*rangeLock { return append(list, l) })
	tryLock(l)
}

// tryLock runs on the owner's thread, at first and whenever a lock ended.
func tryLock(arg any) {
	l := arg.(*rangeLock)
	p := l.owner
	if l.asked || p.lock != l {
		return
	}
	for _, o := range *p.k.b.locks.Load() {
		if o == l {
			break
		}
		if o.overlaps(l.lba, l.count) {
			return
		}
	}
	l.asked = true
	p.k.b.dev.ForEachChannel(p.k.th, lockVisit, locked, l)
}

func lockVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	l := it.Arg().(*rangeLock)
	if !slices.Contains(k.locks, l) {
		k.locks = append(k.locks, l)
		k.gate |= gateLocked
	}
	if !k.busyIn(l) {
		it.Continue(nil)
		return
	}
	k.whenIdle(func() bool { return !k.busyIn(l) }, func() { it.Continue(nil) })
}

func locked(arg any, status error) {
	l := arg.(*rangeLock)
	p := l.owner
	if status != nil {
		p.err = ErrRemoved
	}
	if p.err != nil {
		p.k.unlockRange(p)
		return
	}
	p.rewind(stageCompare)
	p.k.pump(p)
}

func (k *core) unlockRange(p *IO) {
	p.stage = stageUnlock
	p.lock.released.Store(true)
	k.b.dev.ForEachChannel(k.th, unlockVisit, unlocked, p.lock)
}

func unlockVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	k.unlock(it.Arg().(*rangeLock))
	it.Continue(nil)
}

func (k *core) unlock(l *rangeLock) {
	k.locks = slices.DeleteFunc(k.locks, func(o *rangeLock) bool { return o == l })
	if len(k.locks) == 0 {
		k.gate &^= gateLocked
	}
	k.readmit()
}

func unlocked(arg any, status error) {
	l := arg.(*rangeLock)
	p := l.owner
	if status != nil {
		p.k.unlock(l)
	}
	p.lock = nil
	rest := p.k.b.updateLocks(func(list []*rangeLock) []*rangeLock {
		return slices.DeleteFunc(list, func(o *rangeLock) bool { return o == l })
	})
	for _, o := range rest {
		if o.overlaps(l.lba, l.count) {
			o.owner.k.th.Send(tryLock, o)
		}
	}
	p.k.finish(p)
}

// lockedOut says whether a lock keeps an IO from beginning.
func (k *core) lockedOut(io *IO) bool {
	if !io.Op.Modifies() {
		return false
	}
	for _, l := range k.locks {
		if l.owner != io && l.overlaps(io.LBA, io.Count) {
			return true
		}
	}
	return false
}

// busyIn says whether a modifying IO other than the owner has begun in the
// range of a lock. One that waits for a lock itself does not count.
func (k *core) busyIn(l *rangeLock) bool {
	for _, batch := range k.batches {
		for i := range batch {
			io := &batch[i]
			switch io.state {
			case ioDriver, ioParent, ioNoMem:
			default:
				continue
			}
			waits := io.plan == planSwap && io.state == ioParent && io.stage == stageLock
			if io != l.owner && !waits && io.Op.Modifies() && l.overlaps(io.LBA, io.Count) {
				return true
			}
		}
	}
	return false
}
