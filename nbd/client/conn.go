package client

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// Op is one request. The caller fills the first group of fields and submits
// it; when it comes back, Err says how it went, and the Op may be used again.
type Op struct {
	Command proto.Command
	Flags   proto.CommandFlags
	Offset  uint64
	Length  uint32 // bytes; for a write len(Buf) counts, for a read with a Buf too
	Buf     []byte // data to write; where read data goes, nil to throw it away
	Ctx     any    // the caller's

	Err error // nil, or a proto.Errno; only valid after completion

	slot int32
	busy bool
}

// Conn is a connection in its transmission phase. See the package comment for
// who may use it and when.
type Conn struct {
	fd   int
	info Info
	err  error // sticky
	gone bool

	ops  []*Op    // in flight, by slot
	gens []uint32 // by slot: the upper half of the cookie, so that a stale one is noticed
	free []int32

	hdrs []byte // ring of request headers, one of RequestSize for each slot
	hdr  int    // where the next header goes
	iov  []unix.Iovec
	sent int // entries of iov that are gone
	msg  unix.Msghdr

	in     receiver
	ready  []*Op // completed and not yet handed back, from readyN on
	readyN int
}

// maxIov is the kernel's limit for one sendmsg (UIO_MAXIOV).
const maxIov = 1024

func newConn(fd int, info Info, o Options) *Conn {
	c := &Conn{
		fd: fd, info: info,
		ops:  make([]*Op, o.Depth),
		gens: make([]uint32, o.Depth),
		free: make([]int32, o.Depth),
		hdrs: make([]byte, o.Depth*proto.RequestSize),
		iov:  make([]unix.Iovec, 0, 4*o.Depth),
	}
	for i := range c.free {
		c.free[i] = int32(o.Depth - 1 - i)
	}
	c.ready = make([]*Op, 0, o.Depth)
	c.in.init(o.ReadBuffer)
	return c
}

// Info returns what the server said about the export.
func (c *Conn) Info() *Info { return &c.info }

// Size returns the size of the export in bytes.
func (c *Conn) Size() uint64 { return c.info.SizeBytes }

// InFlight returns how many submitted Ops were not handed back yet.
func (c *Conn) InFlight() int { return len(c.ops) - len(c.free) + len(c.ready) - c.readyN }

// Depth returns how many Ops may be in flight.
func (c *Conn) Depth() int { return len(c.ops) }

// Submit queues op without a system call; Push, Wait or Poll sends it together
// with all that is queued. It returns unix.EAGAIN when Depth ops are in flight
// and unix.EINVAL for a write without data or data longer than the server
// takes.
func (c *Conn) Submit(op *Op) error {
	if c.err != nil {
		return c.err
	}
	assert.That(!op.busy, "nbd client: op submitted twice")
	if len(c.free) == 0 {
		return unix.EAGAIN
	}
	if op.Buf != nil && (op.Command == proto.CmdWrite || op.Command == proto.CmdRead) {
		op.Length = uint32(len(op.Buf))
	}
	if op.Command == proto.CmdWrite && len(op.Buf) == 0 {
		return unix.EINVAL
	}
	if op.Command <= proto.CmdWrite && op.Length > c.info.Sizes.MaxPayload {
		return unix.EINVAL
	}
	n := len(c.free) - 1
	op.slot, op.busy, op.Err = c.free[n], true, nil
	c.free = c.free[:n]
	c.ops[op.slot] = op
	c.gens[op.slot]++
	c.queue(op)
	return nil
}

// queue appends the header and the data of op to what is to be sent.
func (c *Conn) queue(op *Op) {
	if c.hdr == len(c.hdrs) {
		c.hdr = 0
	}
	h := c.hdrs[c.hdr : c.hdr+proto.RequestSize : c.hdr+proto.RequestSize]
	proto.PutRequest(h, &proto.Request{
		Flags: op.Flags, Command: op.Command, Cookie: c.cookie(op.slot), Offset: op.Offset, Length: op.Length,
	})
	c.compact()
	// Headers that follow each other in memory leave as one piece.
	last := len(c.iov) - 1
	if c.hdr > 0 && last >= c.sent && end(&c.iov[last]) == uintptr(unsafe.Pointer(&h[0])) {
		c.iov[last].Len += proto.RequestSize
	} else {
		c.iov = append(c.iov, unix.Iovec{Base: &h[0], Len: proto.RequestSize})
	}
	c.hdr += proto.RequestSize
	if op.Command == proto.CmdWrite {
		c.iov = append(c.iov, unix.Iovec{Base: &op.Buf[0], Len: uint64(len(op.Buf))})
	}
}

