package main

// tableHidden are rules left out that no run can tell from rules kept, because a neighbour makes up for them. They are
// second lines of defence, and stay. Where both are left out, the pair is in the other tables.
var tableHidden = []mutant{
	{
		rule: "1", name: "descriptors: the primary is not flushed", test: crashes,
		hidden: "The next update of the object, and every user flush that needs the segment, comes behind other flushes. " +
			"Without the other flush too it is found.",
		edits: []edit{{"ftl/md/ordered.go", `
	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {
`, `
	if q.stage < orderedWrite2 && (q.stage != orderedFlush1 || o.mirrored) {
`}},
	},
	{
		rule: "2", name: "superblock: of two whole copies the older one counts", test: crashes,
		hidden: "The copies differ only while an update is under way, and until it ends both are true: nothing of what the older " +
			"one names is overwritten or freed before. What matters is that the other copy is made equal, which is in the table.",
		edits: []edit{{"ftl/superblock/choose.go", `
	case bsb.Seq > csb.Seq:
		c.SB, c.From, c.RewriteCache = bsb, RoleBase, true
	default:
		c.SB, c.From, c.RewriteBase = csb, RoleCache, bsb.Seq < csb.Seq
`, `
	case bsb.Seq < csb.Seq:
		c.SB, c.From, c.RewriteCache = bsb, RoleBase, true
	default:
		c.SB, c.From, c.RewriteBase = csb, RoleCache, bsb.Seq > csb.Seq
`}},
	},
	{
		rule: "5", name: "a scan goes on behind the first slot that begins no record", test: crashes,
		hidden: "What stands there lies behind a gap in u, where redo ends (Rule 17), or was voided. Users' data that looks like " +
			"a header of this very slot would be needed, with the UUID and the generation.",
		edits: []edit{{"ftl/scan.go", `
	if sc.later != nil {
		sc.end = sc.slot
`, `
	if sc.slot++; sc.slot < sc.seg.body {
		sc.readWindow()
		return
	}
	if sc.later != nil {
		sc.end = sc.slot
`}},
	},
	{
		rule: "7", name: "bodies are not flushed before the summary", test: crashes,
		hidden: "The flush behind the summary covers them, and only FULL makes a summary count. Together with trust in summaries of " +
			"OPEN segments it is found.",
		edits: []edit{{"ftl/stream.go", `
	s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())
	s.io.call(closeStep, s)
}
`, `
	s.io.owner = s
	closeStep(&s.io, nil)
}
`}},
	},
	{
		rule: "7", name: "FULL written before the summary is durable", test: crashes,
		hidden: "The bodies were flushed before. A summary that is missing, torn or of an earlier use is not whole, by its checksum and generation, and the segment is scanned. Without the generation it is found.",
		edits:  []edit{summaryUnflushed},
	},
	{
		rule: "7", name: "the generation in a summary is not compared", test: crashes,
		hidden: "FULL is durable only when the summary of that generation is.",
		edits:  []edit{{"ftl/record/summary.go", ` || le.Uint32(b[44:]) != id.Gen ||`, ` ||`}},
	},
	{
		rule: "8", name: "a move does not look again before it writes", test: crashes,
		hidden: "The comparison at the switch sees it too; what was overwritten is only moved for nothing.",
		edits: []edit{{"ftl/mover.go", `
		if e.bad || d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
			continue
		}
		op.live`, `
		if _ = src; e.bad {
			continue
		}
		op.live`}},
	},
	{
		rule: "9", name: "a checkpoint frees segments whose last user record it does not cover", test: crashes,
		hidden: "A segment comes to quarantine only when all its user records are acknowledged, and a checkpoint that begins later " +
			"covers what is acknowledged.",
		edits: []edit{{"ftl/stream.go", `s.emptiedAt >= attempt || s.lastU > cu {`, `s.emptiedAt >= attempt {`}},
	},
	{
		rule: "11", name: "the number of an attempt that died is used again", test: crashes,
		hidden: "The new attempt writes all that it names, and flushes it before it commits. Only a write that the device loses " +
			"in silence could bring pages of the dead one back.",
		edits: []edit{{"ftl/load.go", `
			d.ckpt.k = max(d.ckpt.k, k)
`, `
			_ = k
`}},
	},
	{
		rule: "12", name: "the number in a page is not compared with the directory's", test: crashes,
		hidden: "The slot that a committed directory names was flushed before the commit and is not written again until another " +
			"commit.",
		edits: []edit{{"ftl/record/page.go", `
	return checkPage(b, pageMagic, p, k, seed)
`, `
	return checkPage(b, pageMagic, p, k-k+le.Uint64(b[16:]), seed)
`}},
	},
	{
		rule: "13", name: "a load flushes nothing before it reads", test: crashes,
		hidden: "Recovery's own checkpoint flushes both devices before anything depends on what was read, and second copies are " +
			"written behind flushes of their own. Without those it is found.",
		edits: []edit{{"ftl/startup.go", `
		{Name: "flush devices", Action: stepFlushBoth},
		{Name: "read superblocks", Action: stepReadSuperblocks},
`, `
		{Name: "read superblocks", Action: stepReadSuperblocks},
`}},
	},
	{
		rule: "16", name: "records of an earlier generation count", test: crashes,
		hidden: "A segment is opened again only behind a checkpoint that covers its last user record, so what an earlier use left " +
			"is older than cu. Blocks that it names wrongly are mapped elsewhere.",
		edits: []edit{
			{"ftl/scan.go", `
	if h.Decode(sc.block(i)) != nil || h.UUID != d16(sc.d) || h.Seg != s.idx || h.Gen != s.gen || h.Slot != slot {
`, `
	if h.Decode(sc.block(i)) != nil || h.UUID != d16(sc.d) || h.Seg != s.idx || h.Slot != slot {
`},
			{"ftl/scan.go", `
		h.Seg != sc.seg.idx || h.Gen != sc.seg.gen || h.UUID != d16(sc.d) {
`, `
		h.Seg != sc.seg.idx || h.UUID != d16(sc.d) {
`},
			{"ftl/scan.go", `s.off+uint64(sc.slot+i))) == nil && m.Gen == s.gen
`, `s.off+uint64(sc.slot+i))) == nil
`},
		},
	},
	{
		rule: "16", name: "records of an earlier incarnation in OPEN chunks count", test: faults,
		hidden: "They are closed before new records are numbered. Where they stay OPEN it is found.",
		edits: []edit{{"ftl/recovery.go", `
	if r.inc != rs.d.sb.Inc {
		return
	}
`, `
`}},
	},
	{
		rule: "14", name: "the clean flag stays set", test: restless,
		hidden: "A load redoes what it finds behind the checkpoint, whatever the flag says, and covers it by a checkpoint. Where it " +
			"believes the flag it is found.",
		edits: []edit{staysClean},
	},
	{
		rule: "18", name: "records that the checkpoint covers are redone", test: crashes,
		hidden: "Records stand in order, so a segment that is read for one behind the checkpoint also holds all behind the first of those " +
			"that it covers: redone in order, they end as they were.",
		edits: []edit{
			{"ftl/recovery.go", `
	if r.last() <= rs.d.redoFrom {
		return
	}
`, `
`},
			{"ftl/recovery.go", `
	end := d.redoFrom
	out := rs.recs[:0]
`, `
	var covered []redoRec
	for _, r := range rs.recs {
		if r.u <= d.redoFrom && r.kind != 0 {
			covered = append(covered, r)
		}
	}
	end := d.redoFrom
	out := rs.recs[:0]
`},
			{"ftl/recovery.go", `
	rs.recs = out
`, `
	rs.recs = append(covered, out...)
`},
		},
	},
	{
		rule: "20", name: "a clean stop without a checkpoint", test: restless,
		hidden: "The same.",
		edits: []edit{{"ftl/shutdown.go", `
	d.checkpoint(0, unclean)
`, `
	unclean(d, nil)
`}},
	},
	{
		rule: "20", name: "the clean flag is part of the last checkpoint's superblock", test: crashes,
		hidden: "Nothing is under way any more at that point, so the checkpoint covers everything when its superblock is written.",
		edits: []edit{{"ftl/checkpoint.go", `
		next.Clean = false
`, `
		next.Clean = d.quiesce
`}},
	},
	{
		rule: "17", name: "a checkpoint does not know what its flush made durable", test: rot,
		hidden: "What is acknowledged between the first copy of a page and the flush of its checkpoint must rot, with no later record " +
			"to say that it was durable: one seed in some ten thousand (90007836 of TestFTLRot showed it). TestLossBehindACheckpoint.",
		edits: []edit{{"ftl/checkpoint.go", `
		c.d.durableU = max(c.d.durableU, c.flushed)
`, `
		c.d.durableU = max(c.d.durableU, c.cu)
`}, {"ftl/checkpoint.go", `
		next.Durable = d.durableU
`, `
		next.Durable = c.cu
`}},
	},
	{
		rule: "21", name: "shared memory is taken although the superblock is clean", test: crashes,
		hidden: "The incarnation is compared too, and what was in shared memory at a clean stop is what its checkpoint wrote.",
		edits: []edit{{"ftl/startup.go", `
	d.openTable(!d.sb.Clean && !d.cfg.ReadOnly)
`, `
	d.openTable(!d.cfg.ReadOnly)
`}},
	},
	{
		rule: "21", name: "pages of an interrupted checkpoint are not made dirty again", test: crashes,
		hidden: "The set that the interrupted checkpoint left stays in shared memory, and recovery's checkpoint adds to it. With a " +
			"set that begins empty it is found.",
		edits: []edit{{"ftl/load.go", `
	d.table.AbortCheckpoint() // pages of an interrupted checkpoint are dirty again
`, `
`}},
	},
	{
		rule: "-", name: "records that are written again go out of order", test: faults,
		hidden: "They take effect in the order of their numbers wherever they stand, and redo sorts them.",
		edits: []edit{{"ftl/logerrors.go", `
	for *pos != nil && (*pos).u < r.u {
`, `
	for *pos != nil && (*pos).u > r.u {
`}},
	},
	{
		rule: "-", name: "checksums do not know their LBA", test: rot,
		hidden: "A checksum belongs to a slot, by its place in the summary or beside the block, and the mapping says which LBA the " +
			"slot holds. It takes a write that strays to bring a block and its metadata to another place.",
		edits: []edit{{"ftl/record/record.go", `
	return xxh3.Hash(block) ^ Mix(lba)
`, `
	return xxh3.Hash(block) ^ Mix(lba&0)
`}, {"ftl/read.go", `
	return m.Decode(op.md[i*int(d.cache.info.MDSize):], place) == nil && m.LBA == lba &&`, `
	return m.Decode(op.md[i*int(d.cache.info.MDSize):], place) == nil && m.LBA < d.lay.LBAs &&`}},
	},
}
