package client

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// effectMax bounds one request without data; longer ranges take several.
const effectMax = 1 << 30

// do sends op and waits for it, keeping what else completes for Wait.
func (c *Conn) do(op *Op) error {
	if err := c.Submit(op); err != nil {
		return err
	}
	if err := c.Push(); err != nil {
		return err
	}
	for op.busy {
		if err := c.block(); err != nil {
			return err
		}
	}
	c.forget(op)
	if op.Err != nil {
		return fmt.Errorf("nbd client: %v of %d bytes at %d: %w", op.Command, op.Length, op.Offset, op.Err)
	}
	return nil
}

// forget takes an op that do waited for out of the list for Wait.
func (c *Conn) forget(op *Op) {
	for i := c.readyN; i < len(c.ready); i++ {
		if c.ready[i] == op {
			c.ready = append(c.ready[:i], c.ready[i+1:]...)
			break
		}
	}
	if c.readyN == len(c.ready) {
		c.ready, c.readyN = c.ready[:0], 0
	}
}

// ReadAt implements io.ReaderAt.
func (c *Conn) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	short := false
	if size := c.info.SizeBytes; uint64(off) >= size {
		return 0, io.EOF
	} else if uint64(len(p)) > size-uint64(off) {
		p, short = p[:size-uint64(off)], true
	}
	done := 0
	for done < len(p) {
		n := min(len(p)-done, int(c.info.Sizes.MaxPayload))
		op := Op{Command: proto.CmdRead, Offset: uint64(off) + uint64(done), Buf: p[done : done+n]}
		if err := c.do(&op); err != nil {
			return done, err
		}
		done += n
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// WriteAt implements io.WriterAt.
func (c *Conn) WriteAt(p []byte, off int64) (int, error) { return c.WriteAtFlags(p, off, 0) }

// WriteAtFlags is WriteAt with flags, CmdFlagFUA for instance.
func (c *Conn) WriteAtFlags(p []byte, off int64, flags proto.CommandFlags) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	done := 0
	for done < len(p) {
		n := min(len(p)-done, int(c.info.Sizes.MaxPayload))
		op := Op{Command: proto.CmdWrite, Flags: flags, Offset: uint64(off) + uint64(done), Buf: p[done : done+n]}
		if err := c.do(&op); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Flush makes every write that was acknowledged before durable.
func (c *Conn) Flush() error { return c.do(&Op{Command: proto.CmdFlush}) }

// Trim says that the range is not needed any more.
func (c *Conn) Trim(off, length int64, flags proto.CommandFlags) error {
	return c.effect(proto.CmdTrim, off, length, flags)
}

// WriteZeroes makes the range read as zeroes.
func (c *Conn) WriteZeroes(off, length int64, flags proto.CommandFlags) error {
	return c.effect(proto.CmdWriteZeroes, off, length, flags)
}

// Cache says that the range will be read soon.
func (c *Conn) Cache(off, length int64) error { return c.effect(proto.CmdCache, off, length, 0) }

func (c *Conn) effect(cmd proto.Command, off, length int64, flags proto.CommandFlags) error {
	if off < 0 || length < 0 {
		return unix.EINVAL
	}
	for length > 0 {
		n := min(length, effectMax)
		op := Op{Command: cmd, Flags: flags, Offset: uint64(off), Length: uint32(n)}
		if err := c.do(&op); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}
