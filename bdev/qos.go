package bdev

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/thread"
)

// QoS limits how fast a device is used by all its channels together; 0 is no
// limit. The budget is given out in slices of 1 ms; what one large IO takes
// beyond it is taken from the slices after.
type QoS struct {
	IOPS       uint64 // reads and writes and everything else, a second
	BytesPS    uint64 // bytes of reads and writes a second
	ReadBytes  uint64 // bytes of reads a second
	WriteBytes uint64 // bytes of writes a second
}

const (
	qosSlice   = time.Millisecond
	qosIOs     = 0
	qosBytes   = 1
	qosRead    = 2
	qosWrite   = 3
	numBudgets = 4
	qosScale   = 1000 // budgets are in thousandths of an IO or byte
)

// qosState is shared by all channels of a device.
type qosState struct {
	cfg   QoS
	slice atomic.Int64
	per   [numBudgets]int64 // a slice's worth; 0 is no limit
	left  [numBudgets]atomic.Int64
}

// QoS returns the limits.
func (b *Bdev) QoS() QoS {
	if q := b.qos.Load(); q != nil {
		return q.cfg
	}
	return QoS{}
}

// SetQoS changes the limits; the zero QoS removes them. done is called on t,
// the calling thread, when all channels have them.
func (b *Bdev) SetQoS(cfg QoS, t *thread.Thread, done func(arg any, err error), arg any) {
	const most = 1 << 50
	for _, v := range []uint64{cfg.IOPS, cfg.BytesPS, cfg.ReadBytes, cfg.WriteBytes} {
		if v > most {
			err := fmt.Errorf("bdev %s: rate limit %d is above %d a second; use 0 for none: %w", b.Name(), v, uint64(most), unix.EINVAL)
			t.Post(func(any) { done(arg, err) }, nil)
			return
		}
	}
	var q *qosState
	if cfg != (QoS{}) {
		q = &qosState{cfg: cfg}
		for i, v := range []uint64{cfg.IOPS, cfg.BytesPS, cfg.ReadBytes, cfg.WriteBytes} {
			q.per[i] = int64(v) * qosScale / int64(time.Second/qosSlice)
			q.left[i].Store(q.per[i])
		}
	}
	b.qos.Store(q)
	b.dev.ForEachChannel(t, qosVisit, done, arg)
}

func qosVisit(it *thread.ChannelIter) {
	k := it.Channel().Ctx().(*core)
	if k.b.qos.Load() != nil {
		k.gate |= gateQoS
	} else {
		k.gate &^= gateQoS
		k.releaseThrottled()
	}
	it.Continue(nil)
}

// within takes an IO's share of the budget, or says that there is none left.
func (k *core) within(io *IO) bool {
	q := k.b.qos.Load()
	if q == nil || io.flags&ioCharged != 0 {
		return true
	}
	q.roll(k.th.Now())
	uses := [numBudgets]bool{qosIOs: true}
	bytes := int64(0)
	if io.Op.HasData() {
		bytes = int64(io.Bytes())
		uses[qosBytes] = true
		uses[qosRead] = io.Op == OpRead || io.Op == OpCompare
		uses[qosWrite] = !uses[qosRead]
	}
	for i, u := range uses {
		if u && q.per[i] != 0 && q.left[i].Load() <= 0 {
			return false
		}
	}
	for i, u := range uses {
		if !u || q.per[i] == 0 {
			continue
		}
		cost := bytes
		if i == qosIOs {
			cost = 1
		}
		q.left[i].Add(-cost * qosScale)
	}
	io.flags |= ioCharged
	return true
}

// roll begins a new slice when it is time. Of several threads one does it.
func (q *qosState) roll(now int64) {
	s := now / int64(qosSlice)
	old := q.slice.Load()
	if s <= old || !q.slice.CompareAndSwap(old, s) {
		return
	}
	passed := s - old
	if old == 0 {
		passed = 1
	}
	for i := range q.per {
		per := q.per[i]
		if per == 0 {
			continue
		}
		for {
			left := q.left[i].Load()
			// An unused budget does not grow; a debt is paid back over time.
			next := per
			if left < 0 && -left/per >= passed {
				next = left + passed*per
			}
			if q.left[i].CompareAndSwap(left, next) {
				break
			}
		}
	}
}

// throttle queues an IO that is beyond the limits.
func (k *core) throttle(io *IO) {
	k.throttled.push(io)
	if k.qosTimer == nil {
		k.qosTimer = k.th.RegisterPoller("bdev_qos_"+k.b.Name(), qosTick, k, qosSlice)
		return
	}
	k.qosTimer.Resume()
}

func qosTick(arg any) poller.Result {
	k := arg.(*core)
	if k.throttled.empty() {
		k.qosTimer.Pause()
		return poller.Idle
	}
	k.releaseThrottled()
	return poller.Busy
}

// releaseThrottled lets the oldest go as far as the budget allows.
func (k *core) releaseThrottled() {
	for io := k.throttled.head; io != nil && k.within(io); io = k.throttled.head {
		k.throttled.pop()
		k.admitCharged(io)
	}
}
