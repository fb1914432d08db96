package main

// What the rules do not speak of: errors of devices, counts, checksums, liveness.
var tableRest = []mutant{
	{
		rule: "-", name: "valid blocks of a moved block are counted twice", test: crashes,
		edits: []edit{{"ftl/mover.go", `
	d.valid[src.idx] -= moved
`, `
`}},
	},
	{
		rule: "-", name: "the last slot is missing in the summary", test: crashes,
		edits: []edit{{"ftl/stream.go", `
	s.sum.Clear(s.next, s.body)
`, `
	s.sum.Clear(s.next-1, s.body)
`}},
	},
	{
		rule: "-", name: "trims end a block early", test: crashes,
		edits: []edit{{"ftl/write.go", `
	for end := lba + n; lba < end; lba++ {
`, `
	for end := lba + n - 1; lba < end; lba++ {
`}},
	},
	{
		rule: "-", name: "the number of a failed record is used again, without a void record", test: faults,
		edits: []edit{{"ftl/logerrors.go", `
	if l.voidFrom == 0 {
		l.voidFrom = from
	}
	l.voidTo = l.nextU
`, `
	l.nextU = d.ackedU
	l.voidFrom = 0
`}},
	},
	{
		rule: "-", name: "what stands behind a failed write stays in its segment", test: faults,
		edits: []edit{{"ftl/segment.go", `
	s.next = first.slot
`, `
`}},
	},
	{
		rule: "-", name: "the cache of checksums does not know generations", test: crashes,
		edits: []edit{{"ftl/sumcache.go", `record.Mix(uint64(s.gen)<<32|uint64(s.idx))`, `record.Mix(uint64(s.idx))`}},
	},
	{
		rule: "-", name: "a summary that was refused is compared with", test: stray,
		edits: []edit{{"ftl/read.go", `
		op.sn = 0 // verify must not look at what came
`, `
`}},
	},
	{
		rule: "-", name: "a block in flight is found after it was answered", test: crashes,
		edits: []edit{{"ftl/write.go", `
		d.log_.inflight.remove(r.lbas[i], r.seqs[i])
	}
	d.valid`, `
		_ = r.seqs[i]
	}
	d.valid`}},
	},
}
