package reactor

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/thread"
)

// GroupOptions describe a Group.
type GroupOptions struct {
	CPUs    []int         // one reactor pinned to each; empty: Count reactors that are not pinned
	Count   int           // without CPUs; default 1
	Mode    Mode          // of every reactor
	Spin    time.Duration // as in Options
	Balance time.Duration // how often threads are balanced by busy time; 0: never
	Policy  Policy        // what balancing aims at; the zero value is DefaultPolicy
}

// Group is a set of reactors. Its methods are safe from any goroutine that does not run on one of them.
type Group struct {
	reactors []*Reactor
	opts     GroupOptions
	placed   atomic.Uint32
	started  atomic.Bool
	stopped  atomic.Bool
	quit     chan struct{}
	balanced chan struct{} // closed when the balancing has ended
	moves    atomic.Uint64
}

// NewGroup makes the reactors; it fails when one of the options cannot be met. They run from Start on.
func NewGroup(o GroupOptions) (*Group, error) {
	if len(o.CPUs) == 0 {
		for range max(1, o.Count) {
			o.CPUs = append(o.CPUs, -1)
		}
	}
	if o.Policy == (Policy{}) {
		o.Policy = DefaultPolicy
	}
	g := &Group{opts: o, quit: make(chan struct{}), balanced: make(chan struct{})}
	seen := map[int]bool{}
	for i, cpu := range o.CPUs {
		if cpu >= 0 && seen[cpu] {
			g.Stop()
			return nil, fmt.Errorf("reactors: cpu %d given twice: %w", cpu, unix.EINVAL)
		}
		seen[cpu] = true
		r, err := New(Options{Name: fmt.Sprintf("reactor_%d", i), CPU: cpu, Mode: o.Mode, Spin: o.Spin})
		if err != nil {
			g.Stop()
			return nil, err
		}
		g.reactors = append(g.reactors, r)
	}
	return g, nil
}

// Reactors returns the group's reactors, in the order of the CPUs given. The slice must not be changed.
func (g *Group) Reactors() []*Reactor { return g.reactors }

// Start starts the reactors and the balancing, and raises GOMAXPROCS to what they need.
func (g *Group) Start() {
	assert.That(g.started.CompareAndSwap(false, true), "reactor: group started twice")
	raiseProcs(len(g.reactors))
	for _, r := range g.reactors {
		r.Start()
	}
	if g.opts.Balance <= 0 || len(g.reactors) < 2 {
		close(g.balanced)
		return
	}
	go g.balance()
}

// Stop ends the balancing and then every reactor, and waits for that. The threads stay as they are; see ExitThreads.
func (g *Group) Stop() {
	if !g.stopped.CompareAndSwap(false, true) {
		return
	}
	close(g.quit)
	if g.started.Load() {
		<-g.balanced
	}
	for _, r := range g.reactors {
		r.Stop()
	}
}

// Add has one of the reactors poll t from now on, and lets balancing move it: the reactor with the fewest threads, of
// several the next one in turn. To keep a thread where it is, use Reactor.Add.
func (g *Group) Add(t *thread.Thread) *Reactor {
	first := int(g.placed.Add(1)-1) % len(g.reactors)
	best := g.reactors[first]
	for i := range g.reactors {
		if r := g.reactors[(first+i)%len(g.reactors)]; len(r.Threads()) < len(best.Threads()) {
			best = r
		}
	}
	best.add(t, true)
	return best
}

// Move is the function of that name.
func (g *Group) Move(t *thread.Thread, to *Reactor) error { return Move(t, to) }

// Moves returns how many moves the balancing has made.
func (g *Group) Moves() uint64 { return g.moves.Load() }

// ExitThreads asks every thread of the group to exit and waits until all have, for at most the thread package's limit
// and a little more. It returns what the threads still held, and unix.ETIMEDOUT for those that did not even say so.
func (g *Group) ExitThreads() error {
	var threads []*thread.Thread
	for end := time.Now().Add(thread.ExitLimit + time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		// A thread on its way between reactors is in no list: as long as one is, and when one arrived meanwhile, the
		// lists are looked at again.
		_, before := g.underWay()
		left := 0
		for _, r := range g.reactors {
			for _, t := range r.Threads() {
				left++
				if !slices.Contains(threads, t) {
					threads = append(threads, t)
					t.Send(exit, t)
				}
			}
		}
		if expected, arrived := g.underWay(); left == 0 && expected == 0 && arrived == before {
			break
		}
	}
	var errs []error
	for _, t := range threads {
		if !t.Exited() {
			errs = append(errs, fmt.Errorf("thread %q: does not exit: %w", t.Name(), unix.ETIMEDOUT))
			continue
		}
		errs = append(errs, t.ExitErr())
	}
	return errors.Join(errs...)
}

// underWay returns how many threads the reactors expect, and how many have ever arrived.
func (g *Group) underWay() (expected int64, arrived uint64) {
	for _, r := range g.reactors {
		expected += r.expected.Load()
		arrived += r.arrived.Load()
	}
	return expected, arrived
}

func exit(arg any) { arg.(*thread.Thread).Exit() }

// balance measures every interval how busy each thread was and carries out what the policy makes of it.
func (g *Group) balance() {
	defer close(g.balanced)
	tick := time.NewTicker(g.opts.Balance)
	defer tick.Stop()
	last := map[*seat]int64{}
	at := Now()
	for {
		select {
		case <-g.quit:
			return
		case <-tick.C:
		}
		now := Now()
		loads, seats, next := g.measure(last, now-at)
		last, at = next, now
		for _, m := range g.opts.Policy.plan(loads) {
			if Move(seats[m.from][m.thread].thread, g.reactors[m.to]) == nil {
				g.moves.Add(1)
			}
		}
	}
}

// measure returns the load of every thread of every reactor since the last time, with the seats in the same places.
func (g *Group) measure(last map[*seat]int64, passed int64) ([][]load, [][]*seat, map[*seat]int64) {
	loads := make([][]load, len(g.reactors))
	seats := make([][]*seat, len(g.reactors))
	next := map[*seat]int64{}
	for i, r := range g.reactors {
		for _, t := range r.Threads() {
			s := seatOf(t)
			if s == nil {
				continue
			}
			busy := s.busy.Load()
			before, known := last[s]
			next[s] = busy
			l := load{fixed: !s.floats.Load() || !known}
			if known && passed > 0 {
				l.permille = int(min(1000, (busy-before)*1000/passed))
			}
			loads[i] = append(loads[i], l)
			seats[i] = append(seats[i], s)
		}
	}
	return loads, seats, next
}
