package nbdsim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/ftlbdev"
	"goftl/ftl"
	"goftl/nbd"
	"goftl/nbd/proto"
	"goftl/tests/sim"
	"goftl/tests/sim/ftlsim"
	"goftl/thread"
)

// Target is an FTL behind an NBD server: a ftlsim.Target of one run.
type Target struct {
	c     *sim.Case
	cells *cells
	opt   options
}

// options are what is drawn once for a run.
type options struct {
	conns     int     // connections that carry the player's requests
	apart     bool    // the server has a thread of its own
	leave     float64 // chance, at each request, that a client leaves
	probe     float64 // ... that it sends one of its own
	stranger  float64 // ... that a client comes that carries none
	delay     int64   // the longest time that bytes travel
	room      int     // bytes that a connection holds on their way
	gulp      int     // bytes that a client reads at a time
	lag       int64
	giveUp    bool // writes whose connection was lost are given up, now and then
	status    bool // some clients ask for the status of blocks before they read them
	requests  int
	connBytes int
	allBytes  int
}

// New returns the target of a run.
func New(c *sim.Case) *Target {
	r := sim.Stream(c.Seed, "nbd", 0)
	chance := func(most float64) float64 {
		if r.IntN(2) == 0 {
			return 0
		}
		return most * r.Float64()
	}
	t := &Target{c: c, opt: options{
		conns: 1 + r.IntN(5), apart: r.IntN(2) == 0, leave: chance(0.01), probe: chance(0.2), stranger: chance(0.02),
		delay: r.Range(0, 200_000), room: int(1<<14 + r.Skewed(1<<18)), gulp: 1 << 18, giveUp: r.IntN(2) == 0,
		requests: 64, connBytes: nbd.MaxRequest, allBytes: 2 * nbd.MaxRequest,
	}}
	o := &t.opt
	if r.IntN(3) == 0 {
		o.gulp, o.lag = 1<<12+int(r.Skewed(1<<16)), r.Range(0, 100_000)
	}
	if r.IntN(2) == 0 {
		o.requests, o.connBytes = int(r.Skewed(64)), 64<<10+int(r.Skewed(1<<20))
	}
	if r.IntN(3) == 0 {
		o.allBytes = 4<<20 + 2<<20*r.IntN(4)
	}
	o.status = sim.Stream(c.Seed, "nbd status", 0).IntN(2) == 0 // not of r: what that draws stays what it was
	return t
}

// Forgives says whether a request may end with an error although no device has failed.
func (t *Target) Forgives(err error) bool { return errors.Is(err, errLost) }

// Start starts the FTL, and serves it.
func (t *Target) Start(b *ftlsim.Boot, create bool, done func(d ftlsim.Device, err error)) {
	ftlsim.FTL{}.Start(b, create, func(inner ftlsim.Device, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		d := &device{Device: inner, t: t, b: b, w: b.World, rnd: sim.Stream(t.c.Seed, "nbd", uint64(b.Life)+1), opt: &t.opt}
		if t.opt.status {
			d.more = sim.Stream(t.c.Seed, "nbd status", uint64(b.Life)+1)
		}
		if err := d.serve(inner.(interface{ FTL() *ftl.Device }).FTL()); err != nil {
			done(nil, fmt.Errorf("serve: %w", err))
			return
		}
		done(d, nil)
	})
}

// device is the FTL as its clients see it.
type device struct {
	ftlsim.Device // the FTL

	t     *Target
	b     *ftlsim.Boot
	w     *sim.World
	rnd   *sim.Rand
	more  *sim.Rand // what concerns the status of blocks; nil: nothing does
	opt   *options
	cells *cells
	mem   memory
	bd    *bdev.Bdev
	desc  *bdev.Desc
	srv   *server

	clients  []*client // that carry the player's requests, or will
	links    int       // connections that the server has not let go of, or clients have not
	ids      uint64
	cookies  uint64
	stopping bool
	answers  uint64 // that clients have got
	excused  uint64 // requests without an answer of clients that cannot have one, since the server drains
	drained  func()
}

