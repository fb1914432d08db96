package nbd

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// Transport moves the bytes of a Session.
type Transport interface {
	// Kick says that the session has something to send, or wants to go on
	// parsing. It is called on the session's thread, from anywhere in its
	// code; the transport answers it later, once, by calling Resume, Output
	// and Sent.
	Kick()
}

type sessionState uint8

const (
	sessionOpen  sessionState = iota // serves requests
	sessionDrain                     // takes no more, answers what is in flight
	sessionDead                      // answers are thrown away
)

// Session is the transmission phase of one connection. It belongs to its
// host's thread.
//
// A transport reads into the vectors of Space and reports Received; it sends
// what Output gives and reports Sent. After every call, and when a Kick is
// answered, it looks at Finished; if that is true it calls Close, which ends
// the session.
type Session struct {
	host       *Host
	lane       *lane
	tr         Transport
	structured bool
	status     bool // block status was agreed on
	state      sessionState
	closed     bool
	kicked     bool
	paused     bool // input is there that may not be parsed yet
	waiting    bool // in the host's list of those who wait for memory
	why        error

	in   input
	out  outq
	cur  *request // its data is being received
	skip uint64   // data of a refused write to throw away

	onClose func(why error)

	inflight int // requests admitted and not answered
	held     int // bytes of their buffers, and of answers not sent

	rx pace // of the data of cur; what it says when there is none means nothing
	tx pace // of out; likewise while that is empty
}

// Negotiated is what a Handshake ended with.
type Negotiated struct {
	x          *export
	structured bool
	status     bool // the context base:allocation was selected
}

// Result returns what was agreed on, once the state is HandshakeDone.
func (h *Handshake) Result() Negotiated {
	assert.That(h.state == HandshakeDone, "nbd: result of a handshake that is not done")
	return Negotiated{x: h.to, structured: h.structd, status: h.status == h.to}
}

// Export returns the name of the export that was entered.
func (n Negotiated) Export() string { return n.x.Name }

// NewSession starts a session. It must be called on the host's thread, and
// the export must belong to that thread.
func NewSession(h *Host, n Negotiated, tr Transport) (*Session, error) {
	assert.That(n.x.Thread == h.th, "nbd: session on a thread that is not its export's")
	if n.x.removed {
		return nil, errRemoved
	}
	l, err := h.lane(n.x)
	if err != nil {
		return nil, err
	}
	s := &Session{host: h, lane: l, tr: tr, structured: n.structured, status: n.status}
	s.out.init(h.limits.Requests)
	l.x.stats.conns.Add(1)
	h.add(s)
	return s, nil
}

// Space returns where the next bytes from the client go: nothing when the
// session does not want any. The vectors are valid until Received.
func (s *Session) Space() []unix.Iovec {
	if s.state != sessionOpen || s.paused {
		return nil
	}
	return s.in.space(s)
}

// Received accounts for n bytes that were put into the vectors of Space, and
// serves what is complete.
func (s *Session) Received(n int) {
	s.rx.move(n, s.held, s.host.th.Now())
	s.in.received(n, s)
	s.parse()
}

// Feed is Space, a copy and Received. It returns how many bytes it took; less
// than all when the session does not want more now.
func (s *Session) Feed(p []byte) int {
	used := 0
	for used < len(p) {
		vecs := s.Space()
		if len(vecs) == 0 {
			break
		}
		n := 0
		for _, v := range vecs {
			n += copy(unsafe.Slice(v.Base, v.Len), p[used+n:])
		}
		used += n
		s.Received(n)
	}
	return used
}

// EOF says that the client will send nothing more. Requests that came in full
// are served and answered.
func (s *Session) EOF() {
	if s.in.pending() || s.cur != nil || s.skip > 0 {
		s.shut(errTruncated)
		return
	}
	s.shut(nil)
}

// Drain ends the session when what is in flight was answered.
func (s *Session) Drain() { s.shut(errDrained) }

// Kill says that the client is gone, or shall be: nothing is sent any more.
func (s *Session) Kill(why error) {
	s.shut(why)
	s.state = sessionDead
	s.out.discard(s)
	s.kick()
}

// shut stops input.
func (s *Session) shut(why error) {
	if s.state != sessionOpen {
		return
	}
	s.state, s.why = sessionDrain, why
	s.paused = false
	s.kick()
	if r := s.cur; r != nil {
		s.cur = nil
		s.inflight--
		s.release(r)
	}
	s.in.drop(s)
}

// Resume goes on with input that had to wait. A transport calls it when it
// answers a Kick, after Sent.
func (s *Session) Resume() {
	if s.paused {
		s.parse()
	}
}

