package mngt

import (
	"errors"
	"fmt"
	"time"

	"goftl/internal/assert"
	"goftl/thread"
)

type phase uint8

const (
	phaseAction   phase = iota // running actions, front to back
	phaseRollback              // running cleanups, back to front
	phaseOver
)

type verdict uint8

const (
	verdictNone verdict = iota // the step runs
	verdictStart
	verdictNext
	verdictContinue
	verdictSkip
	verdictFail
	verdictCall
)

var phaseNames = [...]string{"action", "cleanup", "over"}

type stepState struct {
	ctx  any
	made bool // ctx was made
	done bool // its action finished, so its cleanup is due
}

// Process is a run of a Desc.
type Process[T any] struct {
	th     *thread.Thread
	owner  T
	d      *Desc[T]
	log    Logger
	done   func(owner T, err error)
	root   *Process[T]
	parent *Process[T]
	child  *Process[T] // the process that the step called
	depth  int

	phase   phase
	verdict verdict
	whole   bool // the rollback of a whole process
	cur     int
	steps   []stepState
	ctx     any
	rec     int // index in root.history of the step that runs; -1 none

	err     error   // the first
	undo    []error // of cleanups
	failure error   // of the verdict
	abort   error
	began   int64
	history []StepRecord // of the root only
}

// Run executes the actions of d. done is called once, on th, from a message;
// its error is nil, or names the step that failed and wraps its error and
// those of failed cleanups. log may be nil. Run may be called on any goroutine;
// the returned Process may be used on th only.
func Run[T any](th *thread.Thread, owner T, d *Desc[T], log Logger, done func(owner T, err error)) *Process[T] {
	p := newProcess(th, owner, d, log, phaseAction)
	p.done = done
	th.Send(advance[T], p)
	return p
}

// Rollback runs the cleanups of all steps of d in reverse order, as if every
// action had been done. A failing cleanup does not stop it. Otherwise it is
// like Run.
func Rollback[T any](th *thread.Thread, owner T, d *Desc[T], log Logger, done func(owner T, err error)) *Process[T] {
	p := newProcess(th, owner, d, log, phaseRollback)
	p.done = done
	th.Send(advance[T], p)
	return p
}

func newProcess[T any](th *thread.Thread, owner T, d *Desc[T], log Logger, ph phase) *Process[T] {
	if log == nil {
		log = nopLogger{}
	}
	p := &Process[T]{
		th: th, owner: owner, d: d, log: log, phase: ph, whole: ph == phaseRollback,
		steps: make([]stepState, len(d.Steps)), rec: -1, verdict: verdictStart,
	}
	p.root = p
	return p
}

// Owner returns what the process was run for.
func (p *Process[T]) Owner() T { return p.owner }

// Thread returns the thread that the process runs on.
func (p *Process[T]) Thread() *thread.Thread { return p.th }

// Name returns the name of the process.
func (p *Process[T]) Name() string { return p.d.Name }

// StepName returns the name of the step that runs, "" between steps.
func (p *Process[T]) StepName() string {
	if p.rec < 0 {
		return ""
	}
	return p.d.Steps[p.cur].Name
}

// StepCtx returns the context of the step that runs; its action and its
// cleanup share it.
func (p *Process[T]) StepCtx() any { return p.steps[p.cur].ctx }

// ProcessCtx returns the context of the process.
func (p *Process[T]) ProcessCtx() any { return p.ctx }

// Err returns the error that failed the process, nil while it has not failed.
func (p *Process[T]) Err() error { return p.err }

// RollingBack says whether cleanups run, not actions.
func (p *Process[T]) RollingBack() bool { return p.phase == phaseRollback }

// Aborted returns the error given to Abort. A step that waits for something
// that may never come looks at it and fails.
func (p *Process[T]) Aborted() error { return p.abort }

// History returns an account of all steps so far, those of called processes
// included, in the order in which they began. The slice must not be changed.
func (p *Process[T]) History() []StepRecord { return p.root.history }

