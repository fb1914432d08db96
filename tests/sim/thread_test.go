package sim

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/thread"
)

// TestThreadSchedules drives random threads, messages, pollers, devices, channels and walks under random schedules and
// checks the rules of threads after each step that could break one.
func TestThreadSchedules(t *testing.T) {
	ForEachSeed(t, 1000, 1, func(c *Case) error {
		p := newThreadPlay(c)
		return p.run()
	})
}

// stream is what one thread sends to another: the receiver must see 1, 2, 3, ...
type stream struct {
	sent, seen uint64
	batched    bool // by SendTo, otherwise by Send: between the two there is no order
}

type playDevice struct {
	p       *threadPlay
	dev     *thread.IODevice
	live    map[*thread.Thread]*playChannel
	walks   int
	closing bool // Unregister was called
	closed  bool
	refuse  bool // Create fails
}

type playChannel struct {
	d    *playDevice
	t    *playThread
	ch   *thread.IOChannel
	refs int
}

type playPoller struct {
	t      *playThread
	p      *poller.Poller
	period int64
	paused bool
	gone   bool
	due    int64 // a timed one keeps its beat; one that is late by a whole period begins anew
	die    bool  // unregister in its own next run
	runs   int
}

type playThread struct {
	p       *threadPlay
	t       *thread.Thread
	local   stream
	pollers []*playPoller
	chans   []*playChannel
	busy    int // things that keep the thread from exiting: walks, unregisters
}

type threadPlay struct {
	c       *Case
	w       *World
	threads []*playThread
	devices []*playDevice
	streams map[[2]*playThread]*stream
	fail    error
	actions int
	budget  int
	crit    int // critical messages that are waiting
	walking int // walks begun and not done
}

func newThreadPlay(c *Case) *threadPlay {
	p := &threadPlay{c: c, streams: make(map[[2]*playThread]*stream), budget: c.Rand.IntN(400) + 20}
	p.w = NewWorld(c.Rand, c.Trace, RandomWorldOptions(c.Rand))
	for i := range 1 + c.Rand.IntN(5) {
		p.threads = append(p.threads, &playThread{p: p, t: p.w.System().NewThread(fmt.Sprintf("t%d", i))})
	}
	return p
}

func (p *threadPlay) failf(format string, args ...any) {
	if p.fail == nil {
		p.fail = fmt.Errorf(format, args...)
	}
}

func (p *threadPlay) run() error {
	p.addDevice()
	for _, t := range p.threads {
		p.kick(t)
	}
	if err := p.w.Run(1e6, func() bool { return p.fail != nil || p.actions >= p.budget }); err != nil && !errors.Is(err, ErrQuiet) {
		return err
	}
	if p.fail != nil {
		return p.fail
	}
	return p.windDown()
}

// kick has a thread act now.
func (p *threadPlay) kick(t *playThread) { t.t.Send(actMessage, t) }

func actMessage(arg any) {
	t := arg.(*playThread)
	if t.p.actions >= t.p.budget {
		return
	}
	t.p.act(t)
	if t.p.actions < t.p.budget {
		t.p.w.After(t.p.c.Rand.Range(0, 50_000), func(any) { t.p.kick(t) }, nil)
	}
}

func (p *threadPlay) on(t *playThread, what string) {
	if p.w.Current() != t.t {
		p.failf("%s ran off its thread %s", what, t.t.Name())
	}
}

// act does one random thing on t.
func (p *threadPlay) act(t *playThread) {
	p.actions++
	p.on(t, "a message")
	r := p.c.Rand
	switch r.Pick(20, 10, 4, 6, 6, 10, 10, 4, 1, 1) {
	case 0:
		p.sendBurst(t)
	case 1:
		p.postBurst(t)
	case 2:
		p.critical(t)
	case 3:
		p.addPoller(t)
	case 4:
		p.changePoller(t)
	case 5:
		p.getChannel(t)
	case 6:
		p.putChannel(t)
	case 7:
		p.walk(t)
	case 8:
		p.addDevice()
	case 9:
		p.removeDevice(t)
	}
}

type numbered struct {
	s  *stream
	n  uint64
	to *playThread
}

