package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"goftl/tests/sim/model"
)

// campaign is one device through all its lives.
type campaign struct {
	run      *run
	seed     uint64
	world    *world
	rnd      *rand.Rand // of the campaign; writers have their own
	shape    shape
	spot     spot
	made     bool // a server was ready once
	writers  []*writer
	mu       sync.Mutex // of the models
	mortal   bool       // devices may kill the server by themselves
	dies     bool       // those of this life do, sooner or later
	clean    bool       // the last life ended by a clean stop
	calm     bool       // no writer flushes in this life
	buffered bool       // the server answers writes from a buffer of its own (--volatile-write-cache)
	weak     bool       // what was not flushed in the last life may be gone
	fast     bool       // a stop of this life writes no checkpoint and flushes nothing
	grown    bool       // the small disk was made large
	mayFill  bool       // writes of this life may fail for want of space
	number   int        // of the life that is running
	ending   ending     // how it ends
}

// ending is a way to end a life.
type ending uint8

const (
	endKill      ending = iota // kill -9
	endFrozen                  // SIGSTOP, and kill -9 of what stands still
	endTerm                    // SIGTERM
	endTermKill                // SIGTERM, and kill -9 while it is at work
	endTermTwice               // SIGTERM, and again: the server drops everything
)

var endingNames = [...]string{"kill -9", "kill -9 when frozen", "SIGTERM", "SIGTERM and kill -9", "SIGTERM twice"}

// endings are drawn from: most kills come without a word.
var endings = [...]ending{endKill, endKill, endKill, endFrozen, endTerm, endTermKill, endTermTwice}

// failed is an error that broke a promise.
type failed struct {
	what string
	err  error
}

func (f *failed) Error() string { return f.what + ": " + f.err.Error() }

func fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return &failed{what, err}
}

// campaign runs the campaign of a seed; it returns what was found.
func (r *run) campaign(ctx context.Context, seed uint64) *finding {
	c := &campaign{run: r, seed: seed, world: r.worldOf(seed), rnd: rand.New(rand.NewPCG(seed, 1))}
	c.shape = drawShape(c.rnd, c.world)
	err := c.newSpot()
	if err == nil {
		r.stats.campaigns.Add(1)
		err = c.live(ctx)
	}
	var f *failed
	keep := errors.As(err, &f) && r.keep
	c.spot.leave(keep)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoDisk):
		r.skip(c.world.name, err.Error())
		return nil
	case f == nil:
		f = &failed{"error", err}
	}
	return &finding{seed: seed, world: c.world.name, what: f.what, err: f.err, spot: c.spot}
}

// live lives one life after the other, and ends with a clean stop, a check and a look at what a last start finds.
func (c *campaign) live(ctx context.Context) error {
	c.settle()
	c.mortal = true
	lives := c.run.lives
	if lives == 0 {
		lives = 4 + c.rnd.IntN(8)
	}
	for n := range lives {
		if n > 0 && !c.run.more(ctx) {
			break
		}
		if err := c.life(ctx, n); err != nil {
			return err
		}
	}
	if err := c.grow(); err != nil {
		return err
	}
	return c.epilogue(ctx)
}

// grow makes a small disk large, so that nothing is too large for it any more.
func (c *campaign) grow() error {
	if c.spot.grow == nil || c.grown {
		return nil
	}
	c.grown = true
	return c.spot.grow()
}

// settle divides the device among writers: one or two, and a small one that keeps vanishing.
func (c *campaign) settle() {
	blocks := uint64(c.shape.sizeMiB) << 20 / blockSize
	ghost := blocks / 16
	n := 1 + c.rnd.IntN(2)
	add := func(name string, lo, span uint64, vanish bool) {
		w := &writer{c: c, name: name, m: model.NewModel(), lo: lo, span: span, vanish: vanish}
		w.r = rand.New(rand.NewPCG(c.seed, 100+lo))
		c.writers = append(c.writers, w)
	}
	add("ghost", 0, ghost, true)
	each := (blocks - ghost) / uint64(n)
	for i := range n {
		add(fmt.Sprintf("writer %d", i+1), ghost+uint64(i)*each, each, false)
	}
}

// acks is what each writer was answered so far.
func (c *campaign) acks(list []uint64) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	list = list[:0]
	for _, w := range c.writers {
		list = append(list, w.m.Acks())
	}
	return list
}

