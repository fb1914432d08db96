package nbd

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// FuzzHandshake: whatever a client sends, in whatever pieces, the negotiation
// says the same, holds no more than one option, and ends in a clear state.
func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	join := func(parts ...[]byte) []byte { return bytes.Join(append([][]byte{flags}, parts...), nil) }
	opt := proto.AppendOption
	info := proto.AppendInfoRequest(nil, "fake", proto.InfoBlockSize, proto.InfoName)
	f.Add(join(opt(nil, proto.OptGo, info), []byte("rest")), uint8(1))
	f.Add(join(opt(nil, proto.OptStructuredReply, nil), opt(nil, proto.OptInfo, info), opt(nil, proto.OptExportName, []byte("fake"))), uint8(7))
	f.Add(join(opt(nil, proto.OptList, nil), opt(nil, proto.OptAbort, nil)), uint8(3))
	f.Add(join(opt(nil, 99, make([]byte, 20000)), opt(nil, proto.OptGo, info[:5])), uint8(100))
	f.Add([]byte{0, 0, 0, 0, 'I', 'H'}, uint8(2))
	contexts := proto.AppendContextRequest(nil, "fake", "base:", proto.ContextAllocation)
	f.Add(join(opt(nil, proto.OptStructuredReply, nil), opt(nil, proto.OptListMetaContext, contexts), opt(nil, proto.OptSetMetaContext, contexts),
		opt(nil, proto.OptSetMetaContext, contexts[:9]), opt(nil, proto.OptGo, info)), uint8(5))
	r := newRig(f, rigOptions{blocks: 16, extents: true})
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		whole := NewHandshake(r.cat)
		used, out := whole.Feed(in)
		want := bytes.Clone(out)

		h := NewHandshake(r.cat)
		var got []byte
		n := 0
		for n < len(in) && h.State() == HandshakeOpen {
			u, out := h.Feed(in[n:min(len(in), n+1+int(step))])
			require.LessOrEqual(t, len(h.buf), proto.OptionHeaderSize+maxOptionData)
			got = append(got, out...)
			n += u
		}
		require.Equal(t, used, n)
		require.Equal(t, whole.State(), h.State())
		require.True(t, bytes.Equal(want, got))
		if h.State() == HandshakeOpen {
			require.Equal(t, len(in), used)
		}
	})
}

// FuzzSession: whatever a client sends, in whatever pieces, with whatever
// order of completions, limits hold, every reply is well-formed and belongs to
// a request, and in the end nothing is held.
func FuzzSession(f *testing.F) {
	w := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f.Add(w(encode(proto.CmdWrite, 1, 1, 100, 5000, make([]byte, 5000)), encode(proto.CmdRead, 0, 2, 0, 9000, nil)), uint8(50), uint8(3), false)
	f.Add(w(encode(proto.CmdWriteZeroes, 1, 1, 3, 50000, nil), encode(proto.CmdTrim, 0, 2, 3, 50000, nil), encode(proto.CmdFlush, 0, 3, 0, 0, nil)),
		uint8(255), uint8(1), true)
	f.Add(w(encode(proto.CmdWrite, 0, 1, 1<<40, 100, make([]byte, 100)), encode(proto.CmdDisc, 0, 0, 0, 0, nil)), uint8(0), uint8(0), false)
	f.Add(w(encode(proto.CmdWrite, 0, 1, 0, 1<<30, nil)), uint8(9), uint8(9), false)
	f.Add(w(encode(proto.CmdBlockStatus, proto.CmdFlagReqOne, 1, 5000, 1<<16, nil), encode(proto.CmdWrite, 0, 2, 9000, 1, []byte{1}),
		encode(proto.CmdBlockStatus, 0, 3, 1, 1<<17-1, nil)), uint8(255), uint8(1), true)
	f.Add(w(encode(proto.CmdRead, 4, 1, 0, 65536, nil), []byte("garbage that is no request at all")), uint8(40), uint8(2), true)
	f.Fuzz(func(t *testing.T, in []byte, step, order uint8, structured bool) {
		r := newRig(t, rigOptions{blocks: 32, slow: true, extents: true, limits: Limits{Requests: 5, Bytes: 128 << 10}})
		w := r.connect(structured)
		for len(in) > 0 && !w.closed {
			n := min(len(in), 1+int(step))
			w.send(in[:n])
			in = in[n:]
			if p := len(r.dev.pending); p > 0 && order%2 == 0 {
				r.dev.complete(int(order) % p)
				r.poll()
			}
			require.LessOrEqual(t, w.s.inflight+w.s.out.unsent, 5)
			if len(w.in) > 1<<20 {
				break
			}
		}
		for range 100_000 {
			if p := len(r.dev.pending); p > 0 {
				r.dev.complete(int(order) % p)
			}
			r.poll()
			if !w.closed {
				w.push()
			}
			if len(r.dev.pending) == 0 && (w.closed || len(w.in) == 0) {
				break
			}
		}
		if !w.closed {
			w.s.EOF()
			r.poll()
			for len(r.dev.pending) > 0 {
				r.dev.complete(0)
				r.poll()
			}
		}
		require.True(t, w.closed)
		r.idle()
	})
}

