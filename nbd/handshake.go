package nbd

import (
	"encoding/binary"

	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// HandshakeState says where a negotiation stands.
type HandshakeState uint8

// The states of a Handshake. The last two are final.
const (
	HandshakeOpen  HandshakeState = iota // wants more bytes
	HandshakeDone                        // the client entered transmission
	HandshakeClose                       // send what there is to send, then close
)

// What a client may send before it is cut off.
const (
	maxOptionData = 16 << 10
	maxOptions    = 1024
)

// Handshake is the server's side of fixed newstyle negotiation. It takes bytes
// and gives bytes. One goroutine at a time may use it; it holds at most one
// option, whose data is bounded.
type Handshake struct {
	cat      *Catalog
	state    HandshakeState
	greeted  bool // the client flags came
	fixed    bool
	noZeroes bool
	structd  bool
	status   *export // whose base:allocation was selected
	options  int

	buf  []byte             // the part of a message that is there
	skip uint64             // data of an option that is too long
	long proto.OptionHeader // that option
	to   *export            // the one entered
	out  []byte
}

// NewHandshake starts a negotiation over the exports of cat.
func NewHandshake(cat *Catalog) *Handshake { return &Handshake{cat: cat} }

// Use replaces the exports that the client may choose from.
func (h *Handshake) Use(cat *Catalog) { h.cat = cat }

// Greeting returns what the server sends first.
func (h *Handshake) Greeting() []byte {
	return proto.AppendGreeting(nil, proto.FlagFixedNewstyle|proto.FlagNoZeroes)
}

// State returns where the negotiation stands.
func (h *Handshake) State() HandshakeState { return h.state }

// Feed takes bytes from the client. It returns how many it used, all of them
// unless the state became final, and what to send; out is valid until the next
// call.
func (h *Handshake) Feed(in []byte) (used int, out []byte) {
	h.out = h.out[:0]
	for h.state == HandshakeOpen {
		n, complete := h.fill(in[used:])
		used += n
		if !complete {
			break
		}
		h.message()
	}
	return used, h.out
}

// fill moves bytes into the message that is being gathered. It reports whether
// the message is complete.
func (h *Handshake) fill(in []byte) (used int, complete bool) {
	if h.skip > 0 {
		n := min(h.skip, uint64(len(in)))
		h.skip -= n
		return int(n), h.skip == 0
	}
	for {
		want, full := h.want()
		if full {
			return used, true
		}
		n := min(want-len(h.buf), len(in)-used)
		h.buf = append(h.buf, in[used:used+n]...)
		used += n
		if len(h.buf) < want {
			return used, false
		}
	}
}

// want returns how long the message in buf is as far as can be told, and
// whether it is complete. An option with too much data counts as complete with
// its header.
func (h *Handshake) want() (length int, complete bool) {
	if !h.greeted {
		return proto.ClientFlagsSize, len(h.buf) == proto.ClientFlagsSize
	}
	if len(h.buf) < proto.OptionHeaderSize {
		return proto.OptionHeaderSize, false
	}
	o, ok := proto.ParseOptionHeader(h.buf)
	if !ok || o.Length > maxOptionData {
		return proto.OptionHeaderSize, true
	}
	length = proto.OptionHeaderSize + int(o.Length)
	return length, len(h.buf) == length
}

// message handles what was gathered.
func (h *Handshake) message() {
	if h.long.Length != 0 { // its data went by
		h.refuse(h.long.Option, h.tooLong(h.long.Option), "the option has too much data")
		h.long = proto.OptionHeader{}
		return
	}
	b := h.buf
	h.buf = h.buf[:0]
	if !h.greeted {
		h.clientFlags(binary.BigEndian.Uint32(b))
		return
	}
	o, ok := proto.ParseOptionHeader(b)
	h.options++
	switch {
	case !ok || h.options > maxOptions:
		h.state = HandshakeClose
	case !h.fixed && o.Option != proto.OptExportName:
		h.state = HandshakeClose // the only option that a client of old may send
	case o.Length > maxOptionData && o.Option == proto.OptExportName:
		h.state = HandshakeClose // cannot be refused
	case o.Length > maxOptionData:
		h.long, h.skip = o, uint64(o.Length)
	default:
		h.option(o.Option, b[proto.OptionHeaderSize:])
	}
}

func (h *Handshake) clientFlags(f uint32) {
	h.greeted = true
	h.fixed = f&proto.FlagClientFixedNewstyle != 0
	h.noZeroes = f&proto.FlagClientNoZeroes != 0
	if f&^(proto.FlagClientFixedNewstyle|proto.FlagClientNoZeroes) != 0 {
		h.state = HandshakeClose
	}
}

// tooLong returns how an option with too much data is refused.
func (h *Handshake) tooLong(o proto.Option) proto.OptionReply {
	switch o {
	case proto.OptList, proto.OptStartTLS, proto.OptStructuredReply:
		return proto.RepErrInvalid
	case proto.OptInfo, proto.OptGo, proto.OptListMetaContext:
		return proto.RepErrTooBig
	case proto.OptSetMetaContext:
		h.status = nil
		return proto.RepErrTooBig
	case proto.OptAbort:
		h.state = HandshakeClose
		return proto.RepAck
	default:
		return proto.RepErrUnsup
	}
}

// option handles an option whose data is there. data is valid during the call.
func (h *Handshake) option(o proto.Option, data []byte) {
	switch o {
	case proto.OptExportName:
		h.exportName(data)
	case proto.OptAbort:
		h.reply(o, proto.RepAck, nil)
		h.state = HandshakeClose
	case proto.OptList:
		h.list(data)
	case proto.OptInfo, proto.OptGo:
		h.info(o, data)
	case proto.OptListMetaContext, proto.OptSetMetaContext:
		h.contexts(o, data)
	case proto.OptStructuredReply:
		if len(data) > 0 {
			h.refuse(o, proto.RepErrInvalid, "the option takes no data")
			return
		}
		h.structd = true
		h.reply(o, proto.RepAck, nil)
	default:
		h.refuse(o, proto.RepErrUnsup, "the option is not known here")
	}
}

func (h *Handshake) exportName(name []byte) {
	x := h.cat.find(name)
	if x == nil {
		h.state = HandshakeClose // cannot be refused
		return
	}
	h.out = proto.AppendExportName(h.out, x.size, x.flagsFor(h.structd), h.noZeroes)
	h.enter(x)
}

func (h *Handshake) list(data []byte) {
	if len(data) > 0 {
		h.refuse(proto.OptList, proto.RepErrInvalid, "the option takes no data")
		return
	}
	for _, x := range h.cat.list {
		h.reply(proto.OptList, proto.RepServer, proto.AppendServer(nil, x.Name, x.Description))
	}
	h.reply(proto.OptList, proto.RepAck, nil)
}

// info handles INFO and GO.
func (h *Handshake) info(o proto.Option, data []byte) {
	r, ok := proto.ParseInfoRequest(data)
	if !ok || len(r.Name) > proto.MaxStringSize {
		h.refuse(o, proto.RepErrInvalid, "the lengths in the option do not fit")
		return
	}
	x := h.cat.find(r.Name)
	if x == nil {
		h.refuse(o, proto.RepErrUnknown, "no such export")
		return
	}
	item := proto.AppendInfoExport(nil, x.size, x.flagsFor(h.structd))
	h.reply(o, proto.RepInfo, item)
	if r.Wants(proto.InfoName) {
		h.reply(o, proto.RepInfo, proto.AppendInfoString(item[:0], proto.InfoName, x.Name))
	}
	if r.Wants(proto.InfoDescription) && x.Description != "" {
		h.reply(o, proto.RepInfo, proto.AppendInfoString(item[:0], proto.InfoDescription, x.Description))
	}
	if r.Wants(proto.InfoBlockSize) {
		h.reply(o, proto.RepInfo, proto.AppendInfoBlockSize(item[:0], x.sizes()))
	}
	h.reply(o, proto.RepAck, nil)
	if o == proto.OptGo {
		h.enter(x)
	}
}

// allocationID stands for base:allocation in block status replies.
const allocationID = 1

// contexts handles LIST_META_CONTEXT, and SET_META_CONTEXT, which forgets what
// was selected before even if it fails.
func (h *Handshake) contexts(o proto.Option, data []byte) {
	set := o == proto.OptSetMetaContext
	if set {
		h.status = nil
	}
	if !h.structd {
		h.refuse(o, proto.RepErrInvalid, "structured replies must be agreed on first")
		return
	}
	r, ok := proto.ParseContextRequest(data)
	if !ok {
		h.refuse(o, proto.RepErrInvalid, "the lengths in the option do not fit")
		return
	}
	x := h.cat.find(r.Name)
	if x == nil {
		h.refuse(o, proto.RepErrUnknown, "no such export")
		return
	}
	if x.extents() && (r.Wants(proto.ContextAllocation) || !set && (r.Empty() || r.Wants(proto.NamespaceBase))) {
		id := uint32(0)
		if set {
			h.status, id = x, allocationID
		}
		h.reply(o, proto.RepMetaContext, proto.AppendContext(nil, id, proto.ContextAllocation))
	}
	h.reply(o, proto.RepAck, nil)
}

// extents says whether the device knows which of its blocks are stored.
func (x *export) extents() bool { return x.info.Ops.Has(bdev.OpExtents) }

func (x *export) sizes() proto.BlockSizes {
	return proto.BlockSizes{Min: 1, Preferred: uint32(max(preferredBlock, x.gran)), MaxPayload: MaxPayload}
}

func (h *Handshake) enter(x *export) {
	assert.That(h.state == HandshakeOpen, "nbd: entered transmission twice")
	h.to, h.state = x, HandshakeDone
}

func (h *Handshake) reply(o proto.Option, r proto.OptionReply, data []byte) {
	h.out = proto.AppendOptionReply(h.out, o, r, data)
}

func (h *Handshake) refuse(o proto.Option, r proto.OptionReply, why string) {
	h.out = proto.AppendOptionError(h.out, o, r, why)
}