// Unkick says that a Kick is being answered: the next one will be a new one.
func (s *Session) Unkick() { s.kicked = false }

// Output returns what is to be sent next. It is valid until Sent.
func (s *Session) Output() []unix.Iovec { return s.out.batch() }

// Sent accounts for n bytes of Output that were sent.
func (s *Session) Sent(n int) {
	s.tx.move(n, s.held, s.host.th.Now())
	s.out.sent(n, s)
}

// AppendOutput appends up to limit bytes of output to b and accounts for them.
func (s *Session) AppendOutput(b []byte, limit int) []byte {
	start := len(b)
	for limit > 0 && !s.out.empty() {
		v := s.out.batch()[0]
		n := min(int(v.Len), limit)
		b = append(b, unsafe.Slice(v.Base, n)...)
		limit -= n
		s.Sent(n)
	}
	assert.That(len(b) >= start, "nbd: output shrank")
	return b
}

// Finished says that the session is over: no request is in flight and nothing
// is left to send.
func (s *Session) Finished() bool {
	return s.state != sessionOpen && s.inflight == 0 && s.out.empty()
}

// Close frees what a finished session holds.
func (s *Session) Close() {
	assert.That(s.Finished() && !s.closed, "nbd: session closed that is not finished")
	s.closed = true
	assert.That(s.held == 0, "nbd: a finished session holds buffers")
	s.lane.x.stats.conns.Add(-1)
	s.lane.put()
	s.host.remove(s)
	if s.onClose != nil {
		s.onClose(s.why)
	}
}

// Why returns what ended the session: nil when the client said good-bye.
func (s *Session) Why() error { return s.why }

// PublishStats makes the counters of the export readable by other threads.
func (s *Session) PublishStats() { s.lane.x.stats.publish(&s.lane.n) }

func (s *Session) kick() {
	if !s.kicked {
		s.kicked = true
		s.tr.Kick()
	}
}

// admits says whether one more request with n bytes of data may be taken.
func (s *Session) admits(n int) bool {
	return s.inflight+s.out.unsent < s.host.limits.Requests &&
		(s.held == 0 || s.held+n <= s.host.limits.Bytes)
}

// release frees a request that was answered, or never will be.
func (s *Session) release(r *request) {
	h := s.host
	s.held -= r.held
	h.data.putAll(r.units)
	r.reset()
	r.next, h.free = h.free, r
	h.freed()
}

// reply answers a request that has no data to return, or failed, and frees it.
func (s *Session) reply(r *request, e proto.Errno) {
	s.inflight--
	if s.state != sessionDead {
		s.answer(r.command, r.cookie, e)
	}
	s.release(r)
	s.kick()
}

// replyHeader returns room for the header of a reply, as outq.header does.
func (s *Session) replyHeader(n int) []byte {
	if s.out.empty() {
		s.tx.start(s.host.th.Now())
	}
	return s.out.header(n)
}

// answer queues a reply without data.
func (s *Session) answer(c proto.Command, cookie uint64, e proto.Errno) {
	if e != proto.OK {
		s.lane.n.errors++
	}
	if s.structured && (c == proto.CmdRead || c == proto.CmdBlockStatus) {
		s.answerChunk(cookie, e)
		return
	}
	proto.PutSimpleReply(s.replyHeader(proto.SimpleReplySize), e, cookie)
	s.out.replied()
}

// answerChunk is answer for what must have a structured reply.
func (s *Session) answerChunk(cookie uint64, e proto.Errno) {
	if e != proto.OK {
		proto.PutErrorChunk(s.replyHeader(proto.ErrorChunkSize), e, cookie)
	} else {
		proto.PutChunk(s.replyHeader(proto.StructuredReplySize),
			&proto.Chunk{Flags: proto.ReplyFlagDone, Type: proto.ReplyNone, Cookie: cookie})
	}
	s.out.replied()
}

// replyData answers a read. The buffers are freed when they were sent.
func (s *Session) replyData(r *request) {
	s.inflight--
	s.kick()
	if s.state == sessionDead {
		s.release(r)
		return
	}
	if s.structured {
		proto.PutOffsetData(s.replyHeader(proto.OffsetDataHeaderSize), r.cookie, r.offset, r.length)
	} else {
		proto.PutSimpleReply(s.replyHeader(proto.SimpleReplySize), proto.OK, r.cookie)
	}
	pos, left := r.head, int(r.length)
	for {
		b := r.at(pos, left)
		if len(b) == left {
			s.out.data(b, r)
			return
		}
		s.out.data(b, nil)
		pos, left = pos+len(b), left-len(b)
	}
}
