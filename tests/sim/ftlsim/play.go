package ftlsim

import (
	"errors"
	"fmt"
	"os"

	"goftl/iobuf"
	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// Step limits: what needs more has stopped making progress. Load may take as long as the rest, or longer if it asks
// for much, but its users get an answer all the time.
const (
	stepsStart = 5_000_000
	stepsLoad  = 5_000_000
	stepsBlock = 40        // of load, for each block that it may ask for
	stepsWork  = 1_000_000 // of load, from one answer to the next
)

// Play is one run: a device through its lives.
type Play struct {
	Counters map[string]uint64

	c       *sim.Case
	t       Target
	plan    *Plan
	kind    *Kind
	disks   [numDisks]*sim.Disk
	m       *model.Model
	point   *model.Point // what the crashes since the last verification left; nil: none
	tried   bool         // making the device was begun
	created bool
	ordered bool // writes are answered in the order of their submission
	life    *life
	dev     Device
	open    int // user requests under way
	fail    error
	shmDir  string

	known    Device // one of an earlier life, which knows where what lies
	lossy    bool   // the last start reported a loss
	strayed  bool   // a write has gone astray
	powered  bool   // the last life ended by a power loss
	clean    bool   // the last life ended by a clean stop
	stopped  bool   // ... or by any that had nothing to report: what was answered is on the disks
	settled  bool   // the last life had come to rest before it ended
	lulled   bool   // and in the middle of its work
	cutShort int    // starts in a row that were cut short
	trims    trims
}

// life is one process.
type life struct {
	plan *Life
	r    *sim.Rand // decisions that the plan leaves open
	w    *sim.World
	boot *Boot
	mem  int64 // buffers that the process had at the beginning

	events   []event // what is still to happen, in order
	lost     bool    // a device is lost
	removals int     // under way
	quit     func()  // makes the users who are at work submit nothing more
	fuse     fuse    // ends it in the middle of the next poll that does something, once it has burnt
	mended   bool    // nothing fails any more
	behind   bool    // something is written when nothing goes astray any more
	filled   bool    // everything was written: everything can be read
	ops      uint64  // writes and trims submitted
	answered uint64  // the last of them that was answered
}

// Ends of a life that are no failure.
var (
	errCrash = errors.New("crash")      // a phase ended because its time was up
	errHasty = errors.New("stop")       // a phase ended because the device is to be stopped
	errOver  = errors.New("life ended") // and the disks know it

	errInside = errors.New("crash inside a poll")
)

// NewPlay prepares the run of a plan. shmDir is an empty folder for shared memory.
func NewPlay(c *sim.Case, t Target, plan *Plan, shmDir string) *Play {
	p := &Play{
		c: c, t: t, plan: plan, kind: plan.kind(), m: model.NewModel(), Counters: make(map[string]uint64), shmDir: shmDir,
		trims: make(trims),
	}
	for i := range p.disks {
		p.disks[i] = sim.NewDisk(p.stream(diskNames[i], 0), c.Trace, plan.disk(i))
		p.disks[i].OnSubmit(p.burn)
	}
	if _, ok := t.(Remote); ok {
		p.m.Unordered()
	} else {
		p.ordered = plan.Config.Channels == 0 && plan.Config.WriteBuffer == 0
	}
	return p
}

func (p *Play) stream(name string, n uint64) *sim.Rand { return sim.Stream(p.plan.Seed, name, n) }

func (p *Play) count(name string, n uint64) { p.Counters[name] += n }

// tolerant says whether requests of the present life may fail.
func (p *Play) tolerant() bool { return (p.kind.Rot || p.failing()) && !p.life.filled }

// failing says whether the devices of the present life fail.
func (p *Play) failing() bool { return p.kind.Errors && !p.life.plan.Calm && !p.life.mended }

// Run lives all lives.
func (p *Play) Run() error {
	err := p.run()
	if err == nil {
		err = p.fail
	}
	if err != nil {
		return fmt.Errorf("%w\nplan: %v", err, p.plan)
	}
	return nil
}

// Release gives the memory of the disks to the runs that come after this one.
func (p *Play) Release() {
	for _, d := range p.disks {
		d.Release()
	}
}

func (p *Play) run() error {
	for i := range p.plan.Lives {
		l := &p.plan.Lives[i]
		if l.Calm {
			for _, d := range p.disks {
				d.Mend()
			}
		}
		if err := p.oneLife(l); err != nil {
			return err
		}
	}
	p.tally()
	return nil
}

// oneLife boots, starts, verifies, works and ends. Every phase may be cut short by a crash.
func (p *Play) oneLife(l *Life) error {
	if p.created && l.Look {
		if err := p.look(l); err != nil {
			return err
		}
	}
	if err := p.boot(l); err != nil {
		return err
	}
	err := p.start(p.light(l.Start))
	if err == nil {
		err = p.verify(forever)
	}
	if err == nil {
		f := p.light(l.Work)
		f.stops = l.Hasty || l.Lull
		err = p.work(f)
	}
	if errors.Is(err, errHasty) {
		p.quit()
		err = p.hush()
	}
	if err == nil {
		err = p.stop(p.light(l.Stop))
	}
	if errors.Is(err, errCrash) {
		p.crash()
		return nil
	}
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// boot begins a life.
func (p *Play) boot(l *Life) error {
	o := p.plan.World
	b := &Boot{Plan: p.plan, Tolerant: p.tolerant, Tried: p.tried, Count: p.count, Failf: p.failf}
	for _, d := range p.disks {
		b.Spoilt = b.Spoilt || d.Stats().Garbled > 0
	}
	if p.life != nil {
		p.count("spins", p.life.w.Spins())
		o.Start = p.life.w.Now() + 1e6
		b.Life = p.life.boot.Life + 1
	}
	if l.Clock != 0 {
		o.Start = l.Clock
		if p.life != nil && p.life.w.Now() > o.Start {
			p.count("clock set back", 1)
		}
	}
	w := sim.NewWorld(p.stream("world", l.Seed), p.c.Trace, o)
	b.World = w
	if p.plan.Config.Shm {
		b.ShmDir = p.shmDir
	}
	b.AcceptLoss, b.Strayed = p.lossy, p.strayed
	p.life = &life{plan: l, fuse: forever, r: p.stream("life", l.Seed), w: w, boot: b, mem: iobuf.InUse()}
	// The last records of a log that was cut off in the middle of its work may rot like torn ones, and nobody can tell;
	// once it was idle, a later record says what was durable.
	if l.Rot > 0 && p.settled {
		p.rot(l.Rot)
	}
	p.settled, p.lulled = false, false
	if err := p.register(b); err != nil {
		return err
	}
	if err := p.bootZones(); err != nil {
		return err
	}
	b.Watch = newWatch(p)
	p.dev = nil
	p.open = 0
	p.count("lives", 1)
	w.Note("process", "boot", uint64(b.Life), 0, 0, nil)
	return nil
}

// look starts the device read-only, as an offline check does, verifies it, and makes sure that it wrote nothing.
func (p *Play) look(l *Life) error {
	if err := p.boot(l); err != nil {
		return err
	}
	p.life.boot.ReadOnly = true
	before := p.writes()
	if err := p.start(forever); err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	if err := p.verify(forever); err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	if !p.tolerant() {
		if err := p.check(); err != nil {
			return fmt.Errorf("read-only: %w", err)
		}
	}
	if n := p.writes() - before; n != 0 {
		return fmt.Errorf("read-only: %d writes", n)
	}
	p.count("read-only looks", 1)
	p.crash()
	return nil
}

func (p *Play) writes() (n uint64) {
	for _, d := range p.disks {
		s := d.Stats()
		n += s.Writes + s.Unmaps
	}
	return n
}

// check has the device verify itself.
func (p *Play) check() error {
	done := false
	var problem error
	p.life.boot.Thread.Send(func(any) {
		p.dev.Check(func(err error) { done, problem = true, err })
	}, nil)
	if err := p.phase("check", stepsLoad, forever, func() bool { return done }); err != nil {
		return err
	}
	p.count("checks", 1)
	return problem
}

// phase steps until cond holds, or the fuse has burnt down.
func (p *Play) phase(what string, steps uint64, f fuse, cond func() bool) error {
	inside := p.life.plan.Inside && f.burns() && !f.stops
	if inside {
		p.life.fuse = f
	}
	err := p.until(steps, f, cond)
	p.life.fuse = forever
	if inside && errors.Is(err, errInside) {
		p.count("crash inside a poll", 1)
		err = nil
	}
	switch {
	case p.fail != nil:
		return p.fail
	case err != nil:
		return fmt.Errorf("%s makes no progress (%d requests open, %v, %v): %w", what, p.open, p.disks[Cache], p.disks[Base], err)
	case f.burnt() && f.stops:
		return errHasty
	case f.burnt():
		p.count("crash in "+what, 1)
		p.crashedIn(what)
		return errCrash
	}
	return nil
}

// until steps until cond holds, the fuse has burnt or something is wrong.
func (p *Play) until(steps uint64, f fuse, cond func() bool) (err error) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case errInside: //nolint:errorlint // the very value
			err = errInside
		default:
			panic(r)
		}
	}()
	return p.life.w.Run(steps, func() bool {
		if len(p.life.events) > 0 {
			p.happen()
		}
		return p.fail != nil || cond() || f.burnt() && !p.life.fuse.burns()
	})
}

