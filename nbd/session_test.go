package nbd

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/nbd/proto"
)

func TestReadWrite(t *testing.T) {
	for _, bs := range []uint32{512, 4096, 16384} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			r := newRig(t, rigOptions{blockSize: bs, blocks: 8 << 20 / uint64(bs)})
			w := r.connect(false)
			data := make([]byte, 3<<20+17)
			rand.New(rand.NewSource(1)).Read(data)
			for _, c := range []struct{ off, n int }{
				{0, 4096},
				{8192, 65536},
				{0, 2 << 20},
				{1, 1},
				{4095, 2},
				{100, 5000},
				{1 << 20, 3<<20 + 17},
				{511, 3<<20 + 1},
				{4 << 20, 1 << 20},
				{0, 512},
				{8<<20 - 1, 1},
			} {
				e, _ := w.call(proto.CmdWrite, 0, uint64(c.off), uint32(c.n), data[:c.n])
				require.Equal(t, proto.OK, e)
				require.True(t, bytes.Equal(data[:c.n], r.dev.data[c.off:c.off+c.n]), "%+v", c)
				e, got := w.call(proto.CmdRead, 0, uint64(c.off), uint32(c.n), nil)
				require.Equal(t, proto.OK, e)
				require.True(t, bytes.Equal(data[:c.n], got))
			}
			w.finish()
			r.idle()
		})
	}
}

// TestAgainstModel compares everything with a plain slice, over random
// requests of random alignment that arrive in random pieces on several
// connections, with completions in random order. Requests in flight together
// do not overlap in bytes, but they do in blocks.
func TestAgainstModel(t *testing.T) {
	for seed := range int64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewSource(seed))
			o := rigOptions{slow: true, blocks: 16, blockSize: 4096, limits: Limits{Requests: 1 + rnd.Intn(40)}}
			if rnd.Intn(2) == 0 {
				o.blockSize, o.blocks = 512, 128
			}
			if rnd.Intn(3) == 0 {
				o.writeUnit = 4
			}
			if rnd.Intn(3) == 0 {
				o.pool = 2
			}
			r := newRig(t, o)
			model := make([]byte, len(r.dev.data))
			wires := []*wire{r.connect(false), r.connect(false), r.connect(false)}
			for range 30 {
				modelRound(t, rnd, r, wires, model)
			}
			for _, w := range wires {
				w.finish()
			}
			require.True(t, bytes.Equal(model, r.dev.data))
			r.idle()
		})
	}
}

type modelOp struct {
	cmd  proto.Command
	off  int
	data []byte
	w    *wire
	id   uint64
}

func modelRound(t *testing.T, rnd *rand.Rand, r *rig, wires []*wire, model []byte) {
	ops := map[uint64]*modelOp{}
	pos := rnd.Intn(600)
	for id := uint64(1); pos < len(model)-1 && id < 60; id++ {
		n := 1 + rnd.Intn(900)
		if rnd.Intn(4) == 0 {
			pos = (pos + 4095) &^ 4095
			n = 4096 * (1 + rnd.Intn(3))
		}
		if n = min(n, len(model)-pos); n <= 0 {
			break
		}
		op := &modelOp{off: pos, w: wires[rnd.Intn(len(wires))], id: id, data: make([]byte, n)}
		switch rnd.Intn(5) {
		case 0:
			op.cmd = proto.CmdRead
			copy(op.data, model[pos:])
		case 1:
			op.cmd = proto.CmdWriteZeroes
			clear(model[pos : pos+n])
		default:
			op.cmd = proto.CmdWrite
			rnd.Read(op.data)
			copy(model[pos:], op.data)
		}
		ops[id] = op
		pos += n + rnd.Intn(2)*rnd.Intn(3000)
	}
	for _, op := range ops {
		var body []byte
		if op.cmd == proto.CmdWrite {
			body = op.data
		}
		flags := proto.CommandFlags(rnd.Intn(2))
		op.w.in = append(op.w.in, encode(op.cmd, flags, op.id, uint64(op.off), uint32(len(op.data)), body)...)
	}
	for step := 0; ; step++ {
		require.Less(t, step, 100_000, "stuck")
		busy := len(r.dev.pending) > 0
		for _, w := range wires {
			if all := w.in; len(all) > 0 {
				busy = true
				n := 1 + rnd.Intn(len(all))
				used := w.s.Feed(all[:n])
				w.in = all[used:]
			}
		}
		r.poll()
		if len(r.dev.pending) > 0 && rnd.Intn(3) > 0 {
			r.dev.complete(rnd.Intn(len(r.dev.pending)))
			r.poll()
		}
		if !busy {
			break
		}
	}
	for _, w := range wires {
		for len(w.out) > 0 {
			e, id, ok := proto.ParseSimpleReply(w.out)
			require.True(t, ok)
			require.Equal(t, proto.OK, e)
			op := ops[id]
			require.NotNil(t, op)
			delete(ops, id)
			w.out = w.out[proto.SimpleReplySize:]
			if op.cmd == proto.CmdRead {
				require.True(t, bytes.Equal(op.data, w.out[:len(op.data)]), "read %d at %d", len(op.data), op.off)
				w.out = w.out[len(op.data):]
			}
		}
	}
	require.Empty(t, ops)
	require.True(t, bytes.Equal(model, r.dev.data))
}

