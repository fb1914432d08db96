package ftl

import "goftl/ftl/l2p"

// SegmentInfo describes one segment, for people and tools.
type SegmentInfo struct {
	Kind   string // chunk or band
	ID     uint32
	State  string
	Gen    uint32
	Inc    uint32
	Slots  uint32 // that hold records
	Used   uint32 // slots written
	Valid  uint32 // blocks that the mapping names
	Pins   uint32
	FirstU uint64
	LastU  uint64
	Opened uint64 // number of the record before its first: age
}

// Segments returns a description of every segment, chunks first.
func (d *Device) Segments() []SegmentInfo {
	out := make([]SegmentInfo, len(d.segs))
	for i := range d.segs {
		s := &d.segs[i]
		out[i] = SegmentInfo{
			Kind: s.kindName(), ID: s.id, State: s.state.String(), Gen: s.gen, Inc: s.inc, Slots: s.body, Used: s.next,
			Valid: d.valid[i], Pins: s.pins, FirstU: s.firstU, LastU: s.lastU, Opened: s.opened,
		}
	}
	return out
}

// Locate says where block lba lies: the segment and slot, or that it is
// unmapped or lost.
func (d *Device) Locate(lba uint64) (kind string, id, slot uint32, state string) {
	a := d.table.Get(lba)
	switch a {
	case l2p.Unmapped:
		return "", 0, 0, "unmapped"
	case l2p.Lost:
		return "", 0, 0, "lost"
	default:
	}
	idx, slot := d.segOf(a)
	s := &d.segs[idx]
	return s.kindName(), s.id, slot, "mapped"
}