// burn ends the process here and now, in the middle of a poll, if its fuse has burnt: what it had in memory is never
// looked at again.
func (p *Play) burn() {
	if p.life != nil && p.life.fuse.burnt() && p.life.w.Current() != nil && p.fail == nil {
		panic(errInside)
	}
}

// start creates or loads the device.
func (p *Play) start(f fuse) error {
	create := !p.created
	done := false
	var failed error
	t := p.life.boot.Thread
	t.Send(func(any) {
		p.t.Start(p.life.boot, create, func(d Device, err error) {
			if done {
				p.failf("start completed twice")
			}
			done, failed, p.dev = true, err, d
		})
	}, nil)
	what := "recovery"
	if create {
		what = "create"
	}
	before := p.life.w.Now()
	p.tried = true
	if err := p.phase(what, stepsStart, f, func() bool { return done }); err != nil {
		return err
	}
	p.cutShort, p.clean, p.stopped = 0, false, false
	p.life.w.Note("process", what+" done", 0, 0, uint64(p.life.w.Now()-before), failed)
	if p.life.plan.Gone != [2]bool{} {
		return p.without(failed)
	}
	if failed != nil {
		return p.startFailed(what, failed)
	}
	p.created = true
	p.known = p.dev
	p.loaded()
	for i, d := range p.disks {
		front := p.dev.Front(i == Cache)
		d.SetFront(front, front-p.firstPage(i))
	}
	p.lossy = p.lossy && p.life.boot.ReadOnly
	if p.dev.ReadOnly() && !p.life.boot.ReadOnly {
		if p.kind.Rot {
			// It says that it has lost something that was durable; a person decides, here to go on without it.
			p.count("losses reported", 1)
			p.lossy = true
			p.kill()
			return errOver
		}
		if !p.tolerant() {
			return fmt.Errorf("%s: the device takes no writes although nothing failed", what)
		}
	}
	p.count(what, 1)
	return nil
}

