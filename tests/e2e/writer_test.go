//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/tests/sim/model"
)

// writer writes, trims, flushes and reads through one connection and keeps the model of what must be there.
type writer struct {
	t      *testing.T
	m      *model.Model
	r      *rand.Rand
	lo     uint64 // blocks of the device that are its own
	span   uint64
	maxLen int
	flush  int // one op of so many is a flush
	trim   int
	read   int
	fua    int

	volatile bool // the device may lose what was not flushed, in a kill too

	// mayFail says whether a request may fail with this error; nil: none may.
	mayFail func(op *client.Op) bool

	writes, flushes uint64 // completed, for the log
	blocks          uint64 // written
	failed          uint64
}

type writerOp struct {
	client.Op
	w    *writer
	op   *model.Op
	acks uint64
	mem  []byte
}

func newWriter(t *testing.T, seed uint64, lo, span uint64) *writer {
	return &writer{
		t: t, m: model.NewModel(), r: rand.New(rand.NewPCG(seed, 7)), lo: lo, span: span, maxLen: 16, flush: 20, trim: 30, read: 10, fua: 20,
	}
}

// run keeps depth requests under way until ops are done, or the server is gone, which is no error. It returns how many
// requests completed.
func (w *writer) run(c *client.Conn, depth, ops int) (completed int, gone bool) {
	w.t.Helper()
	free := make([]*writerOp, depth)
	for i := range free {
		free[i] = &writerOp{w: w, mem: make([]byte, w.maxLen*model.BlockSize)}
	}
	done := make([]*client.Op, depth)
	for completed < ops {
		for len(free) > 0 {
			o := free[len(free)-1]
			w.prepare(o)
			if err := c.Submit(&o.Op); err != nil {
				return completed, true
			}
			free = free[:len(free)-1]
		}
		if err := c.Push(); err != nil {
			return completed, true
		}
		n, err := c.Wait(done)
		if err != nil {
			return completed, true
		}
		for _, op := range done[:n] {
			o := op.Ctx.(*writerOp)
			if !w.completed(o) {
				return completed, true
			}
			completed++
			free = append(free, o)
		}
	}
	return completed, false
}

// sweep writes all that is the writer's own once, front to back.
func (w *writer) sweep(c *client.Conn, step uint64) {
	w.t.Helper()
	done := make([]*client.Op, min(32, c.Depth()))
	for at := uint64(0); at < w.span; at += step {
		if c.InFlight() >= len(done) {
			n, err := c.Wait(done)
			require.NoError(w.t, err)
			for _, op := range done[:n] {
				require.True(w.t, w.completed(op.Ctx.(*writerOp)))
			}
		}
		n := min(step, w.span-at)
		o := &writerOp{w: w, mem: make([]byte, n*model.BlockSize)}
		o.Op = client.Op{Ctx: o}
		w.write(o, w.lo+at, n, false)
		require.NoError(w.t, c.Submit(&o.Op))
	}
	w.drain(c)
}

// write makes a write of the op.
func (w *writer) write(o *writerOp, lba, n uint64, fua bool) {
	o.Command, o.Offset, o.Length = proto.CmdWrite, lba*model.BlockSize, uint32(n*model.BlockSize)
	if fua {
		o.Flags = proto.CmdFlagFUA
	}
	o.op = w.m.Submit(false, fua, lba, n)
	o.Buf = o.mem[:n*model.BlockSize]
	for i := range n {
		model.Stamp(o.Buf[i*model.BlockSize:(i+1)*model.BlockSize], o.op.ID, lba+i)
	}
}

// drain waits for what is under way.
func (w *writer) drain(c *client.Conn) {
	w.t.Helper()
	done := make([]*client.Op, 64)
	for c.InFlight() > 0 {
		n, err := c.Wait(done)
		require.NoError(w.t, err)
		for _, op := range done[:n] {
			require.True(w.t, w.completed(op.Ctx.(*writerOp)))
		}
	}
}

func (w *writer) prepare(o *writerOp) {
	n := uint64(1 + w.r.IntN(w.maxLen))
	if w.r.IntN(2) == 0 {
		n = 1
	}
	lba := w.lo + w.r.Uint64N(w.span-n+1)
	o.Op = client.Op{Offset: lba * model.BlockSize, Length: uint32(n * model.BlockSize), Ctx: o}
	o.op = nil
	switch {
	case w.flush > 0 && w.r.IntN(w.flush) == 0:
		o.Command, o.Offset, o.Length = proto.CmdFlush, 0, 0
		o.acks = w.m.Acks()
	case w.trim > 0 && w.r.IntN(w.trim) == 0:
		o.Command = proto.CmdWriteZeroes
		o.op = w.m.Submit(true, false, lba, n)
	case w.read > 0 && w.r.IntN(w.read) == 0:
		o.Command = proto.CmdRead
		o.Buf = o.mem[:n*model.BlockSize]
		o.acks = w.m.ReadBegins()
	default:
		w.write(o, lba, n, w.fua > 0 && w.r.IntN(w.fua) == 0)
	}
}

// completed books a request; false means that it failed because the connection did.
func (w *writer) completed(o *writerOp) bool {
	if o.Err != nil {
		var errno proto.Errno
		if !errors.As(o.Err, &errno) {
			return false
		}
		require.True(w.t, w.mayFail != nil && w.mayFail(&o.Op), "%v at %d: %v", o.Command, o.Offset, o.Err)
		w.failed++
		if o.op != nil {
			w.m.Fail(o.op)
		}
		return true
	}
	switch o.Command {
	case proto.CmdFlush:
		w.m.Flushed(o.acks)
		w.flushes++
	case proto.CmdRead:
		for i := range uint64(o.Length) / model.BlockSize {
			lba := o.Offset/model.BlockSize + i
			id, err := model.Identify(o.Buf[i*model.BlockSize:(i+1)*model.BlockSize], lba)
			require.NoError(w.t, err)
			require.NoError(w.t, w.m.CheckRead(lba, id, o.acks))
		}
		w.m.ReadEnds(o.acks)
	default:
		w.m.Ack(o.op)
		w.writes++
		w.blocks += o.op.Count
	}
	return true
}

// verify reads all that is the writer's own and compares it with what must be there: everything that was acknowledged,
// since the files outlive the process; with a volatile write cache everything that was flushed.
func (w *writer) verify(c *client.Conn) {
	w.t.Helper()
	found := make(map[uint64]uint64, w.span)
	const step = 256
	buf := make([]byte, step*model.BlockSize)
	for at := uint64(0); at < w.span; at += step {
		n := min(step, w.span-at)
		_, err := c.ReadAt(buf[:n*model.BlockSize], int64((w.lo+at)*model.BlockSize))
		require.NoError(w.t, err, "read of %d blocks at %d", n, w.lo+at)
		for i := range n {
			lba := w.lo + at + i
			id, err := model.Identify(buf[i*model.BlockSize:(i+1)*model.BlockSize], lba)
			require.NoError(w.t, err)
			if id != 0 && !w.m.Known(lba) {
				require.Fail(w.t, "content that was never written", "block %d, op %d", lba, id)
			}
			found[lba] = id
		}
	}
	atLeast := w.m.Killed()
	if w.volatile {
		atLeast = w.m.PowerLost()
	}
	require.NoError(w.t, w.m.Recovered(atLeast, found, false))
}

func (w *writer) String() string { return fmt.Sprintf("%d writes, %d flushes", w.writes, w.flushes) }
