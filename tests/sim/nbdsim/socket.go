package nbdsim

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/tests/sim"
	"goftl/thread"
)

// link is a connection: two streams, and the server's end of them.
type link struct {
	w        *sim.World
	rnd      *sim.Rand
	up, down *stream // to the server, to the client
	server   *socket
	left     bool // the client has closed its end: nobody reads what comes down
	broken   bool // and the server knows it, or will when it looks
	tcp      bool // who sends to a client that has left is told later, by a reset; else at once
}

// leave closes the client's end.
func (l *link) leave() {
	l.left = true
	l.up.close()
}

// reset breaks the link.
func (l *link) reset() {
	l.left, l.broken = true, true
	l.up.reset()
}

// hungUp says whether the server can see that the client has left.
func (l *link) hungUp() bool { return l.left && l.up.fin && !l.tcp }

// socket is the server's end of a link: an nbd.Socket.
type socket struct {
	l       *link
	th      *thread.Thread
	events  uint32
	fn      thread.FDFunc
	arg     any
	watched bool
	pending bool   // a message that says ready is under way
	after   func() // each time the server has looked at the socket
}

// ready returns what epoll would say.
func (s *socket) ready() uint32 {
	l := s.l
	var r uint32
	if l.up.have > 0 || l.up.fin {
		r |= unix.EPOLLIN
	}
	if l.down.writable() || l.left {
		r |= unix.EPOLLOUT
	}
	if l.broken {
		r |= unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLIN | unix.EPOLLOUT
	}
	if l.hungUp() {
		r |= unix.EPOLLHUP | unix.EPOLLOUT
	}
	return r & (s.events | unix.EPOLLERR | unix.EPOLLHUP)
}

// poke tells the server, soon, if the socket is ready.
func (s *socket) poke() {
	if s.watched && !s.pending && s.ready() != 0 {
		s.pending = true
		s.th.Send(fire, s)
	}
}

func fire(arg any) {
	s := arg.(*socket)
	s.pending = false
	if !s.watched {
		return
	}
	if r := s.ready(); r != 0 {
		s.fn(s.arg, r)
	}
	s.after()
	s.poke()
}

// Watch implements nbd.Socket.
func (s *socket) Watch(t *thread.Thread, events uint32, fn thread.FDFunc, arg any) (thread.FDWatch, error) {
	s.th, s.events, s.fn, s.arg, s.watched = t, events, fn, arg, true
	s.poke()
	return (*watch)(s), nil
}

// watch is what the server holds of a socket that it watches.
type watch socket

// Modify implements thread.FDWatch.
func (v *watch) Modify(events uint32) error {
	v.events = events
	(*socket)(v).poke()
	return nil
}

// Close implements thread.FDWatch.
func (v *watch) Close() error {
	v.watched = false
	return nil
}

// Recv implements nbd.Socket.
func (s *socket) Recv(vecs []unix.Iovec) (int, unix.Errno) {
	in := s.l.up
	if s.l.broken {
		return 0, unix.ECONNRESET
	}
	if in.have == 0 {
		if in.fin {
			return 0, 0
		}
		return 0, unix.EAGAIN
	}
	most, n := in.have, 0
	if s.l.rnd.IntN(4) == 0 {
		most = 1 + s.l.rnd.IntN(most)
	}
	for _, v := range vecs {
		b := unsafe.Slice(v.Base, v.Len)
		n += in.read(b[:min(len(b), most-n)])
	}
	return n, 0
}

// Send implements nbd.Socket.
func (s *socket) Send(vecs []unix.Iovec) (int, unix.Errno) {
	l := s.l
	switch {
	case l.broken:
		return 0, unix.ECONNRESET
	case l.hungUp():
		return 0, unix.EPIPE
	case l.left:
		return s.swallow(vecs), 0
	case !l.down.writable():
		return 0, unix.EAGAIN
	}
	n := 0
	for _, v := range vecs {
		m := l.down.write(unsafe.Slice(v.Base, v.Len))
		n += m
		if m < int(v.Len) {
			break
		}
	}
	return n, 0
}

// swallow takes what nobody will read; the answer to it is a reset.
func (s *socket) swallow(vecs []unix.Iovec) (n int) {
	for _, v := range vecs {
		n += int(v.Len)
	}
	s.l.w.After(s.l.down.delay, func(any) { s.l.reset() }, nil)
	return n
}

// Close implements nbd.Socket. What the client has sent in vain makes a reset of it, which may overtake the last
// replies.
func (s *socket) Close() {
	l := s.l
	unread := l.up.have+l.up.out > 0
	l.up.dead = true
	l.up.drop()
	if unread && l.rnd.IntN(2) == 0 {
		l.down.reset()
		return
	}
	l.down.close()
}
