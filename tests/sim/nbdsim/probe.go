package nbdsim

import (
	"goftl/nbd"
	"goftl/nbd/proto"
	"goftl/tests/sim"
)

// probe makes a request of a client's own.
func (d *device) probe(c *client) *call {
	k := probe(d.rnd, d.cells.bytes(), c.talk.structured, d.b.ReadOnly)
	k.fails = k.want == proto.OK && k.q.Command == proto.CmdRead && d.b.Tolerant()
	return k
}

// probe is a request that changes nothing, with the answer that it must get: one that is refused, or does nothing.
func probe(r *sim.Rand, size uint64, structured, readOnly bool) *call {
	k := &call{want: proto.ErrInval}
	q := &k.q
	inside := r.Uint64N(size)
	writable := func(want proto.Errno) proto.Errno {
		if readOnly {
			return proto.ErrPerm
		}
		return want
	}
	switch r.IntN(14) {
	case 0:
		q.Command, q.Offset, q.Length = proto.CmdRead, size-r.Uint64N(min(size, 100)), uint32(101+r.IntN(5000))
	case 1:
		q.Command, q.Offset, k.want = proto.CmdWrite, size+r.Uint64N(1<<62), writable(proto.ErrNoSpc)
		k.body = make([]byte, 1+r.Skewed(20_000))
		q.Length = uint32(len(k.body))
	case 2:
		q.Command, q.Offset, q.Length, k.want = proto.CmdWriteZeroes, inside, 1<<31, writable(proto.ErrNoSpc)
	case 3:
		q.Command, q.Offset, q.Length, k.want = proto.CmdTrim, size, 1, writable(proto.ErrInval)
	case 4:
		q.Command, q.Offset, q.Length = proto.CmdCache, ^uint64(0)-r.Uint64N(1000), 4096
	case 5:
		q.Command, q.Length = proto.Command(8+r.IntN(1<<16-8)), uint32(r.IntN(100))
	case 6:
		q.Command, q.Offset, q.Length = proto.CmdBlockStatus, inside, 1
	case 7:
		q.Command, q.Offset, q.Length = proto.CmdFlush, inside, 1
	case 8:
		q.Command, q.Offset, q.Length, q.Flags = proto.CmdRead, inside, 1, proto.CmdFlagNoHole<<(3*r.IntN(2))
	case 9:
		q.Command, q.Length = proto.CmdRead, nbd.MaxRequest+1
	case 10:
		q.Command, q.Offset, k.want = proto.Command(r.Pick(1, 0, 0, 0, 0, 1)), inside, proto.OK
	case 11:
		q.Command, q.Offset, q.Length, k.want = proto.CmdCache, 0, uint32(1+inside), proto.OK
	case 12:
		q.Command, q.Flags, q.Offset, q.Length = proto.CmdWriteZeroes, proto.CmdFlagFastZero, inside|1, 1
		k.want = writable(proto.ErrNotSup)
	default:
		q.Command, q.Offset, q.Length, k.want = proto.CmdRead, inside, 1, proto.OK
		if q.Flags = proto.CmdFlagDF; !structured {
			k.want = proto.ErrInval
		}
	}
	return k
}
