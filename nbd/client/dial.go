package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// Limits of what Dial accepts while it negotiates and of what a Conn may be
// told to hold.
const (
	DefaultDepth      = 256
	DefaultReadBuffer = 256 << 10
	MaxDepth          = 1 << 16
	maxOptionReply    = 64 << 10
	maxOptionReplies  = 1024
)

// ErrProtocol says that the server sent something that the protocol forbids.
var ErrProtocol = fmt.Errorf("nbd client: the server broke the protocol: %w", unix.EPROTO)

// Options tune a connection. The zero value is good.
type Options struct {
	Depth      int           // requests in flight at most; DefaultDepth when 0
	ReadBuffer int           // bytes read at once; DefaultReadBuffer when 0
	Timeout    time.Duration // for connecting, negotiating and one wait; 0 is for ever
	ExportName bool          // enter with the old EXPORT_NAME instead of GO
	Structured bool          // ask for structured replies
}

// Info is what the server said about the export.
type Info struct {
	Name, Description string
	SizeBytes         uint64
	Flags             proto.TransmissionFlags
	Sizes             proto.BlockSizes
	Structured        bool
}

// Dial connects to the export that the URI names and enters transmission.
func Dial(uri string) (*Conn, error) { return DialOptions(uri, Options{}) }

// DialOptions is Dial with options.
func DialOptions(uri string, o Options) (*Conn, error) {
	t, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if o.Depth == 0 {
		o.Depth = DefaultDepth
	}
	if o.ReadBuffer == 0 {
		o.ReadBuffer = DefaultReadBuffer
	}
	if o.Depth < 1 || o.Depth > MaxDepth || o.ReadBuffer < 4096 {
		return nil, fmt.Errorf("nbd client: depth %d (1 to %d) or read buffer %d (4096 and more): %w",
			o.Depth, MaxDepth, o.ReadBuffer, unix.EINVAL)
	}
	nc, err := net.DialTimeout(t.Network, t.Address, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("nbd client: %s: %w", uri, err)
	}
	defer nc.Close() // the Conn works on a duplicate
	fd, err := dupBlocking(nc, t.Network, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("nbd client: %s: %w", uri, err)
	}
	n := negotiator{rw: stream(fd), opt: o}
	info, err := n.run(t.Export)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("nbd client: %s: %w", uri, err)
	}
	return newConn(fd, info, o), nil
}

// dupBlocking takes the socket out of the Go runtime's hands: the Conn blocks
// in recvmsg, which is one system call where a poller needs two.
func dupBlocking(nc net.Conn, network string, timeout time.Duration) (int, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, unix.ENOTSUP
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var derr error
	err = rc.Control(func(s uintptr) { fd, derr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, derr); err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	// Buffers and delays are wishes; a socket that refuses them still works.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	if network == "tcp" {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if timeout > 0 {
		tv := unix.NsecToTimeval(timeout.Nanoseconds())
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	}
	return fd, nil
}

const socketBuffer = 1 << 20

// stream is a blocking socket as an io.ReadWriter.
type stream int

// Read implements io.Reader.
func (s stream) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(s), p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 && len(p) > 0 {
			return 0, io.ErrUnexpectedEOF
		}
		return max(n, 0), err
	}
}

