package main

// summaryUnflushed writes the FULL descriptor without a flush behind the summary.
var summaryUnflushed = edit{"ftl/stream.go", `
		s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())
		s.io.call(closeStep, s)
	case closeSummaryFlush:
`, `
		closeStep(&s.io, nil)
	case closeSummaryFlush:
`}

// Rules 4 to 8: records, their order, what durable means, how segments are closed, how blocks are moved.
var tableLog = []mutant{
	{
		rule: "4", name: "a record counts although a block of it is torn", test: crashes,
		edits: []edit{{"ftl/recovery.go", `bad: !r.whole, unread`, `unread`}},
	},
	{
		rule: "4", name: "VSS: a record counts although blocks of it are missing (index and count are not checked)", test: crashes,
		edits: []edit{{"ftl/scan.go", `
			r.lost = true
		}
		r.whole = r.whole && good
`, `
			good = true
		}
		r.whole = r.whole && good
`}},
	},
	{
		rule: "4", name: "the first of two entries of an LBA in a record wins", test: crashes,
		edits: []edit{{"ftl/recovery.go", `
		for i := range r.n {
			lba := sum.LBAAt(r.slot + i)
`, `
		for i := range r.n {
			i = r.n - 1 - i
			lba := sum.LBAAt(r.slot + i)
`}},
	},
	{
		rule: "5", name: "acknowledged as soon as written, not in order", test: crashes,
		edits: []edit{{"ftl/write.go", `
		d.switchInOrder()
	}
`, `
		d.log_.ring[r.u%uint64(len(d.log_.ring))] = nil
		d.switchRecord(r)
	}
`}},
	},
	{
		rule: "5", name: "completions take effect as they come, not in slot order", test: restless,
		edits: []edit{{"ftl/segment.go", `
	for s.head != nil && s.head.written && s.head.err == nil {
		w := s.head
		s.head = w.next
		if s.head == nil {
			s.tail = nil
		}
		w.next = nil
		w.effective(w)
	}
`, `
	var prev *slotWrite
	for x := s.head; x != nil; {
		n := x.next
		if !x.written || x.err != nil {
			prev, x = x, n
			continue
		}
		if prev == nil {
			s.head = n
		} else {
			prev.next = n
		}
		if s.tail == x {
			s.tail = prev
		}
		x.next = nil
		x.effective(x)
		x = n
	}
`}},
	},
	{
		rule: "6", name: "a flush does nothing", test: crashes,
		edits: []edit{{"ftl/flush.go", `
	f.io.call(flushDone, d)
`, `
	f.io.owner = d
	flushDone(&f.io, nil)
`}},
	},
	{
		rule: "6", name: "a flush goes to the wrong device", test: crashes,
		edits: []edit{{"ftl/flush.go", `f.io.prepare(d.logDev,`, `f.io.prepare(&d.base,`}},
	},
	{
		rule: "6", name: "a flush is answered by one that was under way already", test: crashes,
		edits: []edit{{"ftl/flush.go", `
	if f.under || (f.q.head == nil && !f.wantPadFlush) {
`, `
	for f.under && f.q.head != nil {
		r := f.q.head
		f.q.pop()
		r.next, f.active = f.active, r
	}
	if f.under || (f.q.head == nil && !f.wantPadFlush) {
`}},
	},
	{
		rule: "6", name: "FUA does nothing", test: crashes,
		edits: []edit{{"ftl/write.go", `
		if q.FUA && q.Err == nil {
`, `
		if false {
`}},
	},
	{
		rule: "6", name: "D counts what was acknowledged during the flush", test: crashes,
		edits: []edit{{"ftl/flush.go", `
		d.durableU = max(d.durableU, f.upTo)
`, `
		d.durableU = d.ackedU
`}},
	},
	{
		rule: "6", name: "D counts what was acknowledged during a checkpoint", test: crashes,
		edits: []edit{{"ftl/checkpoint.go", `
		c.d.durableU = max(c.d.durableU, c.flushed)
`, `
		c.d.durableU = c.d.ackedU
`}},
	},
	{
		rule: "7", name: "a segment is closed while records are on their way to it", test: crashes,
		edits: []edit{{
			"ftl/stream.go",
			`s.state != segClosing || s.inflight != 0 || s.head != nil || s.closing`,
			`s.state != segClosing || s.closing`,
		}},
	},
	{
		rule: "7", name: "FULL written before the summary is durable, and the generation in a summary is not compared", test: crashes,
		edits: []edit{
			summaryUnflushed,
			{"ftl/record/summary.go", ` || le.Uint32(b[44:]) != id.Gen ||`, ` ||`},
		},
	},
	{
		rule: "7", name: "bodies not flushed before the summary, and the summary of an OPEN segment is trusted", test: crashes,
		edits: []edit{
			{"ftl/stream.go", `
	s.io.prepare(s.dev, bdev.OpFlush, nil, nil, 0, 0, s.mdSource())
	s.io.call(closeStep, s)
}
`, `
	s.io.owner = s
	closeStep(&s.io, nil)
}
`},
			{"ftl/recovery.go", `
	if s.state == segClosing {
		sc.scanBody()
		return
	}
`, `
`},
			{"ftl/recovery.go", `
	sc.fromSummary()
	sc.end()
`, `
	if s.state == segClosing {
		s.next = s.body
	}
	sc.fromSummary()
	sc.end()
`},
			{"ftl/recovery.go", `
		rs.add(r)
	}
}
`, `
		s.noteU(r.u)
		rs.add(r)
	}
}
`},
		},
	},
	{
		rule: "8", name: "a move switches what was overwritten meanwhile", test: crashes,
		edits: []edit{{"ftl/mover.go", `
		if d.table.Get(e.lba) != src.addr+l2p.Addr(e.slot) {
			continue
		}
		d.table.Set(e.lba, at+l2p.Addr(i))
`, `
		d.table.Set(e.lba, at+l2p.Addr(i))
`}},
	},
	{
		rule: "8", name: "a segment that became empty is freed while moves out of it are under way", test: crashes,
		edits: []edit{
			{"ftl/stream.go", `s.unacked != 0 || s.draining || d.rs`, `s.unacked != 0 || d.rs`},
			{"ftl/drain.go", `
	s.draining = true
	s.pins++
`, `
	s.draining = true
`},
			{"ftl/drain.go", `
	s.draining = false
	s.pins--
`, `
	s.draining = false
`},
		},
	},
}
