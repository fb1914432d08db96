package ftl

import (
	"github.com/stretchr/testify/require"

	"goftl/bdev"
)

// pasts is what the model of a bed knows of a volatile write cache: what blocks
// held before writes that were acknowledged and not flushed. A crash may bring
// that back.
type pasts struct {
	acks uint64 // acknowledgements so far
	list map[uint64][]past
}

type past struct {
	gen uint32
	ack uint64 // of what replaced it
}

// note brings the pasts up to date with a request that succeeded, before the
// model is.
func (b *bed) note(c *call) {
	p := &b.past
	if b.geo.buffer == 0 {
		return
	}
	if c.req.Op == OpFlush || c.req.FUA {
		for lba, list := range p.list {
			keep := list[:0]
			for _, x := range list {
				if x.ack > c.mark {
					keep = append(keep, x)
				}
			}
			if p.list[lba] = keep; len(keep) == 0 {
				delete(p.list, lba)
			}
		}
	}
	p.acks++
	if p.list == nil {
		p.list = map[uint64][]past{}
	}
	for i, g := range c.gens {
		lba := c.req.LBA + uint64(i)
		p.list[lba] = append(p.list[lba], past{b.cur[lba], p.acks})
		for _, o := range b.also[lba] {
			if o&^zeroed < g&^zeroed { // in the log in front of it, and maybe answered later
				p.list[lba] = append(p.list[lba], past{o, p.acks})
			}
		}
	}
}

// replaced notes that a block holds something else than the model knew.
func (b *bed) replaced(lba uint64, gen uint32) {
	if p := &b.past; b.geo.buffer != 0 && !same(gen, b.cur[lba]) {
		if p.list == nil {
			p.list = map[uint64][]past{}
		}
		p.list[lba] = append(p.list[lba], past{b.cur[lba], p.acks})
	}
	b.cur[lba] = gen
}

// of adds to what a crash may leave of a block.
func (p *pasts) of(lba uint64, also []uint32) []uint32 {
	out := append([]uint32(nil), also...)
	for _, x := range p.list[lba] {
		out = append(out, x.gen)
	}
	return out
}

// mayFail says whether a block may be one that was acknowledged and given up.
func (p *pasts) mayFail(b *bed, lba uint64) bool {
	return len(p.list[lba]) > 0 && b.stats().BufferLost > 0
}

func (p *pasts) copy() pasts {
	q := pasts{acks: p.acks, list: map[uint64][]past{}}
	for lba, list := range p.list {
		q.list[lba] = append([]past(nil), list...)
	}
	return q
}

// noChannels waits until the FTL has let go of its devices, and verifies that
// they are neither open nor claimed.
func (b *bed) noChannels() {
	b.t.Helper()
	b.until("channels closed", func() bool { return len(b.th.Stats().Channels) <= b.rest })
	require.Empty(b.t, b.th.Stats().Pollers, "pollers left")
	for _, name := range []string{"cache", "base", "zones"} {
		if name == "base" && b.geo.zones != nil {
			continue // the zones hold it
		}
		if dev := b.mgr.Lookup(name); dev != nil {
			kind, who := dev.Claimed()
			require.Equal(b.t, bdev.ClaimNone, kind, "%s is claimed by %s", name, who)
		}
	}
}
