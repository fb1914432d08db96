package ftlsim

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// load is one phase of user IO.
type load struct {
	p    *Play
	r    *sim.Rand
	plan *Phase
	at   int // operations drawn
	left int // operations not yet submitted
	out  int
	lo   uint64 // the part of the device that is used
	span uint64
	most int64
	seq  uint64 // the next block, in order
	free []*slot

	until uint64 // step of the world from which on answers are no progress any more
}

// slot is a request with its buffers and what the model must know of it.
type slot struct {
	l    *load
	r    Request
	op   *model.Op
	acks uint64
	n    uint64 // of the write or trim in its life
	mem  []byte
	busy bool
}

func (p *Play) newLoad(ph *Phase) *load {
	blocks := p.dev.Blocks()
	l := &load{p: p, r: p.stream("load", ph.Seed), plan: ph, left: ph.Ops, most: max(1, ph.Most)}
	if ph.Only != nil {
		l.left = len(ph.Only)
	}
	l.lo = blocks * uint64(ph.LowPct) / 100
	l.span = blocks - l.lo
	if ph.Span > 0 {
		l.span = min(l.span, ph.Span)
	}
	asked := uint64(l.left) * uint64(l.most)
	if ph.All {
		asked = blocks
	}
	l.until = p.life.w.Steps() + max(stepsLoad, stepsBlock*asked) - stepsWork
	return l
}

// run submits as much as the depth allows; it runs on the core thread.
func (l *load) run() {
	for l.left > 0 && l.out < max(1, l.plan.Depth) && l.p.fail == nil {
		l.submit()
	}
}

func (l *load) slot() *slot {
	if n := len(l.free); n > 0 {
		s := l.free[n-1]
		l.free = l.free[:n-1]
		return s
	}
	s := &slot{l: l, mem: spare.take(int(l.most) * model.BlockSize)}
	s.r.play, s.r.Done = s, loadDone
	return s
}

// end gives the memory back, if nobody else may have it.
func (l *load) end() {
	if l.out != 0 {
		return
	}
	for _, s := range l.free {
		spare.give(s.mem)
	}
	l.free = nil
}

// draw chooses the next operation that is to be submitted.
func (l *load) draw(q *Request) {
	for {
		r := l.r
		q.Kind = Flush
		if l.plan.Weights != [NumKinds]int{} {
			q.Kind = OpKind(r.Pick(l.plan.Weights[:]...))
		}
		q.FUA = l.plan.FUA > 0 && r.IntN(l.plan.FUA) == 0 && (q.Kind == Write || q.Kind == Zero)
		q.Count = min(uint64(r.Skewed(l.most)), l.span)
		q.LBA = l.lo + l.where(l.span-q.Count+1)
		if l.plan.All {
			q.Count = min(q.Count, l.span-l.seq)
			q.LBA = l.lo + l.seq
			if l.seq += q.Count; l.seq == l.span {
				l.left = 1
			}
		} else if l.plan.Mode == Sequential {
			if l.seq+q.Count > l.span {
				l.seq = 0
			}
			q.LBA = l.lo + l.seq
			l.seq += q.Count
		}
		n := l.at
		l.at++
		if l.plan.Only == nil || n == l.plan.Only[len(l.plan.Only)-l.left] {
			l.left--
			return
		}
	}
}

// where chooses a block of n.
func (l *load) where(n uint64) uint64 {
	switch l.plan.Mode {
	case Zipf:
		return min(n-1, uint64(math.Pow(float64(n), l.r.Float64()))-1)
	case Hot:
		if hot := n / 10; hot > 0 && l.r.IntN(10) != 0 {
			return l.r.Uint64N(hot)
		}
	default:
	}
	return l.r.Uint64N(n)
}

func (l *load) submit() {
	p := l.p
	s := l.slot()
	q := &s.r
	l.draw(q)
	q.Bufs, s.op = q.Bufs[:0], nil
	switch q.Kind {
	case Read:
		s.acks = p.m.ReadBegins()
		l.cut(s)
	case Write:
		s.op = p.m.Submit(false, q.FUA, q.LBA, q.Count)
		for i := range q.Count {
			model.Stamp(s.mem[i*model.BlockSize:(i+1)*model.BlockSize], s.op.ID, q.LBA+i)
		}
		l.cut(s)
	case Zero:
		s.op = p.m.Submit(true, q.FUA, q.LBA, q.Count)
		clear(s.mem[:q.Count*model.BlockSize])
		l.cut(s)
	case Trim:
		s.op = p.m.Submit(true, false, q.LBA, q.Count)
	default:
		q.LBA, q.Count = 0, 0
		s.acks = p.m.Acks()
	}
	p.note("submit", s)
	if s.op != nil {
		p.life.ops++
		s.n = p.life.ops
	}
	l.out++
	p.open++
	s.busy = true
	p.dev.Submit(q)
}

