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
	early      bool // sends requests before it knows that they will be served
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

// newTalk draws a negotiation that ends in transmission.
func newTalk(r *sim.Rand) *talk {
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
	if r.IntN(3) == 0 {
		t.say(proto.OptExportName, []byte(exportName), false)
	} else {
		t.say(proto.OptGo, info, false)
	}
	return t
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
	if h.Reply != proto.RepAck && !h.Reply.IsError() {
		return true
	}
	last := o.o == proto.OptGo
	if h.Reply.IsError() != o.refused || last && !o.export {
		return c.wrong("%+v answers option %d", h, o.o)
	}
	t.options = t.options[1:]
	if last {
		c.opened()
	}
	return true
}
