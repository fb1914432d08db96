package nbd

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"goftl/nbd/proto"
)

// The traces below testdata are what this package is meant to do, in words. To
// rewrite them: go test ./nbd -run Trace -rewrite; then read the difference.

var optionNames = map[string]proto.Option{
	"export-name": proto.OptExportName, "abort": proto.OptAbort, "list": proto.OptList, "starttls": proto.OptStartTLS,
	"info": proto.OptInfo, "go": proto.OptGo, "structured-reply": proto.OptStructuredReply,
	"set-meta-context": proto.OptSetMetaContext, "extended-headers": proto.OptExtendedHeaders, "peek": 4, "unknown": 999,
}

var replyNames = map[proto.OptionReply]string{
	proto.RepAck: "ACK", proto.RepServer: "SERVER", proto.RepInfo: "INFO", proto.RepErrUnsup: "ERR_UNSUP",
	proto.RepErrInvalid: "ERR_INVALID", proto.RepErrUnknown: "ERR_UNKNOWN", proto.RepErrTooBig: "ERR_TOO_BIG",
}

var infoNames = map[string]proto.InfoType{
	"export": proto.InfoExport, "name": proto.InfoName, "description": proto.InfoDescription, "block-size": proto.InfoBlockSize,
	"odd": 77,
}

func TestTraceHandshake(t *testing.T) {
	datadriven.Walk(t, "testdata/handshake", func(t *testing.T, path string) {
		r := newRig(t, rigOptions{})
		second := Export{Name: "second", Desc: r.desc, Thread: r.th, ReadOnly: true}
		cat, err := NewCatalog("fake", r.cat.list[0].Export, second)
		require.NoError(t, err)
		var h *Handshake
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var b []byte
			switch d.Cmd {
			case "connect":
				h = NewHandshake(cat)
				flags, ok := proto.ParseGreeting(h.Greeting())
				return fmt.Sprintf("greeting ok=%v flags=%#x\n", ok, flags)
			case "flags":
				v, err := strconv.ParseUint(d.CmdArgs[0].Key, 0, 32)
				require.NoError(t, err)
				b = binary.BigEndian.AppendUint32(nil, uint32(v))
			case "option":
				b = traceOption(t, d)
			case "raw":
				raw, err := hex.DecodeString(strings.Join(strings.Fields(d.Input), ""))
				require.NoError(t, err)
				b = raw
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			if d.HasArg("bytewise") {
				return feedBytewise(h, b)
			}
			used, out := h.Feed(b)
			return describeNegotiation(h, out, len(b)-used)
		})
	})
}

// feedBytewise sends one byte at a time; the result must be the same.
func feedBytewise(h *Handshake, b []byte) string {
	var all []byte
	rest := 0
	for i := range b {
		used, out := h.Feed(b[i : i+1])
		all = append(all, out...)
		rest += 1 - used
	}
	return describeNegotiation(h, all, rest)
}

// traceOption encodes "option go name=disk items=(name,block-size) extra=N".
func traceOption(t *testing.T, d *datadriven.TestData) []byte {
	o, ok := optionNames[d.CmdArgs[0].Key]
	require.True(t, ok, "option %s", d.CmdArgs[0].Key)
	var data []byte
	name := ""
	d.MaybeScanArgs(t, "name", &name)
	switch o {
	case proto.OptExportName:
		data = []byte(name)
	case proto.OptGo, proto.OptInfo:
		var items []proto.InfoType
		if a, ok := d.Arg("items"); ok {
			for _, v := range a.Vals {
				items = append(items, infoNames[v])
			}
		}
		data = proto.AppendInfoRequest(nil, name, items...)
	default:
	}
	extra := 0
	if d.MaybeScanArgs(t, "extra", &extra); extra < 0 {
		data = data[:len(data)+extra]
	} else {
		data = append(data, make([]byte, extra)...)
	}
	return append(proto.AppendOption(nil, o, data), d.Input...)
}

