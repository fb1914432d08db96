package job

import (
	"goftl/apps/ftlperf/internal/verify"
	"goftl/reactor"
)

// clock returns the time of this turn, or the exact time.
func (j *Job) clock() int64 {
	if j.precise {
		return reactor.Now()
	}
	return j.th.Now()
}

// Complete ends an IO. The Channel calls it on the job's thread.
func (io *IO) Complete(err error) {
	j := io.job
	if !j.plain || err != nil || io.Op == OpFlush || j.abandoned {
		j.completeSlow(io, err)
		return
	}
	j.inflight--
	now := j.clock()
	s := &j.stats.Dir[io.dir]
	s.IOs++
	s.Completion.Record(now - io.start)
	j.advance(io, now)
}

// advance gives a free IO its next operation.
func (j *Job) advance(io *IO, now int64) {
	if now >= j.deadline || j.left <= 0 || j.leftIOs <= 0 {
		j.retire()
		return
	}
	d := j.single
	if j.mixed {
		d = Write
		if j.rand.Uint64()>>32 < j.readMix {
			d = Read
		}
	}
	size := j.size[d]
	io.dir, io.Op = d, j.ops[d]
	io.Length, io.Buf = size, io.memory[:size]
	j.left -= int64(size)
	j.leftIOs--
	if j.plain {
		io.Offset = j.base + j.nextBlock(d)*size
		j.submit(io, now)
		return
	}
	j.advanceSlow(io, now)
}

// nextBlock draws the next address in blocks of the direction.
func (j *Job) nextBlock(d Dir) uint64 {
	if j.random {
		return j.source[d].Next()
	}
	b := j.position[d]
	if j.position[d]++; j.position[d] == j.blocks[d] {
		j.position[d] = 0
	}
	return b
}

func (j *Job) submit(io *IO, now int64) {
	io.start = now
	j.inflight++
	j.stats.Depth[depthLevel(j.inflight)]++
	if err := j.ch.Submit(io); err != nil {
		j.refused(io, err)
		return
	}
	if j.precise {
		j.stats.Dir[io.dir].Submission.Record(reactor.Now() - now)
	}
}

// refused parks an IO that the channel has no room for; any other error
// completes it, by a message, so that nothing recurses.
func (j *Job) refused(io *IO, err error) {
	j.stats.Depth[depthLevel(j.inflight)]--
	if err == ErrAgain { //nolint:errorlint // the sentinel of the interface, never wrapped
		j.inflight--
		j.stats.Parked++
		j.waiting.push(io)
		j.awaitRoom()
		return
	}
	io.err = err
	j.th.Post(failedSubmission, io)
}

func failedSubmission(arg any) {
	io := arg.(*IO)
	io.job.completeSlow(io, io.err)
}

func (j *Job) awaitRoom() {
	if !j.awaiting {
		j.awaiting = true
		j.ch.AwaitFree(roomAgain, j)
	}
}

func roomAgain(arg any) {
	j := arg.(*Job)
	j.awaiting = false
	if j.ended {
		return
	}
	now := j.clock()
	for n := j.waiting.n; n > 0 && !j.awaiting; n-- {
		io := j.waiting.pop()
		if now >= j.deadline {
			j.unwindParked(io)
			continue
		}
		j.submit(io, now)
	}
	j.checkEnd()
}

// completeSlow is Complete for everything but a plain success.
func (j *Job) completeSlow(io *IO, err error) {
	if j.abandoned {
		return
	}
	j.inflight--
	now := j.clock()
	if io.Op == OpFlush {
		j.endFlush(io, now, err)
		return
	}
	if j.spec.Table != nil {
		j.settle(io, err == nil)
	}
	s := &j.stats.Dir[io.dir]
	if err != nil {
		s.Errors++
		j.fail(err, io)
	} else {
		s.IOs++
		s.Completion.Record(now - io.start)
	}
	if n := j.spec.AbandonAfter; n > 0 && s.IOs >= n {
		abandon(j)
		return
	}
	j.follow(io, now, err == nil)
	if j.blocked.n > 0 {
		j.retryBlocked(now)
	}
}

// follow decides what an IO does after a read, a write or a trim.
func (j *Job) follow(io *IO, now int64, ok bool) {
	switch {
	case io.dir == Trim && j.spec.Mode.TrimFirst && ok:
		io.dir, io.Op = Write, j.ops[Write]
		j.lockAndSubmit(io, now)
		return
	case io.dir == Write && j.spec.FlushEvery > 0:
		if j.writesSince++; j.writesSince >= j.spec.FlushEvery {
			j.writesSince = 0
			j.flush(io, now)
			return
		}
	}
	j.advance(io, now)
}

