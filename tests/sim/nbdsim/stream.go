package nbdsim

import (
	"goftl/tests/sim"
)

// stream is one direction of a connection. Bytes arrive in order, in pieces, some time after they were sent.
type stream struct {
	w     *sim.World
	rnd   *sim.Rand
	delay int64      // the longest that a piece takes
	room  int        // bytes that may be under way or wait to be read: few at the beginning
	most  int        // what that grows to
	q     []*segment // arrived; a beginning of the first may have been read
	have  int        // bytes in q that were not read
	spare []*segment
	out   int    // bytes under way
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

// segment is a piece of a stream.
type segment struct {
	s     *stream
	mem   []byte
	bytes []byte // of mem, not read yet
	fin   bool
}

// segment makes one of a copy of p.
func (s *stream) segment(p []byte) *segment {
	g := &segment{s: s}
	if n := len(s.spare); n > 0 {
		g, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	g.mem = append(g.mem[:0], p...)
	g.bytes = g.mem
	return g
}

// write sends a beginning of p and returns how long that is.
func (s *stream) write(p []byte) int {
	n := min(len(p), s.room-s.out-s.have)
	if s.dead || s.shut || n <= 0 {
		return 0
	}
	for done := 0; done < n; {
		piece := n - done
		if s.rnd.IntN(3) == 0 {
			piece = 1 + s.rnd.IntN(piece)
		}
		s.post(s.segment(p[done : done+piece]))
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
	s.drop()
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
	if len(g.bytes) > 0 {
		s.q = append(s.q, g)
		s.have += len(g.bytes)
	}
	s.fin = s.fin || g.fin
	s.moved()
}

// drop forgets what has arrived.
func (s *stream) drop() { s.q, s.have = nil, 0 }

// read takes bytes that have arrived.
func (s *stream) read(p []byte) int {
	n := 0
	for n < len(p) && len(s.q) > 0 {
		g := s.q[0]
		k := copy(p[n:], g.bytes)
		g.bytes = g.bytes[k:]
		n += k
		if len(g.bytes) == 0 {
			s.q = s.q[1:]
			s.spare = append(s.spare, g)
		}
	}
	s.have -= n
	if n > 0 {
		s.room = min(s.room+n, s.most)
		s.moved()
	}
	return n
}

// writable says whether a write would take something.
func (s *stream) writable() bool { return !s.shut && s.out+s.have < s.room }
