//go:build e2e

package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/proto"
)

// rawConn is a bare connection in transmission, for what no client library sends.
type rawConn struct {
	net.Conn
	size uint64
}

// transmission negotiates by hand, the oldest way, and enters transmission.
func (s *server) transmission() *rawConn {
	s.t.Helper()
	c := s.raw()
	require.NoError(s.t, c.SetDeadline(time.Now().Add(30*time.Second)))
	hello := make([]byte, 18)
	_, err := io.ReadFull(c, hello)
	require.NoError(s.t, err)
	require.Equal(s.t, "NBDMAGICIHAVEOPT", string(hello[:16]))
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = append(b, "IHAVEOPT"...)
	b = binary.BigEndian.AppendUint32(b, uint32(proto.OptExportName))
	b = binary.BigEndian.AppendUint32(b, 4)
	b = append(b, "ftl0"...)
	_, err = c.Write(b)
	require.NoError(s.t, err)
	answer := make([]byte, 10)
	_, err = io.ReadFull(c, answer)
	require.NoError(s.t, err)
	return &rawConn{Conn: c, size: binary.BigEndian.Uint64(answer)}
}

// request sends the header of a request.
func (c *rawConn) request(cmd proto.Command, offset uint64, length uint32) error {
	b := make([]byte, proto.RequestSize)
	proto.PutRequest(b, &proto.Request{Command: cmd, Cookie: 0x1122334455667788, Offset: offset, Length: length})
	_, err := c.Write(b)
	return err
}

// answer reads a simple reply and length bytes of data if it is no error.
func (c *rawConn) answer(length int) (proto.Errno, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		return 0, err
	}
	e, _, ok := proto.ParseSimpleReply(b)
	if !ok {
		return 0, io.ErrUnexpectedEOF
	}
	if e != proto.OK {
		return e, nil
	}
	_, err := io.CopyN(io.Discard, c, int64(length))
	return e, err
}
