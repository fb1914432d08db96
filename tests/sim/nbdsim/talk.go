package nbdsim

import (
	"encoding/binary"

	"goftl/nbd/proto"
	"goftl/tests/sim"
)

// exportName is the name under which the device is served.
const exportName = "sim"

// talk is a client's side of a negotiation: what it says, all at once, and what it must hear.
type talk struct {
	structured bool
	status     bool   // asks for the status of blocks
	context    uint32 // what the server calls that; 0: it has not said
	early      bool   // sends requests before it knows that they will be served
	noZeroes   bool
	greeted    bool
	options    []option
	script     []byte
}

// option is one that was sent.
type option struct {
	o       proto.Option
	refused bool // must be
	export  bool // the size was told
}

// newTalk draws a negotiation that ends in transmission. What concerns the status of blocks is drawn from another
// source, if at all.
func newTalk(r, status *sim.Rand) *talk {
	t := &talk{structured: r.IntN(2) == 0, early: r.IntN(3) == 0, noZeroes: r.IntN(2) == 0}
	flags := proto.FlagClientFixedNewstyle
	if t.noZeroes {
		flags |= proto.FlagClientNoZeroes
	}
	t.script = binary.BigEndian.AppendUint32(nil, flags)
	info := proto.AppendInfoRequest(nil, exportName, proto.InfoBlockSize, proto.InfoName)
	for range r.IntN(4) {
		switch r.IntN(5) {
		case 0:
			t.say(proto.OptList, nil, false)
		case 1:
			t.say(proto.OptInfo, info, false)
		case 2:
			t.say(proto.OptInfo, proto.AppendInfoRequest(nil, "another"), true)
		case 3:
			t.say(proto.OptExtendedHeaders, nil, true)
		case 4:
			t.say(proto.Option(100+r.IntN(1000)), make([]byte, r.IntN(20_000)), true)
		}
	}
	if t.structured {
		t.say(proto.OptStructuredReply, nil, false)
	}
	if status != nil {
		t.contexts(status)
	}
	if r.IntN(3) == 0 {
		t.say(proto.OptExportName, []byte(exportName), false)
	} else {
		t.say(proto.OptGo, info, false)
	}
	return t
}

// contexts draws what is said about contexts of metadata: now and then what must be refused, and at last, with
// structured replies, what is wanted.
func (t *talk) contexts(r *sim.Rand) {
	ask := proto.AppendContextRequest(nil, exportName, "x-unknown:", proto.ContextAllocation)
	for range r.IntN(3) {
		switch r.IntN(4) {
		case 0:
			t.say(proto.OptListMetaContext, proto.AppendContextRequest(nil, exportName, proto.NamespaceBase), !t.structured)
		case 1:
			t.say(proto.OptListMetaContext, proto.AppendContextRequest(nil, exportName), !t.structured)
		case 2:
			t.say(proto.OptSetMetaContext, ask[:len(ask)-1], true)
		case 3:
			t.say(proto.OptSetMetaContext, proto.AppendContextRequest(nil, "another", proto.ContextAllocation), true)
		}
	}
	if t.status = t.structured && r.IntN(3) > 0; t.status {
		t.say(proto.OptSetMetaContext, ask, false)
	}
}

func (t *talk) say(o proto.Option, data []byte, refused bool) {
	t.script = proto.AppendOption(t.script, o, data)
	t.options = append(t.options, option{o: o, refused: refused})
}

// understand takes one message of the server's. It reports whether there may be another.
func (t *talk) understand(c *client) bool {
	switch {
	case !t.greeted:
		if len(c.in) < proto.GreetingSize {
			return false
		}
		if _, ok := proto.ParseGreeting(c.take(proto.GreetingSize)); !ok {
			return c.wrong("no greeting")
		}
		t.greeted = true
		if !t.early {
			c.send(t.script)
		}
		return true
	case t.options[0].o == proto.OptExportName:
		return t.exportName(c)
	}
	return t.answer(c)
}

func (t *talk) exportName(c *client) bool {
	n := proto.ExportNameReplySize
	if !t.noZeroes {
		n += proto.ExportNameZeroes
	}
	if len(c.in) < n {
		return false
	}
	t.size(c, binary.BigEndian.Uint64(c.take(n)))
	c.opened()
	return true
}

func (t *talk) size(c *client, size uint64) {
	if size != c.d.cells.bytes() {
		c.wrong("the export has %d bytes, not %d", size, c.d.cells.bytes())
	}
}

// answer takes one answer to an option.
func (t *talk) answer(c *client) bool {
	if len(c.in) < proto.OptionReplySize {
		return false
	}
	h, ok := proto.ParseOptionReply(c.in)
	o := &t.options[0]
	if !ok || h.Option != o.o || h.Length > 1<<16 {
		return c.wrong("%+v is no answer to option %d", h, o.o)
	}
	if len(c.in) < proto.OptionReplySize+int(h.Length) {
		return false
	}
	data := c.take(proto.OptionReplySize + int(h.Length))[proto.OptionReplySize:]
	if size, _, ok := proto.ParseInfoExport(data); ok && h.Reply == proto.RepInfo {
		t.size(c, size)
		o.export = true
	}
	if id, name, ok := proto.ParseContext(data); h.Reply == proto.RepMetaContext {
		if !ok || string(name) != proto.ContextAllocation || t.context != 0 {
			return c.wrong("context %d %q", id, name)
		}
		if o.o == proto.OptSetMetaContext {
			t.context = id
		}
	}
	if h.Reply != proto.RepAck && !h.Reply.IsError() {
		return true
	}
	last := o.o == proto.OptGo
	if o.o == proto.OptSetMetaContext && (t.context != 0) == o.refused {
		return c.wrong("%+v answers option %d, context %d", h, o.o, t.context)
	}
	if h.Reply.IsError() != o.refused || last && !o.export {
		return c.wrong("%+v answers option %d", h, o.o)
	}
	t.options = t.options[1:]
	if last {
		c.opened()
	}
	return true
}