func (p *threadPlay) sendBurst(from *playThread) {
	to := p.threads[p.c.Rand.IntN(len(p.threads))]
	key := [2]*playThread{from, to}
	if p.streams[key] == nil {
		p.streams[key] = &stream{batched: p.c.Rand.IntN(2) == 0}
	}
	for range p.c.Rand.Skewed(600) {
		s := p.streams[key]
		s.sent++
		m := &numbered{s, s.sent, to}
		if s.batched && to != from {
			from.t.SendTo(to.t, receive, m)
		} else {
			to.t.Send(receive, m)
		}
	}
}

func (p *threadPlay) postBurst(t *playThread) {
	for range p.c.Rand.Skewed(300) {
		t.local.sent++
		t.t.Post(receive, &numbered{&t.local, t.local.sent, t})
	}
}

func receive(arg any) {
	m := arg.(*numbered)
	m.to.p.on(m.to, "a message")
	m.s.seen++
	if m.s.seen != m.n {
		m.to.p.failf("%s: message %d came as the %d. of its sender", m.to.t.Name(), m.n, m.s.seen)
	}
}

// critical sends a critical message, which must run before the messages that wait already.
func (p *threadPlay) critical(from *playThread) {
	to := p.threads[p.c.Rand.IntN(len(p.threads))]
	if to == from {
		return
	}
	before := p.received(to)
	p.crit++
	ok := to.t.SendCritical(func() {
		p.crit--
		p.on(to, "a critical message")
		if n := p.received(to); n != before {
			p.failf("%s: %d messages overtook a critical one", to.t.Name(), n-before)
		}
	})
	if !ok {
		p.crit--
	}
}

func (p *threadPlay) received(t *playThread) uint64 {
	n := t.local.seen
	for k, s := range p.streams {
		if k[1] == t {
			n += s.seen
		}
	}
	return n
}

func (p *threadPlay) addPoller(t *playThread) {
	if len(t.pollers) > 8 {
		return
	}
	q := &playPoller{t: t, die: p.c.Rand.IntN(8) == 0}
	if p.c.Rand.IntN(3) != 0 {
		q.period = p.c.Rand.Range(1, 200_000)
	}
	q.due = p.w.Now() + q.period
	q.p = t.t.RegisterPoller(fmt.Sprintf("p%d", len(t.pollers)), pollOnce, q, time.Duration(q.period))
	t.pollers = append(t.pollers, q)
}

func pollOnce(arg any) poller.Result {
	q := arg.(*playPoller)
	p := q.t.p
	p.on(q.t, "a poller")
	if q.paused || q.gone {
		p.failf("%s: a poller ran that is paused (%v) or gone (%v)", q.t.t.Name(), q.paused, q.gone)
	}
	if now := p.w.Now(); now < q.due {
		p.failf("%s: a poller of %d ns ran %d ns too early", q.t.t.Name(), q.period, q.due-now)
	} else if q.due += q.period; q.due <= now {
		q.due = now + q.period
	}
	q.runs++
	if q.die && q.runs > 3 {
		p.dropPoller(q)
	}
	if p.c.Rand.IntN(4) == 0 {
		return poller.Busy
	}
	return poller.Idle
}

func (p *threadPlay) dropPoller(q *playPoller) {
	q.gone = true
	q.p.Unregister()
	for i, o := range q.t.pollers {
		if o == q {
			q.t.pollers = append(q.t.pollers[:i], q.t.pollers[i+1:]...)
			return
		}
	}
}

func (p *threadPlay) changePoller(t *playThread) {
	if len(t.pollers) == 0 {
		return
	}
	q := t.pollers[p.c.Rand.IntN(len(t.pollers))]
	switch p.c.Rand.IntN(3) {
	case 0:
		q.paused = true
		q.p.Pause()
	case 1:
		if q.paused {
			q.due = p.w.Now() + q.period
		}
		q.paused = false
		q.p.Resume()
	case 2:
		p.dropPoller(q)
	}
}

