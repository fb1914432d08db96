package ftlsim

import (
	"errors"
	"fmt"
	"os"

	"goftl/bdev"
	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// Step limits: a phase that needs more has stopped making progress.
const (
	stepsStart = 5_000_000
	stepsLoad  = 5_000_000
)

// Play is one run: a device through its lives.
type Play struct {
	Counters map[string]uint64

	c       *sim.Case
	t       Target
	plan    *Plan
	cache   *sim.Disk
	base    *sim.Disk
	m       *model.Model
	point   *model.Point // what the crashes since the last verification left; nil: none
	created bool
	life    *life
	dev     Device
	open    int // user requests under way
	fail    error
	shmDir  string

	known   Device // one of an earlier life, which knows where what lies
	lossy   Device // the last start reported a loss
	powered bool   // the last life ended by a power loss
	settled bool   // the last life had come to rest before it ended
}

// life is one process.
type life struct {
	w    *sim.World
	boot *Boot
}

// Ends of a life that are no failure.
var (
	errCrash = errors.New("crash")      // a phase ended because its time was up
	errOver  = errors.New("life ended") // and the disks know it
)

// NewPlay prepares the run of a seed. shmDir is an empty folder for shared memory.
func NewPlay(c *sim.Case, t Target, shmDir string) *Play {
	p := &Play{c: c, t: t, plan: NewPlan(c.Rand), m: model.NewModel(), Counters: make(map[string]uint64), shmDir: shmDir}
	p.cache = sim.NewDisk(c.Rand, c.Trace, p.plan.Cache)
	p.base = sim.NewDisk(c.Rand, c.Trace, p.plan.Base)
	return p
}

// Plan returns what was drawn.
func (p *Play) Plan() *Plan { return p.plan }

func (p *Play) count(name string, n uint64) { p.Counters[name] += n }

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

func (p *Play) run() error {
	for range p.plan.Lives {
		if err := p.oneLife(true); err != nil {
			return err
		}
	}
	// The last two lives have no faults and no crash: everything must come good, and stay.
	p.cache.Mend()
	p.base.Mend()
	if p.plan.Faults != FaultsRot {
		p.plan.Faults = FaultsNone
	}
	for range 2 {
		if err := p.oneLife(false); err != nil {
			return err
		}
	}
	p.tally()
	return nil
}

// oneLife boots, starts, verifies, works and ends. Every phase may be cut short by a crash.
func (p *Play) oneLife(crashes bool) error {
	r := p.c.Rand
	if p.created && p.plan.Faults < FaultsTransient && r.IntN(6) == 0 {
		if err := p.look(); err != nil {
			return err
		}
	}
	if err := p.boot(); err != nil {
		return err
	}
	light := func(often bool, most int64) fuse {
		if crashes && often {
			return p.fuse(most)
		}
		return forever
	}
	err := p.start(light(r.IntN(3) == 0, 600))
	if err == nil {
		err = p.verify(forever)
	}
	if err == nil {
		err = p.work(light(r.IntN(4) != 0, 20_000))
	}
	if err == nil {
		err = p.stop(light(r.IntN(3) == 0, 300), crashes)
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
func (p *Play) boot() error {
	w := sim.NewWorld(p.c.Rand, p.c.Trace, p.plan.World)
	if p.life != nil {
		p.count("spins", p.life.w.Spins())
		p.plan.World.Start = p.life.w.Now() + 1e6
		w = sim.NewWorld(p.c.Rand, p.c.Trace, p.plan.World)
	}
	b := &Boot{World: w, Plan: p.plan, Cache: p.plan.Cache.Name, Base: p.plan.Base.Name}
	if p.life != nil {
		b.Life = p.life.boot.Life + 1
	}
	if p.plan.Shm {
		b.ShmDir = p.shmDir
	}
	if p.plan.Faults == FaultsRot && p.lossy != nil {
		b.AcceptLoss = true
	}
	// The last records of a log that was cut off in the middle of its work may rot like torn ones, and nobody can tell;
	// once it was idle, a later record says what was durable.
	if p.plan.Faults == FaultsRot && p.settled && p.c.Rand.IntN(2) == 0 {
		p.rot(w)
	}
	p.settled = false
	b.Manager = bdev.NewManager(w.System(), nil)
	b.Thread = w.System().NewThread("core")
	for _, d := range []*sim.Disk{p.cache, p.base} {
		if _, err := b.Manager.Register(sim.Attach(w, d)); err != nil {
			return err
		}
		p.plan.faults(p.c.Rand, d)
	}
	p.life = &life{w: w, boot: b}
	p.dev = nil
	p.open = 0
	p.count("lives", 1)
	w.Note("process", "boot", uint64(b.Life), 0, 0, nil)
	return nil
}

// look starts the device read-only, as an offline check does, verifies it, and makes sure that it wrote nothing.
func (p *Play) look() error {
	if err := p.boot(); err != nil {
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
	if err := p.check(); err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	if n := p.writes() - before; n != 0 {
		return fmt.Errorf("read-only: %d writes", n)
	}
	p.count("read-only looks", 1)
	p.end()
	return nil
}

func (p *Play) writes() uint64 {
	a, b := p.cache.Stats(), p.base.Stats()
	return a.Writes + a.Unmaps + b.Writes + b.Unmaps
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

// end ends a life in which nothing is under way: by a stop that was forgotten, a power loss or a kill.
func (p *Play) end() {
	if p.c.Rand.IntN(2) == 0 {
		p.crash()
		return
	}
	p.kill()
}

// phase steps until cond holds, or the fuse has burnt down.
func (p *Play) phase(what string, steps uint64, f fuse, cond func() bool) error {
	err := p.life.w.Run(steps, func() bool { return p.fail != nil || cond() || f.burnt() })
	switch {
	case p.fail != nil:
		return p.fail
	case err != nil:
		return fmt.Errorf("%s makes no progress (%d requests open, %v, %v): %w", what, p.open, p.cache, p.base, err)
	case f.burnt():
		p.count("crash in "+what, 1)
		return errCrash
	}
	return nil
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
	if err := p.phase(what, stepsStart, f, func() bool { return done }); err != nil {
		return err
	}
	p.life.w.Note("process", what+" done", 0, 0, uint64(p.life.w.Now()-before), failed)
	if failed != nil {
		if p.plan.Faults == FaultsTransient {
			// A start may fail over device errors; the next, without them, may not.
			p.count("starts failed by faults", 1)
			if err := p.leaks(); err != nil {
				return fmt.Errorf("after a start that failed with %w: %w", failed, err)
			}
			p.kill()
			return errOver
		}
		return fmt.Errorf("%s: %w", what, failed)
	}
	p.created = true
	p.known = p.dev
	p.cache.SetFront(p.dev.Front(true))
	p.base.SetFront(p.dev.Front(false))
	p.lossy = nil
	if p.dev.ReadOnly() && p.plan.Faults == FaultsRot {
		// It says that it has lost something that was durable; a person decides, here to go on without it.
		p.count("losses reported", 1)
		p.lossy = p.dev
		p.kill()
		return errOver
	}
	if p.dev.ReadOnly() && p.plan.Faults != FaultsTransient && !p.life.boot.ReadOnly {
		return fmt.Errorf("%s: the device takes no writes although nothing failed", what)
	}
	p.count(what, 1)
	p.dev.Counters(p.count)
	return nil
}

// verify reads the whole device and compares it with what the model allows.
func (p *Play) verify(f fuse) error {
	v := &verifier{p: p, found: make(map[uint64]uint64), left: p.dev.Blocks(), acks: p.m.ReadBegins()}
	p.life.boot.Thread.Send(func(any) { v.fill() }, nil)
	if err := p.phase("verification", stepsLoad, f, v.finished); err != nil {
		return err
	}
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
	if p.life.boot.AcceptLoss {
		// Older content is what was accepted.
		p.m.Restart(v.found)
	} else if p.life.boot.ReadOnly {
		return p.m.CheckRecovered(*p.point, v.found, false)
	} else if err := p.m.Recovered(*p.point, v.found, p.plan.Faults >= FaultsTransient); err != nil {
		return fmt.Errorf("after recovery: %w", err)
	}
	p.point = nil
	p.count("recoveries verified", 1)
	return nil
}

// work runs phases of load, with rests between them.
func (p *Play) work(f fuse) error {
	r := p.c.Rand
	for range 1 + r.IntN(4) {
		l := p.newLoad()
		p.life.boot.Thread.Send(runLoad, l)
		if err := p.phase("work", stepsLoad, f, func() bool { return l.left == 0 && l.out == 0 }); err != nil {
			return err
		}
		switch r.IntN(6) {
		case 0:
			until := p.life.w.Now() + r.Range(1e5, 2e9)
			p.life.w.After(until-p.life.w.Now(), func(any) {}, nil)
			if err := p.phase("rest", stepsLoad, f, func() bool { return p.life.w.Now() >= until }); err != nil {
				return err
			}
		case 1:
			if err := p.verify(f); err != nil {
				return err
			}
		}
	}
	if f.burns() {
		return errCrash
	}
	return p.settle()
}

// settle waits until the device has nothing more to do and checks that it then leaves the disks alone.
func (p *Play) settle() error {
	if err := p.phase("settling", stepsLoad, forever, func() bool { return p.dev.Idle() && p.cache.InFlight()+p.base.InFlight() == 0 }); err != nil {
		return err
	}
	if p.plan.Faults < FaultsTransient && p.c.Rand.IntN(2) == 0 {
		if err := p.check(); err != nil {
			return err
		}
	}
	// Housekeeping that waits for a pause may begin now; but it must end.
	rest := func(ns int64) { p.life.w.After(ns, func(any) {}, nil); p.life.w.RunFor(ns) }
	rest(60e9)
	before := p.boundaries()
	rest(60e9)
	allowed := uint64(0)
	if p.plan.Faults == FaultsRot {
		allowed = 100 // what cannot be read is tried again, ever more rarely
	}
	if n := p.boundaries() - before; n > allowed && p.fail == nil {
		return fmt.Errorf("an idle device did IO: %d boundaries in a minute", n)
	}
	p.settled = true
	return p.fail
}

// stop ends the life in order; then the power may fail, or not.
func (p *Play) stop(f fuse, crashes bool) error {
	r := p.c.Rand
	fast := r.IntN(3) == 0
	done := false
	var failed error
	p.life.boot.Thread.Send(func(any) {
		p.dev.Stop(fast, func(err error) { done, failed = true, err })
	}, nil)
	if err := p.phase("stop", stepsStart, f, func() bool { return done }); err != nil {
		return err
	}
	p.life.w.Note("process", "stopped", 0, 0, 0, failed)
	if failed != nil && p.plan.Faults != FaultsTransient {
		return fmt.Errorf("stop: %w", failed)
	}
	if err := p.leaks(); err != nil {
		return fmt.Errorf("after a stop with %w: %w", failed, err)
	}
	if fast || failed != nil {
		p.count("fast stops", 1)
	} else {
		p.count("clean stops", 1)
		p.m.Flushed(p.m.Acks())
	}
	if crashes {
		p.end()
		return nil
	}
	p.kill()
	return nil
}

// leaks checks that a stopped device holds nothing: the bdevs can go, and the thread can exit.
func (p *Play) leaks() error {
	b := p.life.boot
	gone := 0
	b.Thread.Send(func(any) {
		for _, d := range b.Manager.All() {
			d.Unregister(b.Thread, func(_ any, err error) {
				if err != nil {
					p.failf("unregister: %w", err)
				}
				gone++
			}, nil)
		}
	}, nil)
	if err := p.phase("unregister after stop", 1e6, forever, func() bool { return gone == 2 }); err != nil {
		return err
	}
	b.Thread.Send(func(any) { b.Thread.Exit() }, nil)
	if err := p.phase("exit after stop", 1e6, forever, b.Thread.Exited); err != nil {
		return err
	}
	return b.Thread.ExitErr()
}

// crash ends the life without asking.
func (p *Play) crash() {
	if p.c.Rand.IntN(3) == 0 {
		p.kill()
		return
	}
	at := p.life.w.Now()
	p.powered = true
	p.cache.PowerLoss(at, sim.SurviveAny)
	p.base.PowerLoss(at, sim.SurviveAny)
	p.wipeShm()
	p.count("power losses", 1)
	p.weaken(p.m.PowerLost())
}

// kill ends the process; devices, their caches and shared memory live on.
func (p *Play) kill() {
	p.powered = false
	at := p.life.w.Now()
	p.cache.Kill(at)
	p.base.Kill(at)
	p.count("kills", 1)
	if p.plan.Faults == FaultsRot {
		// A rotten record that was not flushed cannot be told from one that was torn.
		p.weaken(p.m.PowerLost())
		return
	}
	p.weaken(p.m.Killed())
}

// rot flips bits of a few blocks while the device is down.
func (p *Play) rot(w *sim.World) {
	r := p.c.Rand
	for range 1 + r.IntN(3) {
		cache := r.IntN(2) == 0
		d := p.base
		if cache {
			d = p.cache
		}
		for range 50 {
			lba := r.Uint64N(d.Options().Blocks)
			if cache && r.IntN(2) == 0 {
				lba = r.Uint64N(min(d.Options().Blocks, 128)) // metadata lies in front
			}
			// A power loss may have torn the second copy already.
			if d.Blank(lba) || !p.known.Sole(cache, lba) || p.powered && !p.known.Body(cache, lba) {
				continue
			}
			d.Rot(lba)
			w.Note(d.Options().Name, "rots", 0, lba, 1, nil)
			p.count("blocks rotten", 1)
			break
		}
	}
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

// tally adds up what the disks saw.
func (p *Play) tally() {
	for _, d := range []*sim.Disk{p.cache, p.base} {
		s := d.Stats()
		p.count("disk IOs", s.Reads+s.Writes+s.Flushes+s.Unmaps)
		p.count("unflushed versions lost", s.Lost)
		p.count("unflushed versions kept", s.Kept)
		p.count("blocks torn", s.Torn)
		p.count("writes interrupted", s.Interrupted)
		p.count("refused for memory", s.NoMem)
		p.count("injected errors", s.ReadErrors+s.WriteErrors+s.FlushErrors+s.NoSpace)
	}
}
