package main

// tableBuffers are defects of the volatile write cache.
var tableBuffers = []mutant{
	{
		rule: "6", name: "a flush does not wait for what is in write buffers", test: buffered,
		edits: []edit{{"ftl/flush.go", `
	if r.seq == d.log_.taken {
`, `
	if r.seq >= d.log_.taken {
`}},
	},
	{
		rule: "6", name: "a flush waits for one block less than was answered", test: buffered,
		edits: []edit{{"ftl/flush.go", `
	r.seq = d.log_.buffered
`, `
	r.seq = d.log_.buffered
	if r.seq > d.log_.taken {
		r.seq--
	}
`}},
	},
	{
		rule: "-", name: "an older write hides one that was answered", test: buffered,
		edits: []edit{{"ftl/inflight.go", `
	} else if s.seq > seq {
`, `
	} else if s.seq > seq+1<<40 {
`}},
	},
	{
		rule: "-", name: "a write is answered before it can be read", test: buffered,
		edits: []edit{{"ftl/channelbuffer.go", `
		d.log_.inflight.put(q.LBA+i, q.seq, block)
	}
	r.off += n
`, `
	}
	r.off += n
`}},
	},
	{
		rule: "-", name: "entries are used again before the log is done with them", test: buffered,
		edits: []edit{{"ftl/channelbuffer.go", `
	b.head += n
`, `
	b.head += n
	b.tail = max(b.tail, b.head-min(b.head, b.n*3/4))
`}},
	},
	{
		rule: "-", name: "what was answered and given up reads as older content", test: bufferedFaults,
		edits: []edit{{"ftl/channelbuffer.go", `
	d.log_.inflight.lose(lba, r.seq)
`, `
	d.log_.inflight.remove(lba, r.seq)
`}},
	},
	{
		rule: "6", name: "flushes succeed although answered writes were given up", test: bufferedFaults,
		edits: []edit{{"ftl/flush.go", `
	if err := cmp.Or(d.flushBroken, d.log_.lossErr); err != nil {
`, `
	if err := cmp.Or(d.flushBroken); err != nil {
`}},
	},
}
