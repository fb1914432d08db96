package ftlsim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/tests/sim/model"
)

// load is one phase of user IO.
type load struct {
	p       *Play
	left    int // operations not yet submitted
	depth   int
	out     int
	lo      uint64 // the part of the device that is used
	span    uint64
	maxLen  int64
	seq     uint64 // 0: random; else the next block, plus 1
	weights [4]int // read, write, trim, flush
	fua     int    // one write of so many has FUA; 0: none
	free    []*slot
	again   bool // submit from inside Done
}

// slot is a request with its buffers and what the model must know of it.
type slot struct {
	l    *load
	r    Request
	op   *model.Op
	acks uint64
	mem  []byte
	busy bool
}

func (p *Play) newLoad() *load {
	r := p.c.Rand
	blocks := p.dev.Blocks()
	l := &load{p: p, left: 1 + r.IntN(p.plan.OpsMax), depth: int(r.Skewed(64)), again: r.IntN(2) == 0}
	l.span = blocks
	if r.IntN(2) == 0 {
		l.span = uint64(r.Skewed(int64(blocks)))
	}
	l.lo = r.Uint64N(blocks - l.span + 1)
	l.maxLen = []int64{1, 4, 16, 64, 300}[r.Pick(2, 4, 4, 2, 1)]
	if r.IntN(4) == 0 {
		l.seq = 1
	}
	l.weights = [4]int{r.IntN(4), 1 + r.IntN(10), r.IntN(3), r.IntN(3)}
	if r.IntN(4) == 0 {
		l.weights = [4]int{0, 1, 0, 0}
	}
	if r.IntN(2) == 0 {
		l.fua = 1 + r.IntN(20)
	}
	return l
}

// run submits as much as the depth allows; it runs on the core thread.
func (l *load) run() {
	for l.left > 0 && l.out < l.depth && l.p.fail == nil {
		l.left--
		l.submit()
	}
}

func (l *load) slot() *slot {
	if n := len(l.free); n > 0 {
		s := l.free[n-1]
		l.free = l.free[:n-1]
		return s
	}
	s := &slot{l: l, mem: make([]byte, l.maxLen*model.BlockSize)}
	s.r.play, s.r.Done = s, loadDone
	return s
}

func (l *load) submit() {
	p, r := l.p, l.p.c.Rand
	s := l.slot()
	q := &s.r
	q.Kind = OpKind(r.Pick(l.weights[:]...))
	q.FUA = q.Kind == Write && l.fua > 0 && r.IntN(l.fua) == 0
	q.Count = min(uint64(r.Skewed(l.maxLen)), l.span)
	q.LBA = l.lo + r.Uint64N(l.span-q.Count+1)
	if l.seq != 0 {
		if l.seq-1+q.Count > l.span {
			l.seq = 1
		}
		q.LBA = l.lo + l.seq - 1
		l.seq += q.Count
	}
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
	case Trim:
		s.op = p.m.Submit(true, false, q.LBA, q.Count)
	case Flush:
		q.LBA, q.Count = 0, 0
		s.acks = p.m.Acks()
	}
	p.note("submit", s)
	l.out++
	p.open++
	s.busy = true
	p.dev.Submit(q)
}

// cut makes the buffers of a request: one, or several of whole blocks.
func (l *load) cut(s *slot) {
	q := &s.r
	mem := s.mem[:q.Count*model.BlockSize]
	for l.p.c.Rand.IntN(3) == 0 && len(mem) > model.BlockSize {
		n := (1 + l.p.c.Rand.IntN(len(mem)/model.BlockSize-1)) * model.BlockSize
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
	p.note("done", s)
	if q.Err != nil {
		p.refused(s)
	} else {
		p.succeeded(s)
	}
	if q.Kind == Write || q.Kind == Read {
		// From now on the buffers are the user's again.
		for at := 0; at < int(q.Count)*model.BlockSize; at += 512 {
			binary.LittleEndian.PutUint64(s.mem[at:], 0x5555555555555555)
		}
	}
	l.free = append(l.free, s)
	if l.again {
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
	if p.plan.Faults >= FaultsTransient {
		for _, allowed := range []unix.Errno{unix.EIO, unix.EROFS, unix.ENODEV} {
			if errors.Is(q.Err, allowed) {
				return
			}
		}
	}
	p.failf("%v [%d +%d] failed: %w", q.Kind, q.LBA, q.Count, q.Err)
}

func (p *Play) failf(format string, args ...any) {
	if p.fail == nil {
		p.fail = fmt.Errorf(format, args...)
	}
}