// serve makes the server.
func (d *device) serve(dev *ftl.Device) error {
	if d.t.cells == nil {
		d.t.cells = newCells(sim.Stream(d.t.c.Seed, "cells", 0), dev.Blocks())
	}
	d.cells = d.t.cells
	if d.cells.bytes() != dev.Blocks()*4096 {
		return fmt.Errorf("the device has changed its size")
	}
	var err error
	if d.bd, err = d.b.Manager.Register(ftlbdev.New("ftl", dev)); err != nil {
		return err
	}
	if d.desc, err = d.b.Manager.Open("ftl", !d.b.ReadOnly, nil, nil, d.b.Thread); err != nil {
		return err
	}
	s := &server{d: d, th: d.b.Thread}
	if d.opt.apart {
		s.th = d.w.System().NewThread("nbd")
	}
	s.limits = nbd.Limits{
		Requests: d.opt.requests, Bytes: d.opt.connBytes, ThreadBytes: d.opt.allBytes,
		Stall: time.Duration(d.rnd.Range(1e9, 30e9)),
	}
	if s.host, err = nbd.NewHost(s.th, s.limits); err != nil {
		return err
	}
	s.cat, err = nbd.NewCatalog("", nbd.Export{Name: exportName, Desc: d.desc, Thread: s.th, FastZero: true})
	d.srv = s
	return err
}

// Blocks is the number of cells.
func (d *device) Blocks() uint64 { return d.cells.count() }

// Submit sends a request over one of the connections.
func (d *device) Submit(r *ftlsim.Request) {
	d.disturb()
	d.route(newCall(d.rnd, d.cells, r))
}

// route chooses a connection for a call.
func (d *device) route(k *call) {
	if len(d.clients) < d.opt.conns && (len(d.clients) == 0 || d.rnd.IntN(4) == 0) {
		d.clients = append(d.clients, d.connect())
	}
	d.clients[d.rnd.IntN(len(d.clients))].carry(k)
}

// connect makes a client that negotiates.
func (d *device) connect() *client {
	d.ids++
	d.links++
	c := &client{d: d, id: d.ids, talk: newTalk(d.rnd, d.more), gulp: d.opt.gulp, lag: d.opt.lag}
	l := &link{w: d.w, rnd: d.rnd}
	l.up, l.down = d.stream(), d.stream()
	l.server = &socket{l: l}
	look := func() { l.server.poke(); c.wake(0) }
	l.up.moved, l.down.moved = look, look
	c.l = l
	d.count("connections", 1)
	d.note(c, "connect", nil, proto.OK)
	d.srv.th.Send(accept, c)
	if c.talk.early {
		c.send(c.talk.script)
	}
	return c
}

func (d *device) stream() *stream {
	return &stream{w: d.w, rnd: d.rnd, delay: d.opt.delay, room: min(d.opt.room, 1+int(d.rnd.Skewed(1<<16))), most: d.opt.room}
}

// disturb does, now and then, what clients do besides carrying requests.
func (d *device) disturb() {
	o := d.opt
	if d.rnd.Chance(o.stranger) {
		d.stranger()
	}
	if len(d.clients) == 0 {
		return
	}
	c := d.clients[d.rnd.IntN(len(d.clients))]
	if d.rnd.Chance(o.probe) {
		d.count("requests of clients' own", 1)
		c.carry(d.probe(c))
	}
	if d.rnd.Chance(o.leave) {
		way := d.rnd.IntN(numWays)
		d.w.After(d.rnd.Range(0, 2*o.delay), func(any) {
			d.b.Thread.Send(func(any) { d.abandon(c, way) }, nil)
		}, nil)
	}
}

// abandon has a client leave; its place is free for another.
func (d *device) abandon(c *client, way int) {
	if i := slices.Index(d.clients, c); i >= 0 {
		d.clients = slices.Delete(d.clients, i, i+1)
	}
	c.leave(way)
}

// answered ends a call.
func (d *device) answered(c *client, k *call, e proto.Errno) {
	d.note(c, "answer "+k.q.Command.String(), k, e)
	switch {
	case k.r == nil:
		if e != k.want && (!k.fails || e != proto.ErrIO) {
			d.failf("%+v was answered with %q and not with %q", k.q, e, k.want)
		}
		return
	case e == proto.OK && k.r.Kind == ftlsim.Read:
		k.dig()
		d.cells.unpack(k.r.Bufs, k.data[k.skip:], k.r.LBA, k.r.Count)
		d.mem.give(k.data)
		k.data = nil
	}
	d.done(k, errOf(e))
}

func (d *device) done(k *call, err error) {
	k.r.Err = err
	k.r.Done(k.r)
}

// errOf is what the player is told.
func errOf(e proto.Errno) error {
	switch e {
	case proto.OK:
		return nil
	case proto.ErrPerm:
		return fmt.Errorf("nbd: %w", unix.EROFS)
	default:
		return fmt.Errorf("nbd: %w", e.Unix())
	}
}