// Next ends the step: the next one follows.
func (p *Process[T]) Next() { p.end(verdictNext, nil) }

// Continue runs the same action or cleanup again.
func (p *Process[T]) Continue() { p.end(verdictContinue, nil) }

// Skip ends the step as one that had nothing to do: its cleanup is not due.
func (p *Process[T]) Skip() { p.end(verdictSkip, nil) }

// Fail ends the step with an error, which must not be nil. The step cleans up
// after itself: its own cleanup is not due. In a cleanup the error is kept and
// the rollback goes on.
func (p *Process[T]) Fail(err error) {
	assert.That(err != nil, "mngt: a step fails without an error")
	p.end(verdictFail, err)
}

// Call runs another process for the same owner. The step ends as it does: with
// Next, or with Fail after d has rolled itself back.
func (p *Process[T]) Call(d *Desc[T]) { p.call(d, phaseAction, nil, false) }

// CallWith is Call with a context for the called process in place of d.New's.
func (p *Process[T]) CallWith(d *Desc[T], ctx any) { p.call(d, phaseAction, ctx, true) }

// CallRollback runs all cleanups of another process in reverse order; the step
// ends as it does.
func (p *Process[T]) CallRollback(d *Desc[T]) { p.call(d, phaseRollback, nil, false) }

// Abort makes the process fail with err as soon as the step that runs has
// ended, even if it ends well (its cleanup is then due). It has no effect once
// the process rolls back or is over.
func (p *Process[T]) Abort(err error) {
	assert.That(err != nil, "mngt: aborted without an error")
	for q := p; q != nil; q = q.child {
		if q.abort == nil && q.phase == phaseAction {
			q.abort = err
		}
	}
}

func (p *Process[T]) call(d *Desc[T], ph phase, ctx any, given bool) {
	assert.That(p.verdict == verdictNone, "mngt: a step ended twice")
	assert.That(p.child == nil, "mngt: a step calls two processes at once")
	c := newProcess(p.th, p.owner, d, p.log, ph)
	c.parent, c.root, c.depth, c.abort = p, p.root, p.depth+1, p.abort
	if given {
		c.ctx = ctx
	} else if d.New != nil {
		c.ctx = d.New()
	}
	p.child = c
	p.verdict = verdictCall
	p.th.Post(advance[T], c)
}

// end records the step's verdict; the transition follows from a message.
func (p *Process[T]) end(v verdict, err error) {
	assert.That(p.verdict == verdictNone, "mngt: a step ended twice")
	p.verdict, p.failure = v, err
	p.th.Post(advance[T], p)
}

func advance[T any](arg any) { arg.(*Process[T]).advance() }

// advance is the one place where a process moves on. Each call runs at most
// one action or cleanup.
func (p *Process[T]) advance() {
	assert.That(p.phase != phaseOver, "mngt: a process moves on after its end")
	v, failure := p.verdict, p.failure
	p.verdict, p.failure = verdictNone, nil
	switch v {
	case verdictStart:
		p.start()
	case verdictContinue:
		p.invoke()
	case verdictNext:
		p.close(StatusDone, nil)
		p.steps[p.cur].done = true
		p.move()
	case verdictSkip:
		p.close(StatusSkipped, nil)
		p.move()
	case verdictFail:
		p.close(StatusFailed, failure)
		p.failed(failure)
	default:
		assert.That(false, "mngt: a process moves on without a verdict")
	}
}

func (p *Process[T]) start() {
	p.began = p.th.Now()
	if p.parent == nil && p.d.New != nil {
		p.ctx = p.d.New()
	}
	p.log.Debug("process begins", "process", p.d.Name, "rollback", p.whole)
	if p.d.Init != nil {
		if err := p.d.Init(p); err != nil {
			p.err = fmt.Errorf("init: %w", err)
			if p.d.ErrorHandler != nil {
				p.d.ErrorHandler(p)
			}
			p.finish(false)
			return
		}
	}
	p.cur = -1
	if p.whole {
		p.cur = len(p.steps)
		for i := range p.steps {
			p.steps[i].done = true
		}
	}
	p.move()
}

