package main

// Rules 9 and 10: when a segment may be used again.
var tableSpace = []mutant{
	{
		rule: "9", name: "an empty segment is free at once", test: crashes,
		edits: []edit{{"ftl/stream.go", `
	s.setState(segQuarantine)
`, `
	s.setState(segQuarantine)
	s.freeable = true
	defer d.freeIfUnpinned(s)
`}},
	},
	{
		rule: "9", name: "freed with blocks that are valid", test: crashes,
		edits: []edit{{"ftl/stream.go", `s.state != segFull || d.valid[s.idx] != 0 || s.unacked`, `s.state != segFull || s.unacked`}},
	},
	{
		rule: "9", name: "freed while user records in it are not acknowledged", test: crashes,
		edits: []edit{{"ftl/stream.go", `d.valid[s.idx] != 0 || s.unacked != 0 || s.draining`, `d.valid[s.idx] != 0 || s.draining`}},
	},
	{
		rule: "9", name: "freed by a checkpoint that began before the segment was empty", test: crashes,
		edits: []edit{{"ftl/stream.go", `s.emptiedAt >= attempt || `, ``}},
	},
	{
		rule: "9", name: "freed before the checkpoint is committed", test: crashes,
		edits: []edit{{"ftl/checkpoint.go", `
		c.stage = ckptCommit
`, `
		c.stage = ckptCommit
		d.releaseQuarantine(c.attempt, c.cu)
`}},
	},
	{
		rule: "9", name: "a quarantine that runs the log dry starts no checkpoint", test: crashes,
		edits: []edit{{"ftl/background.go", `
	return held > 0 && (free <= d.lim.gcReserve+1 ||`, `
	return d.logBlocks == 0 && held > 0 && (free <= d.lim.gcReserve+1 ||`}, {"ftl/background.go", `
	if held > 0 && (free <= d.lim.critical ||`, `
	if d.logBlocks == 0 && held > 0 && (free <= d.lim.critical ||`}},
	},
	{
		rule: "10", name: "reads do not hold what they read", test: crashes,
		edits: []edit{{"ftl/stream.go", `!s.freeable || s.pins != 0 {`, `!s.freeable {`}},
	},
	{
		rule: "10", name: "a move does not let go of its source", test: crashes,
		edits: []edit{{"ftl/drain.go", `
	s.draining = false
	s.pins--
`, `
	s.draining = false
`}},
	},
}