func TestErrors(t *testing.T) {
	size := uint64(1024 * 4096)
	type call struct {
		cmd    proto.Command
		flags  proto.CommandFlags
		off    uint64
		length uint32
		want   proto.Errno
	}
	run := func(name string, o rigOptions, calls ...call) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			w := r.connect(false)
			for i, c := range calls {
				var data []byte
				if c.cmd == proto.CmdWrite {
					data = make([]byte, c.length)
				}
				e, _ := w.call(c.cmd, c.flags, c.off, c.length, data)
				require.Equal(t, c.want, e, "call %d: %+v", i, c)
			}
			require.False(t, w.closed)
			w.finish()
			require.NoError(t, w.s.Why())
			r.idle()
		})
	}
	run("range", rigOptions{},
		call{proto.CmdRead, 0, size, 1, proto.ErrInval},
		call{proto.CmdRead, 0, size - 1, 2, proto.ErrInval},
		call{proto.CmdRead, 0, ^uint64(0), 4096, proto.ErrInval},
		call{proto.CmdWrite, 0, size - 4096, 8192, proto.ErrNoSpc},
		call{proto.CmdWrite, 0, ^uint64(0) - 10, 4096, proto.ErrNoSpc},
		call{proto.CmdWriteZeroes, 0, size, 1, proto.ErrNoSpc},
		call{proto.CmdTrim, 0, size, 4096, proto.ErrInval},
		call{proto.CmdCache, 0, size, 4096, proto.ErrInval},
		call{proto.CmdRead, 0, size, 0, proto.OK},
		call{proto.CmdRead, 0, 0, MaxRequest + 1, proto.ErrInval},
		call{proto.CmdRead, 0, size - 1, 1, proto.OK})
	run("flags", rigOptions{},
		call{proto.CmdRead, proto.CmdFlagDF, 0, 1, proto.ErrInval},
		call{proto.CmdRead, proto.CmdFlagFUA, 0, 1, proto.OK},
		call{proto.CmdWrite, proto.CmdFlagNoHole, 0, 4096, proto.ErrInval},
		call{proto.CmdWrite, 1 << 9, 0, 4096, proto.ErrInval},
		call{proto.CmdFlush, 0, 1, 0, proto.ErrInval},
		call{proto.CmdFlush, 0, 0, 0, proto.OK},
		call{proto.CmdBlockStatus, 0, 0, 4096, proto.ErrInval},
		call{99, 0, 0, 4096, proto.ErrInval},
		call{proto.CmdCache, 0, 0, 4096, proto.OK},
		call{proto.CmdWriteZeroes, proto.CmdFlagFastZero, 0, 4096, proto.ErrNotSup},
		call{proto.CmdWriteZeroes, proto.CmdFlagNoHole, 0, 4096, proto.OK},
		call{proto.CmdTrim, proto.CmdFlagFUA, 100, 50, proto.OK},
		call{proto.CmdWrite, 0, 5, 0, proto.OK})
	run("fast zero", rigOptions{fastZero: true},
		call{proto.CmdWriteZeroes, proto.CmdFlagFastZero, 4096, 8192, proto.OK},
		call{proto.CmdWriteZeroes, proto.CmdFlagFastZero, 4096, 8191, proto.ErrNotSup})
	run("read-only", rigOptions{readOnly: true},
		call{proto.CmdWrite, 0, 0, 70000, proto.ErrPerm},
		call{proto.CmdTrim, 0, 0, 4096, proto.ErrPerm},
		call{proto.CmdWriteZeroes, 0, 0, 4096, proto.ErrPerm},
		call{proto.CmdFlush, 0, 0, 0, proto.OK},
		call{proto.CmdRead, 0, 0, 4096, proto.OK})
	run("no flush, no unmap", rigOptions{noFlush: true, noUnmap: true},
		call{proto.CmdFlush, 0, 0, 0, proto.ErrInval},
		call{proto.CmdWrite, proto.CmdFlagFUA, 0, 4096, proto.ErrInval},
		call{proto.CmdTrim, 0, 0, 4096, proto.ErrInval},
		call{proto.CmdWrite, 0, 0, 4096, proto.OK})
}