// failed books the failure of the step that just ended.
func (p *Process[T]) failed(err error) {
	err = fmt.Errorf("%s: %w", p.d.Steps[p.cur].Name, err)
	if p.phase == phaseRollback {
		p.undo = append(p.undo, err)
		p.move()
		return
	}
	p.rollBack(err)
}

// rollBack turns round: from here on cleanups run.
func (p *Process[T]) rollBack(err error) {
	p.err = err
	if p.d.ErrorHandler != nil {
		p.d.ErrorHandler(p)
	}
	p.phase = phaseRollback
	p.cur = min(p.cur+1, len(p.steps))
	p.move()
}

// move goes to the step that follows in the direction of the phase.
func (p *Process[T]) move() {
	if p.phase == phaseAction {
		if p.abort != nil {
			p.rollBack(fmt.Errorf("aborted: %w", p.abort))
			return
		}
		p.cur++
		if p.cur == len(p.steps) {
			p.finish(true)
			return
		}
		p.open()
		return
	}
	for p.cur--; p.cur >= 0; p.cur-- {
		if p.steps[p.cur].done && p.d.Steps[p.cur].Cleanup != nil {
			p.open()
			return
		}
	}
	p.finish(true)
}

// open begins the account of the current step and runs it.
func (p *Process[T]) open() {
	s, st := &p.d.Steps[p.cur], &p.steps[p.cur]
	if !st.made && s.New != nil {
		st.ctx = s.New()
	}
	st.made = true
	p.rec = len(p.root.history)
	p.root.history = append(p.root.history, StepRecord{
		Process: p.d.Name, Name: s.Name, Depth: p.depth, Cleanup: p.phase == phaseRollback, Began: p.th.Now(),
	})
	p.invoke()
}

func (p *Process[T]) invoke() {
	s := &p.d.Steps[p.cur]
	fn := s.Action
	if p.phase == phaseRollback {
		fn = s.Cleanup
	}
	if fn == nil {
		p.Next()
		return
	}
	fn(p)
}

// close ends the account of the current step.
func (p *Process[T]) close(status Status, err error) {
	r := &p.root.history[p.rec]
	p.rec = -1
	r.Status, r.Err = status, err
	r.Duration = time.Duration(p.th.Now() - r.Began)
	if status == StatusFailed {
		p.log.Error("step failed", "process", r.Process, "step", r.Name, "phase", phaseNames[p.phase],
			"duration", r.Duration, "err", err)
		return
	}
	p.log.Info("step "+status.String(), "process", r.Process, "step", r.Name, "phase", phaseNames[p.phase],
		"duration", r.Duration)
}

// finish ends the process and tells its caller.
func (p *Process[T]) finish(initialised bool) {
	if initialised && p.d.Deinit != nil {
		p.d.Deinit(p)
	}
	p.phase = phaseOver
	err := p.err
	if len(p.undo) > 0 {
		err = errors.Join(append([]error{p.err}, p.undo...)...)
	}
	took := time.Duration(p.th.Now() - p.began)
	if err != nil {
		p.log.Error("process failed", "process", p.d.Name, "duration", took, "err", err)
	} else {
		p.log.Info("process done", "process", p.d.Name, "duration", took)
	}
	if p.parent != nil {
		p.parent.childOver(err)
		return
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", p.d.Name, err)
	}
	if p.done != nil {
		p.done(p.owner, err)
	}
}

// childOver ends the step that called a process.
func (p *Process[T]) childOver(err error) {
	assert.That(p.verdict == verdictCall, "mngt: a called process ends that nobody waits for")
	p.child = nil
	p.verdict = verdictNone
	if err != nil {
		p.Fail(err)
		return
	}
	p.Next()
}
