package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"goftl/thread"
)

// Server serves exports on sockets. Its methods may be called from any
// goroutine that is not one of its threads; Stop and RemoveExport wait.
type Server struct {
	log     *slog.Logger
	limits  Limits
	def     string
	listen  []endpoint
	catalog atomic.Pointer[Catalog]

	accepted, rejected, failed atomic.Uint64
	active                     atomic.Int64

	// Accepting and closing connections is no data path: a mutex is good enough.
	mu       sync.Mutex
	conns    int // negotiating and transmitting
	talks    map[*negotiation]struct{}
	hosts    map[*thread.Thread]*Host
	started  bool
	stopping bool

	engine gnet.Engine
	booted chan struct{} // closed when the sockets listen
	ended  chan struct{} // closed when gnet is over
	err    error         // why, valid then
}

// NewServer checks the configuration. Nothing listens yet.
func NewServer(c Config) (*Server, error) {
	s := &Server{
		log: c.Logger, limits: c.Limits, def: c.Default,
		talks:  make(map[*negotiation]struct{}),
		hosts:  make(map[*thread.Thread]*Host),
		booted: make(chan struct{}), ended: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if c.MaxConns != 0 {
		s.limits.Conns = c.MaxConns
	}
	if err := s.limits.complete(); err != nil {
		return nil, err
	}
	s.boundConns()
	for _, l := range c.Listen {
		e, err := parseEndpoint(l)
		if err != nil {
			return nil, err
		}
		s.listen = append(s.listen, e)
	}
	s.catalog.Store(&Catalog{})
	for _, e := range c.Exports {
		if err := s.AddExport(e); err != nil {
			return nil, err
		}
	}
	if cat := s.catalog.Load(); s.def != "" && cat.def == nil {
		return nil, fmt.Errorf("nbd: the default export %q does not exist: %w", s.def, unix.ENOENT)
	}
	return s, nil
}

// boundConns keeps accept from running out of file descriptors, which gnet
// does not survive: a connection has two for a moment.
func (s *Server) boundConns() {
	const others = 128
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return
	}
	if most := (int64(min(l.Cur, 1<<30)) - others) / 2; int64(s.limits.Conns) > most {
		s.limits.Conns = max(1, int(most))
		s.log.Warn("nbd: the limit of open files allows fewer connections", "connections", s.limits.Conns)
	}
}

// AddExport adds an export; clients that negotiate from now on see it.
func (s *Server) AddExport(e Export) error {
	x, err := newExport(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return fmt.Errorf("nbd: export %q: %w", e.Name, unix.ESHUTDOWN)
	}
	if x.host = s.hosts[e.Thread]; x.host == nil {
		x.host = newHost(e.Thread, s.limits)
		s.hosts[e.Thread] = x.host
	}
	old := s.catalog.Load()
	cat, err := newCatalog(s.def, append(append([]*export(nil), old.list...), x))
	if err != nil {
		return err
	}
	s.catalog.Store(cat)
	return nil
}

// RemoveExport takes an export away, lets its connections finish what they
// have in flight, and returns when they are gone. When ctx ends first they
// are cut, and the error is the context's.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	s.mu.Lock()
	old := s.catalog.Load()
	x := old.byName[name]
	list := make([]*export, 0, len(old.list))
	for _, o := range old.list {
		if o != x {
			list = append(list, o)
		}
	}
	cat, err := newCatalog(s.def, list)
	if err == nil {
		s.catalog.Store(cat)
	}
	s.mu.Unlock()
	if x == nil {
		return fmt.Errorf("nbd: no export %q: %w", name, unix.ENOENT)
	}
	if err != nil {
		return err
	}
	return s.drain(ctx, x.host, x)
}

// Start listens and returns when clients can connect.
func (s *Server) Start() error {
	s.mu.Lock()
	started := s.started
	s.started = true
	s.mu.Unlock()
	if started {
		return fmt.Errorf("nbd: the server was started before: %w", unix.EALREADY)
	}
	urls := make([]string, 0, len(s.listen))
	for _, e := range s.listen {
		if err := e.prepare(); err != nil {
			close(s.ended)
			return err
		}
		urls = append(urls, e.url())
	}
	if len(urls) == 0 {
		close(s.booted)
		close(s.ended)
		return nil
	}
	go s.run(urls)
	select {
	case <-s.booted:
		return nil
	case <-s.ended:
		return fmt.Errorf("nbd: listen on %v: %w", urls, s.err)
	}
}