// again sends what a player asked for again, over another connection. There is none to be had in a stop.
func (d *device) again(k *call) {
	if d.stopping {
		d.giveUp(k)
		return
	}
	d.count("requests sent again", 1)
	d.route(newCall(d.rnd, d.cells, k.r))
}

func (d *device) giveUp(k *call) {
	d.count("requests given up", 1)
	d.done(k, fmt.Errorf("nbd: %w", errLost))
}

// lost is called when a connection is over at both ends. What it had under way is sent again over another, or given up.
func (d *device) lost(c *client) {
	d.links--
	d.note(c, "over", nil, proto.OK)
	if i := slices.Index(d.clients, c); i >= 0 {
		d.clients = slices.Delete(d.clients, i, i+1)
	}
	if c.expects && len(c.calls) > 0 && !d.stopping {
		d.failf("client %d: %d requests that the server had before the end have no answer: %+v", c.id, len(c.calls), c.calls[0].q)
	}
	if d.srv.draining && !c.owed() {
		d.excused += uint64(len(c.calls))
	}
	for _, k := range append(c.calls, c.backlog...) {
		switch {
		case k.r == nil:
		case k.r.Kind == ftlsim.Read || k.r.Kind == ftlsim.Flush || !d.opt.giveUp || d.rnd.IntN(2) == 0:
			d.again(k)
		default:
			d.giveUp(k)
		}
	}
	if d.drained != nil && d.links == 0 {
		d.drained()
	}
}

// Idle says whether neither the FTL nor the server nor a client has anything to do.
func (d *device) Idle() bool {
	for _, c := range d.clients {
		if c.phase != phaseOpen || len(c.calls) > 0 || len(c.out) > 0 {
			return false
		}
	}
	return d.links == len(d.clients) && d.srv.host.Holding() == nbd.Holding{Sessions: d.links} && d.Device.Idle()
}

// Rested looks at the FTL, without the server's buffers.
func (d *device) Rested(buffers int64) error {
	return d.Device.Rested(buffers - int64(d.srv.host.Mapped()))
}

// Stop drains the server, lets go of the device, and stops the FTL.
func (d *device) Stop(fast bool, done func(err error)) {
	d.stopping = true
	for _, c := range slices.Clone(d.clients) {
		if d.rnd.IntN(2) == 0 {
			c.leave(d.rnd.IntN(numWays))
		}
	}
	d.drained = func() {
		d.drained = nil
		if h := d.srv.host.Holding(); h != (nbd.Holding{}) {
			d.failf("the server has no connections and holds %+v", h)
		}
		if d.answers+d.excused < d.srv.owes {
			d.failf("a server that drains owed %d answers, clients got %d, and %d could not get them", d.srv.owes, d.answers, d.excused)
		}
		d.desc.Close()
		d.bd.Unregister(d.b.Thread, func(_ any, err error) {
			if err != nil {
				d.failf("unregister: %w", err)
			}
			d.Device.Stop(fast, func(err error) { d.exit(func() { done(err) }) })
		}, nil)
	}
	d.srv.th.Send(drain, d.srv)
	if d.links == 0 {
		d.drained()
	}
}

// exit ends the server's thread.
func (d *device) exit(done func()) {
	th := d.srv.th
	if th == d.b.Thread {
		done()
		return
	}
	th.Send(func(any) { th.Exit() }, nil)
	d.await(th, done)
}

func (d *device) await(th *thread.Thread, done func()) {
	d.w.After(1000, func(any) {
		if !th.Exited() {
			d.await(th, done)
			return
		}
		if err := th.ExitErr(); err != nil {
			d.failf("exit: %w", err)
		}
		d.b.Thread.Send(func(any) { done() }, nil)
	}, nil)
}

func (d *device) cookie() uint64 {
	d.cookies++
	return d.cookies * 0x9e3779b97f4a7c15
}

func (d *device) count(name string, n uint64) { d.t.c.Count(name, n) }

func (d *device) failf(format string, args ...any) { d.b.Failf(format, args...) }

// note adds to the trace what a client does; the numbers are bytes.
func (d *device) note(c *client, what string, k *call, e proto.Errno) {
	var err error
	if e != proto.OK {
		err = e
	}
	var q proto.Request
	if k != nil {
		q = k.q
	}
	d.w.Note("client", what, c.id, q.Offset, uint64(q.Length), err)
}
