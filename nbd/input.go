package nbd

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// Why sessions end.
var (
	errTruncated = fmt.Errorf("nbd: the client went away inside a request: %w", unix.ECONNRESET)
	errDrained   = fmt.Errorf("nbd: the server is shutting down: %w", unix.ESHUTDOWN)
	errRemoved   = fmt.Errorf("nbd: the export was removed: %w", unix.ENOENT)
	errNoMemory  = fmt.Errorf("nbd: no memory to read into: %w", unix.ENOMEM)
	errMagic     = fmt.Errorf("nbd: what the client sent is no request: %w", unix.EPROTO)
	errTooLong   = fmt.Errorf("nbd: the client sent a write of absurd length: %w", unix.EMSGSIZE)
)

const (
	// directMin is the rest of a request's data from which on it is received
	// where it belongs instead of being copied there.
	directMin = 16 << 10
	// shortRead is how much is read beside data that is received directly,
	// and when the next data will probably be.
	shortRead = 4 << 10
)

// input is the bytes that were received and not yet parsed. Most of the time
// there are none, and then it has no buffer: the buffer that one session gives
// back is hot when the next one takes it.
type input struct {
	buf    []byte
	unit   unit
	r, w   int // buf[r:w] is not parsed
	stash  [proto.RequestSize]byte
	nstash int  // bytes of a header that was cut, while there is no buffer
	large  bool // the last write was large
	iov    [maxDirect + 1]unix.Iovec
	direct int // bytes that the vectors in front of buf take
}

// maxDirect is how many vectors of a request's data are filled by one read.
const maxDirect = 4

func (in *input) pending() bool { return in.nstash > 0 || in.w > in.r }

// space returns the vectors for the next read. Without memory for a buffer the
// session ends.
func (in *input) space(s *Session) []unix.Iovec {
	if in.buf == nil && !in.acquire(s) {
		return nil
	}
	n := 0
	in.direct = 0
	if r := s.cur; r != nil && int(r.length)-r.got >= directMin {
		for left := int(r.length) - r.got; left > 0 && n < maxDirect; n++ {
			b := r.at(r.head+r.got+in.direct, left)
			in.iov[n] = unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
			in.direct += len(b)
			left -= len(b)
		}
	}
	room := len(in.buf) - in.w
	if in.direct > 0 || in.large {
		room = min(room, shortRead)
	}
	in.iov[n] = unix.Iovec{Base: &in.buf[in.w], Len: uint64(room)}
	return in.iov[:n+1]
}

// acquire takes a buffer and puts a cut header at its front.
func (in *input) acquire(s *Session) bool {
	u, ok := s.host.input.get(readUnitShift)
	if !ok { // the arena has no limit: the system has no memory
		s.shut(errNoMemory)
		return false
	}
	in.unit, in.buf = u, u.bytes()
	in.r, in.w = 0, copy(in.buf, in.stash[:in.nstash])
	in.nstash = 0
	return true
}

// received accounts for n bytes in the vectors of space.
func (in *input) received(n int, s *Session) {
	if in.direct > 0 {
		d := min(n, in.direct)
		s.cur.got += d
		n -= d
		in.direct = 0
	}
	in.w += n
	assert.That(in.w <= len(in.buf), "nbd: more was received than there was room for")
}

// settle gives the buffer back when all of it, or all but a part of a header,
// was parsed. Otherwise it moves the rest to the front.
func (in *input) settle(s *Session) {
	rest := in.w - in.r
	switch {
	case in.buf == nil:
	case rest < proto.RequestSize && !s.paused:
		in.nstash = copy(in.stash[:], in.buf[in.r:in.w])
		in.giveBack(s)
	case in.r > 0:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
}

func (in *input) giveBack(s *Session) {
	s.host.input.put(in.unit)
	if s.host.input.excess() {
		s.host.look()
	}
	in.unit, in.buf, in.r, in.w = unit{}, nil, 0, 0
}

// drop forgets everything.
func (in *input) drop(s *Session) {
	in.nstash = 0
	in.direct = 0
	if in.buf != nil {
		in.giveBack(s)
	}
}

// parse serves every request that is there in full, as far as the limits
// allow.
func (s *Session) parse() {
	s.paused = false
	in := &s.in
	for s.state == sessionOpen {
		if s.cur != nil {
			if !s.payload() {
				break
			}
			continue
		}
		if s.skip > 0 {
			n := min(s.skip, uint64(in.w-in.r))
			s.skip -= n
			in.r += int(n)
			if s.skip > 0 {
				break
			}
		}
		if in.w-in.r < proto.RequestSize || !s.header(in.buf[in.r:in.w]) {
			break
		}
	}
	in.settle(s)
}

// payload copies what is there to the request that waits for it, and starts
// the request when it has everything.
func (s *Session) payload() bool {
	r, in := s.cur, &s.in
	for r.got < int(r.length) && in.r < in.w {
		n := copy(r.at(r.head+r.got, int(r.length)-r.got), in.buf[in.r:in.w])
		r.got += n
		in.r += n
	}
	if r.got < int(r.length) {
		return false
	}
	s.cur = nil
	r.begin()
	return true
}

// header serves the request whose header b begins with. It returns false when
// parsing has to stop: the request must wait, or is the last one.
func (s *Session) header(b []byte) bool {
	var q proto.Request
	if !proto.ParseRequest(b, &q) {
		s.shut(errMagic)
		return false
	}
	if q.Command == proto.CmdDisc {
		s.in.r += proto.RequestSize
		s.shut(nil)
		return false
	}
	if e := s.check(&q); e != proto.OK {
		return s.refuse(&q, e)
	}
	need := s.lane.bytesFor(&q)
	if !s.admits(need) {
		s.paused = true
		return false
	}
	r := s.host.request()
	r.init(s, &q)
	if need > 0 && !r.alloc(need) {
		s.unget(r)
		if s.host.data.used == 0 { // nothing will come back: the system has no memory
			return s.refuse(&q, proto.ErrNoMem)
		}
		s.paused = true
		s.host.await(s)
		return false
	}
	s.in.r += proto.RequestSize
	s.inflight++
	s.lane.n.requests[q.Command]++
	s.lane.n.bytes[q.Command] += uint64(q.Length)
	if q.Command != proto.CmdWrite {
		r.begin()
		return true
	}
	s.in.large = q.Length >= directMin
	s.cur = r
	s.rx.start(s.host.th.Now())
	return true
}

// unget puts a request back that found no memory.
func (s *Session) unget(r *request) {
	r.reset()
	r.next, s.host.free = s.host.free, r
}

// refuse answers a request that is not to be served, and skips its data.
func (s *Session) refuse(q *proto.Request, e proto.Errno) bool {
	if !s.admits(0) {
		s.paused = true
		return false
	}
	if q.Command == proto.CmdWrite {
		if q.Length > maxSkip {
			s.shut(errTooLong)
			return false
		}
		s.skip = uint64(q.Length)
	}
	s.in.r += proto.RequestSize
	if int(q.Command) < proto.NumCommands {
		s.lane.n.requests[q.Command]++
	}
	s.answer(q.Command, q.Cookie, e)
	s.kick()
	return true
}