func (p *threadPlay) addDevice() {
	if len(p.devices) > 6 {
		return
	}
	d := &playDevice{p: p, live: make(map[*thread.Thread]*playChannel)}
	dev, err := p.w.System().RegisterIODevice(fmt.Sprintf("d%d", len(p.devices)), d,
		thread.ChannelFuncs{Create: createPlay, Destroy: destroyPlay})
	if err != nil {
		p.failf("register: %v", err)
		return
	}
	if _, err := p.w.System().RegisterIODevice("again", d, thread.ChannelFuncs{Create: createPlay}); !errors.Is(err, unix.EEXIST) {
		p.failf("second registration of an owner: %v", err)
	}
	d.dev = dev
	p.devices = append(p.devices, d)
}

var errPlay = fmt.Errorf("create refused: %w", unix.ENOSPC)

func createPlay(dev *thread.IODevice, t *thread.Thread) (any, error) {
	d := dev.Owner().(*playDevice)
	if d.p.w.Current() != t {
		d.p.failf("channel of %s created off its thread", dev.Name())
	}
	if d.live[t] != nil {
		d.p.failf("second channel of %s on %s", dev.Name(), t.Name())
	}
	if d.refuse = d.p.c.Rand.IntN(10) == 0; d.refuse {
		return nil, errPlay
	}
	c := &playChannel{d: d}
	d.live[t] = c
	return c, nil
}

func destroyPlay(ctx any, t *thread.Thread) {
	c := ctx.(*playChannel)
	p := c.d.p
	if p.w.Current() != t || c.d.live[t] != c {
		p.failf("channel of %s destroyed off its thread, or twice", c.d.dev.Name())
	}
	if c.refs != 0 {
		p.failf("channel of %s on %s destroyed with %d references", c.d.dev.Name(), t.Name(), c.refs)
	}
	delete(c.d.live, t)
}

func (p *threadPlay) getChannel(t *playThread) {
	d := p.devices[p.c.Rand.IntN(len(p.devices))]
	had := d.live[t.t]
	ch, err := d.dev.Channel(t.t)
	switch {
	case d.closing:
		if !errors.Is(err, unix.ENODEV) {
			p.failf("channel of a device that is being unregistered: %v", err)
		}
		return
	case had == nil && d.refuse:
		d.refuse = false
		if !errors.Is(err, unix.ENOSPC) || d.live[t.t] != nil {
			p.failf("failed create: %v", err)
		}
		return
	case err != nil:
		p.failf("channel of %s: %v", d.dev.Name(), err)
		return
	}
	c := ch.Ctx().(*playChannel)
	if had != nil && c != had || c.d != d || ch.Thread() != t.t || ch.Device() != d.dev {
		p.failf("another channel of %s on %s", d.dev.Name(), t.t.Name())
	}
	c.t, c.ch = t, ch
	c.refs++
	t.chans = append(t.chans, c)
}

func (p *threadPlay) putChannel(t *playThread) {
	if len(t.chans) == 0 {
		return
	}
	i := p.c.Rand.IntN(len(t.chans))
	c := t.chans[i]
	t.chans = append(t.chans[:i], t.chans[i+1:]...)
	c.refs--
	c.ch.Put()
	if c.d.live[t.t] != c {
		p.failf("put destroyed the channel at once")
	}
}

type playWalk struct {
	d       *playDevice
	origin  *playThread
	visited map[*thread.Thread]bool
	must    map[*playChannel]bool // had a reference at the start
	stopAt  int
	stopped bool
	done    bool
}

var errStop = errors.New("stop here")

func (p *threadPlay) walk(t *playThread) {
	d := p.devices[p.c.Rand.IntN(len(p.devices))]
	k := &playWalk{d: d, origin: t, visited: make(map[*thread.Thread]bool), must: make(map[*playChannel]bool), stopAt: -1}
	if p.c.Rand.IntN(3) == 0 {
		k.stopAt = p.c.Rand.IntN(4)
	}
	for _, c := range d.live {
		k.must[c] = c.refs > 0
	}
	refused := d.closing
	d.walks++
	t.busy++
	p.walking++
	d.dev.ForEachChannel(t.t, func(it *thread.ChannelIter) { p.visit(k, it) }, func(arg any, status error) {
		p.on(t, "the end of a walk")
		p.walking--
		d.walks--
		t.busy--
		switch {
		case arg != k || k.done:
			p.failf("end of a walk: wrong argument, or twice")
		case refused:
			if !errors.Is(status, unix.ENODEV) {
				p.failf("walk over a device that is being unregistered: %v", status)
			}
		case k.stopped != (status != nil):
			p.failf("walk ended with %v, stopped: %v", status, k.stopped)
		case !k.stopped:
			p.allVisited(k)
		}
		k.done = true
	}, k)
}