func TestDeviceErrors(t *testing.T) {
	for err, want := range map[error]proto.Errno{
		unix.EIO: proto.ErrIO, unix.ENOSPC: proto.ErrNoSpc, unix.EROFS: proto.ErrPerm, unix.EILSEQ: proto.ErrIO,
		unix.ESHUTDOWN: proto.ErrShutdown, unix.ENOTSUP: proto.ErrInval, fmt.Errorf("odd"): proto.ErrIO,
	} {
		r := newRig(t, rigOptions{})
		w := r.connect(false)
		r.dev.fail = func(*bdev.IO) error { return err }
		for _, c := range []proto.Command{proto.CmdRead, proto.CmdWrite, proto.CmdTrim, proto.CmdWriteZeroes} {
			for _, off := range []uint64{0, 5} {
				var data []byte
				if c == proto.CmdWrite {
					data = make([]byte, 9000)
				}
				e, _ := w.call(c, 0, off, 9000, data)
				require.Equal(t, want, e, "%v at %d: %v", c, off, err)
			}
		}
		r.dev.fail = nil
		e, _ := w.call(proto.CmdRead, 0, 0, 4096, nil)
		require.Equal(t, proto.OK, e)
		w.finish()
		r.idle()
	}
}

func TestFUAAndFlush(t *testing.T) {
	r := newRig(t, rigOptions{})
	w := r.connect(false)
	ok := func(e proto.Errno, _ []byte) { require.Equal(t, proto.OK, e) }
	ops := func() (s []bdev.Op) {
		for i := range r.dev.log {
			s = append(s, r.dev.log[i].Op)
		}
		r.dev.log = nil
		return s
	}
	ok(w.call(proto.CmdWrite, proto.CmdFlagFUA, 0, 4096, make([]byte, 4096)))
	require.Equal(t, []bdev.Op{bdev.OpWrite, bdev.OpFlush}, ops())
	ok(w.call(proto.CmdWrite, proto.CmdFlagFUA, 10, 10, make([]byte, 10)))
	require.Equal(t, []bdev.Op{bdev.OpRead, bdev.OpWrite, bdev.OpFlush}, ops())
	ok(w.call(proto.CmdTrim, proto.CmdFlagFUA, 4000, 10000, nil))
	require.Equal(t, []bdev.Op{bdev.OpUnmap, bdev.OpFlush}, ops())
	ok(w.call(proto.CmdWriteZeroes, proto.CmdFlagFUA, 4000, 10000, nil))
	require.Equal(t, []bdev.Op{bdev.OpRead, bdev.OpWrite, bdev.OpRead, bdev.OpWrite, bdev.OpWriteZeroes, bdev.OpFlush}, ops())
	ok(w.call(proto.CmdFlush, 0, 0, 0, nil))
	require.Equal(t, []bdev.Op{bdev.OpFlush}, ops())
	ok(w.call(proto.CmdWrite, 0, 4096, 8192, make([]byte, 8192)))
	require.Equal(t, []bdev.Op{bdev.OpWrite}, ops())
	w.finish()
}

