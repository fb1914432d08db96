package proto_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

func TestRoundTrips(t *testing.T) {
	b := make([]byte, proto.RequestSize)
	want := proto.Request{Flags: 3, Command: proto.CmdTrim, Cookie: 1 << 60, Offset: 1 << 50, Length: 1 << 31}
	var got proto.Request
	proto.PutRequest(b, &want)
	require.True(t, proto.ParseRequest(b, &got))
	require.Equal(t, want, got)
	b[0]++
	require.False(t, proto.ParseRequest(b, &got))

	proto.PutSimpleReply(b, proto.ErrNoSpc, 7)
	e, cookie, ok := proto.ParseSimpleReply(b)
	require.True(t, ok)
	require.Equal(t, proto.ErrNoSpc, e)
	require.EqualValues(t, 7, cookie)

	var c proto.Chunk
	proto.PutOffsetData(b, 9, 4096, 512)
	require.True(t, proto.ParseChunk(b, &c))
	require.Equal(t, proto.Chunk{Flags: proto.ReplyFlagDone, Type: proto.ReplyOffsetData, Cookie: 9, Length: 520}, c)
	require.False(t, c.Type.IsError())
	proto.PutErrorChunk(b, proto.ErrIO, 9)
	require.True(t, proto.ParseChunk(b, &c))
	require.True(t, c.Type.IsError())

	flags, ok := proto.ParseGreeting(proto.AppendGreeting(nil, 3))
	require.True(t, ok)
	require.EqualValues(t, 3, flags)
	_, ok = proto.ParseGreeting(make([]byte, proto.GreetingSize))
	require.False(t, ok)

	r, ok := proto.ParseInfoRequest(proto.AppendInfoRequest(nil, "x", proto.InfoBlockSize))
	require.True(t, ok)
	require.Equal(t, "x", string(r.Name))
	require.True(t, r.Wants(proto.InfoBlockSize))
	require.False(t, r.Wants(proto.InfoName))

	o, ok := proto.ParseOptionHeader(proto.AppendOption(nil, proto.OptGo, []byte("abc")))
	require.True(t, ok)
	require.Equal(t, proto.OptionHeader{Option: proto.OptGo, Length: 3}, o)
	p, ok := proto.ParseOptionReply(proto.AppendOptionError(nil, proto.OptGo, proto.RepErrUnknown, "why"))
	require.True(t, ok)
	require.Equal(t, proto.OptionReplyHeader{Option: proto.OptGo, Reply: proto.RepErrUnknown, Length: 3}, p)
	require.True(t, p.Reply.IsError())

	require.Len(t, proto.AppendExportName(nil, 1, 1, false), proto.ExportNameReplySize+proto.ExportNameZeroes)
	require.Len(t, proto.AppendExportName(nil, 1, 1, true), proto.ExportNameReplySize)
}

func TestErrnos(t *testing.T) {
	for err, want := range map[error]proto.Errno{
		nil: proto.OK, unix.EIO: proto.ErrIO, unix.ENOSPC: proto.ErrNoSpc, unix.EDQUOT: proto.ErrNoSpc,
		unix.EROFS: proto.ErrPerm, unix.EBADF: proto.ErrPerm, unix.ENOMEM: proto.ErrNoMem, unix.EINVAL: proto.ErrInval,
		unix.EOVERFLOW: proto.ErrOverflow, unix.ENOTSUP: proto.ErrNotSup, unix.ESHUTDOWN: proto.ErrShutdown,
		unix.ENODEV: proto.ErrIO, unix.EILSEQ: proto.ErrIO,
		errors.New("anything"): proto.ErrIO, fmt.Errorf("step: %w", unix.ENOSPC): proto.ErrNoSpc,
	} {
		require.Equal(t, want, proto.ErrnoOf(err), "%v", err)
	}
	for _, e := range []proto.Errno{
		proto.ErrPerm, proto.ErrIO, proto.ErrNoMem, proto.ErrInval, proto.ErrNoSpc, proto.ErrOverflow, proto.ErrNotSup, proto.ErrShutdown,
	} {
		require.Equal(t, e, proto.ErrnoOf(e.Unix()))
		require.ErrorIs(t, fmt.Errorf("x: %w", e), e.Unix())
		require.NotContains(t, e.Error(), "unknown")
	}
	require.ErrorIs(t, proto.Errno(4711), unix.EIO)
	require.NotErrorIs(t, proto.ErrIO, unix.ENOSPC)
	require.NotErrorIs(t, proto.OK, unix.Errno(0))
	require.Equal(t, "read", proto.CmdRead.String())
	require.Equal(t, "unknown", proto.Command(99).String())
}