func (p *threadPlay) visit(k *playWalk, it *thread.ChannelIter) {
	c := it.Channel().Ctx().(*playChannel)
	at := it.Channel().Thread()
	if p.w.Current() != at || k.visited[at] || c.d != k.d || k.d.live[at] != c || k.stopped || k.done {
		p.failf("walk over %s: wrong visit on %s", k.d.dev.Name(), at.Name())
	}
	k.visited[at] = true
	var status error
	if len(k.visited)-1 == k.stopAt {
		status = errStop
		k.stopped = true
	}
	if p.c.Rand.IntN(2) == 0 {
		it.Continue(status)
		return
	}
	at.Post(func(any) { it.Continue(status) }, nil)
}

// allVisited checks that what had a channel before and after the walk was seen by it.
func (p *threadPlay) allVisited(k *playWalk) {
	for c, held := range k.must {
		if held && c.t != nil && c.refs > 0 && k.d.live[c.t.t] == c && !k.visited[c.t.t] {
			p.failf("walk over %s missed %s", k.d.dev.Name(), c.t.t.Name())
		}
	}
}

func (p *threadPlay) removeDevice(t *playThread) {
	d := p.devices[p.c.Rand.IntN(len(p.devices))]
	if d.closing {
		if err := d.dev.Unregister(t.t, nil, nil); !errors.Is(err, unix.EALREADY) {
			p.failf("second unregister: %v", err)
		}
		return
	}
	d.closing = true
	t.busy++
	err := d.dev.Unregister(t.t, func(arg any) {
		p.on(t, "the end of an unregister")
		t.busy--
		if d.closed || len(d.live) != 0 || arg != d {
			p.failf("unregister of %s ended with %d channels", d.dev.Name(), len(d.live))
		}
		d.closed = true
	}, d)
	if err != nil {
		p.failf("unregister: %v", err)
	}
}

// windDown gives everything back, ends the threads and checks that nothing was lost on the way.
func (p *threadPlay) windDown() error {
	for _, t := range p.threads {
		if err := p.w.Call(t.t, func() { p.release(t) }); err != nil {
			return err
		}
	}
	if err := p.w.Run(1e6, func() bool { return p.quiet() || p.fail != nil }); err != nil {
		return fmt.Errorf("winding down: %w", err)
	}
	for _, t := range p.threads {
		if err := p.w.Call(t.t, t.t.Exit); err != nil {
			return err
		}
	}
	err := p.w.Run(1e6, func() bool { return len(p.w.System().Threads()) == 0 || p.fail != nil })
	if err != nil {
		return fmt.Errorf("exit: %w", err)
	}
	for _, t := range p.threads {
		if err := t.t.ExitErr(); err != nil {
			p.failf("%v", err)
		}
	}
	for k, s := range p.streams {
		if s.sent != s.seen {
			p.failf("%s to %s: %d of %d messages arrived", k[0].t.Name(), k[1].t.Name(), s.seen, s.sent)
		}
	}
	return p.fail
}

func (p *threadPlay) release(t *playThread) {
	for len(t.pollers) > 0 {
		p.dropPoller(t.pollers[0])
	}
	for len(t.chans) > 0 {
		p.putChannel(t)
	}
	if t != p.threads[0] {
		return
	}
	for _, d := range p.devices {
		if !d.closing {
			d.closing = true
			if err := d.dev.Unregister(t.t, func(any) { d.closed = true }, nil); err != nil {
				p.failf("unregister: %v", err)
			}
		}
	}
}

func (p *threadPlay) quiet() bool {
	for _, d := range p.devices {
		if !d.closed || len(d.live) != 0 {
			return false
		}
	}
	return p.walking == 0 && p.crit == 0
}
