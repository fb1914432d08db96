package timeline

import (
	"time"

	"goftl/bdev"
	"goftl/poller"
	"goftl/thread"
)

// entry is an IO and when it is due. Entries with the same time leave in the
// order in which they came.
type entry struct {
	due int64
	seq uint64
	io  *bdev.IO
	err error
}

// Line is a queue of IOs by time.
type Line struct {
	th     *thread.Thread
	name   string
	period time.Duration
	timer  *poller.Poller
	heap   []entry
	seq    uint64
	due    func(io *bdev.IO, err error)
}

// New makes a Line whose precision is period. due is called on t with each IO
// when its time has come.
func New(t *thread.Thread, name string, period time.Duration, due func(io *bdev.IO, err error)) *Line {
	return &Line{th: t, name: name, period: max(period, time.Microsecond), due: due}
}

// Len returns how many IOs are held.
func (l *Line) Len() int { return len(l.heap) }

// Hold keeps io for d; due gets err with it.
func (l *Line) Hold(io *bdev.IO, err error, d time.Duration) {
	l.seq++
	l.heap = append(l.heap, entry{l.th.Now() + int64(d), l.seq, io, err})
	l.up(len(l.heap) - 1)
	if l.timer == nil {
		l.timer = l.th.RegisterPoller(l.name, tick, l, l.period)
	} else {
		l.timer.Resume()
	}
}

// Take takes an IO out before its time; it says whether it was held.
func (l *Line) Take(io *bdev.IO) bool {
	for i := range l.heap {
		if l.heap[i].io == io {
			l.remove(i)
			return true
		}
	}
	return false
}

// Close ends the Line, which must be empty.
func (l *Line) Close() {
	if l.timer != nil {
		l.timer.Unregister()
	}
}

func tick(arg any) poller.Result {
	l := arg.(*Line)
	busy := poller.Idle
	for now := l.th.Now(); len(l.heap) > 0 && l.heap[0].due <= now; {
		e := l.heap[0]
		l.remove(0)
		busy = poller.Busy
		l.due(e.io, e.err)
	}
	if len(l.heap) == 0 {
		l.timer.Pause()
	}
	return busy
}

func (l *Line) remove(i int) {
	n := len(l.heap) - 1
	l.heap[i] = l.heap[n]
	l.heap[n] = entry{}
	l.heap = l.heap[:n]
	if i < n {
		l.down(i)
		l.up(i)
	}
}

func (l *Line) before(i, j int) bool {
	a, b := &l.heap[i], &l.heap[j]
	return a.due < b.due || a.due == b.due && a.seq < b.seq
}

func (l *Line) up(i int) {
	for i > 0 && l.before(i, (i-1)/2) {
		l.heap[i], l.heap[(i-1)/2] = l.heap[(i-1)/2], l.heap[i]
		i = (i - 1) / 2
	}
}

func (l *Line) down(i int) {
	for {
		least := i
		for _, c := range [...]int{2*i + 1, 2*i + 2} {
			if c < len(l.heap) && l.before(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		l.heap[i], l.heap[least] = l.heap[least], l.heap[i]
		i = least
	}
}
