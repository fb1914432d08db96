package nbdsim

import (
	"goftl/tests/sim"
)

// stream is one direction of a connection. Bytes arrive in order, in pieces, some time after they were sent.
type stream struct {
	w     *sim.World
	rnd   *sim.Rand
	delay int64  // the longest that a piece takes
	room  int    // bytes that may be under way or wait to be read: few at the beginning
	most  int    // what that grows to
	q     []byte // arrived
	mem   []byte // in which q lies
	out   int    // under way
	last  int64  // when the last of these arrives
	fin   bool   // the end has arrived
	dead  bool   // reset: what was under way is lost
	shut  bool   // the sender has ended it
	moved func() // something arrived, or there is room again
}

// room returns b with the capacity for n more bytes. The room in front of b, whose bytes were taken, is used again: mem is
// what b lies in.
func room(mem *[]byte, b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	if cap(*mem) < 2*(len(b)+n) {
		*mem = make([]byte, 0, 4*(len(b)+n))
	}
	return append((*mem)[:0], b...)
}

// segment is a piece of a stream under way.
type segment struct {
	s     *stream
	bytes []byte
	fin   bool
}

// write sends a beginning of p and returns how long that is.
func (s *stream) write(p []byte) int {
	n := min(len(p), s.room-s.out-len(s.q))
	if s.dead || s.shut || n <= 0 {
		return 0
	}
	for done := 0; done < n; {
		piece := n - done
		if s.rnd.IntN(3) == 0 {
			piece = 1 + s.rnd.IntN(piece)
		}
		s.post(&segment{s: s, bytes: append([]byte(nil), p[done:done+piece]...)})
		done += piece
	}
	return n
}

// close sends the end of the stream.
func (s *stream) close() {
	if !s.shut {
		s.shut = true
		s.post(&segment{s: s, fin: true})
	}
}

// reset ends the stream at once; who reads finds the end without what was under way.
func (s *stream) reset() {
	s.shut, s.dead, s.fin = true, true, true
	s.q = nil
	s.moved()
}

func (s *stream) post(g *segment) {
	s.out += len(g.bytes)
	s.last = max(s.last, s.w.Now()+s.rnd.Range(0, s.delay))
	s.w.After(s.last-s.w.Now(), arrive, g)
}

func arrive(arg any) {
	g := arg.(*segment)
	s := g.s
	s.out -= len(g.bytes)
	if s.dead {
		return
	}
	s.q = append(room(&s.mem, s.q, len(g.bytes)), g.bytes...)
	s.fin = s.fin || g.fin
	s.moved()
}

// read takes bytes that have arrived.
func (s *stream) read(p []byte) int {
	n := copy(p, s.q)
	s.q = s.q[n:]
	if n > 0 {
		s.room = min(s.room+n, s.most)
		s.moved()
	}
	return n
}

// writable says whether a write would take something.
func (s *stream) writable() bool { return !s.shut && s.out+len(s.q) < s.room }
