package nbd

import (
	"bytes"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/nbd/proto"
	"goftl/thread"
)

// rig is a thread with a device and a host for sessions, polled by the test:
// no socket, no clock, no goroutine.
type rig struct {
	t    testing.TB
	sys  *thread.System
	th   *thread.Thread
	m    *bdev.Manager
	dev  *fakeDevice
	desc *bdev.Desc
	host *Host
	cat  *Catalog
	now  int64
}

type rigOptions struct {
	blocks    uint64
	blockSize uint32
	slow      bool // completions wait for rig.dev.complete
	readOnly  bool
	fastZero  bool
	limits    Limits
	noFlush   bool
	noUnmap   bool
	writeUnit uint32
	pool      int
	extents   bool // the device knows its extents
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	if o.blockSize == 0 {
		o.blockSize = 4096
	}
	if o.blocks == 0 {
		o.blocks = 1024
	}
	r := &rig{t: t, sys: thread.NewSystem()}
	r.th = r.sys.NewThread("core")
	r.m = bdev.NewManager(r.sys, nil)
	if o.pool > 0 {
		require.NoError(t, r.m.SetPool(o.pool, o.pool))
	}
	r.dev = newFakeDevice(o)
	_, err := r.m.Register(r.dev)
	require.NoError(t, err)
	r.desc, err = r.m.Open("fake", true, nil, nil, r.th)
	require.NoError(t, err)
	r.cat, err = NewCatalog("", Export{
		Name: "fake", Description: "a device of the test", Desc: r.desc, Thread: r.th, ReadOnly: o.readOnly, FastZero: o.fastZero,
	})
	require.NoError(t, err)
	r.host, err = NewHost(r.th, o.limits)
	require.NoError(t, err)
	return r
}

// poll runs the thread until it has nothing to do.
func (r *rig) poll() {
	for range 10_000 {
		r.now += 100
		r.th.Poll(0, r.now)
		if !r.th.HasMessages() {
			return
		}
	}
	r.t.Fatal("the thread does not come to rest")
}

// wire is a transport whose other end is the test.
type wire struct {
	r      *rig
	s      *Session
	in     []byte // sent by the client, not yet taken
	out    []byte // received by the client
	window int    // how many more bytes the client takes
	closed bool
}

func (r *rig) connect(structured bool) *wire {
	r.t.Helper()
	w := &wire{r: r, window: 1 << 30}
	x := r.cat.list[0]
	s, err := NewSession(r.host, Negotiated{x: x, structured: structured, status: structured && x.extents()}, w)
	require.NoError(r.t, err)
	w.s = s
	return w
}

// Kick implements Transport.
func (w *wire) Kick() { w.r.th.Post(serveWire, w) }

func serveWire(arg any) {
	w := arg.(*wire)
	if w.closed {
		return
	}
	w.s.Unkick()
	w.s.Resume()
	w.push()
}

// push moves what can move.
func (w *wire) push() {
	before := len(w.out)
	w.out = w.s.AppendOutput(w.out, w.window)
	w.window -= len(w.out) - before
	w.s.Resume()
	w.in = w.in[w.s.Feed(w.in):]
	if w.s.Finished() {
		w.closed = true
		w.s.Close()
	}
}

// send gives bytes to the server and runs it.
func (w *wire) send(b []byte) {
	w.in = append(w.in, b...)
	if !w.closed {
		w.push()
	}
	w.r.poll()
}

// request encodes a request.
func encode(c proto.Command, flags proto.CommandFlags, cookie, offset uint64, length uint32, data []byte) []byte {
	b := make([]byte, proto.RequestSize, proto.RequestSize+len(data))
	proto.PutRequest(b, &proto.Request{Command: c, Flags: flags, Cookie: cookie, Offset: offset, Length: length})
	return append(b, data...)
}

// reply takes a simple reply with n bytes of data off the output.
func (w *wire) reply(n int) (proto.Errno, uint64, []byte) {
	w.r.t.Helper()
	require.GreaterOrEqual(w.r.t, len(w.out), proto.SimpleReplySize, "no reply")
	e, cookie, ok := proto.ParseSimpleReply(w.out)
	require.True(w.r.t, ok)
	w.out = w.out[proto.SimpleReplySize:]
	if e != proto.OK {
		return e, cookie, nil
	}
	require.GreaterOrEqual(w.r.t, len(w.out), n)
	data := w.out[:n:n]
	w.out = w.out[n:]
	return e, cookie, data
}