// startFailed judges a start that failed: over device errors it may; the next, without them, may not.
func (p *Play) startFailed(what string, failed error) error {
	if !p.failing() {
		return fmt.Errorf("%s: %w", what, failed)
	}
	p.count("starts failed by faults", 1)
	if err := p.leaks(); err != nil {
		return fmt.Errorf("after a start that failed with %w: %w", failed, err)
	}
	p.kill()
	return errOver
}

// verify reads the whole device and compares it with what the model allows.
func (p *Play) verify(f fuse) error {
	v := &verifier{
		p: p, r: p.stream("verify", p.life.plan.Seed), found: make(map[uint64]uint64), left: p.dev.Blocks(),
		acks: p.m.ReadBegins(),
	}
	p.life.quit = v.quit
	p.life.boot.Thread.Send(func(any) { v.fill() }, nil)
	if err := p.phase("verification", stepsLoad, f, v.finished); err != nil {
		return err
	}
	v.end()
	p.m.ReadEnds(v.acks)
	if p.point == nil {
		for lba, id := range v.found {
			if err := p.m.CheckRead(lba, id, p.m.Acks()); err != nil {
				return fmt.Errorf("in a quiet moment: %w", err)
			}
		}
		return nil
	}
	for lba, id := range v.found {
		if id != 0 && !p.m.Known(lba) {
			return fmt.Errorf("block %d was never written and has the content of op %d", lba, id)
		}
	}
	p.keptTrims(v.found)
	switch {
	case p.life.boot.AcceptLoss:
		// Older content is what was accepted.
		p.m.Restart(v.found)
	case p.life.boot.ReadOnly:
		return p.m.CheckRecovered(*p.point, v.found, p.tolerant())
	default:
		if err := p.m.Recovered(*p.point, v.found, p.kind.Rot || p.kind.Errors); err != nil {
			return fmt.Errorf("after recovery: %w", err)
		}
	}
	p.point = nil
	p.count("recoveries verified", 1)
	return nil
}

