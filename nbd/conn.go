package nbd

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

// errHangup says that the client closed its end without a word.
var errHangup = fmt.Errorf("nbd: the client hung up: %w", unix.EPIPE)

// conn moves the bytes of a session through a socket. It belongs to the
// session's thread.
type conn struct {
	s      *Session
	th     *thread.Thread
	sock   Socket
	watch  thread.FDWatch
	events uint32 // what is watched for
	full   bool   // the socket took less than there was
	first  []byte // came behind the last option and was not taken yet
	eof    bool
	done   bool
	log    *slog.Logger
}

// Handoff is a connection on its way from where it was negotiated to the
// thread of its export.
type Handoff struct {
	Host   *Host
	To     Negotiated
	Socket Socket
	First  []byte // what came behind the last option
	Log    *slog.Logger
	Gone   func(why error) // the connection is over; nil when the client said good-bye
}

// Adopt serves a connection that was negotiated elsewhere, until it ends. It
// runs on the thread of the export and owns the socket from now on.
func Adopt(o *Handoff) {
	c := &conn{th: o.Host.th, sock: o.Socket, log: o.Log}
	if err := c.start(o); err != nil {
		c.log.Warn("nbd: cannot serve a connection", "export", o.To.Export(), "err", err)
		o.Socket.Close()
		o.Gone(err)
	}
}

func adopt(arg any) { Adopt(arg.(*Handoff)) }

func (c *conn) start(o *Handoff) error {
	s, err := NewSession(o.Host, o.To, c)
	if err != nil {
		return err
	}
	c.s = s
	c.events = unix.EPOLLIN
	if c.watch, err = c.sock.Watch(c.th, c.events, onSocket, c); err != nil {
		c.done = true
		s.Kill(err)
		s.Close()
		return err
	}
	s.onClose = o.Gone
	c.first = o.First
	c.resume()
	if o.Host.draining {
		s.Drain()
	}
	c.settle()
	return nil
}

// Kick implements Transport.
func (c *conn) Kick() { c.th.Post(serve, c) }

// serve answers a Kick: by now the completions of the turn have run.
func serve(arg any) {
	c := arg.(*conn)
	if c.done {
		return
	}
	c.s.Unkick()
	if !c.full {
		c.send()
	}
	c.resume()
	c.settle()
}

// resume lets the session go on with what it had to leave.
func (c *conn) resume() {
	c.s.Resume()
	if len(c.first) > 0 {
		c.first = c.first[c.s.Feed(c.first):]
	}
}

// onSocket is called while the socket is ready.
func onSocket(arg any, events uint32) {
	c := arg.(*conn)
	if c.done {
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 && !c.eof {
		c.receive()
	}
	if events&unix.EPOLLOUT != 0 {
		c.full = false
		c.send()
		c.resume()
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && (c.eof || c.s.paused || c.s.state != sessionOpen) {
		c.s.Kill(errHangup) // nobody will read an answer
	}
	c.settle()
}

// receive reads once; the watch is level-triggered.
func (c *conn) receive() {
	vecs := c.s.Space()
	if len(vecs) == 0 {
		return
	}
	n, errno := c.sock.Recv(vecs)
	switch {
	case errno == 0 && n > 0:
		c.s.Received(n)
	case errno == 0:
		c.eof = true
		c.s.EOF()
	case errno == unix.EAGAIN || errno == unix.EINTR:
		c.s.Received(0)
	default:
		c.eof = true
		c.s.Kill(errno)
	}
}

// send sends all that is there, as far as the socket takes it.
func (c *conn) send() {
	for {
		vecs := c.s.Output()
		if len(vecs) == 0 {
			return
		}
		n, errno := c.sock.Send(vecs)
		switch errno {
		case 0:
			c.s.Sent(n)
		case unix.EINTR:
		case unix.EAGAIN:
			c.full = true
			return
		default:
			c.s.Kill(errno)
			return
		}
	}
}

// settle closes a connection that is over, or watches for what it needs next.
func (c *conn) settle() {
	c.s.PublishStats()
	if c.s.Finished() {
		c.close()
		return
	}
	want := uint32(0)
	if c.s.state == sessionOpen && !c.s.paused {
		want |= unix.EPOLLIN
	}
	if c.full {
		want |= unix.EPOLLOUT
	}
	if c.s.state == sessionDead {
		// A hang-up cannot be masked; the session waits for its device only.
		_ = c.watch.Close()
		return
	}
	if want != c.events {
		c.events = want
		if err := c.watch.Modify(want); err != nil {
			c.s.Kill(err)
		}
	}
}

func (c *conn) close() {
	c.done = true
	// The socket is closed anyhow: what goes wrong on the way is of no use to anybody.
	_ = c.watch.Close()
	c.sock.Close()
	if why := c.s.Why(); errors.Is(why, errStalled) {
		c.log.Warn("nbd: connection cut", "export", c.s.lane.x.Name, "why", why)
	} else if why != nil && !errors.Is(why, errDrained) {
		c.log.Info("nbd: connection ended", "export", c.s.lane.x.Name, "why", why)
	}
	c.s.Close()
}
