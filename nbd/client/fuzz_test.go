package client

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

type script struct{ io.Reader }

func (script) Write(p []byte) (int, error) { return len(p), nil }

// FuzzNegotiate: a server that says anything at all gets an error or an
// export; it cannot make the client read without end or hold much.
func FuzzNegotiate(f *testing.F) {
	hello := proto.AppendGreeting(nil, 3)
	ok := proto.AppendOptionReply(hello, proto.OptGo, proto.RepInfo, proto.AppendInfoExport(nil, 1<<20, 0xd6d))
	f.Add(proto.AppendOptionReply(ok, proto.OptGo, proto.RepAck, nil), false)
	f.Add(proto.AppendOptionReply(hello, proto.OptGo, proto.RepErrUnsup, nil), false)
	f.Add(proto.AppendExportName(bytes.Clone(hello), 4096, 1, true), true)
	f.Add([]byte("HTTP/1.1 400 Bad Request"), false)
	f.Fuzz(func(t *testing.T, b []byte, old bool) {
		n := negotiator{rw: script{bytes.NewReader(b)}, opt: Options{ExportName: old, Structured: !old}}
		info, err := n.run("x")
		if err == nil {
			require.NotZero(t, info.Sizes.MaxPayload)
		}
	})
}

// FuzzReplies: a server that answers anything at all completes requests or
// breaks the connection, and touches no memory but the buffers it was given.
func FuzzReplies(f *testing.F) {
	simple := func(e proto.Errno, cookie uint64, n int) []byte {
		b := make([]byte, proto.SimpleReplySize+n)
		proto.PutSimpleReply(b, e, cookie)
		return b
	}
	f.Add(append(simple(0, 1<<32, 5000), simple(proto.ErrIO, 1<<32|1, 0)...), false)
	f.Add(append(simple(0, 1<<32|2, 0), simple(0, 1<<32|2, 0)...), false)
	b := make([]byte, proto.OffsetDataHeaderSize+5000)
	proto.PutOffsetData(b, 1<<32, 0, 5000)
	f.Add(append(b, simple(0, 1<<32|2, 0)...), true)
	b = make([]byte, proto.ErrorChunkSize)
	proto.PutErrorChunk(b, proto.ErrInval, 1<<32)
	f.Add(b, true)
	f.Fuzz(func(t *testing.T, b []byte, structured bool) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		info := Info{SizeBytes: 1 << 20, Sizes: proto.BlockSizes{MaxPayload: 1 << 20}, Structured: structured}
		c := newConn(p[0], info, Options{Depth: 4, ReadBuffer: 4096})
		defer c.Abort() //nolint:errcheck // a test
		guard := bytes.Repeat([]byte{0xa5}, 7000)
		ops := []*Op{
			{Command: proto.CmdRead, Buf: guard[1000:6000:6000]},
			{Command: proto.CmdRead, Offset: 100, Length: 9000},
			{Command: proto.CmdFlush},
		}
		for _, op := range ops {
			require.NoError(t, c.Submit(op))
		}
		require.NoError(t, c.Push())
		_, err = unix.Write(p[1], b[:min(len(b), 60_000)])
		require.NoError(t, err)
		require.NoError(t, unix.Close(p[1]))
		done := make([]*Op, 4)
		for {
			n, err := c.Wait(done)
			if err != nil || n == 0 {
				break
			}
		}
		require.Equal(t, bytes.Repeat([]byte{0xa5}, 1000), guard[:1000])
		require.Equal(t, bytes.Repeat([]byte{0xa5}, 1000), guard[6000:])
	})
}

// FuzzURI: where an export is found is read or refused, and what was read can be dialled.
func FuzzURI(f *testing.F) {
	for _, s := range []string{
		"nbd://host/export", "nbd://[::1]:99/", "nbd+unix:///ftl0?socket=/run/nbd.sock", "nbd+unix:///?socket=", "nbds://x", "nbd://", "nbd://h:/%41",
		"nbd+unix:///a?socket=/x&socket=/y", "%zz",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		g, err := ParseURI(uri)
		if err != nil {
			require.ErrorIs(t, err, unix.EINVAL)
			return
		}
		switch g.Network {
		case "unix":
			require.NotEmpty(t, g.Address)
			require.NotContains(t, g.Address, "\x00")
		case "tcp":
			host, port, err := net.SplitHostPort(g.Address)
			require.NoError(t, err)
			require.NotEmpty(t, host)
			require.NotEmpty(t, port)
		default:
			require.Fail(t, "network", g.Network)
		}
	})
}