// FuzzNegotiationData: the decoders of option data never read beyond what is
// there, and what they accept is what was encoded.
func FuzzNegotiationData(f *testing.F) {
	f.Add(proto.AppendInfoRequest(nil, "name", proto.InfoName, proto.InfoBlockSize))
	f.Add(proto.AppendServer(nil, "name", "description"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0})
	f.Add(proto.AppendContextRequest(nil, "name", "base:", proto.ContextAllocation))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := proto.ParseInfoRequest(b); ok {
			require.LessOrEqual(t, len(r.Name)+6, len(b))
			_ = r.Wants(proto.InfoName)
		}
		if r, ok := proto.ParseContextRequest(b); ok {
			require.LessOrEqual(t, len(r.Name)+8, len(b))
			require.False(t, r.Empty() && r.Wants(""))
			_ = r.Wants(proto.ContextAllocation)
		}
		if id, name, ok := proto.ParseContext(b); ok {
			require.Equal(t, b, proto.AppendContext(nil, id, string(name)))
		}
		if name, desc, ok := proto.ParseServer(b); ok {
			require.Equal(t, b, proto.AppendServer(nil, string(name), string(desc)))
		}
		if size, flags, ok := proto.ParseInfoExport(b); ok {
			require.Equal(t, b, proto.AppendInfoExport(nil, size, flags))
		}
		if s, ok := proto.ParseInfoBlockSize(b); ok {
			require.Equal(t, b, proto.AppendInfoBlockSize(nil, s))
		}
	})
}

// FuzzTransmissionData: requests, replies and chunks that are accepted are what was encoded.
func FuzzTransmissionData(f *testing.F) {
	f.Add(encode(proto.CmdWrite, proto.CmdFlagFUA, 1<<63, 1<<40, 1<<31, nil))
	b := make([]byte, proto.MaxReplyHeaderSize)
	proto.PutSimpleReply(b, proto.ErrNoSpc, 77)
	f.Add(bytes.Clone(b))
	proto.PutOffsetData(b, 1, 2, 3)
	f.Add(bytes.Clone(b))
	proto.PutErrorChunk(b, proto.ErrIO, 9)
	f.Add(bytes.Clone(b))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := make([]byte, proto.MaxReplyHeaderSize)
		copy(b, in)
		again := bytes.Clone(b)
		var q proto.Request
		var c proto.Chunk
		if proto.ParseRequest(b, &q) {
			_ = q.Command.String()
			proto.PutRequest(again, &q)
		} else if e, cookie, ok := proto.ParseSimpleReply(b); ok {
			_ = e.Error()
			require.True(t, e == proto.OK || errors.Is(e, e.Unix()))
			proto.PutSimpleReply(again, e, cookie)
		} else if proto.ParseChunk(b, &c) {
			proto.PutChunk(again, &c)
		}
		require.Equal(t, b, again)
	})
}

// FuzzEndpoint: an address to listen on is understood as it was written, or refused.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"unix:/run/nbd.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0", "tcp::1", "unix:", "unix:a%b", "udp:x:1", ":", "unix:" + strings.Repeat("x", 108)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseEndpoint(text)
		if err != nil {
			var errno unix.Errno
			require.ErrorAs(t, err, &errno)
			return
		}
		require.Equal(t, text, e.network+":"+e.address)
		require.NotContains(t, e.address, "\x00")
		if e.network == "unix" {
			require.LessOrEqual(t, len(e.address), 107)
		}
	})
}

// FuzzLimits: limits are completed or refused; complete ones stay as they are.
func FuzzLimits(f *testing.F) {
	f.Add(0, 0, 0, 0, 0, int64(0))
	f.Add(1, 64<<10, 4<<20, 1, 1, int64(1e9))
	f.Add(-1, 1<<41, 1, 1<<21, -5, int64(5))
	f.Fuzz(func(t *testing.T, requests, bytes, thread, conns, ticks int, stall int64) {
		l := Limits{Requests: requests, Bytes: bytes, ThreadBytes: thread, Conns: conns, HandshakeTicks: ticks, Stall: time.Duration(stall)}
		if err := l.complete(); err != nil {
			require.ErrorIs(t, err, unix.EINVAL)
			return
		}
		require.True(t, l.Requests > 0 && l.Bytes > 0 && l.ThreadBytes > 0 && l.Conns > 0 && l.HandshakeTicks > 0 && l.Stall > 0)
		again := l
		require.NoError(t, again.complete())
		require.Equal(t, l, again)
	})
}