// flushed books a flush that was submitted at those acknowledgements. The caller holds mu.
func (c *campaign) flushed(acks []uint64) {
	for i, w := range c.writers {
		w.m.Flushed(acks[i])
	}
}

// life starts a server, verifies, loads it, and ends it.
func (c *campaign) life(ctx context.Context, n int) error {
	st := &c.run.stats
	if err := c.falseStarts(); err != nil {
		return err
	}
	if c.made && c.rnd.IntN(4) == 0 {
		if err := c.check(); err != nil {
			return err
		}
	}
	begin := time.Now()
	s, err := c.start()
	if err != nil {
		return err
	}
	back := time.Since(begin)
	c.number = n
	c.ending = endings[c.rnd.IntN(len(endings))]
	if c.world.mayFill && !c.grown && c.ending > endFrozen {
		c.ending = endKill // a clean stop of a full device need not succeed
	}
	if err := c.load(ctx, s); err != nil {
		_ = s.kill() // the first error counts
		return err
	}
	st.lives.Add(1)
	if c.run.verbose {
		c.run.say("%4.0f s  campaign %d (%s, %v) life %d: started in %v, %s, ended by %s", time.Since(c.run.began).Seconds(), c.seed,
			c.world.name, c.shape, n+1, back.Round(time.Millisecond), c.doings(), endingNames[c.ending])
	}
	return nil
}

// doings is what the writers were answered in this life.
func (c *campaign) doings() string {
	var list []string
	for _, w := range c.writers {
		list = append(list, fmt.Sprintf("%s: %d answers, %d durable", w.name, w.m.Acks(), w.m.Durable()))
	}
	return strings.Join(list, "; ")
}

// falseStarts kills some servers before they are ready.
func (c *campaign) falseStarts() error {
	for c.rnd.IntN(3) == 0 {
		s, err := launch(c.run.bin, c.spot.aux, c.args())
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(c.rnd.IntN(100)) * time.Millisecond)
		if err := c.kill(s); err != nil {
			return fail("no start", err)
		}
		c.run.stats.killsStarting.Add(1)
	}
	return nil
}

// start starts a server and verifies all that the writers know. Where its devices kill it before that is done, it is
// started again.
func (c *campaign) start() (*server, error) {
	for tries := 0; ; tries++ {
		c.mortal = c.mortal && tries < 8
		s, err := c.tryStart()
		if err == nil || s == nil {
			return s, err
		}
		if c.dies && s.killed() {
			c.run.stats.killsInside.Add(1)
			continue
		}
		_ = s.kill() // the first error counts
		return nil, err
	}
}

func (c *campaign) tryStart() (*server, error) {
	s, err := launch(c.run.bin, c.spot.aux, c.args())
	if err != nil {
		return nil, err
	}
	if err := s.ready(); err != nil {
		return s, fail("no start", err)
	}
	if err := c.verify(s); err != nil {
		return s, fail("lost", fmt.Errorf("%w\n%s", err, s.output()))
	}
	c.made = true
	c.run.stats.starts.Add(1)
	if strings.Contains(s.output(), "shm=true") {
		c.run.stats.startsShm.Add(1)
	}
	return s, nil
}

// kill ends a server; one that its devices killed before is as good.
func (c *campaign) kill(s *server) error {
	err := s.kill()
	if c.dies && s.killed() {
		return nil
	}
	return err
}

// verify compares the device with what the end of the last life allows.
func (c *campaign) verify(s *server) error {
	conn, err := s.dial(8)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, w := range c.writers {
		atLeast := w.m.Killed()
		if c.weak && !c.clean {
			atLeast = w.m.PowerLost()
		}
		if err := w.verify(conn, atLeast); err != nil {
			return err
		}
	}
	return nil
}

// load runs the writers while the server is frozen now and then, and ended in the end.
func (c *campaign) load(ctx context.Context, s *server) error {
	errs := make(chan error, len(c.writers))
	var all sync.WaitGroup
	c.weak = c.shape.volatile || c.buffered
	c.calm, c.mayFill = c.rnd.IntN(4) == 0, c.world.mayFill && !c.grown
	for _, w := range c.writers {
		w.stop.Store(false)
		all.Go(func() {
			if err := w.live(s.dial); err != nil {
				errs <- err
			}
		})
	}
	c.pause(ctx, 20+c.rnd.IntN(1000))
	if c.rnd.IntN(6) == 0 {
		c.freeze(ctx, s)
		c.pause(ctx, 20+c.rnd.IntN(200))
	}
	var err error
	if c.number > 1 && c.rnd.IntN(4) == 0 {
		err = c.grow()
	}
	err = errors.Join(err, c.end(ctx, s))
	all.Wait()
	select {
	case e := <-errs:
		return fail("error", fmt.Errorf("%w\n%s", e, s.output()))
	default:
		return err
	}
}

