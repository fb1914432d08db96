package nbd

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/nbd/proto"
)

// haggle sends options and returns the handshake and the answers.
func haggle(t *testing.T, cat *Catalog, options []byte) (*Handshake, []proto.OptionReply, []string) {
	t.Helper()
	h := NewHandshake(cat)
	_, out := h.Feed(append(binary.BigEndian.AppendUint32(nil, proto.FlagClientFixedNewstyle), options...))
	var replies []proto.OptionReply
	var contexts []string
	for len(out) > 0 {
		o, ok := proto.ParseOptionReply(out)
		require.True(t, ok)
		data := out[proto.OptionReplySize:][:o.Length]
		out = out[proto.OptionReplySize+int(o.Length):]
		replies = append(replies, o.Reply)
		if o.Reply == proto.RepMetaContext {
			id, name, ok := proto.ParseContext(data)
			require.True(t, ok)
			require.Equal(t, o.Option == proto.OptSetMetaContext, id != 0)
			contexts = append(contexts, string(name))
		}
	}
	return h, replies, contexts
}

// TestContexts: what is listed, what is selected, and what is forgotten.
func TestContexts(t *testing.T) {
	r := newRig(t, rigOptions{extents: true})
	p := newRig(t, rigOptions{})
	second := Export{Name: "second", Desc: r.desc, Thread: r.th}
	plain := Export{Name: "plain", Desc: p.desc, Thread: r.th}
	cat, err := NewCatalog("fake", r.cat.list[0].Export, second, plain)
	require.NoError(t, err)

	const list, set = proto.OptListMetaContext, proto.OptSetMetaContext
	const ack, invalid, unknown = proto.RepAck, proto.RepErrInvalid, proto.RepErrUnknown
	opt := proto.AppendOption
	ask := func(o proto.Option, name string, queries ...string) []byte {
		return opt(nil, o, proto.AppendContextRequest(nil, name, queries...))
	}
	structured := opt(nil, proto.OptStructuredReply, nil)
	alloc := proto.ContextAllocation
	for _, c := range []struct {
		what     string
		options  [][]byte
		enter    string
		last     proto.OptionReply
		contexts int
		selected bool
	}{
		{"list all", [][]byte{structured, ask(list, "fake")}, "fake", ack, 1, false},
		{"list by wildcard", [][]byte{structured, ask(list, "", "x:y", "base:")}, "fake", ack, 1, false},
		{"list by name", [][]byte{structured, ask(list, "second", alloc)}, "second", ack, 1, false},
		{"list another", [][]byte{structured, ask(list, "fake", "base:nonsense", "qemu:dirty-bitmap:x")}, "fake", ack, 0, false},
		{"list of a device that does not know", [][]byte{structured, ask(list, "plain")}, "plain", ack, 0, false},
		{"set", [][]byte{structured, ask(set, "fake", "no colon", alloc, alloc)}, "fake", ack, 1, true},
		{"set by the default name", [][]byte{structured, ask(set, "", alloc)}, "fake", ack, 1, true},
		{"set nothing", [][]byte{structured, ask(set, "fake")}, "fake", ack, 0, false},
		{"set by wildcard", [][]byte{structured, ask(set, "fake", "base:")}, "fake", ack, 0, false},
		{"set a prefix", [][]byte{structured, ask(set, "fake", "base:alloc")}, "fake", ack, 0, false},
		{"set for another export", [][]byte{structured, ask(set, "second", alloc)}, "fake", ack, 1, false},
		{"set of a device that does not know", [][]byte{structured, ask(set, "plain", alloc)}, "plain", ack, 0, false},
		{"list keeps", [][]byte{structured, ask(set, "fake", alloc), ask(list, "fake")}, "fake", ack, 2, true},
		{"set replaces", [][]byte{structured, ask(set, "fake", alloc), ask(set, "fake")}, "fake", ack, 1, false},
		{"a failure replaces too", [][]byte{structured, ask(set, "fake", alloc), ask(set, "nobody", alloc)}, "fake", unknown, 1, false},
		{"so does a bad option", [][]byte{structured, ask(set, "fake", alloc), opt(nil, set, []byte{0, 0, 0, 9})}, "fake", invalid, 1, false},
		{"and one too long", [][]byte{structured, ask(set, "fake", alloc), opt(nil, set, make([]byte, maxOptionData+1))}, "fake", proto.RepErrTooBig, 1, false},
		{"without structured replies", [][]byte{ask(set, "fake", alloc)}, "fake", invalid, 0, false},
		{"list without structured replies", [][]byte{ask(list, "fake")}, "fake", invalid, 0, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, replies, contexts := haggle(t, cat, bytes.Join(c.options, nil))
			require.Equal(t, c.last, replies[len(replies)-1])
			require.Len(t, contexts, c.contexts)
			for _, name := range contexts {
				require.Equal(t, alloc, name)
			}
			for _, enter := range [][]byte{
				opt(nil, proto.OptGo, proto.AppendInfoRequest(nil, c.enter)), opt(nil, proto.OptExportName, []byte(c.enter)),
			} {
				h := NewHandshake(cat)
				h.Feed(append(binary.BigEndian.AppendUint32(nil, proto.FlagClientFixedNewstyle), bytes.Join(append(c.options, enter), nil)...))
				require.Equal(t, c.selected, h.Result().status)
			}
		})
	}
}

