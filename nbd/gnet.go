package nbd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// What gnet does for this package: it listens, accepts and moves the bytes of
// negotiations. It never sees a request.

const (
	handshakeBuffer = 16 << 10 // one read while negotiating
	// maxUnread is how much of our answers a client may leave unread while it
	// negotiates.
	maxUnread    = 1 << 20
	socketBuffer = 2 << 20
)

// negotiation is a connection that has not entered transmission.
type negotiation struct {
	h    *Handshake
	age  int // ticks
	conn gnet.Conn
	went bool // handed to a thread
}

// events implements gnet.EventHandler. OnOpen, OnTraffic and OnClose run on
// gnet's one loop, OnTick on a goroutine of its own.
type events struct {
	gnet.BuiltinEventEngine
	s *Server
}

// OnBoot implements gnet.EventHandler: the sockets listen by now.
func (e *events) OnBoot(eng gnet.Engine) gnet.Action {
	e.s.engine = eng
	close(e.s.booted)
	return gnet.None
}

// OnOpen implements gnet.EventHandler.
func (e *events) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	s := e.s
	n := &negotiation{h: NewHandshake(s.catalog.Load()), conn: c}
	s.mu.Lock()
	ok := s.conns < s.limits.Conns
	if ok {
		s.conns++
		s.talks[n] = struct{}{}
	}
	s.mu.Unlock()
	if !ok {
		s.rejected.Add(1)
		return nil, gnet.Close
	}
	s.accepted.Add(1)
	c.SetContext(n)
	return n.h.Greeting(), gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (e *events) OnTraffic(c gnet.Conn) gnet.Action {
	n, ok := c.Context().(*negotiation)
	if !ok || n.h.State() != HandshakeOpen {
		return gnet.Close
	}
	in, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	n.h.Use(e.s.catalog.Load())
	used, out := n.h.Feed(in)
	if len(out) > 0 {
		if _, err := c.Write(out); err != nil {
			return gnet.Close
		}
	}
	switch n.h.State() {
	case HandshakeOpen:
		if c.OutboundBuffered() > maxUnread {
			return gnet.Close
		}
		return gnet.None
	case HandshakeDone:
		// What gnet still holds would come after the first replies.
		if c.OutboundBuffered() == 0 {
			e.s.handOver(n, in[used:])
		}
	case HandshakeClose:
	}
	return gnet.Close
}

// OnClose implements gnet.EventHandler.
func (e *events) OnClose(c gnet.Conn, _ error) gnet.Action {
	if n, ok := c.Context().(*negotiation); ok {
		e.s.over(n)
	}
	return gnet.None
}

// OnTick implements gnet.EventHandler: clients that negotiate for ever are cut
// off.
func (e *events) OnTick() (time.Duration, gnet.Action) {
	s := e.s
	s.mu.Lock()
	for n := range s.talks {
		if n.age++; n.age > s.limits.HandshakeTicks {
			_ = n.conn.Close() // asynchronous; OnClose counts it
		}
	}
	s.mu.Unlock()
	return time.Second, gnet.None
}

// over ends the account of a negotiation.
func (s *Server) over(n *negotiation) {
	s.mu.Lock()
	delete(s.talks, n)
	if !n.went {
		s.conns--
	}
	s.mu.Unlock()
	if !n.went {
		s.failed.Add(1)
	}
}

// handOver gives the socket to the thread of the export.
func (s *Server) handOver(n *negotiation, rest []byte) {
	fd, err := n.conn.Dup()
	if err != nil {
		s.log.Warn("nbd: cannot duplicate a socket", "err", err)
		return
	}
	tune(fd)
	to := n.h.Result()
	s.mu.Lock()
	ok := !s.stopping
	if ok {
		n.went = true
		s.active.Add(1)
	}
	s.mu.Unlock()
	o := &Handoff{
		Host: to.x.host, To: to, Socket: &fdSocket{fd: fd}, First: append([]byte(nil), rest...), Log: s.log,
		Gone: func(error) { s.gone() },
	}
	if ok && to.x.Thread.TrySend(adopt, o) {
		return
	}
	_ = unix.Close(fd)
	if ok {
		s.gone()
	}
}

// gone ends the account of a connection that was handed over.
func (s *Server) gone() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
	s.active.Add(-1)
}

// tune sets what a fast connection wants; a socket that refuses still works.
func tune(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		// A client that vanished without a word is noticed after two minutes.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 6)
	}
}

// gnetLogger passes gnet's words on.
type gnetLogger struct{ log *slog.Logger }

func (l gnetLogger) put(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "gnet: "+fmt.Sprintf(format, args...))
	}
}

// Debugf implements gnet's logging.Logger.
func (l gnetLogger) Debugf(format string, args ...any) { l.put(slog.LevelDebug-4, format, args) }

// Infof implements gnet's logging.Logger; what gnet finds worth telling is a detail here.
func (l gnetLogger) Infof(format string, args ...any) { l.put(slog.LevelDebug, format, args) }

// Warnf implements gnet's logging.Logger.
func (l gnetLogger) Warnf(format string, args ...any) { l.put(slog.LevelWarn, format, args) }

// Errorf implements gnet's logging.Logger.
func (l gnetLogger) Errorf(format string, args ...any) { l.put(slog.LevelError, format, args) }

// Fatalf implements gnet's logging.Logger. It does not end the process.
func (l gnetLogger) Fatalf(format string, args ...any) { l.put(slog.LevelError, format, args) }
