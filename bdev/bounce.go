package bdev

import (
	"bytes"

	"goftl/iobuf"
)

// The layer's own buffers, used when there is no iobuf pool, and for writes to
// zones when the pool has none: what waited would be overtaken by the writes
// behind it. They are never more than the writes that users have under way.
const (
	bounceBytes = 128 << 10
	bouncesKept = maxTransferChildren
)

// send gives a part to the driver, once it has the buffer that it needs.
func (k *core) send(c *IO) {
	x := c.child
	if x.need == 0 {
		k.drive(c)
		return
	}
	c.state = ioHeld
	if pool := k.b.m.pool; pool != nil && x.need <= pool.LargeSize() {
		if k.iobufs == nil {
			k.iobufs = pool.Channel(k.th)
		}
		waiter := &x.waiter
		inOrder := c.Op == OpWrite && k.limits.zone != 0
		if inOrder {
			waiter = nil
		}
		if x.buf = k.iobufs.Get(x.need, waiter); x.buf != nil {
			k.haveBuffer(c)
			return
		}
		if !inOrder {
			return
		}
	}
	if x.buf = k.ownBuffer(x.need); x.buf == nil {
		c.err = ErrNoBuffer
		k.finishLater(c)
		return
	}
	x.own = true
	k.haveBuffer(c)
}

// bufferReady is called when a part that waited for a buffer gets it.
func bufferReady(arg any, buf []byte) {
	c := arg.(*IO)
	c.child.buf = buf
	c.k.haveBuffer(c)
}

func (k *core) haveBuffer(c *IO) {
	x := c.child
	n := c.Count << k.shift
	c.one[0] = x.buf[:n:n]
	c.Bufs = c.one[:]
	if md := x.buf[n:x.need]; len(md) > 0 {
		c.MD = md
	}
	if p := x.parent; c.Op == OpWrite || c.Op == OpZoneAppend {
		bufs := p.Bufs
		if p.stage == stageWrite {
			bufs = p.Bufs2
		}
		gather(c.one[0], bufs, x.off<<k.shift)
	}
	k.drive(c)
}

// ownBuffer returns memory that does not come from the iobuf pool.
func (k *core) ownBuffer(need int) []byte {
	if need <= bounceBytes {
		if n := len(k.bounces); n > 0 {
			buf := k.bounces[n-1]
			k.bounces = k.bounces[:n-1]
			return buf[:need]
		}
		if buf := iobuf.Alloc(bounceBytes); buf != nil {
			return buf[:need]
		}
		return nil
	}
	return iobuf.Alloc(need)
}

func (k *core) putBuffer(buf []byte, own bool) {
	switch {
	case buf == nil:
	case !own:
		k.iobufs.Put(buf)
	case cap(buf) == bounceBytes && len(k.bounces) < bouncesKept:
		k.bounces = append(k.bounces, buf)
	default:
		iobuf.Free(buf)
	}
}

// bounceBlocks returns how many blocks go through one buffer of the layer,
// with their metadata or without.
func (k *core) bounceBlocks(md bool) uint64 {
	size := uint64(bounceBytes)
	if pool := k.b.m.pool; pool != nil {
		size = uint64(pool.LargeSize())
	}
	block := uint64(1)<<k.shift + k.mdSize
	if !md && k.mdSize == 0 {
		block = 1 << k.shift
	}
	return max(size/block, 1)
}

// gather fills dst from bufs, from the byte off on.
func gather(dst []byte, bufs [][]byte, off uint64) {
	for _, b := range bufs {
		if len(dst) == 0 {
			return
		}
		if off >= uint64(len(b)) {
			off -= uint64(len(b))
			continue
		}
		dst = dst[copy(dst, b[off:]):]
		off = 0
	}
}

// scatter copies src into bufs, from the byte off on.
func scatter(bufs [][]byte, off uint64, src []byte) {
	for _, b := range bufs {
		if len(src) == 0 {
			return
		}
		if off >= uint64(len(b)) {
			off -= uint64(len(b))
			continue
		}
		src = src[copy(b[off:], src):]
		off = 0
	}
}

// equal compares data with bufs, from the byte off on.
func equal(bufs [][]byte, off uint64, data []byte) bool {
	for _, b := range bufs {
		if len(data) == 0 {
			return true
		}
		if off >= uint64(len(b)) {
			off -= uint64(len(b))
			continue
		}
		n := min(len(b)-int(off), len(data))
		if !bytes.Equal(b[off:int(off)+n], data[:n]) {
			return false
		}
		data = data[n:]
		off = 0
	}
	return len(data) == 0
}