// describeNegotiation tells what the server said and what it makes of the
// client.
func describeNegotiation(h *Handshake, out []byte, rest int) string {
	var s strings.Builder
	for len(out) >= proto.OptionReplySize {
		head, ok := proto.ParseOptionReply(out)
		if !ok {
			break
		}
		data := out[proto.OptionReplySize:][:head.Length]
		out = out[proto.OptionReplySize+int(head.Length):]
		fmt.Fprintf(&s, "%s", replyNames[head.Reply])
		switch {
		case head.Reply == proto.RepInfo:
			describeInfo(&s, data)
		case head.Reply == proto.RepServer:
			name, desc, _ := proto.ParseServer(data)
			fmt.Fprintf(&s, " %q %q", name, desc)
		case len(data) > 0:
			fmt.Fprintf(&s, " %q", data)
		}
		s.WriteByte('\n')
	}
	if len(out) > 0 {
		fmt.Fprintf(&s, "size=%d flags=%#x and %d bytes\n", binary.BigEndian.Uint64(out), binary.BigEndian.Uint16(out[8:]), len(out)-10)
	}
	switch h.State() {
	case HandshakeOpen:
		s.WriteString("open\n")
	case HandshakeClose:
		s.WriteString("close\n")
	case HandshakeDone:
		n := h.Result()
		fmt.Fprintf(&s, "transmission export=%q structured=%v, %d bytes left\n", n.Export(), n.structured, rest)
	}
	return s.String()
}

func describeInfo(s *strings.Builder, data []byte) {
	switch proto.InfoType(binary.BigEndian.Uint16(data)) {
	case proto.InfoExport:
		size, flags, ok := proto.ParseInfoExport(data)
		fmt.Fprintf(s, " export size=%d flags=%#x ok=%v", size, flags, ok)
	case proto.InfoBlockSize:
		b, ok := proto.ParseInfoBlockSize(data)
		fmt.Fprintf(s, " block-size %+v ok=%v", b, ok)
	case proto.InfoName:
		fmt.Fprintf(s, " name %q", data[2:])
	case proto.InfoDescription:
		fmt.Fprintf(s, " description %q", data[2:])
	default:
		fmt.Fprintf(s, " %x", data)
	}
}

var commandByName = func() map[string]proto.Command {
	m := map[string]proto.Command{}
	for c := proto.Command(0); c < proto.NumCommands; c++ {
		m[c.String()] = c
	}
	return m
}()

var flagNames = map[string]proto.CommandFlags{
	"fua": proto.CmdFlagFUA, "no-hole": proto.CmdFlagNoHole, "df": proto.CmdFlagDF, "fast": proto.CmdFlagFastZero,
}

// sessionTrace is one connection set to a device whose IOs complete when the
// trace says so.
type sessionTrace struct {
	t     *testing.T
	r     *rig
	wires []*wire
	reads map[uint64]uint32 // by cookie, for the length of replies
	seen  int               // entries of the device's log that were told
}

func TestTraceSession(t *testing.T) {
	datadriven.Walk(t, "testdata/session", func(t *testing.T, path string) {
		st := &sessionTrace{t: t}
		datadriven.RunTest(t, path, st.run)
	})
}