// pause lets the writers work; longer while a disk is to get full.
func (c *campaign) pause(ctx context.Context, ms int) {
	d := time.Duration(ms) * time.Millisecond
	if c.world.mayFill && !c.grown {
		d += time.Duration(c.rnd.IntN(1500)) * time.Millisecond
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// freeze stops the server's process for seconds.
func (c *campaign) freeze(ctx context.Context, s *server) {
	d := 200 + c.rnd.IntN(2500)
	s.signal(syscall.SIGSTOP)
	c.pause(ctx, d)
	s.signal(syscall.SIGCONT)
	c.run.stats.freezes.Add(1)
	c.run.stats.frozenMs.Add(uint64(d))
}

// end ends a life the way that was drawn for it.
func (c *campaign) end(ctx context.Context, s *server) error {
	st := &c.run.stats
	c.clean = false
	switch c.ending {
	case endTerm:
		s.signal(syscall.SIGTERM)
		st.terms.Add(1)
		if err := s.wait(); err != nil {
			if c.dies && s.killed() {
				st.killsInside.Add(1)
				return nil
			}
			return fail("no stop", err)
		}
		c.clean = !c.fast
		return nil
	case endTermKill, endTermTwice:
		return c.endInterrupted(ctx, s)
	case endFrozen:
		s.signal(syscall.SIGSTOP)
		c.pause(ctx, c.rnd.IntN(300))
		st.killsStopped.Add(1)
	default:
		if c.dies { // it has some time to die by itself
			select {
			case <-s.end:
				st.killsInside.Add(1)
				return fail("dies", c.kill(s))
			case <-time.After(2 * time.Second):
			}
		}
		st.kills.Add(1)
	}
	return fail("dies", c.kill(s))
}

// endInterrupted asks for a clean stop and does not wait for it.
func (c *campaign) endInterrupted(ctx context.Context, s *server) error {
	st := &c.run.stats
	if s.ended() {
		return fail("dies", c.kill(s))
	}
	s.signal(syscall.SIGTERM)
	c.pause(ctx, c.rnd.IntN(60))
	if c.ending == endTermTwice {
		s.signal(syscall.SIGTERM)
		err := s.wait() // exit code 0 if the second came too late, else 1
		if c.dies && s.killed() {
			st.killsInside.Add(1)
			return nil
		}
		if code := s.cmd.ProcessState.ExitCode(); code != 0 && code != 1 {
			return fail("no stop", err)
		}
		st.terms.Add(1)
	} else {
		_ = s.kill() // it may have been faster, and then it is clean
	}
	switch {
	case s.err == nil:
		c.clean = !c.fast
	case c.ending == endTermTwice:
	case !s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled():
		return fail("no stop", fmt.Errorf("%w\n%s", s.err, s.output()))
	default:
		st.killsStopping.Add(1)
	}
	return nil
}

// check runs the offline check of the stopped device.
func (c *campaign) check() error {
	c.run.stats.checks.Add(1)
	_, err := command(c.run.bin, append([]string{"check"}, c.specs("", "", "")...)...)
	return fail("damage", err)
}

// epilogue fills the device once more, stops it cleanly, checks it, and looks at it a last time.
func (c *campaign) epilogue(ctx context.Context) error {
	c.mortal = false
	s, err := c.start()
	if err != nil {
		return err
	}
	c.ending = endTerm
	if err := c.load(ctx, s); err != nil {
		_ = s.kill() // the first error counts
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if s, err = c.start(); err != nil {
		return err
	}
	s.signal(syscall.SIGTERM)
	c.run.stats.terms.Add(1)
	if err := s.wait(); err != nil {
		return fail("no stop", err)
	}
	if s.panicked() {
		return fail("dies", errors.New("the log has a panic: "+s.output()))
	}
	return nil
}
