package bdev

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"goftl/poller"
)

// How long the layer waits before it tries again a driver that had no memory
// and has nothing in flight whose end would give it some.
const noMemRetry = 50 * time.Microsecond

// noMemory says whether an IO that the driver ended is to be tried again.
func (k *core) noMemory(io *IO) bool {
	return io.flags&ioAborted == 0 && k.gate&gateRemoved == 0 && io.Op != OpAbort &&
		errors.Is(io.err, unix.ENOMEM) && !errors.Is(io.err, ErrNoBuffer)
}

// requeue puts an IO that the driver refused with ENOMEM first in line.
func (k *core) requeue(io *IO) {
	io.err = nil
	io.state = ioNoMem
	k.nomem.pushFront(io)
	k.gate |= gateNoMem
	k.armRetry()
}

// armRetry has the queue tried again by time when no completion will do it.
func (k *core) armRetry() {
	if k.inflight > 0 {
		return
	}
	if k.retry == nil {
		k.retry = k.th.RegisterPoller("bdev_nomem_"+k.b.Name(), retryTimer, k, noMemRetry)
		return
	}
	k.retry.Resume()
}

func retryTimer(arg any) poller.Result {
	k := arg.(*core)
	k.retry.Pause()
	if k.nomem.empty() || k.inflight > 0 {
		return poller.Idle
	}
	k.retryNoMem(1)
	return poller.Busy
}

// retryNoMem submits up to n IOs of the queue. Every success submits two, so
// the flow doubles until the driver is full again.
func (k *core) retryNoMem(n int) {
	if k.submitting {
		k.armRetry()
		return
	}
	for ; n > 0 && !k.nomem.empty(); n-- {
		io := k.nomem.pop()
		if k.nomem.empty() {
			k.gate &^= gateNoMem
		}
		k.toDriver(io)
	}
	if !k.nomem.empty() {
		k.armRetry()
	}
}