func (st *sessionTrace) run(t *testing.T, d *datadriven.TestData) string {
	which := 0
	d.MaybeScanArgs(t, "conn", &which)
	switch d.Cmd {
	case "init":
		o := rigOptions{slow: true}
		bs, reqs := 4096, 0
		d.MaybeScanArgs(t, "block-size", &bs)
		d.MaybeScanArgs(t, "requests", &reqs)
		o.blockSize, o.limits.Requests = uint32(bs), reqs
		conns := 1
		d.MaybeScanArgs(t, "conns", &conns)
		*st = sessionTrace{t: t, r: newRig(t, o), reads: map[uint64]uint32{}}
		for range conns {
			st.wires = append(st.wires, st.r.connect(d.HasArg("structured")))
		}
		return ""
	case "send":
		var b []byte
		for _, line := range strings.Split(d.Input, "\n") {
			b = append(b, st.parse(line)...)
		}
		st.wires[which].send(b)
	case "complete":
		n := 0
		d.ScanArgs(t, "io", &n)
		st.r.dev.complete(n)
		st.r.poll()
	case "complete-all":
		for len(st.r.dev.pending) > 0 {
			st.r.dev.complete(0)
			st.r.poll()
		}
	case "window": // how much the client reads
		d.ScanArgs(t, "bytes", &st.wires[which].window)
		st.wires[which].push()
		st.r.poll()
	case "eof":
		st.wires[which].s.EOF()
		st.r.poll()
	case "drain":
		st.wires[which].s.Drain()
		st.r.poll()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return st.describe()
}

// parse encodes "write 5 off=0 len=10 fua": a command, its cookie, its range,
// flags. The data of a write is its cookie, repeated; "cut=n" leaves the last
// n bytes away.
func (st *sessionTrace) parse(line string) []byte {
	f := strings.Fields(line)
	c, ok := commandByName[f[0]]
	require.True(st.t, ok, line)
	cookie, err := strconv.ParseUint(f[1], 0, 64)
	require.NoError(st.t, err)
	q := proto.Request{Command: c, Cookie: cookie}
	cut := 0
	for _, w := range f[2:] {
		key, val, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseUint(val, 0, 64)
		switch key {
		case "off":
			q.Offset = n
		case "len":
			q.Length = uint32(n)
		case "cut":
			cut = int(n)
		default:
			require.Contains(st.t, flagNames, key)
			q.Flags |= flagNames[key]
		}
	}
	b := make([]byte, proto.RequestSize)
	proto.PutRequest(b, &q)
	switch c {
	case proto.CmdWrite:
		for range q.Length {
			b = append(b, byte(cookie))
		}
	case proto.CmdRead:
		st.reads[cookie] = q.Length
	default:
	}
	return b[:len(b)-cut]
}

// describe tells what reached the device, what was answered and what is held.
func (st *sessionTrace) describe() string {
	var s strings.Builder
	for ; st.seen < len(st.r.dev.log); st.seen++ {
		io := &st.r.dev.log[st.seen]
		fmt.Fprintf(&s, "device: %v lba=%d count=%d\n", io.Op, io.LBA, io.Count)
	}
	for i, w := range st.wires {
		for len(w.out) > 0 {
			n := st.describeReply(&s, i, w.out)
			if n == 0 {
				fmt.Fprintf(&s, "conn %d: %d bytes of a reply\n", i, len(w.out))
				break
			}
			w.out = w.out[n:]
		}
		switch {
		case w.closed && w.s.Why() != nil:
			fmt.Fprintf(&s, "conn %d: closed: %v\n", i, w.s.Why())
		case w.closed:
			fmt.Fprintf(&s, "conn %d: closed\n", i)
		default:
			fmt.Fprintf(&s, "conn %d: inflight=%d unsent=%d paused=%v\n", i, w.s.inflight, w.s.out.unsent, w.s.paused)
		}
	}
	return s.String()
}

// describeReply tells of one reply at the front of b and returns its length, 0
// when it is not there in full.
func (st *sessionTrace) describeReply(s *strings.Builder, conn int, b []byte) int {
	var c proto.Chunk
	if len(b) >= proto.StructuredReplySize && proto.ParseChunk(b, &c) {
		n := proto.StructuredReplySize + int(c.Length)
		if len(b) < n {
			return 0
		}
		fmt.Fprintf(s, "conn %d: chunk type=%d flags=%d cookie=%d length=%d\n", conn, c.Type, c.Flags, c.Cookie, c.Length)
		return n
	}
	if len(b) < proto.SimpleReplySize {
		return 0
	}
	e, cookie, ok := proto.ParseSimpleReply(b)
	require.True(st.t, ok)
	n := proto.SimpleReplySize
	if e == proto.OK {
		n += int(st.reads[cookie])
	}
	if len(b) < n {
		return 0
	}
	fmt.Fprintf(s, "conn %d: reply cookie=%d %v%s\n", conn, cookie, e, runs(b[proto.SimpleReplySize:n]))
	return n
}

// runs describes data as bytes and how often they repeat.
func runs(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := 1
		for n < len(b) && b[n] == b[0] {
			n++
		}
		fmt.Fprintf(&s, " %dx%d", b[0], n)
		b = b[n:]
	}
	return s.String()
}
