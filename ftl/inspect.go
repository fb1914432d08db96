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
	// Zones are those of a band on a zoned base, one of each parallel unit.
	Zones []SegmentZone `json:",omitempty"`
}

// SegmentZone is one zone of a band.
type SegmentZone struct {
	Zone     uint64 // its number on the device
	State    string // of the zone
	Written  uint64 // blocks in front of the write pointer
	Capacity uint64 // blocks
	InUse    bool   // the band's slots lie in it; else the band does without it
}

// zonesOf describes the zones of a band; nil when it has none.
func (s *segment) zonesOf() []SegmentZone {
	if !s.zoned() {
		return nil
	}
	z := s.d.zones
	mask := z.Mask(uint64(s.id))
	infos := z.Zones(uint64(s.id))
	out := make([]SegmentZone, len(infos))
	for u := range infos {
		i := &infos[u]
		out[u] = SegmentZone{
			Zone: i.LBA / s.d.base.info.ZoneBlocks, State: i.State.String(), Written: i.WP - i.LBA, Capacity: i.Capacity,
			InUse: mask>>u&1 != 0,
		}
	}
	return out
}

// Segments returns a description of every segment, chunks first.
func (d *Device) Segments() []SegmentInfo {
	out := make([]SegmentInfo, len(d.segs))
	for i := range d.segs {
		s := &d.segs[i]
		out[i] = SegmentInfo{
			Kind: s.kindName(), ID: s.id, State: s.state.String(), Gen: s.gen, Inc: s.inc, Slots: s.body, Used: s.next,
			Valid: d.valid[i], Pins: s.pins, FirstU: s.firstU, LastU: s.lastU, Opened: s.opened, Zones: s.zonesOf(),
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