func (s *Server) run(urls []string) {
	// LockOSThread costs gnet a futex for every wait; one loop negotiates fast enough.
	s.err = gnet.Rotate(&events{s: s}, urls,
		gnet.WithLogger(gnetLogger{s.log}), gnet.WithNumEventLoop(1), gnet.WithReuseAddr(true),
		gnet.WithReadBufferCap(handshakeBuffer), gnet.WithTicker(true))
	s.mu.Lock()
	unexpected := !s.stopping
	s.mu.Unlock()
	if unexpected && s.err == nil {
		s.err = unix.ECONNABORTED
	}
	if unexpected {
		s.log.Error("nbd: the server accepts no more connections", "err", s.err)
	}
	close(s.ended)
}

// Addrs returns where the server listens, with the port that was chosen.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, 0, len(s.listen))
	for _, e := range s.listen {
		fd, err := s.engine.DupListener(e.network, e.address)
		if err != nil {
			continue
		}
		if a := localAddr(fd); a != nil {
			addrs = append(addrs, a)
		}
		_ = unix.Close(fd)
	}
	return addrs
}

func localAddr(fd int) net.Addr {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	switch a := sa.(type) {
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: a.Name, Net: "unix"}
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: net.IP(a.Addr[:]), Port: a.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: net.IP(a.Addr[:]), Port: a.Port}
	default:
		return nil
	}
}

// Stop stops accepting, lets every connection finish what it has in flight and
// closes it. When ctx ends first, connections are cut, and the error is the
// context's; the descriptors of the exports may be closed only after their
// threads have had time to finish what the devices still work on.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	started := s.started
	hosts := make([]*Host, 0, len(s.hosts))
	for _, h := range s.hosts {
		hosts = append(hosts, h)
	}
	s.mu.Unlock()
	if started {
		s.stopListening(ctx)
	}
	// All drain at the same time; each is then waited for.
	waits := make([]*drainWait, 0, len(hosts))
	for _, h := range hosts {
		waits = append(waits, startDrain(h, nil))
	}
	var errs []error
	for _, w := range waits {
		errs = append(errs, w.wait(ctx))
	}
	return errors.Join(errs...)
}

func (s *Server) stopListening(ctx context.Context) {
	select {
	case <-s.ended:
		return
	case <-s.booted:
	}
	// The engine's own Stop looks twice a second whether it is over.
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	_ = s.engine.Stop(stopped)
	select {
	case <-s.ended:
	case <-ctx.Done():
	}
}

func (s *Server) drain(ctx context.Context, h *Host, x *export) error {
	return startDrain(h, x).wait(ctx)
}

// drainWait waits for the sessions of a host, or of one export on it.
type drainWait struct {
	h       *Host
	x       *export // nil for all
	drained chan struct{}
	quit    bool // nobody could be told: the thread is gone
}

func startDrain(h *Host, x *export) *drainWait {
	w := &drainWait{h: h, x: x, drained: make(chan struct{})}
	w.quit = !h.th.TrySend(beginDrain, w)
	return w
}

// wait waits until they are gone; when ctx ends it cuts them.
func (w *drainWait) wait(ctx context.Context) error {
	if w.quit {
		return nil
	}
	select {
	case <-w.drained:
		return nil
	case <-ctx.Done():
	}
	w.h.th.TrySend(cutAll, w)
	return fmt.Errorf("nbd: connections were cut: %w", ctx.Err())
}

func (w *drainWait) concerns(s *Session) bool { return w.x == nil || s.lane.x == w.x }

// beginDrain runs on the host's thread.
func beginDrain(arg any) {
	w := arg.(*drainWait)
	if w.x == nil {
		w.h.Drain()
	} else {
		w.x.removed = true
		for _, s := range w.h.sessions {
			if w.concerns(s) {
				s.Drain()
			}
		}
	}
	w.h.drains = append(w.h.drains, w)
	w.h.drained()
}

// cutAll runs on the host's thread.
func cutAll(arg any) {
	w := arg.(*drainWait)
	for _, s := range w.h.sessions {
		if w.concerns(s) {
			s.Kill(errDrained)
		}
	}
}

// drained tells those whose sessions are all gone.
func (h *Host) drained() {
	keep := h.drains[:0]
	for _, w := range h.drains {
		left := false
		for _, s := range h.sessions {
			left = left || w.concerns(s)
		}
		if left {
			keep = append(keep, w)
		} else {
			close(w.drained)
		}
	}
	clear(h.drains[len(keep):])
	h.drains = keep
}

// Stats returns what was counted so far. The counters of a thread are as of
// its last batch of replies.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	negotiating := len(s.talks)
	s.mu.Unlock()
	st := Stats{
		Accepted: s.accepted.Load(), Rejected: s.rejected.Load(), Failed: s.failed.Load(),
		Negotiating: negotiating, Transmitting: s.active.Load(),
	}
	for _, x := range s.catalog.Load().list {
		st.Exports = append(st.Exports, x.statistics())
	}
	return st
}
