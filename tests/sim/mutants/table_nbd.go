package main

// The NBD server.
var tableNBD = []mutant{
	{
		rule: "-", name: "an answer has the cookie of another request", test: clients,
		edits: []edit{{"nbd/session.go", `	proto.PutSimpleReply(s.replyHeader(proto.SimpleReplySize), e, cookie)
`, `	proto.PutSimpleReply(s.replyHeader(proto.SimpleReplySize), e, cookie+0x9e3779b97f4a7c15)
`}},
	},
	{
		rule: "-", name: "writes are durable at some time, FUA or not", test: clients,
		edits: []edit{{"nbd/request.go", `
		if r.flags&proto.CmdFlagFUA != 0 {
			return l.ch.WritevFUA`, `
		if r.flags&proto.CmdFlagNoHole != 0 {
			return l.ch.WritevFUA`}},
	},
	{
		rule: "-", name: "zeroes and trims are durable at some time, FUA or not", test: clients,
		edits: []edit{{"nbd/request.go", `
		return r.command != proto.CmdWrite && r.flags&proto.CmdFlagFUA != 0
`, `
		return false
`}},
	},
	{
		rule: "-", name: "a flush is answered without one", test: clients,
		edits: []edit{{"nbd/request.go", `
		r.stage = stFlush
		r.submit()
`, `
		r.s.reply(r, proto.OK)
`}},
	},
	{
		rule: "-", name: "a write is answered when it begins", test: clients,
		edits: []edit{{"nbd/request.go", `
	l := r.s.lane
	var err error
	switch r.stage {
`, `
	l := r.s.lane
	var err error
	if r.command == proto.CmdWrite && r.stage == stMain && r.got >= 0 && r.s.state != sessionDead {
		r.got = -1
		r.s.answer(r.command, r.cookie, proto.OK)
		r.s.kick()
	}
	switch r.stage {
`}, {"nbd/session.go", `
	if s.state != sessionDead {
		s.answer(r`, `
	if s.state != sessionDead && r.got >= 0 {
		s.answer(r`}},
	},
	{
		rule: "-", name: "a read beyond the end returns what is there", test: clients,
		edits: []edit{{"nbd/request.go", `
		if writes(q.Command) {
			return proto.ErrNoSpc
		}
`, `
		if writes(q.Command) {
			return proto.ErrNoSpc
		}
		if q.Command == proto.CmdRead && q.Offset < l.x.size {
			q.Length = uint32(l.x.size - q.Offset)
			return proto.OK
		}
`}},
	},
	{
		rule: "-", name: "a session ends while the device works on its requests", test: clients,
		edits: []edit{{"nbd/session.go", `
	return s.state != sessionOpen && s.inflight == 0 && s.out.empty()
`, `
	return s.state == sessionDead || s.state != sessionOpen && s.inflight == 0 && s.out.empty()
`}, {"nbd/session.go", `
	assert.That(s.held == 0, "nbd: a finished session holds buffers")
`, `
`}},
	},
	{
		rule: "-", name: "a server that drains throws the answers away", test: clients,
		edits: []edit{{"nbd/session.go", `
func (s *Session) Drain() { s.shut(errDrained) }
`, `
func (s *Session) Drain() { s.Kill(errDrained) }
`}},
	},
	{
		rule: "-", name: "the client's wish for no zeroes is ignored", test: clients,
		edits: []edit{{"nbd/handshake.go", `
	h.noZeroes = f&proto.FlagClientNoZeroes != 0
`, `
	h.noZeroes = false
`}},
	},
	{
		rule: "-", name: "structured replies are agreed on and not used", test: clients,
		edits: []edit{{"nbd/session.go", `structured: n.structured, status: n.status}`, `status: n.status}`}},
	},
	{
		rule: "-", name: "writes of parts of the same block do not wait for each other", test: clients,
		edits: []edit{{"nbd/rangelock.go", `
	return l.partial == 0 || l.free(r)
`, `
	return true
`}},
	},
	{
		rule: "-", name: "of those who wait for a range only the first is woken", test: clients,
		edits: []edit{{"nbd/rangelock.go", `
	w := r.waiters
	r.waiters = nil
`, `
	w := r.waiters
	if w != nil {
		w.waitNext = nil
	}
	r.waiters = nil
`}},
	},
	{
		rule: "-", name: "what a write does not cover at the end of its last block is not kept", test: clients,
		edits: []edit{{"nbd/request.go", `
	copy(block[to:], r.scratch[to:])
`, `
`}},
	},
	{
		rule: "-", name: "a trim covers blocks of which it has a part", test: clients,
		edits: []edit{{"nbd/request.go", `
		block, blocks := r.whole()
		return l.ch.Unmap(block*l.unit, blocks*l.unit, ioDone, r)
`, `
		return l.ch.Unmap(lba, count, ioDone, r)
`}},
	},
	{
		rule: "-", name: "memory that comes back wakes nobody", test: clients,
		edits: []edit{{"nbd/session.go", `
	r.next, h.free = h.free, r
	h.freed()
`, `
	r.next, h.free = h.free, r
`}},
	},
	{
		rule: "-", name: "the limit of requests counts only those in the device", test: clients,
		edits: []edit{{"nbd/session.go", `s.inflight+s.out.unsent < s.host.limits.Requests`, `s.inflight/2 < s.host.limits.Requests`}},
	},
	{
		rule: "-", name: "zeroes that must be fast are never refused", test: clients,
		edits: []edit{{"nbd/request.go", `
			return proto.ErrNotSup
`, `
			return proto.OK
`}},
	},
	{
		rule: "-", name: "a send that was cut goes on at the beginning", test: clients,
		edits: []edit{{"nbd/outq.go", `
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
`, `
`}},
	},
	{
		rule: "-", name: "requests in front of the end of the stream are not answered", test: clients,
		edits: []edit{{"nbd/session.go", `
	s.shut(nil)
}

// Drain`, `
	s.Kill(nil)
}

// Drain`}},
	},
	{
		rule: "-", name: "the beginning of a request that was cut is lost", test: clients,
		edits: []edit{{"nbd/input.go", `
	in.r, in.w = 0, copy(in.buf, in.stash[:in.nstash])
`, `
	in.r, in.w = 0, 0
`}},
	},
	{
		rule: "-", name: "the first hole of an unaligned question is too long", test: clients,
		edits: []edit{{"nbd/status.go", `
		skip, left = 0, left-size
`, `
		left -= size
`}},
	},
	{
		rule: "-", name: "what is under way counts as a hole", test: clientsBuffered,
		edits: []edit{{"ftl/extents.go", `
			n, hole = d.log_.inflight.run(r.LBA+at, n)
`, `
			hole = r.Count > 0
`}},
	},
	{
		rule: "-", name: "the status of blocks ends a block late", test: clients,
		edits: []edit{{"ftl/l2p/l2p.go", `
			return uint64(i), unmapped
`, `
			return uint64(min(i+1, len(e))), unmapped
`}},
	},
}