func (j *Job) flush(io *IO, now int64) {
	io.Op, io.Offset, io.Length, io.Buf = OpFlush, 0, 0, nil
	j.submit(io, now)
}

func (j *Job) endFlush(io *IO, now int64, err error) {
	if err != nil {
		j.stats.Dir[Write].Errors++
		j.fail(err, io)
	} else {
		j.stats.Flush.Record(now - io.start)
	}
	if j.flushed {
		j.retire()
		return
	}
	j.advance(io, now)
}

// fail remembers the first error, and ends the job unless it shall go on.
func (j *Job) fail(err error, io *IO) {
	if j.stats.Err == nil {
		j.stats.Err = ioError(io, err)
	}
	if !j.spec.ContinueOnError {
		j.deadline = minTime
		j.wind()
	}
}

// advanceSlow finishes what advance began when more than an address is needed.
func (j *Job) advanceSlow(io *IO, now int64) {
	if j.spec.Mode.Verify {
		j.advanceVerify(io, now)
		return
	}
	size := j.size[io.dir]
	io.Offset = j.base + j.nextBlock(io.dir)*size
	if t := j.spec.Table; t != nil && j.random && !j.spec.Once {
		for try := 0; try < redraws && !unlocked(t, io); try++ {
			io.Offset = j.base + j.nextBlock(io.dir)*size
		}
	}
	j.lockAndSubmit(io, now)
}

func unlocked(t *verify.Table, io *IO) bool {
	first, count := units(t, io)
	return t.Free(first, count)
}

func units(t *verify.Table, io *IO) (first, count uint64) {
	return io.Offset / t.Unit(), io.Length / t.Unit()
}

// lockAndSubmit submits io, in a verified run as soon as no other IO is on its units.
func (j *Job) lockAndSubmit(io *IO, now int64) {
	t := j.spec.Table
	if t == nil {
		j.submit(io, now)
		return
	}
	first, count := units(t, io)
	if !t.TryLock(first, count) {
		j.blocked.push(io)
		return
	}
	switch io.dir {
	case Write:
		t.BeginWrite(io.Buf, first)
	case Trim:
		t.BeginTrim(first, count)
	case Read, NumDirs:
	}
	j.submit(io, now)
}

func (j *Job) retryBlocked(now int64) {
	for n := j.blocked.n; n > 0; n-- {
		io := j.blocked.pop()
		if now >= j.deadline {
			j.retired++
			continue
		}
		j.lockAndSubmit(io, now)
	}
	j.checkEnd()
}

// settle releases the units of an IO and judges what was read.
func (j *Job) settle(io *IO, ok bool) {
	t := j.spec.Table
	first, count := units(t, io)
	switch io.dir {
	case Write:
		t.EndWrite(first, count, ok)
	case Trim:
		t.EndTrim(first, count, ok)
	case Read, NumDirs:
		if ok {
			j.judge(io, first, count)
		}
		t.Unlock(first, count)
	}
}

func (j *Job) judge(io *IO, first, count uint64) {
	t := j.spec.Table
	for i := range count {
		if !t.Known(first + i) {
			continue
		}
		j.stats.Verified++
		m, ok := t.Check(io.Buf[i*t.Unit():(i+1)*t.Unit()], first+i)
		if ok {
			continue
		}
		j.stats.Mismatches++
		if len(j.stats.FirstMismatches) < mismatchesKept {
			j.stats.FirstMismatches = append(j.stats.FirstMismatches, m)
		}
	}
}

// advanceVerify reads the next run of known units, at most a buffer long.
func (j *Job) advanceVerify(io *IO, now int64) {
	t := j.spec.Table
	end := (j.base + j.spec.Size) / t.Unit()
	at := max(j.scan, j.base/t.Unit())
	for at < end && !t.Known(at) {
		at++
	}
	if at == end {
		j.scan = end
		j.retire()
		return
	}
	first, most := at, uint64(len(io.memory))/t.Unit()
	for at < end && at-first < most && t.Known(at) {
		at++
	}
	j.scan = at
	io.Offset, io.Length = first*t.Unit(), (at-first)*t.Unit()
	io.Buf = io.memory[:io.Length]
	j.lockAndSubmit(io, now)
}
