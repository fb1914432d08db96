package main

// staysClean leaves the flag of a clean stop on the medium when the next life begins.
var staysClean = edit{"ftl/startup.go", `
		nsb := d.sb
		nsb.Clean = false
		nsb.Inc++
`, `
		nsb := d.sb
		nsb.Inc++
`}

// Rules 13 to 21: recovery, stopping, shared memory.
var tableLife = []mutant{
	{
		rule: "13", name: "a load flushes neither before it reads nor before it writes second copies of descriptors", test: restless,
		edits: []edit{{"ftl/startup.go", `
		{Name: "flush devices", Action: stepFlushBoth},
		{Name: "read superblocks", Action: stepReadSuperblocks},
`, `
		{Name: "read superblocks", Action: stepReadSuperblocks},
`}, {"ftl/md/restore.go", `
	o.bulk.stage = stageFlushRepair
	o.flush(&o.primary)
}
`, `
	o.bulk.repair = nil
	o.syncMirror()
}
`}},
	},
	{
		rule: "14", name: "the clean flag stays set, and a load believes it", test: restless,
		edits: []edit{{"ftl/startup.go", `
	if d.sb.Clean && d.redoTo == d.sb.CU {
`, `
	if d.sb.Clean {
`}, staysClean},
	},
	{
		rule: "15", name: "segments found open are closed before recovery's checkpoint", test: restless,
		edits: []edit{{"ftl/startup.go", `
		{Name: "begin incarnation", Action: stepIncarnation},
		{Name: "close recovered segments", Action: stepCloseRecovered},
`, `
		{Name: "close recovered segments", Action: stepCloseRecovered},
		{Name: "begin incarnation", Action: stepIncarnation},
`}},
	},
	{
		rule: "16", name: "FULL chunks of an earlier incarnation count", test: crashes,
		edits: []edit{{"ftl/recovery.go", ` && s.inc == d.sb.Inc && s.lastU`, ` && s.lastU`}},
	},
	{
		rule: "16", name: "chunks found open stay OPEN, and records of an earlier incarnation in them count", test: restless,
		edits: []edit{{"ftl/recovery.go", `
	if r.inc != rs.d.sb.Inc {
		return
	}
`, `
`}, {"ftl/stream.go", `
	case closeSummaryFlush:
		s.closing = closeDescriptor
`, `
	case closeSummaryFlush:
		s.closing = closeDescriptor
		if s.recovered {
			closeDescribed(s, nil)
			return
		}
`}},
	},
	{
		rule: "16", name: "a FULL chunk counts only if all of its records are new", test: crashes,
		edits: []edit{{"ftl/recovery.go", ` && s.lastU > d.sb.CU
`, ` && s.firstU > d.sb.CU
`}},
	},
	{
		rule: "17", name: "recovery applies what stands behind a gap", test: crashes,
		edits: []edit{{"ftl/recovery.go", `
			if end+1 > rs.maxD {
				break
			}
`, `
`}},
	},
	{
		rule: "17", name: "rot is taken for a torn tail (D of later records is not looked at)", test: rot,
		edits: []edit{
			{"ftl/recovery.go", `
				rs.maxD = max(rs.maxD, s.maxD)
`, `
`},
			{"ftl/recovery.go", `
	rs.maxD = max(rs.maxD, r.d)
`, `
`},
			{"ftl/recovery.go", `
	rs.maxD = max(rs.maxD, d)
`, `
	_ = rs
`},
		},
	},
	{
		rule: "17", name: "a rotten record is not mapped, so its blocks read as they were before", test: rot,
		edits: []edit{{"ftl/recovery.go", `
			if r.lost {
				// Some block would read as its older version.
`, `
			if end = r.u; end == r.u {
				continue
			}
			if r.lost {
				// Some block would read as its older version.
`}},
	},
	{
		rule: "17", name: "a record of which a block's LBA is unknown counts as whole", test: rot,
		edits: []edit{{"ftl/recovery.go", `
			if r.lost {
`, `
			if false {
`}},
	},
	{
		rule: "17", name: "no pad when the log goes idle", test: rot,
		edits: []edit{{"ftl/flush.go", `
		l.padD == d.durableU || d.quiesce {`, `
		l.padD <= d.durableU || d.quiesce {`}},
	},
	{
		rule: "17", name: "pads without end", test: crashes,
		edits: []edit{{"ftl/flush.go", `
		l.padD == d.durableU || d.quiesce {`, `
		d.quiesce {`}, {"ftl/flush.go", `
	if !f.quiet && err == nil {
`, `
	if err == nil {
`}},
	},
	{
		rule: "18", name: "user records are not put in order", test: crashes,
		edits: []edit{{"ftl/recovery.go", `
	if !slices.IsSortedFunc(rs.recs, byU) {
`, `
	if len(rs.recs) < 2 {
`}},
	},
	{
		rule: "18", name: "trims are not redone", test: crashes,
		edits: []edit{{"ftl/recovery.go", `range rs.trims[r.at : r.at+r.n] {`, `range rs.trims[:0] {`}},
	},
	{
		rule: "18", name: "redone trims end a block early", test: crashes,
		edits: []edit{{"ftl/recovery.go", `
				d.unmap(t.lba, t.n)
`, `
				d.unmap(t.lba, t.n-1)
`}},
	},
	{
		rule: "18", name: "the first record behind the checkpoint is not redone", test: crashes,
		edits: []edit{{"ftl/startup.go", `
	d.redoFrom = d.sb.CU
`, `
	d.redoFrom = d.sb.CU + 1
`}},
	},
	{
		rule: "18", name: "moves are redone", test: crashes,
		edits: []edit{{"ftl/recovery.go", `
	for idx, sum := range rs.sums {
`, `
	for i := range d.segs {
		s := &d.segs[i]
		if !s.band || s.sum == nil {
			continue
		}
		for slot := uint32(0); slot < s.next; slot++ {
			if lba := s.sum.LBAAt(slot); lba < d.lay.LBAs && d.table.Get(lba) >= l2p.First {
				d.redoBlock(lba, s.addr+l2p.Addr(slot))
			}
		}
	}
	for idx, sum := range rs.sums {
`}},
	},
	{
		rule: "19", name: "recovery begins no incarnation", test: restless,
		edits: []edit{{"ftl/startup.go", `
	d.checkpoint(1, next)
`, `
	d.checkpoint(0, next)
`}},
	},
	{
		rule: "19", name: "recovery makes no checkpoint", test: restless,
		edits: []edit{{"ftl/startup.go", `
	d.checkpoint(1, next)
`, `
	next(d, nil)
`}},
	},
	{
		rule: "19", name: "recovery's checkpoint covers no more than the one before", test: restless,
		edits: []edit{{"ftl/checkpoint.go", `
	c.incBy, c.done = incBy, done
`, `
	c.incBy, c.done = incBy, done
	if incBy != 0 {
		c.cu = d.sb.CU
	}
`}},
	},
	{
		rule: "20", name: "a clean stop without a checkpoint, and a load believes the flag", test: restless,
		edits: []edit{{"ftl/startup.go", `
	if d.sb.Clean && d.redoTo == d.sb.CU {
`, `
	if d.sb.Clean {
`}, {"ftl/shutdown.go", `
	d.checkpoint(0, unclean)
`, `
	unclean(d, nil)
`}},
	},
	{
		rule: "20", name: "the clean flag is set before the last checkpoint, and a load believes it", test: restless,
		edits: []edit{{"ftl/startup.go", `
	if d.sb.Clean && d.redoTo == d.sb.CU {
`, `
	if d.sb.Clean {
`}, {"ftl/shutdown.go", `
			step{Name: "checkpoint", Action: stepLastCheckpoint},
			step{Name: "mark clean", Action: stepMarkClean},
`, `
			step{Name: "mark clean", Action: stepMarkClean},
			step{Name: "checkpoint", Action: stepLastCheckpoint},
`}},
	},
	{
		rule: "20", name: "a stop does not wait for what is under way", test: restless,
		edits: []edit{{"ftl/shutdown.go", `
	if !quiet {
		return // the timer looks again
	}
`, `
	_ = quiet
`}},
	},
	{
		rule: "21", name: "shared memory of another incarnation is taken", test: restless,
		edits: []edit{{"ftl/shm.go", ` ||
		h.inc.Load() != uint64(d.sb.Inc) {`, ` {`}},
	},
	{
		rule: "21", name: "a device that stops taking writes leaves its shared memory for the next", test: gone,
		edits: []edit{{"ftl/background.go", `
	if d.shm != nil {
		d.shm.invalidate() // a restart finds out from the devices what is there
	}
`, `
`}, {"ftl/shutdown.go", `d.closeTable(fast && d.health == HealthOK)`, `d.closeTable(fast)`}},
	},
	{
		rule: "21", name: "pages of an interrupted checkpoint stay clean in shared memory", test: restless,
		edits: []edit{
			{"ftl/load.go", `
	d.table.AbortCheckpoint() // pages of an interrupted checkpoint are dirty again
`, `
`},
			{"ftl/l2p/l2p.go", `
		f.ckpt[i] |= w
`, `
		f.ckpt[i] = w
`},
		},
	},
}