// extent is one of an answer.
type extent struct{ length, state uint32 }

// status sends a request for the status of blocks and takes the answer.
func (w *wire) status(flags proto.CommandFlags, offset uint64, length uint32) ([]extent, proto.Errno) {
	t := w.r.t
	t.Helper()
	w.send(encode(proto.CmdBlockStatus, flags, 99, offset, length, nil))
	var c proto.Chunk
	require.GreaterOrEqual(t, len(w.out), proto.StructuredReplySize)
	require.True(t, proto.ParseChunk(w.out, &c))
	require.EqualValues(t, 99, c.Cookie)
	require.Equal(t, proto.ReplyFlagDone, c.Flags)
	data := w.out[proto.StructuredReplySize:][:c.Length]
	w.out = w.out[proto.StructuredReplySize+int(c.Length):]
	require.Empty(t, w.out)
	if c.Type.IsError() {
		return nil, proto.Errno(binary.BigEndian.Uint32(data))
	}
	require.Equal(t, proto.ReplyBlockStatus, c.Type)
	require.EqualValues(t, allocationID, binary.BigEndian.Uint32(data))
	var list []extent
	for data = data[4:]; len(data) > 0; data = data[proto.ExtentSize:] {
		l, s := proto.ParseExtent(data)
		list = append(list, extent{l, s})
	}
	return list, proto.OK
}

// TestBlockStatus: extents cover a beginning of what was asked for, to the byte,
// and say what the device says.
func TestBlockStatus(t *testing.T) {
	const hole = proto.StateHole | proto.StateZero
	for _, unit := range []uint32{0, 8} {
		rnd := rand.New(rand.NewPCG(1, uint64(unit)))
		r := newRig(t, rigOptions{blocks: 128, blockSize: 512, writeUnit: unit, extents: true})
		w := r.connect(true)
		for i := range 128 {
			if rnd.IntN(3) == 0 {
				r.dev.data[i*512+7] = 1
			}
		}
		for range 2000 {
			offset := rnd.Uint64N(128 * 512)
			length := 1 + rnd.Uint64N(128*512-offset)
			flags := proto.CommandFlags(0)
			if rnd.IntN(3) == 0 {
				flags = proto.CmdFlagReqOne
			}
			list, e := w.status(flags, offset, uint32(length))
			require.Equal(t, proto.OK, e)
			require.NotEmpty(t, list)
			require.True(t, flags == 0 || len(list) == 1)
			at, last := offset, uint32(99)
			for _, x := range list {
				require.NotZero(t, x.length)
				require.NotEqual(t, last, x.state)
				last = x.state
				for range x.length {
					stored := r.dev.data[at/512*512+7] != 0
					require.Equal(t, stored, x.state == 0)
					require.True(t, x.state == 0 || x.state == hole)
					at++
				}
			}
			require.LessOrEqual(t, at, offset+length)
		}
		w.finish()
		r.idle()
	}
}

// TestBlockStatusLimits: a long answer ends early; memory comes back, also when
// the client vanishes; what is wrong is refused in the form that was agreed on.
func TestBlockStatusLimits(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4096, blockSize: 512, extents: true})
	w := r.connect(true)
	many := make([]bdev.Extent, maxExtents)
	for i := range many {
		many[i] = bdev.Extent{Blocks: 1, Hole: i%2 == 0}
	}
	r.dev.fail = func(io *bdev.IO) error {
		require.Len(t, io.Extents, maxExtents)
		copy(io.Extents, many)
		io.Result = uint64(len(many))
		r.dev.fail = nil
		io.Op = bdev.OpFlush // the fake has nothing to add
		return nil
	}
	list, e := w.status(0, 0, 4096*512)
	require.Equal(t, proto.OK, e)
	require.Len(t, list, maxExtents)

	for _, c := range []struct {
		flags  proto.CommandFlags
		offset uint64
		length uint32
	}{{0, 0, 0}, {0, 4096 * 512, 1}, {0, 4095 * 512, 513}, {0, ^uint64(0), 5}, {proto.CmdFlagDF, 0, 1}, {proto.CmdFlagNoHole, 0, 1}} {
		_, e := w.status(c.flags, c.offset, c.length)
		require.Equal(t, proto.ErrInval, e)
	}
	r.dev.fail = func(*bdev.IO) error { return unix.EIO }
	_, e = w.status(0, 0, 512)
	require.Equal(t, proto.ErrIO, e)
	r.dev.fail = nil

	w.window = 0
	w.send(encode(proto.CmdBlockStatus, 0, 1, 0, 512, nil))
	require.Equal(t, statusBytes, r.host.Holding().Data)
	w.s.Kill(errHangup)
	r.poll()
	require.True(t, w.closed)

	w = r.connect(false)
	e, _ = w.call(proto.CmdBlockStatus, 0, 0, 512, nil)
	require.Equal(t, proto.ErrInval, e)
	w.finish()
	r.idle()
}
