package thread

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/poller"
)

// Func is a message. arg should be a pointer: boxing anything else may allocate.
type Func func(arg any)

// FDFunc is told that a watched file descriptor is ready. events are epoll's bits, level-triggered.
type FDFunc func(arg any, events uint32)

// FDWatch is a watched file descriptor. Its methods may be called only on the thread that made it.
type FDWatch interface {
	// Modify changes the events that are waited for.
	Modify(events uint32) error
	// Close ends the watch; the callback does not run again, not even for events that were collected already. It
	// must come before the file descriptor is closed. Closing twice does nothing.
	Close() error
}

// Host is what polls a thread.
type Host interface {
	// Wake makes the host poll the thread soon. It is called from any goroutine, after the message was queued.
	Wake()
	// WatchFD has fn called on the thread while fd is ready. It is called on the thread.
	WatchFD(fd int, events uint32, fn FDFunc, arg any) (FDWatch, error)
}

// DefaultBatch is how many messages a Poll runs when its maxMsgs is not positive.
const DefaultBatch = 64

type hostBox struct{ Host }

// Thread is one lightweight thread; see the package's documentation.
type Thread struct {
	in       inbox
	critical atomic.Pointer[func()]
	asleep   atomic.Bool // senders must call host.Wake
	exited   atomic.Bool
	dropped  atomic.Uint64
	host     atomic.Pointer[hostBox]
	_        [64]byte

	// What follows belongs to the thread.
	local   fifo
	out     outbox
	pollers poller.Set
	now     int64
	stats   counters
	exit    exitState

	channels    []*IOChannel
	walks       int // for_each_channel walks that this thread started
	unregisters int // devices whose last channel this thread waits for

	sys  *System
	name string
	id   uint64
}

type counters struct {
	polls, busyPolls uint64
	remote, local    uint64
	criticals        uint64
	events           uint64
	began            int64 // time of the first Poll
	busy             int64
	started          bool
	open             bool // the last Poll was busy and its end is not known yet
}

// Name returns the name given to NewThread.
func (t *Thread) Name() string { return t.name }

// ID returns the thread's number, unique in its System and never 0.
func (t *Thread) ID() uint64 { return t.id }

// System returns the registry that the thread belongs to.
func (t *Thread) System() *System { return t.sys }

// Now returns the time given to the Poll that runs, or that ran last: nanoseconds of a monotonic clock.
func (t *Thread) Now() int64 { return t.now }

// Send queues a message. It is safe from any goroutine, never blocks and never loses a message; messages of one
// sender run in the order sent. A message to a thread that has exited is dropped and counted. What sends much from
// another thread does it with SendTo.
func (t *Thread) Send(fn Func, arg any) {
	t.TrySend(fn, arg)
}

// TrySend is Send that reports false when the thread has exited, so that the message will never run.
func (t *Thread) TrySend(fn Func, arg any) bool {
	if !t.in.push(fn, arg) {
		t.dropped.Add(1)
		return false
	}
	if t.asleep.Load() {
		t.wake()
	}
	return true
}

func (t *Thread) wake() {
	if h := t.host.Load(); h != nil {
		h.Wake()
	}
}

// Post queues a message from the thread to itself. It may be called only on t. The message runs in this Poll or the
// next one: a message that is posted by a posted message waits for the next Poll, so that a chain of them cannot
// keep the thread from its pollers.
func (t *Thread) Post(fn Func, arg any) {
	if t.exited.Load() {
		t.dropped.Add(1)
		return
	}
	t.local.push(fn, arg)
}

// SendCritical puts fn into the thread's slot for a critical message, which runs before everything else in the next
// Poll. It is safe from any goroutine and reports false, having done nothing, when the slot is taken or the thread has
// exited.
func (t *Thread) SendCritical(fn func()) bool {
	if t.exited.Load() || !t.critical.CompareAndSwap(nil, &fn) {
		return false
	}
	if t.asleep.Load() {
		t.wake()
	}
	return true
}

