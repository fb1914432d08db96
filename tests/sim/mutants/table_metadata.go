package main

// Rules 1 to 3: what has two copies, and what must be durable before a segment is written to.
var tableMetadata = []mutant{
	{
		rule: "1", name: "descriptors: primary written before the mirror is durable", test: restless,
		edits: []edit{{"ftl/md/ordered.go", `
	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {
		q.stage++
`, `
	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {
		q.stage++
		if q.stage == orderedFlush1 {
			q.stage++
		}
`}},
	},
	{
		rule: "1", name: "descriptors: an update flushes nothing", test: restless,
		edits: []edit{{"ftl/md/ordered.go", `
	if q.stage != orderedFlush2 && (q.stage != orderedFlush1 || o.mirrored) {
		q.stage++
`, `
	if q.stage < orderedWrite2 {
		q.stage = orderedWrite2
`}},
	},
	{
		rule: "1", name: "descriptors: an update does not write the mirror", test: restless,
		edits: []edit{{"ftl/md/ordered.go", `
	q.stage = orderedWrite1
	o.runOrdered()
`, `
	q.stage = orderedWrite2
	o.runOrdered()
`}},
	},
	{
		rule: "1", name: "superblock: primary written before the mirror is durable", test: restless,
		edits: []edit{{"ftl/sbio.go", `
		w.write(w.stage + 1)
`, `
		if w.stage++; w.stage == sbMirrorFlush {
			w.stage++
		}
		w.write(w.stage)
`}},
	},
	{
		rule: "1", name: "superblock: no flush of the primary", test: restless,
		edits: []edit{{"ftl/sbio.go", `
	if w.stage != sbPrimaryFlush {
`, `
	if w.stage < sbPrimaryFlush-1 {
`}},
	},
	{
		rule: "1", name: "superblock: an update does not write the mirror", test: restless,
		edits: []edit{{"ftl/sbio.go", `
	w.write(sbMirror)
`, `
	w.write(sbPrimary)
`}},
	},
	{
		rule: "2", name: "descriptors: the mirror of an unreadable one is not looked at", test: restless,
		edits: []edit{{"ftl/md/restore.go", `
	if !o.mirrored {
		o.endRestore()
`, `
	if !o.mirrored || b.bad.any() {
		o.endRestore()
`}},
	},
	{
		rule: "2", name: "descriptors: of two whole copies the primary counts, also the older one", test: stray,
		edits: []edit{{"ftl/md/compare.go", `
	case err == nil && (bad || newer(blk, mem)):
`, `
	case err == nil && bad:
`}},
	},
	{
		rule: "2", name: "descriptors: a repaired one is not flushed before its mirror is written", test: restless,
		edits: []edit{{"ftl/md/restore.go", `
	case stageRepairPrimary:
		b.stage = stageFlushRepair
		o.flush(&o.primary)
`, `
	case stageRepairPrimary:
		b.repair = nil
		o.syncMirror()
`}},
	},
	{
		rule: "2", name: "superblock: a copy that is older or torn is not repaired at a load", test: restless,
		edits: []edit{{"ftl/startup.go", `
	if d.cfg.ReadOnly || !c.RewriteBase && !c.RewriteCache {
`, `
	if c != nil {
`}},
	},
	{
		rule: "2", name: "superblock: a repaired copy is not flushed", test: restless,
		edits: []edit{{"ftl/sbio.go", `
	d.sbw.io.prepare(x.dev, bdev.OpFlush, nil, nil, 0, 0, x.dev.mdSource())
	d.sbw.io.call(resyncDone, d)
`, `
	resyncDone(x, nil)
`}},
	},
	{
		rule: "2", name: "a look at a device repairs what it finds", test: restless,
		edits: []edit{{"ftl/startup.go", `
	if d.cfg.ReadOnly || !c.RewriteBase && !c.RewriteCache {
`, `
	if !c.RewriteBase && !c.RewriteCache {
`}},
	},
	{
		rule: "3", name: "records go to a segment whose OPEN descriptor is not written", test: crashes,
		edits: []edit{{"ftl/stream.go", `
	d.putDescriptor(s, record.StateOpen)
	s.entry.Arg = s
	s.entry.Done = openDone
	d.persistDescriptor(s)
`, `
	d.th.Post(func(any) { openDone(s, nil) }, nil)
`}},
	},
	{
		rule: "3", name: "a segment that is opened again keeps its generation", test: crashes,
		edits: []edit{{"ftl/stream.go", `
	s.gen++
`, `
`}},
	},
}