// cut makes the buffers of a request: one, or several of whole blocks.
func (l *load) cut(s *slot) {
	q := &s.r
	mem := s.mem[:q.Count*model.BlockSize]
	for l.r.IntN(3) == 0 && len(mem) > model.BlockSize {
		n := (1 + l.r.IntN(len(mem)/model.BlockSize-1)) * model.BlockSize
		q.Bufs = append(q.Bufs, mem[:n])
		mem = mem[n:]
	}
	q.Bufs = append(q.Bufs, mem)
}

func loadDone(q *Request) {
	s := q.play.(*slot)
	l := s.l
	p := l.p
	if !s.busy || p.life.w.Current() != p.life.boot.Thread {
		p.failf("%v [%d +%d] completed twice, or off its thread", q.Kind, q.LBA, q.Count)
	}
	s.busy = false
	l.out--
	p.open--
	if p.life.w.Steps() < l.until {
		p.life.w.Progress()
	}
	p.note("done", s)
	if q.Err != nil {
		p.refused(s)
	} else {
		p.succeeded(s)
	}
	if q.Bufs != nil && q.Kind != Trim && q.Kind != Flush {
		spoil(s.mem[:q.Count*model.BlockSize])
	}
	l.free = append(l.free, s)
	p.burn()
	if l.plan.Again {
		l.run()
		return
	}
	p.life.boot.Thread.Post(runLoad, l)
}

func runLoad(arg any) { arg.(*load).run() }

func (p *Play) note(what string, s *slot) {
	q := &s.r
	id := uint64(0)
	if s.op != nil {
		id = s.op.ID
	}
	switch {
	case q.FUA:
		what += " write FUA"
	default:
		what += " " + q.Kind.String()
	}
	p.life.w.Note("user", what, id, q.LBA, q.Count, q.Err)
}

func (p *Play) succeeded(s *slot) {
	q := &s.r
	p.count("user "+q.Kind.String(), 1)
	switch q.Kind {
	case Read:
		if err := p.checkRead(q, s.mem, s.acks); err != nil {
			p.failf("read [%d +%d]: %w", q.LBA, q.Count, err)
		}
		p.m.ReadEnds(s.acks)
	case Flush:
		p.m.Flushed(s.acks)
	default:
		p.m.Ack(s.op)
		p.noteTrim(q)
		p.inOrder(s)
	}
}

func (p *Play) checkRead(q *Request, mem []byte, acks uint64) error {
	for i := range q.Count {
		id, err := model.Identify(mem[i*model.BlockSize:(i+1)*model.BlockSize], q.LBA+i)
		if err != nil {
			return err
		}
		if err := p.m.CheckRead(q.LBA+i, id, acks); err != nil {
			return err
		}
	}
	return nil
}

// refused looks at a request that ended with an error.
func (p *Play) refused(s *slot) {
	q := &s.r
	if s.op != nil {
		p.m.Fail(s.op)
	}
	if q.Kind == Read {
		p.m.ReadEnds(s.acks)
	}
	p.count("user errors", 1)
	if p.forgives(q.Err) {
		return
	}
	if p.tolerant() {
		for _, allowed := range []unix.Errno{unix.EIO, unix.EROFS, unix.ENODEV, unix.ENOSPC} {
			if errors.Is(q.Err, allowed) {
				return
			}
		}
	}
	p.failf("%v [%d +%d] failed: %w", q.Kind, q.LBA, q.Count, q.Err)
}

// forgives says whether a request may have been lost on its way.
func (p *Play) forgives(err error) bool {
	t, ok := p.t.(Remote)
	return ok && t.Forgives(err)
}

// inOrder checks that answers come in the order of the log, which is that of submission. One with FUA waits for its
// flush.
func (p *Play) inOrder(s *slot) {
	l := p.life
	if !p.ordered || s.r.FUA {
		return
	}
	if s.n < l.answered {
		p.failf("%v, the write or trim no. %d, was answered behind no. %d", s.op, s.n, l.answered)
	}
	l.answered = s.n
}

func (p *Play) failf(format string, args ...any) {
	if p.fail == nil {
		p.fail = fmt.Errorf(format, args...)
	}
}
