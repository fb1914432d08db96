package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/tests/sim/model"
)

const blockSize = model.BlockSize

// writer is a client with a part of the device of its own. It writes, trims, reads and flushes through one connection
// and knows what must be there. A flush of any writer covers what all of them were answered.
type writer struct {
	c    *campaign
	name string
	m    *model.Model // under c.mu
	r    *rand.Rand
	lo   uint64 // its blocks
	span uint64
	mix
	vanish bool // it keeps leaving without a word, with requests on their way

	stop atomic.Bool
}

// mix is what a writer does.
type mix struct {
	depth  int
	maxLen uint64 // blocks
	hot    uint64 // half of the writes go to so many blocks
	flush  int    // one op of so many; 0: none
	trim   int
	read   int
	fua    int
}

func drawMix(r *rand.Rand) mix {
	return mix{
		depth: 1 + r.IntN(64), maxLen: 1 << r.IntN(7), hot: 1 << (3 + r.IntN(10)), flush: []int{0, 5, 20, 100, 1000}[r.IntN(5)],
		trim: []int{0, 10, 50}[r.IntN(3)], read: []int{0, 5, 20}[r.IntN(3)], fua: []int{0, 4, 30}[r.IntN(3)],
	}
}

// request is an op of a client, and what the model knows of it.
type request struct {
	client.Op
	op   *model.Op
	acks []uint64 // of all writers, when a flush was submitted; of this one, when a read was
	mem  []byte
}

// live keeps requests under way until the connection is lost, or stop is set; then what is under way is waited for.
// The error is that of a broken promise, nil otherwise.
func (w *writer) live(dial func(depth int) (*client.Conn, error)) error {
	w.mix = drawMix(w.r)
	if w.c.calm {
		w.flush, w.fua = 0, 0
	}
	for {
		conn, err := dial(max(w.depth, 32))
		if err != nil {
			return nil // the server is gone, or going
		}
		ops := 1 << 62
		if w.vanish {
			ops = w.r.IntN(300)
		}
		gone, err := w.session(conn, ops)
		if err != nil || gone || w.stop.Load() {
			_ = conn.Abort() // the session is over either way
			return err
		}
		w.leave(conn)
	}
}

// session runs ops requests on a connection, at whose end it waits for those under way unless it vanishes.
func (w *writer) session(conn *client.Conn, ops int) (gone bool, err error) {
	free := make([]*request, w.depth)
	for i := range free {
		free[i] = &request{mem: make([]byte, w.maxLen*blockSize)}
	}
	done := make([]*client.Op, w.depth)
	for ops > 0 {
		stop := w.stop.Load()
		for len(free) > 0 && !stop {
			q := free[len(free)-1]
			w.prepare(q)
			if err := conn.Submit(&q.Op); err != nil {
				return true, nil
			}
			free = free[:len(free)-1]
		}
		if conn.InFlight() == 0 {
			return false, nil
		}
		n, err := conn.Wait(done)
		if errors.Is(err, unix.ETIMEDOUT) {
			return true, fmt.Errorf("%s: no answer within %v", w.name, waitLimit)
		}
		if err != nil {
			return true, nil
		}
		for _, op := range done[:n] {
			q := op.Ctx.(*request)
			if err := w.answered(q); err != nil {
				return true, err
			}
			free = append(free, q)
		}
		ops -= n
	}
	return false, nil
}

// leave submits large writes, sends what the socket takes of them, and closes it: the last one ends in the middle.
func (w *writer) leave(conn *client.Conn) {
	n := 0
	for range 1 + w.r.IntN(8) {
		if conn.InFlight() >= conn.Depth() {
			break
		}
		blocks := min(uint64(1+w.r.IntN(256)), w.span)
		q := &request{mem: make([]byte, blocks*blockSize)}
		w.write(q, w.lo+w.r.Uint64N(w.span-blocks+1), blocks, false)
		if conn.Submit(&q.Op) != nil {
			break
		}
		n++
	}
	_ = conn.Push() // as much as goes
	w.c.run.stats.vanished.Add(1)
	w.c.run.stats.abandoned.Add(uint64(conn.InFlight()))
	_ = conn.Abort()
}

// write makes a request a write.
func (w *writer) write(q *request, lba, n uint64, fua bool) {
	w.c.mu.Lock()
	q.op = w.m.Submit(false, fua, lba, n)
	w.c.mu.Unlock()
	q.Op = client.Op{Command: proto.CmdWrite, Offset: lba * blockSize, Length: uint32(n * blockSize), Buf: q.mem[:n*blockSize], Ctx: q}
	if fua {
		q.Flags = proto.CmdFlagFUA
	}
	for i := range n {
		model.Stamp(q.Buf[i*blockSize:(i+1)*blockSize], q.op.ID, lba+i)
	}
}

