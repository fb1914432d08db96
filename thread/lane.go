package thread

const (
	laneSize = 64 // messages that a lane collects at most; no more than the smallest ring holds
	laneNear = 16 // lanes that are found by the low bits of the destination's number; the others by a search
)

// lane collects what one thread sends to one other during a Poll, so that it goes over together.
type lane struct {
	to     *Thread
	listed bool // in outbox.open
	n      int
	msgs   [laneSize]message
}

// outbox is a thread's lanes. It belongs to the thread, and nothing is in it between two Polls: what is sent in a Poll
// is handed over in it, so whoever looks whether a thread has work need not look here.
type outbox struct {
	inPoll bool // code of the thread runs, and flush comes after it
	near   [laneNear]*lane
	all    []*lane
	open   []*lane // that have messages, or had some and became full
}

// SendTo queues a message from code that runs on t to another thread. It never blocks and never loses a message, and
// messages from t to the same thread run in the order sent. In a Poll of t messages are collected, and they are handed
// over when 64 of them go to the same thread, before the pollers run, and at the end; outside a Poll each goes at once.
// So many messages cost hardly more than one: one locked instruction, one look whether the receiver sleeps, and the
// receiver finds them all when it finds the first. SendTo to t itself is Post. Between a Send and a SendTo of the same
// sender there is no order. It may be called only on t.
func (t *Thread) SendTo(to *Thread, fn Func, arg any) {
	o := &t.out
	l := o.near[to.id%laneNear]
	if l == nil || l.to != to || !o.inPoll {
		if l = t.laneTo(to); l == nil {
			t.sendNow(to, fn, arg)
			return
		}
	}
	m := &l.msgs[l.n]
	m.fn, m.arg = fn, arg
	if l.n++; l.n == laneSize {
		l.flush()
	} else if !l.listed {
		l.listed = true
		o.open = append(o.open, l)
	}
}

// laneTo returns the lane to another thread, nil when a message is not to be collected.
func (t *Thread) laneTo(to *Thread) *lane {
	if !t.out.inPoll || to == t {
		return nil
	}
	o := &t.out
	for _, l := range o.all {
		if l.to == to {
			o.near[to.id%laneNear] = l
			return l
		}
	}
	o.forgetExited()
	l := &lane{to: to}
	o.all = append(o.all, l)
	o.near[to.id%laneNear] = l
	return l
}

// forgetExited drops the lanes to threads that have ended, so that there are never many more lanes than threads.
func (o *outbox) forgetExited() {
	kept := o.all[:0]
	for _, l := range o.all {
		if l.listed || !l.to.Exited() {
			kept = append(kept, l)
		}
	}
	clear(o.all[len(kept):])
	o.all = kept
	o.near = [laneNear]*lane{}
}

func (t *Thread) sendNow(to *Thread, fn Func, arg any) {
	if to == t {
		t.Post(fn, arg)
		return
	}
	to.Send(fn, arg)
}

// flush hands over what was collected, to each thread in the order in which it was sent the first.
func (o *outbox) flush() {
	for i, l := range o.open {
		o.open[i] = nil
		l.listed = false
		if l.n > 0 {
			l.flush()
		}
	}
	o.open = o.open[:0]
}

func (l *lane) flush() {
	n := l.n
	l.n = 0
	to := l.to
	if !to.in.pushAll(l.msgs[:n]) {
		to.dropped.Add(uint64(n))
	} else if to.asleep.Load() {
		to.wake()
	}
	clear(l.msgs[:n]) // what the arguments point to is not the sender's any more
}
