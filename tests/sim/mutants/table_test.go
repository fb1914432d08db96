//go:build mutants

package mutants

// mutant is one defect: in file, old, which must occur exactly once, becomes new.
type mutant struct {
	name, rule string
	file       string
	old, new   string
	test       string
}

// table has the defects; the rules are those of the power-loss table in ARCHITECTURE.md. Left out are those that a
// neighbour implies, so that no run can tell them apart:
//
//   - the flush behind the primary copy of a descriptor: the next update of the same one, and every user flush that
//     needs it, comes behind other flushes;
//   - the flush between bodies and summary: the one behind the summary covers the bodies too;
//   - the last user record of a segment against cu: a segment is in quarantine only when all of them were
//     acknowledged, and a checkpoint that began later covers what was acknowledged;
//   - the flush of both devices before a load reads: recovery's own checkpoint flushes them before anything depends on
//     it, and the copies of the superblock are repaired with flushes of their own;
//   - the incarnation of single records in a scan: segments are closed before new records are numbered.
var table = []mutant{
	{
		"descriptors: primary written before the mirror is durable", "1", "ftl/md/ordered.go",
		"	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {\n		q.stage++\n",
		"	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {\n		q.stage++\n		if q.stage == orderedFlush1 {\n			q.stage++\n		}\n",
		"TestFTL",
	},
	{
		"superblock: primary written before the mirror is durable", "1", "ftl/sbio.go",
		"		w.write(w.stage + 1)\n", "		if w.stage++; w.stage == sbMirrorFlush {\n			w.stage++\n		}\n		w.write(w.stage)\n",
		"TestFTL",
	},
	{
		"superblock: no flush of the primary", "1", "ftl/sbio.go",
		"	if w.stage != sbPrimaryFlush {\n", "	if w.stage < sbPrimaryFlush-1 {\n",
		"TestFTL",
	},
	{
		"records go to a segment whose OPEN descriptor is not written", "3", "ftl/stream.go",
		"	d.putDescriptor(s, record.StateOpen)\n	s.entry.Arg = s\n	s.entry.Done = openDone\n	d.persistDescriptor(s)\n",
		"	openDone(s, nil)\n",
		"TestFTL",
	},
	{
		"a record counts although a block of it is torn", "4", "ftl/recovery.go",
		"bad: !r.whole, unread", "unread",
		"TestFTL",
	},
	{
		"acknowledged as soon as written, not in order", "5", "ftl/write.go",
		"		d.switchInOrder()\n", "		d.log_.ring[r.u%uint64(len(d.log_.ring))] = nil\n		d.switchRecord(r)\n",
		"TestFTL",
	},
	{
		"a flush does nothing", "6", "ftl/flush.go",
		"	f.io.call(flushDone, d)\n", "	f.io.owner = d\n	flushDone(&f.io, nil)\n",
		"TestFTL",
	},
	{
		"FUA does nothing", "6", "ftl/write.go",
		"		if q.FUA && q.Err == nil {\n", "		if false {\n",
		"TestFTL",
	},
	{
		"D counts what was acknowledged during the flush", "6", "ftl/flush.go",
		"		d.durableU = max(d.durableU, f.upTo)\n", "		d.durableU = d.ackedU\n",
		"TestFTL",
	},
	{
		"FULL written before the summary is durable", "7", "ftl/stream.go",
		"		s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())\n		s.io.call(closeStep, s)\n	case closeSummaryFlush:",
		"		closeStep(&s.io, nil)\n	case closeSummaryFlush:",
		"TestFTL",
	},
	{
		"a move switches what was overwritten meanwhile", "8", "ftl/mover.go",
		"		if d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {\n			continue\n		}\n		d.table.Set(e.lba, at+l2p.Addr(i))\n",
		"		d.table.Set(e.lba, at+l2p.Addr(i))\n",
		"TestFTL",
	},
	{
		"an empty segment is free at once", "9", "ftl/stream.go",
		"	s.setState(segQuarantine)\n", "	s.setState(segQuarantine)\n	s.freeable = true\n	defer d.freeIfUnpinned(s)\n",
		"TestFTL",
	},
	{
		"freed by a checkpoint that began before the segment was empty", "9", "ftl/stream.go",
		"s.emptiedAt >= attempt || ", "",
		"TestFTL",
	},
	{
		"freed while user records in it are not acknowledged", "9", "ftl/stream.go",
		"d.valid[s.idx] != 0 || s.unacked != 0 || s.draining", "d.valid[s.idx] != 0 || s.draining",
		"TestFTL",
	},
	{
		"reads do not hold what they read", "10", "ftl/stream.go",
		"!s.freeable || s.pins != 0 {", "!s.freeable {",
		"TestFTL",
	},
	{
		"a checkpoint overwrites the committed slot of a page", "11", "ftl/checkpoint.go",
		"	return slot ^ 1\n", "	return slot\n",
		"TestFTL",
	},
	{
		"a checkpoint overwrites the committed directory", "11", "ftl/checkpoint.go",
		"	c.slot = d.sb.DirSlot ^ 1\n", "	c.slot = d.sb.DirSlot\n",
		"TestFTL",
	},
	{
		"a checkpoint commits before its pages are durable", "12", "ftl/checkpoint.go",
		"		c.stage = ckptFlushCache\n		c.io.prepare(&d.cache, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)\n		c.io.call(ckptStep, d)\n",
		"		c.stage = ckptFlushCache\n		ckptStep(x, nil)\n",
		"TestFTL",
	},
	{
		"a checkpoint commits before the base is durable", "12", "ftl/checkpoint.go",
		"		c.stage = ckptFlushBase\n		c.io.prepare(&d.base, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)\n		c.io.call(ckptStep, d)\n",
		"		c.stage = ckptFlushBase\n		ckptStep(x, nil)\n",
		"TestFTL",
	},
	{
		"cu is taken at the commit", "12", "ftl/checkpoint.go",
		"next.CkptK, next.DirSlot, next.CU, next.CM = c.k, c.slot, c.cu, c.cm", "next.CkptK, next.DirSlot, next.CU, next.CM = c.k, c.slot, d.ackedU, c.cm",
		"TestFTL",
	},
	{
		"the clean flag stays set", "14", "ftl/startup.go",
		"	if d.sb.Clean {\n		nsb := d.sb\n		nsb.Clean = false\n", "	if d.sb.Clean {\n		nsb := d.sb\n",
		"TestFTL",
	},
	{
		"records of an earlier incarnation count", "16", "ftl/recovery.go",
		" && s.inc == d.sb.Inc && s.lastU", " && s.lastU",
		"TestFTL",
	},
	{
		"recovery applies what stands behind a gap", "17", "ftl/recovery.go",
		"			if end+1 > rs.maxD {\n				break\n			}\n", "",
		"TestFTL",
	},
	{
		"trims are not redone", "18", "ftl/recovery.go",
		"		for _, t := range rs.trims[r.at : r.at+r.n] {\n", "		for _, t := range rs.trims[:0] {\n",
		"TestFTL",
	},
	{
		"the first of two entries of an LBA in a record wins", "4", "ftl/recovery.go",
		"		for i := range r.n {\n			lba := sum.LBAAt(r.slot + i)\n", "		for i := range r.n {\n			i = r.n - 1 - i\n			lba := sum.LBAAt(r.slot + i)\n",
		"TestFTL",
	},
	{
		"recovery begins no incarnation", "19", "ftl/startup.go",
		"	d.checkpoint(1, next)\n", "	d.checkpoint(0, next)\n",
		"TestFTL",
	},
	{
		"recovery makes no checkpoint", "19", "ftl/startup.go",
		"	d.checkpoint(1, next)\n", "	next(d, nil)\n",
		"TestFTL",
	},
	{
		"a clean stop without a checkpoint", "20", "ftl/shutdown.go",
		"	d.checkpoint(0, unclean)\n", "	unclean(d, nil)\n",
		"TestFTL",
	},
	{
		"shared memory of another incarnation is taken", "21", "ftl/shm.go",
		" ||\n		h.inc.Load() != uint64(d.sb.Inc) {", " {",
		"TestFTL",
	},
	{
		"pages of an interrupted checkpoint stay clean in shared memory", "21", "ftl/load.go",
		"	d.table.AbortCheckpoint() // pages of an interrupted checkpoint are dirty again\n", "",
		"TestFTL",
	},
	{
		"a changed page is not marked dirty", "11", "ftl/l2p/l2p.go",
		"		f.dirty[w] |= b\n", "		f.dirty[w] |= b &^ 2\n",
		"TestFTL",
	},
	{
		"an aborted checkpoint forgets its pages", "12", "ftl/checkpoint.go",
		"	d.table.AbortCheckpoint()\n", "	d.table.EndCheckpoint()\n", "TestFTLFaults",
	},
	{
		"valid blocks of a moved block are counted twice", "-", "ftl/mover.go",
		"	d.valid[src.idx] -= moved\n", "",
		"TestFTL",
	},
	{
		"the last slot is missing in the summary", "-", "ftl/stream.go",
		"	s.sum.Clear(s.next, s.body)\n", "	s.sum.Clear(s.next-1, s.body)\n",
		"TestFTL",
	},
}