func oneOf(r *rand.Rand, n int) bool { return n > 0 && r.IntN(n) == 0 }

func (w *writer) prepare(q *request) {
	n := min(1+w.r.Uint64N(w.maxLen), w.span)
	if w.r.IntN(2) == 0 {
		n = 1
	}
	span := w.span
	if w.r.IntN(2) == 0 {
		span = min(max(w.hot, n), span)
	}
	lba := w.lo + w.r.Uint64N(span-n+1)
	switch {
	case oneOf(w.r, w.flush):
		q.Op = client.Op{Command: proto.CmdFlush, Ctx: q}
		q.op, q.acks = nil, w.c.acks(q.acks)
	case oneOf(w.r, w.trim):
		q.Op = client.Op{Command: proto.CmdWriteZeroes, Offset: lba * blockSize, Length: uint32(n * blockSize), Ctx: q}
		if w.r.IntN(2) == 0 {
			q.Command = proto.CmdTrim
		}
		fua := oneOf(w.r, w.fua)
		if fua {
			q.Flags = proto.CmdFlagFUA
		}
		w.c.mu.Lock()
		q.op = w.m.Submit(true, fua, lba, n)
		w.c.mu.Unlock()
	case oneOf(w.r, w.read):
		q.Op = client.Op{Command: proto.CmdRead, Offset: lba * blockSize, Length: uint32(n * blockSize), Buf: q.mem[:n*blockSize], Ctx: q}
		w.c.mu.Lock()
		q.op, q.acks = nil, append(q.acks[:0], w.m.ReadBegins())
		w.c.mu.Unlock()
	default:
		w.write(q, lba, n, oneOf(w.r, w.fua))
	}
}

// answered books a request. An error is a broken promise.
func (w *writer) answered(q *request) error {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	st := &w.c.run.stats
	if q.Err != nil {
		if w.c.mayFill && errors.Is(q.Err, unix.ENOSPC) && q.op != nil {
			st.noSpace.Add(1)
			w.m.Fail(q.op)
			return nil
		}
		return fmt.Errorf("%s: %v of %d bytes at %d: %w", w.name, q.Command, q.Length, q.Offset, q.Err)
	}
	switch q.Command { //nolint:exhaustive // the rest is not sent
	case proto.CmdFlush:
		w.c.flushed(q.acks)
		st.flushes.Add(1)
	case proto.CmdRead:
		st.reads.Add(1)
		return w.checkRead(q)
	case proto.CmdWrite:
		w.m.Ack(q.op)
		st.writes.Add(1)
		st.blocks.Add(q.op.Count)
	default:
		w.m.Ack(q.op)
		st.trims.Add(1)
	}
	if q.op != nil && q.op.FUA {
		st.fuas.Add(1)
	}
	return nil
}

func (w *writer) checkRead(q *request) error {
	defer w.m.ReadEnds(q.acks[0])
	for i := range uint64(q.Length) / blockSize {
		lba := q.Offset/blockSize + i
		id, err := model.Identify(q.Buf[i*blockSize:(i+1)*blockSize], lba)
		if err == nil {
			err = w.m.CheckRead(lba, id, q.acks[0])
		}
		if err != nil {
			return fmt.Errorf("%s: read: %w", w.name, err)
		}
	}
	return nil
}

// verify reads all that is the writer's and compares it with what must be there at least.
func (w *writer) verify(conn *client.Conn, atLeast model.Point) error {
	found := make(map[uint64]uint64, w.span)
	const step = 256
	buf := make([]byte, step*blockSize)
	for at := uint64(0); at < w.span; at += step {
		n := min(step, w.span-at)
		if _, err := conn.ReadAt(buf[:n*blockSize], int64((w.lo+at)*blockSize)); err != nil {
			return fmt.Errorf("%s: read of %d blocks at %d: %w", w.name, n, w.lo+at, err)
		}
		for i := range n {
			lba := w.lo + at + i
			id, err := model.Identify(buf[i*blockSize:(i+1)*blockSize], lba)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if id != 0 && !w.m.Known(lba) {
				return fmt.Errorf("%s: block %d has the content of op %d and was never written", w.name, lba, id)
			}
			found[lba] = id
		}
	}
	st := &w.c.run.stats
	st.verified.Add(w.span)
	if err := w.m.CheckRecovered(atLeast, found, false); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	for _, lba := range w.m.Touched() {
		if w.m.CheckRead(lba, found[lba], w.m.Acks()) != nil {
			st.dropped.Add(1)
		}
	}
	w.m.Restart(found)
	return nil
}