// work runs phases of load, with rests between them.
func (p *Play) work(f fuse) error {
	p.plant()
	for i := range p.life.plan.Phases {
		ph := &p.life.plan.Phases[i]
		if i == len(p.life.plan.Phases)/2 {
			p.turnZone()
		}
		if err := p.load(ph, f); err != nil {
			return err
		}
		if ph.Rest > 0 {
			until := p.life.w.Now() + ph.Rest
			p.life.w.After(ph.Rest, func(any) {}, nil)
			if err := p.phase("rest", stepsLoad, f, func() bool { return p.life.w.Now() >= until }); err != nil {
				return err
			}
		}
		if ph.Verify {
			if err := p.verify(f); err != nil {
				return err
			}
		}
	}
	if f.burns() {
		return f.over()
	}
	if err := p.mend(); err != nil {
		return err
	}
	if err := p.fillUp(); err != nil {
		return err
	}
	return p.settle()
}

// fillUp writes everything twice. It must all fit, and whatever could not be read can be read then.
func (p *Play) fillUp() error {
	if !p.life.plan.Fill || p.dev.ReadOnly() {
		return nil
	}
	p.count("filled twice", 1)
	for n := range uint64(2) {
		ph := &Phase{Seed: p.life.plan.Seed<<8 | 0xf0 + n, All: true, Ops: int(p.dev.Blocks()), Depth: 16, Most: 40, Weights: [NumKinds]int{Write: 1}}
		if err := p.load(ph, forever); err != nil {
			return err
		}
	}
	p.life.filled = true
	return p.verify(forever)
}

// load runs one phase of load.
func (p *Play) load(ph *Phase, f fuse) error {
	l := p.newLoad(ph)
	p.life.quit = func() { l.left = 0 }
	p.life.boot.Thread.Send(runLoad, l)
	defer l.end()
	return p.phase("work", stepsWork, f, func() bool { return l.left == 0 && l.out == 0 })
}

// settle waits until the device has nothing more to do and checks that it then leaves the disks alone.
func (p *Play) settle() error {
	quiet := func() bool {
		return p.dev.Idle() && p.disks[Cache].InFlight()+p.disks[Base].InFlight() == 0
	}
	if err := p.phase("settling", stepsLoad, forever, quiet); err != nil {
		return err
	}
	// Housekeeping that waits for a pause may begin now; but it must end.
	rest := func(ns int64) { p.life.w.After(ns, func(any) {}, nil); p.life.w.RunFor(ns) }
	rest(60e9)
	before := p.boundaries()
	rest(60e9)
	allowed := uint64(0)
	if p.kind.Rot {
		allowed = 5000 // what cannot be read is tried again, ever more rarely
	}
	if n := p.boundaries() - before; n > allowed && p.fail == nil {
		return fmt.Errorf("an idle device did IO: %d boundaries in a minute", n)
	}
	if p.kind.Rot { // it may be at it just now
		if err := p.phase("settling again", stepsLoad, forever, quiet); err != nil {
			return err
		}
	}
	buffers := int64(0)
	if p.c.Alone {
		buffers = iobuf.InUse() - p.life.mem
	}
	if err := p.dev.Rested(buffers); err != nil {
		return err
	}
	if !p.tolerant() && p.life.plan.Check {
		if err := p.check(); err != nil {
			return err
		}
	}
	p.settled = true
	return p.fail
}

// hush is called where users have fallen silent: the device is stopped as it is, or comes to rest.
func (p *Play) hush() error {
	if !p.life.plan.Lull {
		p.count("stops in the middle of work", 1)
		return nil
	}
	p.count("lulls in the middle of work", 1)
	if err := p.phase("lull", stepsLoad, forever, func() bool { return p.open == 0 }); err != nil {
		return err
	}
	p.lulled = true
	return p.settle()
}

// quit has users submit nothing more; what they have under way stays so. Writes do not go astray in a stop, and nobody
// unplugs anything.
func (p *Play) quit() {
	p.life.events = nil
	for _, d := range p.disks {
		d.SetAim(nil)
	}
	if f := p.life.quit; f != nil {
		f()
	}
}

