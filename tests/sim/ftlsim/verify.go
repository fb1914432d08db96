package ftlsim

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// verifyDepth is how many reads of a verification are under way.
const verifyDepth = 8

// verifier reads the whole device.
type verifier struct {
	p     *Play
	r     *sim.Rand
	found map[uint64]uint64
	next  uint64
	left  uint64   // blocks
	alone []uint64 // blocks of requests that failed: which of them it was shows when each is read alone
	over  bool
	out   int
	acks  uint64
	free  []*Request
}

func (v *verifier) finished() bool { return v.left == 0 && len(v.alone) == 0 && v.out == 0 }

// quit reads no more.
func (v *verifier) quit() { v.left, v.alone, v.over = 0, nil, true }

func (v *verifier) fill() {
	for v.out < verifyDepth {
		lba, n := v.next, uint64(1)
		switch {
		case len(v.alone) > 0:
			lba = v.alone[0]
			v.alone = v.alone[1:]
		case v.left > 0:
			n = min(v.left, uint64(v.r.Skewed(128)))
			v.next += n
			v.left -= n
		default:
			return
		}
		q := v.request()
		q.LBA, q.Count = lba, n
		q.Bufs[0] = q.Bufs[0][:n*model.BlockSize]
		v.out++
		v.p.dev.Submit(q)
	}
}

func (v *verifier) request() *Request {
	if n := len(v.free); n > 0 {
		q := v.free[n-1]
		v.free = v.free[:n-1]
		return q
	}
	return &Request{Kind: Read, Bufs: [][]byte{spare.take(128 * model.BlockSize)}, Done: verified, play: v}
}

// end gives the memory back; everything has come back.
func (v *verifier) end() {
	for _, q := range v.free {
		spare.give(q.Bufs[0])
	}
	v.free = nil
}

func verified(q *Request) {
	v := q.play.(*verifier)
	v.out--
	p := v.p
	switch {
	case q.Err == nil:
		for i := range q.Count {
			id, err := model.Identify(q.Bufs[0][i*model.BlockSize:(i+1)*model.BlockSize], q.LBA+i)
			if err != nil {
				p.failf("verification: %w", err)
				break
			}
			v.found[q.LBA+i] = id
		}
	case p.tolerant() && errors.Is(q.Err, unix.EIO) && q.Count > 1 && !v.over:
		for i := range q.Count {
			v.alone = append(v.alone, q.LBA+i)
		}
	case v.over && p.forgives(q.Err):
	case p.tolerant() && errors.Is(q.Err, unix.EIO):
		p.count("blocks not read in verification", q.Count)
	default:
		p.failf("verification: read [%d +%d]: %w", q.LBA, q.Count, q.Err)
	}
	spoil(q.Bufs[0])
	v.free = append(v.free, q)
	v.fill()
}
