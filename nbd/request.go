package nbd

import (
	"errors"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// stage is what a request is waiting for. A request goes through the stages
// that it needs in this order.
type stage uint8

const (
	stNew        stage = iota
	stReadFirst        // read-modify-write: the first block, which is written in part
	stWriteFirst       // of zeroes: that block goes back
	stReadLast         // the same for the last block, when it is another one
	stWriteLast
	stMain  // the operation itself, on whole blocks
	stFlush // what FUA asks for where the device operation has no FUA
	stEnd
)

// request is one request from its header to its reply. It belongs to the
// thread of its session, has exactly one device operation in flight at a time,
// and is reused.
type request struct {
	s      *Session
	stage  stage
	locked bool // in the lane's list of writes

	command proto.Command
	flags   proto.CommandFlags
	cookie  uint64
	offset  uint64
	length  uint32
	got     int // bytes of the client's data that came

	// The whole blocks that cover the range; blocks of lane.x.gran bytes.
	block, blocks uint64
	head          int // bytes in front of the range in its first block
	tail          int // bytes behind it in its last block

	units   []unit   // all memory of the request
	bufs    [][]byte // the covering blocks
	scratch []byte   // one block, for read-modify-write
	held    int

	next       *request // free list
	prev, succ *request // the lane's list of writes
	waiters    *request // of the range lock, oldest first
	waitNext   *request
	units0     [2]unit // what most requests need
	bufs0      [1][]byte
	err        error // a refused submission, on its way to step
	iowait     bdev.IOWait
}

// check says whether a request is served: the error to answer if not.
func (s *Session) check(q *proto.Request) proto.Errno {
	l := s.lane
	var allowed proto.CommandFlags
	switch q.Command {
	case proto.CmdRead:
		if s.structured {
			allowed = proto.CmdFlagDF
		}
	case proto.CmdFlush:
		if q.Offset != 0 || q.Length != 0 {
			return proto.ErrInval
		}
	case proto.CmdWriteZeroes:
		allowed = proto.CmdFlagNoHole | proto.CmdFlagFastZero
	case proto.CmdWrite, proto.CmdTrim, proto.CmdCache:
	case proto.CmdBlockStatus:
		if !s.status || q.Length == 0 {
			return proto.ErrInval
		}
		allowed = proto.CmdFlagReqOne
	default:
		return proto.ErrInval
	}
	if q.Flags&^(allowed|proto.CmdFlagFUA) != 0 {
		return proto.ErrInval
	}
	if modifies := writes(q.Command) || q.Command == proto.CmdTrim; modifies {
		if l.x.ReadOnly {
			return proto.ErrPerm
		}
		if q.Flags&proto.CmdFlagFUA != 0 && l.x.flags&proto.FlagSendFUA == 0 {
			return proto.ErrInval
		}
	}
	if q.Command <= proto.CmdWrite && q.Length > MaxRequest {
		return proto.ErrInval
	}
	if q.Offset > l.x.size || uint64(q.Length) > l.x.size-q.Offset {
		if writes(q.Command) {
			return proto.ErrNoSpc
		}
		return proto.ErrInval
	}
	return l.supports(q)
}

// supports refuses what the device cannot do.
func (l *lane) supports(q *proto.Request) proto.Errno {
	switch q.Command { //nolint:exhaustive // the rest always can be done
	case proto.CmdFlush:
		if l.x.flags&(proto.FlagSendFlush|proto.FlagReadOnly) == 0 {
			return proto.ErrInval
		}
	case proto.CmdTrim:
		if l.x.flags&proto.FlagSendTrim == 0 {
			return proto.ErrInval
		}
	case proto.CmdWriteZeroes:
		if q.Flags&proto.CmdFlagFastZero != 0 &&
			(!l.x.FastZero || (q.Offset|uint64(q.Length))&l.mask != 0) {
			return proto.ErrNotSup
		}
	}
	return proto.OK
}

// coverBytes returns the length of the whole blocks that cover a range.
func (l *lane) coverBytes(offset uint64, length uint32) int {
	if length == 0 {
		return 0
	}
	return int((offset+uint64(length)+l.mask)&^l.mask - offset&^l.mask)
}

// bytesFor returns how much memory a request takes.
func (l *lane) bytesFor(q *proto.Request) int {
	if q.Length == 0 {
		return 0
	}
	if q.Command == proto.CmdBlockStatus {
		return statusBytes
	}
	n := 0
	if q.Command <= proto.CmdWrite {
		n = arenaBytes(l.coverBytes(q.Offset, q.Length))
	}
	if l.mask&(q.Offset|uint64(q.Length)) != 0 && writes(q.Command) {
		n += arenaBytes(int(l.x.gran))
	}
	return n
}

// writes says whether a command gives the whole range new contents, so that
// blocks that it covers in part must be read first.
func writes(c proto.Command) bool { return c == proto.CmdWrite || c == proto.CmdWriteZeroes }

func (r *request) init(s *Session, q *proto.Request) {
	l := s.lane
	r.s, r.stage = s, stNew
	if r.units == nil {
		r.units, r.bufs = r.units0[:0], r.bufs0[:0]
	}
	r.command, r.flags, r.cookie = q.Command, q.Flags, q.Cookie
	r.offset, r.length, r.got = q.Offset, q.Length, 0
	end := q.Offset + uint64(q.Length)
	r.block = q.Offset >> l.shift
	r.blocks = (end+l.mask)>>l.shift - r.block
	r.head = int(q.Offset & l.mask)
	r.tail = int(-end & l.mask)
}

// alloc takes the memory that the request needs, all of it or none.
func (r *request) alloc(need int) bool {
	h, l := r.s.host, r.s.lane
	var ok bool
	if r.command == proto.CmdBlockStatus {
		if r.units, ok = h.data.getN(r.units, need); !ok {
			return false
		}
	}
	if cover := l.coverBytes(r.offset, r.length); cover > 0 && r.command <= proto.CmdWrite {
		if r.units, ok = h.data.getN(r.units, cover); !ok {
			return false
		}
		for _, u := range r.units {
			b := u.bytes()
			r.bufs = append(r.bufs, b[:min(len(b), cover)])
			cover -= len(b)
		}
	}
	if writes(r.command) && r.head|r.tail != 0 {
		if r.units, ok = h.data.getN(r.units, int(l.x.gran)); !ok {
			h.data.putAll(r.units)
			return false
		}
		r.scratch = r.units[len(r.units)-1].bytes()[:l.x.gran]
	}
	r.held = need
	r.s.held += need
	return true
}

// reset forgets what must not survive the reuse of the request.
func (r *request) reset() {
	assert.That(!r.locked && r.waiters == nil, "nbd: request freed that others wait for")
	clear(r.bufs)
	r.s, r.units, r.bufs, r.scratch, r.held, r.err = nil, r.units[:0], r.bufs[:0], nil, 0, nil
}

// at returns the piece of memory at byte pos of the covering blocks, at most
// length bytes. Pieces are slabUnitMax long but for the last one.
func (r *request) at(pos, length int) []byte {
	b := r.bufs[pos>>unitShiftMax][pos&(slabUnitMax-1):]
	return b[:min(len(b), length)]
}

// begin starts a request that has all its data.
func (r *request) begin() {
	if r.length == 0 && r.command != proto.CmdFlush {
		r.s.reply(r, proto.OK)
		return
	}
	switch r.command {
	case proto.CmdRead, proto.CmdBlockStatus:
		r.stage = stMain
		r.submit()
	case proto.CmdWrite, proto.CmdTrim, proto.CmdWriteZeroes:
		if r.s.lane.lock(r) {
			r.advance()
		}
	case proto.CmdFlush:
		if r.s.lane.x.ReadOnly {
			r.s.reply(r, proto.OK) // nothing was written
			return
		}
		r.stage = stFlush
		r.submit()
	default:
		r.s.reply(r, proto.OK) // cache is a hint
	}
}

// partial says whether the request writes less than whole blocks, so that it
// reads what it does not write.
func (r *request) partial() bool { return r.scratch != nil }

func (r *request) firstPartial() bool { return r.head > 0 || r.blocks == 1 && r.tail > 0 }
func (r *request) lastPartial() bool  { return r.blocks > 1 && r.tail > 0 }

// whole returns the blocks that are covered completely.
func (r *request) whole() (block, blocks uint64) {
	block, end := r.block, r.block+r.blocks
	if r.firstPartial() {
		block++
	}
	if r.lastPartial() {
		end--
	}
	return block, end - block
}

// needs says whether the request has to go through a stage.
func (r *request) needs(st stage) bool {
	zeroes := r.command == proto.CmdWriteZeroes
	switch st {
	case stReadFirst:
		return r.partial() && r.firstPartial()
	case stWriteFirst:
		return zeroes && r.firstPartial()
	case stReadLast:
		return r.partial() && r.lastPartial()
	case stWriteLast:
		return zeroes && r.lastPartial()
	case stMain:
		if r.command == proto.CmdWrite {
			return true
		}
		_, n := r.whole()
		return n > 0
	case stFlush:
		return r.command != proto.CmdWrite && r.flags&proto.CmdFlagFUA != 0
	case stNew, stEnd:
		return true
	default:
		return true
	}
}

// advance goes to the next stage.
func (r *request) advance() {
	for r.stage++; !r.needs(r.stage); r.stage++ {
	}
	if r.stage == stEnd {
		r.finish(nil)
		return
	}
	r.submit()
}

// submit sends the device operation of the stage. It completes nothing: an
// error comes back to step through a message.
func (r *request) submit() {
	l := r.s.lane
	var err error
	switch r.stage {
	case stReadFirst:
		err = l.ch.Read(r.scratch, r.block*l.unit, l.unit, ioDone, r)
	case stReadLast:
		err = l.ch.Read(r.scratch, (r.block+r.blocks-1)*l.unit, l.unit, ioDone, r)
	case stWriteFirst:
		err = l.ch.Write(r.scratch, r.block*l.unit, l.unit, ioDone, r)
	case stWriteLast:
		err = l.ch.Write(r.scratch, (r.block+r.blocks-1)*l.unit, l.unit, ioDone, r)
	case stMain:
		err = r.submitMain(l)
	case stFlush:
		err = l.ch.Flush(ioDone, r)
	default:
		assert.That(false, "nbd: a request is submitted that has nothing to do")
	}
	if err != nil {
		r.refused(err)
	}
}

func (r *request) submitMain(l *lane) error {
	lba, count := r.block*l.unit, r.blocks*l.unit
	switch r.command {
	case proto.CmdRead:
		if len(r.bufs) == 1 {
			return l.ch.Read(r.bufs[0], lba, count, ioDone, r)
		}
		return l.ch.Readv(r.bufs, nil, lba, count, ioDone, r)
	case proto.CmdWrite:
		if r.flags&proto.CmdFlagFUA != 0 {
			return l.ch.WritevFUA(r.bufs, nil, lba, count, ioDone, r)
		}
		if len(r.bufs) == 1 {
			return l.ch.Write(r.bufs[0], lba, count, ioDone, r)
		}
		return l.ch.Writev(r.bufs, nil, lba, count, ioDone, r)
	case proto.CmdBlockStatus:
		return r.submitStatus(l)
	case proto.CmdTrim:
		block, blocks := r.whole()
		return l.ch.Unmap(block*l.unit, blocks*l.unit, ioDone, r)
	default:
		block, blocks := r.whole()
		return l.ch.WriteZeroes(block*l.unit, blocks*l.unit, ioDone, r)
	}
}

// refused handles a submission that the device layer did not take.
//
//go:noinline
func (r *request) refused(err error) {
	l := r.s.lane
	if errors.Is(err, unix.ENOMEM) {
		r.iowait.Fn, r.iowait.Arg = retry, r
		l.ch.QueueIOWait(&r.iowait)
		return
	}
	r.err = err
	l.host.th.Post(failed, r)
}

func retry(arg any) { arg.(*request).submit() }

func failed(arg any) {
	r := arg.(*request)
	r.step(r.err)
}

func ioDone(io *bdev.IO) { io.Ctx.(*request).step(io.Err()) }

// step goes on after a device operation.
func (r *request) step(err error) {
	if err != nil {
		r.finish(err)
		return
	}
	switch r.stage { //nolint:exhaustive // the others have no result to look at
	case stMain:
		if r.command == proto.CmdRead {
			r.s.replyData(r)
			return
		}
	case stReadFirst:
		r.merge(0, r.head, r.blocks == 1)
	case stReadLast:
		r.merge(int(r.blocks-1)<<r.s.lane.shift, 0, true)
	}
	r.advance()
}

// merge joins a block that was read with what the request writes to it. pos is
// where the block begins in the covering blocks; from is where the range
// begins in the block.
func (r *request) merge(pos, from int, last bool) {
	to := len(r.scratch)
	if last {
		to -= r.tail
	}
	if r.command == proto.CmdWriteZeroes {
		clear(r.scratch[from:to])
		return
	}
	block := r.at(pos, len(r.scratch))
	copy(block[:from], r.scratch[:from])
	copy(block[to:], r.scratch[to:])
}

// finish answers the request.
func (r *request) finish(err error) {
	e := proto.ErrnoOf(err)
	if e == proto.ErrNotSup {
		e = proto.ErrInval // ENOTSUP is for refused fast zeroes only, which never get here
	}
	if r.locked {
		r.s.lane.unlock(r)
	}
	r.s.reply(r, e)
}
