package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// receiver holds what was read and not yet understood.
type receiver struct {
	buf  []byte
	r, w int // buf[r:w] is unread

	dst  []byte // where the next bytes of data go
	drop uint64 // data bytes after those that nobody wants
	fin  *Op    // completes when dst and drop are done
	iov  [2]unix.Iovec
	msg  unix.Msghdr
}

// directMin is the rest of a reply's data from which on it is read straight
// to where it belongs.
const directMin = 4096

func (in *receiver) init(size int) { in.buf = make([]byte, size) }

// space moves the unread rest to the front and returns how many vectors to
// read into.
func (in *receiver) space() int {
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	n := 0
	if len(in.dst) >= directMin {
		in.iov[0] = unix.Iovec{Base: &in.dst[0], Len: uint64(len(in.dst))}
		n = 1
	}
	if in.w < len(in.buf) {
		in.iov[n] = unix.Iovec{Base: &in.buf[in.w], Len: uint64(len(in.buf) - in.w)}
		n++
	}
	return n
}

// receive reads once and completes what came in full. unix.EAGAIN is returned
// when nothing was there, everything else breaks the connection.
func (c *Conn) receive(flags uintptr) error {
	in := &c.in
	in.msg = unix.Msghdr{Iov: &in.iov[0], Iovlen: uint64(in.space())}
	for {
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&in.msg)), flags)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return unix.EAGAIN
		case errno != 0:
			return c.fail(fmt.Errorf("nbd client: receive: %w", errno))
		case n == 0:
			return c.fail(fmt.Errorf("nbd client: the server closed the connection: %w", io.ErrUnexpectedEOF))
		}
		in.accept(int(n))
		return c.parse()
	}
}

// accept accounts for n bytes that were read into the vectors of space.
func (in *receiver) accept(n int) {
	if len(in.dst) >= directMin {
		k := min(n, len(in.dst))
		in.dst = in.dst[k:]
		n -= k
	}
	in.w += n
}

// parse completes every reply that is there in full.
func (c *Conn) parse() error {
	in := &c.in
	for {
		if len(in.dst) > 0 {
			k := copy(in.dst, in.buf[in.r:in.w])
			in.dst, in.r = in.dst[k:], in.r+k
		}
		if in.drop > 0 && len(in.dst) == 0 {
			k := min(uint64(in.w-in.r), in.drop)
			in.drop, in.r = in.drop-k, in.r+int(k)
		}
		if len(in.dst) > 0 || in.drop > 0 {
			return nil
		}
		if in.fin != nil {
			c.complete(in.fin)
			in.fin = nil
		}
		more, err := c.header()
		if err != nil || !more {
			return err
		}
	}
}

// header decodes the head of a reply. It reports whether one was there.
func (c *Conn) header() (bool, error) {
	in := &c.in
	b := in.buf[in.r:in.w]
	if len(b) < proto.SimpleReplySize {
		return false, nil
	}
	if binary.BigEndian.Uint32(b) == proto.MagicStructuredReply && c.info.Structured {
		return c.chunk(b)
	}
	e, cookie, ok := proto.ParseSimpleReply(b)
	if !ok {
		return false, c.fail(ErrProtocol)
	}
	op := c.find(cookie)
	if op == nil || c.info.Structured && op.Command == proto.CmdRead {
		return false, c.fail(ErrProtocol)
	}
	in.r += proto.SimpleReplySize
	if e != proto.OK {
		op.Err = e
	} else if op.Command == proto.CmdRead {
		if op.Buf != nil {
			in.dst = op.Buf
		} else {
			in.drop = uint64(op.Length)
		}
	}
	in.fin = op
	return true, nil
}

// chunk decodes the head of a chunk of a structured reply, and what stands
// between it and the data.
func (c *Conn) chunk(b []byte) (bool, error) {
	var h proto.Chunk
	if len(b) < proto.StructuredReplySize {
		return false, nil
	}
	proto.ParseChunk(b, &h)
	op := c.find(h.Cookie)
	if op == nil {
		return false, c.fail(ErrProtocol)
	}
	in, body := &c.in, b[proto.StructuredReplySize:]
	used := proto.StructuredReplySize
	switch {
	case h.Type == proto.ReplyNone && h.Length == 0:
	case h.Type.IsError() && h.Length >= 6:
		if len(body) < 4 {
			return false, nil
		}
		op.Err = proto.Errno(binary.BigEndian.Uint32(body))
		used += 4
		in.drop = uint64(h.Length) - 4
	case (h.Type == proto.ReplyOffsetData || h.Type == proto.ReplyOffsetHole) && h.Length > 8:
		need := 8
		if h.Type == proto.ReplyOffsetHole {
			need = 12
		}
		if len(body) < need {
			return false, nil
		}
		used += need
		if !in.content(op, &h, body) {
			return false, c.fail(ErrProtocol)
		}
	default:
		return false, c.fail(ErrProtocol)
	}
	in.r += used
	if h.Flags&proto.ReplyFlagDone != 0 {
		in.fin = op
	}
	return true, nil
}

// content points the receiver at where the data of a chunk goes. It refuses
// what lies outside of the request.
func (in *receiver) content(op *Op, h *proto.Chunk, body []byte) bool {
	offset, length := binary.BigEndian.Uint64(body), uint64(h.Length)-8
	hole := h.Type == proto.ReplyOffsetHole
	if hole {
		if h.Length != 12 {
			return false
		}
		length = uint64(binary.BigEndian.Uint32(body[8:]))
	}
	if op.Command != proto.CmdRead || offset < op.Offset || length > uint64(op.Length) ||
		offset-op.Offset > uint64(op.Length)-length {
		return false
	}
	switch {
	case op.Buf == nil && !hole:
		in.drop = length
	case op.Buf != nil && hole:
		clear(op.Buf[offset-op.Offset:][:length])
	case op.Buf != nil:
		in.dst = op.Buf[offset-op.Offset:][:length]
	}
	return true
}

// find returns the op in flight that the cookie names, or nil.
func (c *Conn) find(cookie uint64) *Op {
	slot := uint64(uint32(cookie))
	if slot >= uint64(len(c.ops)) || c.ops[slot] == nil || c.cookie(int32(slot)) != cookie {
		return nil
	}
	return c.ops[slot]
}

// complete moves op to the list of those to hand back.
func (c *Conn) complete(op *Op) {
	c.ops[op.slot] = nil
	c.free = append(c.free, op.slot)
	op.busy = false
	if c.readyN > 0 && len(c.ready) == cap(c.ready) {
		c.ready = c.ready[:copy(c.ready, c.ready[c.readyN:])]
		c.readyN = 0
	}
	c.ready = append(c.ready, op)
}