// call sends one request and takes its reply.
func (w *wire) call(c proto.Command, flags proto.CommandFlags, offset uint64, length uint32, data []byte) (proto.Errno, []byte) {
	w.r.t.Helper()
	w.send(encode(c, flags, 77, offset, length, data))
	n := 0
	if c == proto.CmdRead {
		n = int(length)
	}
	e, cookie, got := w.reply(n)
	require.EqualValues(w.r.t, 77, cookie)
	return e, got
}

// finish ends a connection and checks that nothing is held any more.
func (w *wire) finish() {
	w.r.t.Helper()
	if !w.closed {
		w.s.EOF()
		w.r.poll()
	}
	require.True(w.r.t, w.closed)
}

func (r *rig) idle() {
	r.t.Helper()
	require.Zero(r.t, r.host.Holding())
	require.Empty(r.t, r.host.lanes)
}

// fakeDevice is a device in memory that completes at once, or one IO at a
// time when it is told to, and fails as it is told to.
type fakeDevice struct {
	info    bdev.Info
	data    []byte
	slow    bool
	pending []*bdev.IO
	log     []bdev.IO // copies of what was submitted, without buffers
	fail    func(io *bdev.IO) error
	noLog   bool
}

func newFakeDevice(o rigOptions) *fakeDevice {
	d := &fakeDevice{slow: o.slow, data: make([]byte, o.blocks*uint64(o.blockSize))}
	d.info = bdev.Info{
		Name: "fake", Product: "test", UUID: uuid.New(), BlockSize: o.blockSize, Blocks: o.blocks, WriteUnit: o.writeUnit,
		VolatileCache: true,
		Ops:           bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap, bdev.OpWriteZeroes),
	}
	if o.noFlush {
		d.info.Ops = d.info.Ops.Without(bdev.OpFlush)
	}
	if o.noUnmap {
		d.info.Ops = d.info.Ops.Without(bdev.OpUnmap)
	}
	if o.extents {
		d.info.Ops = d.info.Ops.With(bdev.OpExtents)
	}
	return d
}

func (d *fakeDevice) Info() bdev.Info { return d.info }
func (d *fakeDevice) Close() error    { return nil }
func (d *fakeDevice) NewChannel(*thread.Thread) (bdev.DriverChannel, error) {
	return (*fakeChannel)(d), nil
}

type fakeChannel fakeDevice

func (c *fakeChannel) Close() {}

func (c *fakeChannel) Submit(io *bdev.IO) {
	d := (*fakeDevice)(c)
	if !d.noLog {
		d.log = append(d.log, bdev.IO{Op: io.Op, LBA: io.LBA, Count: io.Count, FUA: io.FUA})
	}
	if d.slow {
		d.pending = append(d.pending, io)
		return
	}
	io.Complete(d.do(io))
}

// complete ends the i-th pending IO.
func (d *fakeDevice) complete(i int) {
	io := d.pending[i]
	d.pending = append(d.pending[:i], d.pending[i+1:]...)
	io.Complete(d.do(io))
}

func (d *fakeDevice) do(io *bdev.IO) error {
	if d.fail != nil {
		if err := d.fail(io); err != nil {
			return err
		}
	}
	bs := uint64(d.info.BlockSize)
	if io.Op == bdev.OpFlush {
		return nil
	}
	mem := d.data[io.LBA*bs : (io.LBA+io.Count)*bs]
	switch io.Op {
	case bdev.OpRead:
		for _, b := range io.Bufs {
			mem = mem[copy(b, mem):]
		}
	case bdev.OpWrite:
		for _, b := range io.Bufs {
			mem = mem[copy(mem, b):]
		}
	case bdev.OpWriteZeroes, bdev.OpUnmap:
		clear(mem)
	case bdev.OpExtents:
		io.Result = d.extents(io, mem)
	default:
		return bdev.ErrUnsupported
	}
	return nil
}

// extents takes blocks of zeroes for holes. It looks at no more than 64 blocks.
func (d *fakeDevice) extents(io *bdev.IO, mem []byte) (n uint64) {
	bs := int(d.info.BlockSize)
	for i := 0; i < 64 && len(mem) > 0; i++ {
		hole := bytes.Count(mem[:bs], []byte{0}) == bs
		mem = mem[bs:]
		if n > 0 && io.Extents[n-1].Hole == hole {
			io.Extents[n-1].Blocks++
			continue
		}
		if int(n) == len(io.Extents) {
			break
		}
		io.Extents[n] = bdev.Extent{Blocks: 1, Hole: hole}
		n++
	}
	return n
}
