package nbd

import (
	"errors"
	"fmt"
	"log/slog"
	"unsafe"

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
	fd     int
	watch  thread.FDWatch
	events uint32 // what is watched for
	full   bool   // the socket took less than there was
	first  []byte // came behind the last option and was not taken yet
	eof    bool
	done   bool
	msg    unix.Msghdr
	log    *slog.Logger
}

// handoff is a connection on its way from gnet to its thread.
type handoff struct {
	host  *Host
	n     Negotiated
	fd    int
	first []byte // what came behind the last option
	log   *slog.Logger
	gone  func() // the connection is over
}

// adopt starts a session on a socket that was negotiated elsewhere. It runs on
// the export's thread and owns the socket from now on.
func adopt(arg any) {
	o := arg.(*handoff)
	c := &conn{th: o.host.th, fd: o.fd, log: o.log}
	if err := c.start(o); err != nil {
		c.log.Warn("nbd: cannot serve a connection", "export", o.n.Export(), "err", err)
		_ = unix.Close(o.fd)
		o.gone()
	}
}

func (c *conn) start(o *handoff) error {
	s, err := NewSession(o.host, o.n, c)
	if err != nil {
		return err
	}
	c.s = s
	c.events = unix.EPOLLIN
	if c.watch, err = c.th.WatchFD(c.fd, c.events, onSocket, c); err != nil {
		c.done = true
		s.Kill(err)
		s.Close()
		return err
	}
	s.onClose = o.gone
	c.first = o.first
	c.resume()
	if o.host.draining {
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
	c.msg = unix.Msghdr{Iov: &vecs[0], Iovlen: uint64(len(vecs))}
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.msg)), unix.MSG_DONTWAIT)
	switch {
	case errno == 0 && n > 0:
		c.s.Received(int(n))
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
		c.msg = unix.Msghdr{Iov: &vecs[0], Iovlen: uint64(len(vecs))}
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.msg)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			c.s.Sent(int(n))
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
	_ = unix.Close(c.fd)
	if why := c.s.Why(); errors.Is(why, errStalled) {
		c.log.Warn("nbd: connection cut", "export", c.s.lane.x.Name, "why", why)
	} else if why != nil && !errors.Is(why, errDrained) {
		c.log.Info("nbd: connection ended", "export", c.s.lane.x.Name, "why", why)
	}
	c.s.Close()
}
