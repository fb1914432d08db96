package nbdsim

import (
	"slices"

	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// phase is how far a client is.
type phase uint8

const (
	phaseTalk  phase = iota // negotiates
	phaseOpen               // sends requests
	phaseFinal              // sends nothing more, takes what comes
	phaseLeft               // has closed its end
)

// client is the other end of a link. It runs on the player's thread.
type client struct {
	d     *device
	l     *link
	id    uint64
	phase phase
	talk  *talk

	out      []byte // what the link has not taken yet
	outMem   []byte // in which out lies
	in       []byte // what was read and not understood yet
	inMem    []byte
	calls    []*call
	backlog  []*call // wait for the end of the negotiation
	turning  bool    // it will look at its link soon
	gulp     int     // bytes that it reads at a time
	lag      int64   // the longest pause between
	stranger bool    // carries no request of the player
	deaf     bool    // does not read
	rude     bool    // has sent what ends a connection
	expects  bool    // all of its calls will be answered, although it is phaseFinal
	cut      bool    // the server waited too long for it
	gone     bool    // the server has let go of the link
	over     bool
}

// send gives bytes to the link, as it takes them.
func (c *client) send(b []byte) {
	c.out = append(room(&c.outMem, c.out, len(b)), b...)
	c.push()
}

func (c *client) push() {
	if n := c.l.up.write(c.out); n > 0 {
		c.out = c.out[n:]
	}
}

// carry sends a request, or keeps it until the negotiation is over.
func (c *client) carry(k *call) {
	if c.phase == phaseTalk && !c.talk.early {
		c.backlog = append(c.backlog, k)
		return
	}
	if k.asked == 2 && c.phase >= phaseFinal { // its holes are known; it has to be read where that can be asked for
		c.d.again(k)
		return
	}
	k.q.Cookie, k.mem = c.d.cookie(), &c.d.mem
	c.ask(k)
	if k.q.Command == proto.CmdRead && k.r != nil && c.talk.structured && c.d.rnd.IntN(4) == 0 {
		k.q.Flags |= proto.CmdFlagDF
	}
	c.calls = append(c.calls, k)
	c.d.note(c, "send "+k.q.Command.String(), k, proto.OK)
	c.out = k.encode(room(&c.outMem, c.out, proto.RequestSize+k.bodySize()))
	c.push()
}

// ask makes a read, now and then, ask for the status of its blocks first.
func (c *client) ask(k *call) {
	if !c.talk.status {
		return
	}
	own := k.r == nil && k.q.Command == proto.CmdBlockStatus
	if own {
		k.want = proto.OK
	}
	if k.q.Command == proto.CmdRead && k.r != nil && k.asked == 0 && c.d.more.IntN(3) == 0 {
		k.q.Command, k.asked = proto.CmdBlockStatus, 1
	}
	if (own || k.asking()) && c.d.more.IntN(4) == 0 {
		k.q.Flags |= proto.CmdFlagReqOne
	}
}

// opened is called when the negotiation is over.
func (c *client) opened() {
	c.phase = phaseOpen
	list := c.backlog
	c.backlog = nil
	for _, k := range list {
		c.carry(k)
	}
}

// wake has the client look at its link soon, or after a while.
func (c *client) wake(delay int64) {
	if c.turning || c.over {
		return
	}
	c.turning = true
	if delay == 0 {
		c.d.b.Thread.Send(turn, c)
		return
	}
	c.d.w.After(delay, func(any) { c.d.b.Thread.Send(turn, c) }, nil)
}

// turn reads and writes what can be read and written.
func turn(arg any) {
	c := arg.(*client)
	c.turning = false
	if c.over {
		return
	}
	c.push()
	if c.phase == phaseLeft || c.deaf {
		c.end()
		return
	}
	had := len(c.in)
	n := min(c.gulp, c.l.down.have)
	if c.d.rnd.IntN(8) == 0 {
		n = min(n, int(c.d.rnd.Skewed(int64(c.gulp))))
	}
	c.in = room(&c.inMem, c.in, n)[:had+n]
	c.l.down.read(c.in[had:])
	for c.phase != phaseLeft && c.understand() {
	}
	if c.l.down.have > 0 {
		c.wake(c.d.rnd.Range(0, c.lag))
	}
	c.end()
}

// understand takes one message off what was read. It reports whether there may be another.
func (c *client) understand() bool {
	if c.phase == phaseTalk {
		return c.talk.understand(c)
	}
	return c.reply()
}

// reply takes one reply, or one chunk of one.
func (c *client) reply() bool {
	if len(c.in) < proto.SimpleReplySize {
		return false
	}
	if e, cookie, ok := proto.ParseSimpleReply(c.in); ok {
		k := c.find(cookie)
		switch {
		case k == nil:
			return c.wrong("a reply with cookie %#x, which has no request", cookie)
		case e == proto.OK && k.q.Command == proto.CmdRead:
			return c.simpleData(k)
		}
		c.take(proto.SimpleReplySize)
		c.answered(k, e)
		return true
	}
	if len(c.in) < proto.StructuredReplySize {
		return false
	}
	var h proto.Chunk
	if !proto.ParseChunk(c.in, &h) || !c.talk.structured {
		return c.wrong("no reply: % x", c.in[:proto.StructuredReplySize])
	}
	if uint64(h.Length) > c.d.cells.bytes()+8 {
		return c.wrong("a chunk of %d bytes", h.Length)
	}
	if len(c.in) < proto.StructuredReplySize+int(h.Length) {
		return false
	}
	return c.chunk(&h, c.take(proto.StructuredReplySize + int(h.Length))[proto.StructuredReplySize:])
}

// simpleData takes a simple reply with data.
func (c *client) simpleData(k *call) bool {
	n := proto.SimpleReplySize + int(k.q.Length)
	if c.talk.structured {
		return c.wrong("a simple reply to a read, although structured ones were agreed on")
	}
	if len(c.in) < n {
		return false
	}
	k.fill(k.q.Offset, c.take(n)[proto.SimpleReplySize:], 0)
	c.answered(k, proto.OK)
	return true
}

// chunk takes one chunk of a structured reply.
func (c *client) chunk(h *proto.Chunk, data []byte) bool {
	k := c.find(h.Cookie)
	if k == nil {
		return c.wrong("a chunk with cookie %#x, which has no request", h.Cookie)
	}
	if !k.take(h, data, c.talk.context) {
		return c.wrong("a chunk of type %d with %d bytes that does not fit %+v", h.Type, h.Length, k.q)
	}
	if h.Flags&proto.ReplyFlagDone != 0 {
		c.answered(k, k.err)
	}
	return true
}

func (c *client) find(cookie uint64) *call {
	for _, k := range c.calls {
		if k.q.Cookie == cookie {
			return k
		}
	}
	return nil
}

func (c *client) take(n int) []byte {
	b := c.in[:n]
	c.in = c.in[n:]
	return b
}

// wrong reports that the server has broken the protocol.
func (c *client) wrong(format string, args ...any) bool {
	c.d.failf("client %d: "+format, append([]any{c.id}, args...)...)
	c.phase = phaseLeft
	return false
}

// owed says whether it gets the answers to all that the server has begun. A reset of the connection can overtake them.
func (c *client) owed() bool {
	return !c.rude && !c.deaf && !c.cut && !c.l.down.dead && (c.phase == phaseOpen || c.expects)
}

// answered ends a call.
func (c *client) answered(k *call, e proto.Errno) {
	c.d.answers++
	c.calls = slices.Delete(c.calls, slices.Index(c.calls, k), 1+slices.Index(c.calls, k))
	if e == proto.OK && !k.complete() {
		c.wrong("%d bytes in %d chunks of %+v", k.filled, k.chunks, k.q)
		return
	}
	if k.asking() {
		c.d.count("reads that asked for holes", 1)
		if len(k.holes) > 0 {
			c.d.count("holes told of", uint64(len(k.holes)))
		}
	}
	if k.asking() && (e != proto.OK || !k.allHole()) {
		c.d.note(c, "status", k, e)
		k.read()
		c.carry(k)
		return
	}
	c.d.answered(c, k, e)
}

// end is called when something may have ended the client: the server has let go of it, and all that came was read.
func (c *client) end() {
	if c.over || !c.gone || c.phase != phaseLeft && !c.deaf && (!c.l.down.fin || c.l.down.have > 0) {
		return
	}
	c.over = true
	c.d.lost(c)
}

// The ways of a client to leave.
const (
	byGoodBye  = iota // a disconnect request
	byHalf            // ends its direction and reads on
	byClose           // closes; the server sees that at once
	byCloseTCP        // closes; the server is told when it sends
	byReset
	numWays
)

// leave ends the client in one of its ways. What is under way is lost, or not.
func (c *client) leave(way int) {
	if c.phase >= phaseFinal {
		return
	}
	c.d.count(wayNames[way], 1)
	c.d.note(c, wayNames[way], nil, proto.OK)
	if c.phase == phaseTalk && way < byClose {
		way = byClose
	}
	c.phase = phaseFinal
	switch way {
	case byGoodBye:
		c.expects = !c.rude
		c.send((&call{q: proto.Request{Command: proto.CmdDisc}}).encode(nil))
	case byHalf:
		c.expects = len(c.out) == 0 && !c.rude
		c.out = nil
		c.l.up.close()
	case byReset:
		c.phase = phaseLeft
		c.l.reset()
	default:
		c.phase = phaseLeft
		c.out = nil
		c.l.tcp = way == byCloseTCP
		c.l.leave()
	}
	c.wake(0)
}

var wayNames = [numWays]string{
	"clients that said good-bye", "clients that half-closed", "clients that closed", "clients that closed unseen",
	"clients that reset",
}

// errLost is what a request ends with whose connection was lost.
const errLost = unix.ECONNRESET
