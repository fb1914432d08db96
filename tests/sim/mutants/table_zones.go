package main

// noDetourCheck leaves out what notices, as late as in the switch, that a detour is wrong.
var noDetourCheck = edit{"ftl/write.go", `
			r.checkDetour()
`, `
`}

// Zoned bases and life without a cache.
var tableZones = []mutant{
	{
		rule: "10", name: "zones are reset when their band becomes empty, and no checkpoint says so", test: bases,
		edits: []edit{{"ftl/stream.go", `
	s.setState(segQuarantine)
`, `
	s.setState(segQuarantine)
	if s.zoned() && s.pins == 0 {
		d.zones.Reset(uint64(s.id), func(any, error) {}, nil)
		d.zones.Release(uint64(s.id))
	}
`}},
	},
	{
		rule: "6", name: "without a cache a flush goes to the device of the metadata", test: bases,
		edits: []edit{{"ftl/flush.go", `f.io.prepare(d.logDev,`, `f.io.prepare(d.meta,`}},
	},
	{
		rule: "18", name: "user records in full bands are not redone", test: bases,
		edits: []edit{{"ftl/recovery.go", `full := s.holdsLog() && `, `full := !s.band && `}},
	},
	{
		rule: "9", name: "without a cache the last free bands go to users", test: bases,
		edits: []edit{{"ftl/write.go", `
		d.log_.cur.reserve, d.log_.cur.aheadPct = d.lim.gcReserve, uint32(d.cfg.BandThresholdPct)
`, `
		d.log_.cur.reserve, d.log_.cur.aheadPct = 0, uint32(d.cfg.BandThresholdPct)
`}, {"ftl/background.go", `
	if d.lim.userShare(d.freeBands.n) >= 100 || d.log_.credit > 0 {
		return true
	}
`, `
	if d.freeBands.n >= 0 {
		return true
	}
`}},
	},
	{
		rule: "3", name: "a load takes the zones that a band has now for those it was opened with", test: bases,
		edits: []edit{{"ftl/zones.go", `
	if !s.zoned() || ds.State == record.StateFree {
`, `
	if !s.zoned() || ds.Capacity > 0 {
`}},
	},
	{
		rule: "7", name: "on zones the summary is taken from where it would be on a conventional base", test: bases,
		edits: []edit{{"ftl/segment.go", `
		return s.off + uint64(s.next)
`, `
		return s.off + uint64(s.body)
`}},
	},
	{
		rule: "7", name: "a summary is written behind records that zones do not end with", test: bases,
		edits: []edit{{"ftl/stream.go", `s.zoned() && !s.d.zones.At(`, `s.zoned() && s.next > s.body && !s.d.zones.At(`}},
	},
	{
		rule: "4", name: "records are not padded to write units", test: bases,
		edits: []edit{{"ftl/segment.go", `{ return (n + s.unit - 1) / s.unit * s.unit }`, `{ return n }`}},
	},
	{
		rule: "-", name: "stripes of a band go round its zones one too few", test: bases,
		edits: []edit{{"ftl/zoned/io.go", `
	p := &o.pieces[row%cols]
`, `
	p := &o.pieces[row%max(cols-1, 1)]
`}},
	},
	{
		rule: "8", name: "a detour is numbered beside users' records that are under way", test: bases,
		edits: []edit{noDetourCheck, {"ftl/detour.go", `
	if l.under > 0 {
		return false
	}
`, `
`}},
	},
	{
		rule: "8", name: "what goes on a detour is not compared with the mapping", test: bases,
		edits: []edit{noDetourCheck, {"ftl/detour.go", `
		if e.bad || d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
`, `
		if e.bad || src == nil || d.table.Get(e.lba) == l2p.Addr(1) {
`}},
	},
	{
		rule: "-", name: "relocation that has no band waits for one", test: bases,
		edits: []edit{{"ftl/detour.go", `
	return d.mayDetour() || d.takeBackOnce(true)
`, `
	return d.takeBackOnce(true)
`}, {"ftl/detour.go", `
	case d.freeBands.n > 0 || d.ckpt.active:
`, `
	case d.freeBands.n >= 0 || d.ckpt.active:
`}},
	},
	{
		rule: "-", name: "bands whose zones are gone count as free", test: bases,
		edits: []edit{{"ftl/zones.go", `
	d.freeList(s.band).remove(s.idx)
	s.setState(segOpening)
	s.owner = nil
	s.drop(zoned.ErrNoZone)
`, `
`}},
	},
	{
		rule: "1", name: "the second superblock of a zoned base lies over the first", test: bases,
		edits: []edit{{"ftl/sbio.go", `
		v, role, at := d.mirrorDev(), superblock.RoleBase, d.mirrorAt()
		if st`, `
		v, role, at := d.mirrorDev(), superblock.RoleBase, d.mirrorAt()
		if d.base.info.Zoned {
			at = 0
		}
		if st`}},
	},
}