func TestStructuredReplies(t *testing.T) {
	r := newRig(t, rigOptions{})
	w := r.connect(true)
	rand.New(rand.NewSource(3)).Read(r.dev.data)
	w.send(encode(proto.CmdRead, proto.CmdFlagDF, 5, 1000, 9000, nil))
	var c proto.Chunk
	require.True(t, proto.ParseChunk(w.out, &c))
	require.Equal(t, proto.Chunk{Flags: proto.ReplyFlagDone, Type: proto.ReplyOffsetData, Cookie: 5, Length: 9008}, c)
	require.True(t, bytes.Equal(r.dev.data[1000:10000], w.out[proto.OffsetDataHeaderSize:]))
	w.out = nil
	w.send(encode(proto.CmdRead, 0, 6, 1<<40, 9000, nil))
	require.True(t, proto.ParseChunk(w.out, &c))
	require.Equal(t, proto.Chunk{Flags: proto.ReplyFlagDone, Type: proto.ReplyError, Cookie: 6, Length: 6}, c)
	require.Len(t, w.out, proto.ErrorChunkSize)
	w.out = nil
	w.send(encode(proto.CmdRead, 0, 7, 0, 0, nil))
	require.True(t, proto.ParseChunk(w.out, &c))
	require.Equal(t, proto.Chunk{Flags: proto.ReplyFlagDone, Type: proto.ReplyNone, Cookie: 7}, c)
	w.finish()
	r.idle()
}

// TestBackPressure: a client that does not read its replies cannot make the
// server hold more than the limits, and gets everything in the end.
func TestBackPressure(t *testing.T) {
	r := newRig(t, rigOptions{limits: Limits{Requests: 8, Bytes: 256 << 10}})
	w := r.connect(false)
	w.window = 0
	const n = 200
	for i := range n {
		w.send(encode(proto.CmdRead, 0, uint64(i), 0, 65536, nil))
		require.LessOrEqual(t, w.s.held, 256<<10)
		require.LessOrEqual(t, w.s.inflight+w.s.out.unsent, 8)
	}
	require.Empty(t, w.s.Space(), "the session should not want more")
	for range n * 66000 / 1000 {
		w.window = 1000
		w.push()
		r.poll()
	}
	w.window = 1 << 30
	w.push()
	r.poll()
	for i := range n {
		e, cookie, _ := w.reply(65536)
		require.Equal(t, proto.OK, e)
		require.EqualValues(t, i, cookie)
	}
	w.finish()
	r.idle()
}

// TestThreadMemory: sessions that share too little memory wait for each other
// and all get served.
func TestThreadMemory(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4096, slow: true})
	r.host.data.max = 5 // slabs: one request of 8 MiB with its slack
	var ws []*wire
	for range 4 {
		ws = append(ws, r.connect(false))
	}
	for i, w := range ws {
		for j := range 3 {
			w.send(encode(proto.CmdRead, 0, uint64(i*10+j), uint64(j), 8<<20, nil))
		}
	}
	for len(r.dev.pending) > 0 {
		require.LessOrEqual(t, r.host.data.used, 5*slabSize)
		r.dev.complete(len(r.dev.pending) - 1)
		r.poll()
	}
	for i, w := range ws {
		seen := map[uint64]bool{}
		for range 3 {
			e, cookie, _ := w.reply(8 << 20)
			require.Equal(t, proto.OK, e)
			seen[cookie] = true
		}
		require.Len(t, seen, 3, "client %d", i)
		w.finish()
	}
	r.idle()
}

// TestVanish cuts clients off at every byte of a conversation while the device
// still works: buffers live until the device is done.
func TestVanish(t *testing.T) {
	var talk []byte
	talk = append(talk, encode(proto.CmdWrite, 0, 1, 0, 8192, make([]byte, 8192))...)
	talk = append(talk, encode(proto.CmdWrite, 0, 2, 8192, 100, make([]byte, 100))...)
	talk = append(talk, encode(proto.CmdRead, 0, 3, 0, 100_000, nil)...)
	talk = append(talk, encode(proto.CmdWrite, 0, 4, 8000, 400, make([]byte, 400))...)
	talk = append(talk, encode(proto.CmdWriteZeroes, 0, 5, 1, 20000, nil)...)
	for cut := range talk {
		if cut%101 != 0 && cut%4096 > 30 {
			continue
		}
		for mode := range 3 {
			r := newRig(t, rigOptions{slow: true})
			w := r.connect(false)
			w.send(talk[:cut])
			switch mode {
			case 0:
				w.s.EOF()
			case 1:
				w.s.Kill(unix.ECONNRESET)
			case 2:
				w.s.Drain()
			}
			r.poll()
			for len(r.dev.pending) > 0 {
				require.False(t, w.closed)
				r.dev.complete(0)
				r.poll()
			}
			require.True(t, w.closed, "cut at %d", cut)
			r.idle()
		}
	}
}