// Write implements io.Writer.
func (s stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.SendmsgN(int(s), p[done:], nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// negotiator haggles over a blocking stream.
type negotiator struct {
	rw   io.ReadWriter
	opt  Options
	info Info
}

// run speaks fixed newstyle up to the transmission phase.
func (n *negotiator) run(export string) (Info, error) {
	if len(export) > proto.MaxStringSize {
		return Info{}, fmt.Errorf("export name of %d bytes: %w", len(export), unix.ENAMETOOLONG)
	}
	var b [proto.GreetingSize]byte
	if _, err := io.ReadFull(n.rw, b[:]); err != nil {
		return Info{}, fmt.Errorf("greeting: %w", err)
	}
	flags, ok := proto.ParseGreeting(b[:])
	if !ok || flags&proto.FlagFixedNewstyle == 0 {
		return Info{}, fmt.Errorf("no fixed newstyle greeting: %w", ErrProtocol)
	}
	n.info = Info{Name: export, Sizes: proto.BlockSizes{Min: 1, Preferred: 4096, MaxPayload: 32 << 20}}
	answer := proto.FlagClientFixedNewstyle
	noZeroes := flags&proto.FlagNoZeroes != 0
	if noZeroes {
		answer |= proto.FlagClientNoZeroes
	}
	if _, err := n.rw.Write(binary.BigEndian.AppendUint32(nil, answer)); err != nil {
		return Info{}, err
	}
	if n.opt.Structured {
		if err := n.structured(); err != nil {
			return Info{}, err
		}
	}
	if !n.opt.ExportName {
		old, err := n.enter(export)
		if err != nil || !old {
			return n.info, err
		}
	}
	return n.info, n.exportName(export, noZeroes)
}

// structured asks for structured replies and takes no for an answer.
func (n *negotiator) structured() error {
	if _, err := n.rw.Write(proto.AppendOption(nil, proto.OptStructuredReply, nil)); err != nil {
		return err
	}
	h, _, err := n.reply(proto.OptStructuredReply)
	n.info.Structured = h.Reply == proto.RepAck
	return err
}

// enter sends GO and collects what comes back. It reports whether the server
// is too old for GO.
func (n *negotiator) enter(export string) (old bool, err error) {
	data := proto.AppendInfoRequest(nil, export, proto.InfoBlockSize, proto.InfoName, proto.InfoDescription)
	if _, err := n.rw.Write(proto.AppendOption(nil, proto.OptGo, data)); err != nil {
		return false, err
	}
	seen := false
	for range maxOptionReplies {
		h, data, err := n.reply(proto.OptGo)
		switch {
		case err != nil:
			return false, err
		case h.Reply == proto.RepAck && seen:
			return false, nil
		case h.Reply == proto.RepInfo && len(data) >= 2:
			seen = n.item(data) || seen
		case h.Reply == proto.RepErrUnsup:
			return true, nil
		case h.Reply.IsError():
			return false, refusal(h.Reply, export, data)
		default:
			return false, ErrProtocol
		}
	}
	return false, ErrProtocol
}

// refusal turns an error reply into an error that carries an errno.
func refusal(r proto.OptionReply, export string, why []byte) error {
	errno := unix.EPROTO
	switch r { //nolint:exhaustive // the rest has no closer word
	case proto.RepErrUnknown:
		errno = unix.ENOENT
	case proto.RepErrPolicy, proto.RepErrTLSReqd:
		errno = unix.EPERM
	case proto.RepErrShutdown:
		errno = unix.ESHUTDOWN
	}
	return fmt.Errorf("export %q refused (reply %#x) %q: %w", export, uint32(r), why, errno)
}

// item records one piece of information. It reports whether it was the one
// that must be there.
func (n *negotiator) item(data []byte) (export bool) {
	switch proto.InfoType(binary.BigEndian.Uint16(data)) {
	case proto.InfoExport:
		size, flags, ok := proto.ParseInfoExport(data)
		if ok {
			n.info.SizeBytes, n.info.Flags = size, flags
		}
		return ok
	case proto.InfoBlockSize:
		if s, ok := proto.ParseInfoBlockSize(data); ok && s.MaxPayload > 0 {
			n.info.Sizes = s
		}
	case proto.InfoName:
		n.info.Name = string(data[2:])
	case proto.InfoDescription:
		n.info.Description = string(data[2:])
	}
	return false
}

// reply reads one answer to option o.
func (n *negotiator) reply(o proto.Option) (proto.OptionReplyHeader, []byte, error) {
	var b [proto.OptionReplySize]byte
	if _, err := io.ReadFull(n.rw, b[:]); err != nil {
		return proto.OptionReplyHeader{}, nil, fmt.Errorf("option %d: %w", o, err)
	}
	h, ok := proto.ParseOptionReply(b[:])
	if !ok || h.Option != o || h.Length > maxOptionReply {
		return h, nil, ErrProtocol
	}
	data := make([]byte, h.Length)
	_, err := io.ReadFull(n.rw, data)
	return h, data, err
}

// exportName enters the way that servers of old know.
func (n *negotiator) exportName(export string, noZeroes bool) error {
	if _, err := n.rw.Write(proto.AppendOption(nil, proto.OptExportName, []byte(export))); err != nil {
		return err
	}
	size := proto.ExportNameReplySize
	if !noZeroes {
		size += proto.ExportNameZeroes
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(n.rw, b); err != nil {
		return fmt.Errorf("export %q refused: %w", export, err)
	}
	n.info.SizeBytes = binary.BigEndian.Uint64(b)
	n.info.Flags = proto.TransmissionFlags(binary.BigEndian.Uint16(b[8:]))
	return nil
}
