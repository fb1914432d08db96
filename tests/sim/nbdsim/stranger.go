package nbdsim

import (
	"goftl/nbd/proto"
)

// never is an answer that no request gets.
const never proto.Errno = 1 << 31

// stranger lets a client come that carries nothing of the player's. After a while it leaves.
func (d *device) stranger() {
	d.count("strangers", 1)
	c := d.connect()
	c.stranger = true
	size := d.cells.bytes()
	switch d.rnd.IntN(6) {
	case 0: // does not even speak the protocol
		c.rude, c.deaf = true, true
		c.out = nil
		c.talk.early = true
		c.send(d.garbage(1 + d.rnd.IntN(3000)))
	case 1: // goes mad after the negotiation
		c.rude = true
		c.backlog = nil
		d.after(c, d.garbage(proto.RequestSize+d.rnd.IntN(3000)))
	case 2: // announces a write and sends a part of it
		c.rude = true
		n := min(size, uint64(1+d.rnd.Skewed(1<<20)))
		k := &call{body: make([]byte, d.rnd.Uint64N(n)), want: never}
		k.q = proto.Request{Command: proto.CmdWrite, Cookie: d.cookie(), Offset: d.rnd.Uint64N(size - n + 1), Length: uint32(n)}
		if d.b.ReadOnly {
			k.want = proto.ErrPerm
		}
		c.calls = append(c.calls, k)
		d.after(c, k.encode(nil))
	case 3: // a write that is too long to throw away
		c.rude = true
		d.after(c, (&call{q: proto.Request{Command: proto.CmdWrite, Length: 1<<31 + 5}}).encode(nil))
	case 4: // asks and does not read
		c.deaf = true
		c.talk.early = true
		c.rude = true
		if len(c.out) == 0 && c.l.up.out == 0 {
			c.send(c.talk.script)
		}
		for range d.rnd.IntN(40) {
			n := min(size, uint64(1+d.rnd.Skewed(1<<19)))
			c.carry(&call{q: proto.Request{Command: proto.CmdRead, Offset: d.rnd.Uint64N(size - n + 1), Length: uint32(n)}})
		}
	case 5: // reads slowly
		c.gulp, c.lag = 1+int(d.rnd.Skewed(1<<14)), 100_000
		for range d.rnd.IntN(10) {
			c.carry(d.probe(c))
		}
	}
	way := d.rnd.IntN(numWays)
	if c.deaf || c.rude {
		way = byClose + d.rnd.IntN(numWays-byClose)
	}
	stay := d.rnd.Range(0, 2_000_000)
	if d.rnd.IntN(3) == 0 {
		stay = d.rnd.Range(0, 60e9)
	}
	d.w.After(stay, func(any) { d.b.Thread.Send(func(any) { d.abandon(c, way) }, nil) }, nil)
}

// after has a client send bytes when it has negotiated.
func (d *device) after(c *client, b []byte) {
	if c.talk.early {
		c.send(b)
		return
	}
	c.talk.script = append(c.talk.script, b...)
}

func (d *device) garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.rnd.IntN(256))
	}
	return b
}