// stop ends the life in order; then the power may fail, or not.
func (p *Play) stop(f fuse) error {
	fast := p.life.plan.Fast
	readOnly := p.dev.ReadOnly() // then every stop is a fast one
	done := false
	var failed error
	p.life.boot.Thread.Send(func(any) {
		p.dev.Stop(fast, func(err error) { done, failed = true, err })
	}, nil)
	if err := p.phase("stop", stepsStart, f, func() bool { return done }); err != nil {
		return err
	}
	p.life.w.Note("process", "stopped", 0, 0, 0, failed)
	if failed != nil && !p.failing() {
		return fmt.Errorf("stop: %w", failed)
	}
	if p.open != 0 {
		return fmt.Errorf("stop ended with %d requests unanswered", p.open)
	}
	if err := p.leaks(); err != nil {
		return fmt.Errorf("after a stop with %w: %w", failed, err)
	}
	p.stopped = failed == nil
	if fast || failed != nil || readOnly || p.dev.ReadOnly() {
		p.count("fast stops", 1)
	} else {
		p.count("clean stops", 1)
		p.clean = true
		p.m.Flushed(p.m.Acks())
	}
	p.crash()
	return nil
}

// leaks checks that a stopped device holds nothing: the bdevs can go, the thread can exit, and every buffer was given
// back.
func (p *Play) leaks() error {
	b := p.life.boot
	asked := false
	if b.Zones != nil {
		zones := false
		b.Zones.Unregister(b.Thread, func(any, error) { zones = true }, nil)
		if err := p.phase("unregister zones after stop", 1e6, forever, func() bool { return zones }); err != nil {
			return err
		}
	}
	b.Thread.Send(func(any) {
		p.life.removals += len(b.Manager.All())
		for _, d := range b.Manager.All() {
			d.Unregister(b.Thread, func(_ any, err error) {
				if err != nil {
					p.failf("unregister: %w", err)
				}
				p.life.removals--
			}, nil)
		}
		asked = true
	}, nil)
	if err := p.phase("unregister after stop", 1e6, forever, func() bool { return asked && p.life.removals == 0 }); err != nil {
		return err
	}
	b.Thread.Send(func(any) { b.Thread.Exit() }, nil)
	if err := p.phase("exit after stop", 1e6, forever, b.Thread.Exited); err != nil {
		return err
	}
	if n := iobuf.InUse() - p.life.mem; n != 0 && p.c.Alone {
		return fmt.Errorf("%d bytes of buffers were not given back", n)
	}
	return b.Thread.ExitErr()
}

// crash ends the life without asking.
func (p *Play) crash() {
	l := p.life.plan
	if l.Kill {
		p.kill()
		return
	}
	at := p.life.w.Now()
	p.powered = true
	for i, d := range p.disks {
		d.PowerLoss(at, l.Keep[i])
	}
	p.wipeShm()
	p.count("power losses", 1)
	p.ended()
	p.weaken(p.m.PowerLost())
}

// kill ends the process; devices, their caches and shared memory live on.
func (p *Play) kill() {
	p.powered = false
	at := p.life.w.Now()
	for _, d := range p.disks {
		d.Kill(at)
	}
	p.count("kills", 1)
	if p.life.lost && !p.dev.ReadOnly() {
		// A device has lost power alone, and the process has not lived long enough to hear of it: shared memory is not
		// for such devices.
		p.count("device lost unheard", 1)
		p.wipeShm()
	}
	p.ended()
	if p.kind.Rot || p.life.lost || p.plan.Config.WriteBuffer > 0 && !p.stopped {
		// A lost device has lost its cache. A rotten record that was not flushed cannot be told from one that was torn.
		// What stands in a volatile write cache is gone.
		p.weaken(p.m.PowerLost())
		return
	}
	p.weaken(p.m.Killed())
}

func (p *Play) weaken(q model.Point) {
	if p.point != nil {
		q = q.Weaker(*p.point)
	}
	p.point = &q
}

func (p *Play) wipeShm() {
	entries, err := os.ReadDir(p.shmDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if err := os.RemoveAll(p.shmDir + "/" + e.Name()); err != nil {
			p.failf("shared memory: %w", err)
		}
	}
}