// Poll runs what there is to run, in the order that the package's documentation gives, and returns Busy when there
// was something. now is the time in nanoseconds of a monotonic clock. Only one goroutine at a time may call it, and
// never from inside itself. A thread that has exited does nothing.
func (t *Thread) Poll(maxMsgs int, now int64) poller.Result {
	if t.exited.Load() {
		return poller.Idle
	}
	if maxMsgs <= 0 {
		maxMsgs = DefaultBatch
	}
	t.begin(now)
	busy := false
	if t.critical.Load() != nil {
		t.runCritical()
		busy = true
	}
	if n := t.in.run(maxMsgs); n > 0 {
		t.stats.remote += uint64(n)
		busy = true
	}
	if t.local.head != t.local.tail {
		t.stats.local += uint64(t.local.run(maxMsgs))
		busy = true
	}
	if len(t.out.open) > 0 {
		t.out.flush() // pollers may take their time
	}
	if t.pollers.Poll(now) == poller.Busy {
		busy = true
	}
	t.end()
	t.stats.polls++
	if t.exit.started {
		t.tryExit()
	}
	if !busy {
		return poller.Idle
	}
	t.stats.busyPolls++
	t.stats.open = true
	return poller.Busy
}

// begin sets the time and closes the account of the last Poll, when its host did not say when it ended.
func (t *Thread) begin(now int64) {
	if t.stats.open {
		t.stats.busy += now - t.now
		t.stats.open = false
	}
	if !t.stats.started {
		t.stats.started = true
		t.stats.began = now
	}
	t.now = now
	t.pollers.Advance(now)
	t.out.inPoll = true
}

// end hands over what code of the thread has sent since begin.
func (t *Thread) end() {
	if len(t.out.open) > 0 {
		t.out.flush()
	}
	t.out.inPoll = false
}

// Ended tells when the last Poll ended, for a host that has several threads. Without it a busy Poll counts as busy
// time until the next Poll begins. It is called by the host, between Polls.
func (t *Thread) Ended(now int64) {
	if t.stats.open {
		t.stats.busy += now - t.now
		t.stats.open = false
	}
}

func (t *Thread) runCritical() {
	fn := t.critical.Swap(nil)
	t.stats.criticals++
	(*fn)()
}

// Event calls fn on the thread for events of a watched file descriptor. It is called by the host, between Polls.
func (t *Thread) Event(fn FDFunc, arg any, events uint32, now int64) {
	if t.exited.Load() {
		return
	}
	t.begin(now)
	t.stats.events++
	fn(arg, events)
	t.end()
	t.stats.open = true
}

// RegisterPoller adds a poller to the thread. It may be called only on t.
func (t *Thread) RegisterPoller(name string, fn poller.Func, arg any, period time.Duration) *poller.Poller {
	assert.That(!t.exited.Load(), "thread: a poller for a thread that has exited")
	return t.pollers.Register(name, fn, arg, period)
}

// NextTimer returns the earliest deadline of the thread's timed pollers, or of its exit.
func (t *Thread) NextTimer() (int64, bool) {
	at, ok := t.pollers.NextDeadline()
	if t.exit.started && !t.exited.Load() && (!ok || t.exit.limit < at) {
		return t.exit.limit, true
	}
	return at, ok
}

// HasWork reports whether the thread must be polled at once: messages wait, or an active poller is not event-backed.
func (t *Thread) HasWork() bool {
	if t.exited.Load() {
		return false
	}
	return t.pollers.HasUnbacked() || t.HasMessages()
}

// MustPoll reports whether an active poller is not event-backed, so that only polling serves it.
func (t *Thread) MustPoll() bool { return t.pollers.HasUnbacked() }

// HasMessages reports whether messages wait.
func (t *Thread) HasMessages() bool {
	return t.local.head != t.local.tail || t.critical.Load() != nil || !t.in.empty()
}

// SetHost says what polls the thread from now on; nil for nothing in particular. Wake is called for every message
// until the host says by SetAsleep(false) that it need not be. It may be called only while nobody polls the thread.
func (t *Thread) SetHost(h Host) {
	if h == nil {
		t.asleep.Store(false)
		t.host.Store(nil)
		return
	}
	t.host.Store(&hostBox{h})
	t.asleep.Store(true)
}

// Host returns what was given to SetHost last. Safe from any goroutine.
func (t *Thread) Host() Host {
	if h := t.host.Load(); h != nil {
		return h.Host
	}
	return nil
}

// SetAsleep says whether senders have to call the host's Wake. A host that is about to sleep calls SetAsleep(true),
// then looks at HasWork once more, and only then sleeps. It is called by the host.
func (t *Thread) SetAsleep(asleep bool) { t.asleep.Store(asleep) }

// WatchFD has fn called on the thread while the file descriptor is ready for one of events. It returns unix.ENOTSUP
// when the host cannot do that. It may be called only on t.
func (t *Thread) WatchFD(fd int, events uint32, fn FDFunc, arg any) (FDWatch, error) {
	if h := t.host.Load(); h != nil {
		return h.WatchFD(fd, events, fn, arg)
	}
	return nil, unix.ENOTSUP
}