// end returns the address behind the vector: a number, as nothing of ours may lie there.
func end(v *unix.Iovec) uintptr { return uintptr(unsafe.Pointer(v.Base)) + uintptr(v.Len) }

// compact keeps the list from growing while a slow server leaves a rest of it.
func (c *Conn) compact() {
	if c.sent > 0 && len(c.iov)+2 > cap(c.iov) {
		n := copy(c.iov, c.iov[c.sent:])
		c.iov, c.sent = c.iov[:n], 0
	}
}

func (c *Conn) cookie(slot int32) uint64 { return uint64(c.gens[slot])<<32 | uint64(slot) }

// Push sends what is queued as far as the socket takes it, without waiting.
func (c *Conn) Push() error {
	for c.err == nil && c.sent < len(c.iov) {
		batch := c.iov[c.sent:min(len(c.iov), c.sent+maxIov)]
		c.msg = unix.Msghdr{Iov: &batch[0], Iovlen: uint64(len(batch))}
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.msg)),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			c.advance(int(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return nil
		default:
			return c.fail(fmt.Errorf("nbd client: send: %w", errno))
		}
	}
	return c.err
}

// advance drops n bytes from the front of what is to be sent.
func (c *Conn) advance(n int) {
	for n > 0 {
		v := &c.iov[c.sent]
		if uint64(n) < v.Len {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.Len -= uint64(n)
			return
		}
		n -= int(v.Len)
		c.sent++
	}
	if c.sent == len(c.iov) {
		c.iov, c.sent = c.iov[:0], 0
	}
}

// fail breaks the connection for good; the first error stays.
func (c *Conn) fail(err error) error {
	if c.err == nil {
		c.err = err
	}
	return c.err
}

// Wait sends what is queued and waits until at least one Op has completed. It
// fills done with completed Ops and returns how many. With nothing in flight
// it returns 0 at once. Order is the server's.
func (c *Conn) Wait(done []*Op) (int, error) {
	if err := c.Push(); err != nil {
		return 0, err
	}
	for {
		n := c.take(done)
		if n > 0 || len(c.free) == len(c.ops) || len(done) == 0 {
			return n, nil
		}
		if err := c.block(); err != nil {
			return 0, err
		}
	}
}

// Poll is Wait without waiting.
func (c *Conn) Poll(done []*Op) (int, error) {
	if err := c.Push(); err != nil {
		return 0, err
	}
	if n := c.take(done); n > 0 || len(c.free) == len(c.ops) {
		return n, nil
	}
	if err := c.receive(unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) {
		return 0, err
	}
	return c.take(done), nil
}

// take hands out completed ops.
func (c *Conn) take(done []*Op) int {
	n := copy(done, c.ready[c.readyN:])
	c.readyN += n
	if c.readyN == len(c.ready) {
		c.ready, c.readyN = c.ready[:0], 0
	}
	return n
}

// block waits for replies, and for room while something is left to send: a
// server that is full does not read before its replies are read.
func (c *Conn) block() error {
	if c.sent == len(c.iov) {
		err := c.receive(0)
		if errors.Is(err, unix.EAGAIN) {
			return c.fail(fmt.Errorf("nbd client: no reply in time: %w", unix.ETIMEDOUT))
		}
		return err
	}
	p := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN | unix.POLLOUT}}
	if _, err := unix.Poll(p[:], -1); err != nil && !errors.Is(err, unix.EINTR) {
		return c.fail(fmt.Errorf("nbd client: poll: %w", err))
	}
	if p[0].Revents&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0 {
		if err := c.receive(unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return c.Push()
}

// Close tells the server good-bye and closes the socket. Requests in flight
// are abandoned.
func (c *Conn) Close() error {
	if c.gone {
		return nil
	}
	c.gone = true
	if c.err == nil && c.sent == len(c.iov) {
		var b [proto.RequestSize]byte
		proto.PutRequest(b[:], &proto.Request{Command: proto.CmdDisc})
		_, _ = stream(c.fd).Write(b[:]) // best effort: the socket closes either way
	}
	_ = c.fail(unix.ECONNABORTED)
	return unix.Close(c.fd)
}

// Abort closes the socket without a word, as a client that dies does.
func (c *Conn) Abort() error {
	_ = c.fail(unix.ECONNABORTED)
	return c.Close()
}