func TestGarbage(t *testing.T) {
	r := newRig(t, rigOptions{slow: true})
	w := r.connect(false)
	w.send(encode(proto.CmdRead, 0, 1, 0, 4096, nil))
	w.send(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 4))
	require.False(t, w.closed)
	r.dev.complete(0)
	r.poll()
	require.True(t, w.closed)
	require.ErrorIs(t, w.s.Why(), unix.EPROTO)
	e, _, _ := w.reply(4096)
	require.Equal(t, proto.OK, e)
	r.idle()

	w = r.connect(false)
	w.send(encode(proto.CmdWrite, 0, 1, 0, 0xfffffff0, nil))
	require.True(t, w.closed)
	require.ErrorIs(t, w.s.Why(), unix.EMSGSIZE)
	r.idle()
}

// TestDisconnect: everything that came before DISC is answered, nothing after.
func TestDisconnect(t *testing.T) {
	r := newRig(t, rigOptions{slow: true})
	w := r.connect(false)
	b := encode(proto.CmdWrite, 0, 1, 0, 4096, make([]byte, 4096))
	b = append(b, encode(proto.CmdRead, 0, 2, 0, 4096, nil)...)
	b = append(b, encode(proto.CmdDisc, 0, 0, 0, 0, nil)...)
	b = append(b, encode(proto.CmdRead, 0, 3, 0, 4096, nil)...)
	w.send(b)
	require.Len(t, r.dev.pending, 2)
	r.dev.complete(1)
	r.dev.complete(0)
	r.poll()
	require.True(t, w.closed)
	require.NoError(t, w.s.Why())
	_, c1, _ := w.reply(4096)
	_, c2, _ := w.reply(0)
	require.Equal(t, []uint64{2, 1}, []uint64{c1, c2})
	require.Empty(t, w.out)
	r.idle()
}

func TestAllocsPerRequest(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.dev.noLog = true
	w := r.connect(false)
	var batch []byte
	for i := range 32 {
		batch = append(batch, encode(proto.CmdWrite, 0, uint64(i), uint64(i)*4096, 4096, make([]byte, 4096))...)
		batch = append(batch, encode(proto.CmdRead, 0, uint64(i), uint64(i)*4096, 4096, nil)...)
		batch = append(batch, encode(proto.CmdWrite, 0, uint64(i), uint64(i)*4096+7, 512, make([]byte, 512))...)
		batch = append(batch, encode(proto.CmdRead, 0, uint64(i), uint64(i)*4096, 3<<20, nil)...)
	}
	batch = append(batch, encode(proto.CmdFlush, 0, 1, 0, 0, nil)...)
	out := make([]byte, 0, 200<<20)
	serve := func() {
		w.out, w.window = out, 1<<30
		w.in = batch
		w.push()
		r.poll()
		if len(w.in) > 0 || len(w.out) == 0 {
			t.Fatal("not served")
		}
	}
	for range 20 { // every request object has served a large request by then
		serve()
	}
	avg := testing.AllocsPerRun(5, serve)
	require.Zero(t, avg)
	w.finish()
}

// TestNoMemory: when the system refuses memory and none will come back, the
// client is told, and the connection goes on.
func TestNoMemory(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.host.data.max = 0
	w := r.connect(false)
	for _, off := range []uint64{0, 3} {
		e, _ := w.call(proto.CmdWrite, 0, off, 4096, make([]byte, 4096))
		require.Equal(t, proto.ErrNoMem, e)
	}
	r.host.data.max = 4
	e, _ := w.call(proto.CmdWrite, 0, 3, 4096, make([]byte, 4096))
	require.Equal(t, proto.OK, e)
	w.finish()
	r.idle()
}
