package nbdsim

import (
	"errors"
	"log/slog"

	"golang.org/x/sys/unix"

	"goftl/nbd"
	"goftl/thread"
)

// server is what nbd.Server is but for accepting: negotiations, and connections on the thread of the export.
type server struct {
	d        *device
	th       *thread.Thread
	host     *nbd.Host
	cat      *nbd.Catalog
	limits   nbd.Limits
	draining bool
	owes     uint64 // answers that clients have when all that ran at the beginning of the drain is answered
	talks    []*negotiation
}

// negotiation is the server's side of a connection that has not entered transmission.
type negotiation struct {
	s     *server
	c     *client
	sock  *socket
	watch thread.FDWatch
	hs    *nbd.Handshake
	out   []byte
	first []byte
	buf   [512]byte
	over  bool
}

// accept begins a connection. Like all that follows it runs on the server's thread.
func accept(arg any) {
	c := arg.(*client)
	s := c.d.srv
	n := &negotiation{s: s, c: c, sock: c.l.server, hs: nbd.NewHandshake(s.cat)}
	s.talks = append(s.talks, n)
	n.out = n.hs.Greeting()
	n.sock.after = s.check
	var err error
	if n.watch, err = n.sock.Watch(s.th, unix.EPOLLIN, negotiate, n); err != nil {
		s.d.failf("watch: %w", err)
	}
	n.proceed()
	if s.draining {
		n.end(true)
	}
}

func negotiate(arg any, events uint32) {
	n := arg.(*negotiation)
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && n.hs.State() == nbd.HandshakeOpen {
		got, errno := n.sock.Recv([]unix.Iovec{{Base: &n.buf[0], Len: uint64(len(n.buf))}})
		switch {
		case errno == unix.EAGAIN:
		case got == 0:
			n.end(true)
			return
		default:
			used, out := n.hs.Feed(n.buf[:got])
			n.out = append(n.out, out...)
			n.first = append([]byte(nil), n.buf[used:got]...)
		}
	}
	n.proceed()
}

// proceed sends what there is to send and goes on when all of it is sent.
func (n *negotiation) proceed() {
	for len(n.out) > 0 {
		sent, errno := n.sock.Send([]unix.Iovec{{Base: &n.out[0], Len: uint64(len(n.out))}})
		if errno == unix.EAGAIN {
			_ = n.watch.Modify(unix.EPOLLOUT)
			return
		}
		if errno != 0 {
			n.end(true)
			return
		}
		n.out = n.out[sent:]
	}
	switch n.hs.State() {
	case nbd.HandshakeOpen:
		_ = n.watch.Modify(unix.EPOLLIN)
	case nbd.HandshakeClose:
		n.end(true)
	case nbd.HandshakeDone:
		n.end(false)
		c := n.c
		nbd.Adopt(&nbd.Handoff{
			Host: n.s.host, To: n.hs.Result(), Socket: n.sock, First: n.first, Log: slog.New(slog.DiscardHandler),
			Gone: func(why error) { n.s.gone(c, why) },
		})
		n.s.check()
	}
}

// end ends the negotiation, and the connection if it does not go on.
func (n *negotiation) end(gone bool) {
	if n.over {
		return
	}
	n.over = true
	_ = n.watch.Close()
	for i, o := range n.s.talks {
		if o == n {
			n.s.talks = append(n.s.talks[:i], n.s.talks[i+1:]...)
			break
		}
	}
	if gone {
		n.sock.Close()
		n.s.gone(n.c, nil)
	}
}

// gone tells the client that the server has let go of it.
func (s *server) gone(c *client, why error) {
	s.d.b.Thread.Send(func(any) {
		if c.gone {
			s.d.failf("connection %d ended twice", c.id)
		}
		c.gone = true
		s.judge(c, why)
		c.wake(0)
	}, nil)
}

// judge says whether the server had a reason to end a connection.
func (s *server) judge(c *client, why error) {
	switch {
	case errors.Is(why, unix.ETIMEDOUT):
		s.d.count("clients cut off for holding memory", 1)
		c.expects, c.cut = false, true
	case c.phase < phaseFinal && !c.rude && !s.draining:
		s.d.failf("connection %d ended without a reason: %w", c.id, why)
	}
}

// drain lets everything end.
func drain(arg any) {
	s := arg.(*server)
	s.draining = true
	s.host.Drain()
	n := uint64(s.host.Holding().Requests) // without those of which only a part has come
	s.owes = s.d.answers + n
	s.d.count("requests under way in a stop", n)
	for len(s.talks) > 0 {
		s.talks[0].end(true)
	}
}

// check compares what the server holds with its limits.
func (s *server) check() {
	h := s.host.Holding()
	if h.Data > s.limits.ThreadBytes || h.Requests > h.Sessions*s.limits.Requests || h.Input > h.Sessions*(256<<10) ||
		h.Locks > h.Requests {
		s.d.failf("the server holds %+v, its limits are %+v", h, s.limits)
	}
	if h.Waiters > 0 {
		s.d.count("looks at clients that wait for memory", 1)
	}
}
