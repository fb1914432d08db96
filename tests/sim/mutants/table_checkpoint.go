package main

// Rules 11 and 12: checkpoints.
var tableCheckpoint = []mutant{
	{
		rule: "11", name: "a checkpoint overwrites the committed slot of a page", test: crashes,
		edits: []edit{{"ftl/checkpoint.go", `
	return slot ^ 1
`, `
	return slot
`}},
	},
	{
		rule: "11", name: "a checkpoint overwrites the committed directory", test: crashes,
		edits: []edit{{"ftl/checkpoint.go", `
	c.slot = d.sb.DirSlot ^ 1
`, `
	c.slot = d.sb.DirSlot
`}},
	},
	{
		rule: "11", name: "a changed page is not marked dirty", test: crashes,
		edits: []edit{{"ftl/l2p/l2p.go", `
		f.dirty[w] |= b
`, `
		f.dirty[w] |= b &^ 2
`}},
	},
	{
		rule: "11", name: "a page that changed after its snapshot is clean when the checkpoint ends", test: crashes,
		edits: []edit{{"ftl/l2p/l2p.go", `
func (f *Flat) EndCheckpoint() { clear(f.ckpt) }
`, `
func (f *Flat) EndCheckpoint() {
	for i, w := range f.ckpt {
		f.dirty[i] &^= w
	}
	clear(f.ckpt)
	f.recount()
}
`}},
	},
	{
		rule: "12", name: "a checkpoint commits before its pages are durable", test: restless,
		edits: []edit{{"ftl/checkpoint.go", `
		c.stage = ckptFlushMeta
		c.flushed = d.ackedU
		c.io.prepare(d.meta, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)
		c.io.call(ckptStep, d)
`, `
		c.stage = ckptFlushMeta
		ckptStep(x, nil)
`}},
	},
	{
		rule: "12", name: "a checkpoint commits before the base is durable", test: restless,
		edits: []edit{{"ftl/checkpoint.go", `
		c.stage = ckptFlushBase
		c.flushed = d.ackedU
		c.io.prepare(&d.base, bdev.OpFlush, nil, nil, 0, 0, SourceL2P)
		c.io.call(ckptStep, d)
`, `
		c.stage = ckptFlushBase
		ckptStep(x, nil)
`}},
	},
	{
		rule: "12", name: "the directory is written, and flushed, while pages are under way", test: crashes,
		edits: []edit{{"ftl/checkpoint.go", `
	if c.under == 0 {
		c.pagesDone()
	}
`, `
	if _, more := c.nextPage(); !more && c.stage == ckptPages {
		c.pagesDone()
	}
`}},
	},
	{
		rule: "12", name: "cu is taken at the commit", test: crashes,
		edits: []edit{{
			"ftl/checkpoint.go",
			`next.CkptK, next.DirSlot, next.CU, next.CM = c.k, c.slot, c.cu, c.cm`,
			`next.CkptK, next.DirSlot, next.CU, next.CM = c.k, c.slot, d.ackedU, c.cm`,
		}},
	},
	{
		rule: "12", name: "an aborted checkpoint forgets its pages", test: faults,
		edits: []edit{{"ftl/checkpoint.go", `
	d.table.AbortCheckpoint()
`, `
	d.table.EndCheckpoint()
`}},
	},
	{
		rule: "12", name: "the other slot is taken for a rotten page", test: rot,
		edits: []edit{{"ftl/load.go", `
		op.ld.rot(op.page, err)
`, `
		op.ld.other(op.page, err)
`}, {"ftl/load.go", `
// count is account for a page of 4-byte entries`, `
// other takes whatever page stands in the slot that the directory does not name.
func (ld *loader) other(p uint64, why error) {
	d := ld.d
	_, slot := record.SplitDirEntry(*d.ckpt.dirEntry(d.sb.DirSlot, p))
	buf := iobuf.Alloc(blockSize)
	ld.under++
	x := new(devIO)
	x.prepareOne(d.meta, bdev.OpRead, buf, d.lay.Region(layout.L2PSlot(slot^1)).Offset+p, SourceL2P)
	x.call(func(_ *devIO, err error) {
		k := uint64(0)
		for i := range 8 {
			k |= uint64(buf[16+i]) << (8 * i)
		}
		if err != nil || record.CheckPage(buf, p, k, d.seed) != nil {
			ld.rot(p, why)
		} else {
			d.table.Load(p, buf)
			ld.account(p)
		}
		iobuf.Free(buf)
		ld.under--
		ld.fill()
	}, d)
}

// count is account for a page of 4-byte entries`}},
	},
	{
		rule: "12", name: "rotten pages and lost records do not stop the writing", test: rot,
		edits: []edit{{"ftl/startup.go", `
	if d.redoGaps > 0 || d.rottenPages > 0 {
`, `
	if false {
`}},
	},
}
