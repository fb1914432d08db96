package ftl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
	"goftl/ftl/record"
	"goftl/poller"
)

// What runs beside user IO: compaction, relocation and checkpoints are started
// here, from counts of free, full and quarantined segments. Nothing runs by
// the clock: background is called after something changed, and when there is
// nothing left to gain nothing is started, so an idle device does no IO.

const (
	maxDescFailures  = 4  // descriptor updates in a row that may fail
	maxSegmentFaults = 3  // uses with failed writes in a row after which a segment is not used again
	maxMoveFailures  = 64 // failed moves in a row before the base counts as broken
	maxZoneFailures  = 64 // failures in a row to finish zones before users who wait for that are told
	retryPeriod      = 50e6
	idlePeriod       = 20e6
)

// limits are the thresholds of background work, in segments.
type limits struct {
	throttle    int // free chunks at which user writes are paced
	ckptChunks  int // free chunks at which a checkpoint may feed the free list
	critical    int // free chunks at which one must
	compactKeep int // free and quarantined chunks that compaction aims at
	gcStart     int // free and quarantined bands that relocation aims at
	gcReserve   int // free bands that only relocation may take
	garbage     int // percent of garbage below which a band is not worth moving, while bands are not short
	user        [4]UserLimit
}

// limitsFor scales the thresholds to the device.
func limitsFor(l *layout.Layout, c *Limits) limits {
	chunks, bands := int(l.Chunks), int(l.Bands)
	pct := func(n, p, least int) int { return max(least, n*p/100) }
	lim := limits{
		throttle:    pct(chunks, c.ThrottlePct, 2),
		ckptChunks:  pct(chunks, c.CheckpointPct, 3),
		critical:    pct(chunks, c.CriticalPct, 2),
		compactKeep: pct(chunks, c.CompactPct, 5),
		gcReserve:   2,
		gcStart:     min(pct(bands, c.RelocatePct, 5), 64),
		garbage:     min(c.InvalidPct, int(l.SparePct)/2),
		user:        c.User.points(),
	}
	if l.NoCache {
		lim.gcStart = min(lim.gcStart, c.User.Start.Bands)
		lim.scaleUser()
	}
	return lim
}

// scaleUser shrinks the limits of users in proportion, so that the last one is
// where relocation starts.
func (lim *limits) scaleUser() {
	start := lim.user[3].Bands
	least := lim.gcReserve
	for i := range lim.user {
		p := &lim.user[i]
		p.Bands = max(p.Bands*lim.gcStart/start, least)
		least = p.Bands + 1
	}
	lim.gcStart = lim.user[3].Bands
}

// userShare returns the percentage of users in what is written to the bands
// when free bands are free, without a cache.
func (lim *limits) userShare(free int) int {
	last := lim.user[0]
	if free <= last.Bands {
		return last.Pct
	}
	for _, p := range lim.user[1:] {
		if free < p.Bands {
			return last.Pct + (p.Pct-last.Pct)*(free-last.Bands)/(p.Bands-last.Bands)
		}
		last = p
	}
	return last.Pct
}

// wake makes background run after the messages of this turn.
func (d *Device) wake() {
	if !d.awake {
		d.awake = true
		d.th.Post(runBackground, d)
	}
}

func runBackground(arg any) {
	d := arg.(*Device)
	d.awake = false
	// Rule 15: nothing is moved before a load has ended; a start that failed
	// has nothing left to work with.
	if d.halted || !d.running {
		return
	}
	if d.ckptWanted() {
		d.startCheckpoint()
	}
	if !d.quiesce {
		d.gc.writeWaiting()
		d.gc.run()
		d.compaction.writeWaiting()
		d.compaction.run()
	}
	if d.log_.q.head != nil || d.log_.rehome != nil || d.gc.waiting != nil {
		d.pack()
	}
	d.checkStuck()
	if d.quiesce {
		d.quiesced()
	}
}

// checkStuck ends the writing when users wait and no band can become free for
// them: failed writes have sealed more bands early, or zones that failed have
// taken more, than the reserve makes up for.
func (d *Device) checkStuck() {
	l := &d.log_
	if d.health != HealthOK || d.strandedHelped() || l.q.head == nil && l.rehome == nil {
		return
	}
	if d.zoneFails > maxZoneFailures && d.zonesHold() {
		d.fail(HealthReadOnly, "zones cannot be finished, so that no others may be opened", d.zoneErr)
		return
	}
	if l.writing != 0 || d.ckpt.active ||
		!d.gc.stalled() || !d.compaction.stalled() || d.oneWillBeFree() {
		return
	}
	switch noBand := d.noBandToWin(); {
	case d.gc.waiting != nil && d.freeBands.n == 0:
		d.giveUpWriting(true, "failed writes left no band to move data to")
	case noBand && !l.desperate:
		l.desperate, d.rounds = true, 0
		d.wake()
	case noBand:
		d.giveUpWriting(true, "too few bands are left that can be written")
	case d.noChunkToWin():
		d.giveUpWriting(false, "failed writes left no chunk for a record that has to be written again")
	}
}

// giveUpWriting ends the writing, unless there are retired segments to try once
// more.
func (d *Device) giveUpWriting(band bool, why string) {
	if !d.takeBackOnce(band) {
		d.fail(HealthReadOnly, why, unix.ENOSPC)
	}
}

// takeBackOnce is takeBack, if it was not tried since users wrote last.
func (d *Device) takeBackOnce(band bool) bool {
	l := &d.log_
	if l.tookBack || !d.takeBack(band) {
		return false
	}
	l.tookBack = true
	return true
}

// noChunkToWin says whether a record waits to be written again, and all chunks
// hold records that wait for this one.
func (d *Device) noChunkToWin() bool {
	c := &d.compaction
	return d.log_.rehome != nil && !d.log_.cur.band && d.log_.cur.next == nil && d.freeChunks.n == 0 &&
		c.rests() && !c.blocked && !d.ckpt.blocked && pickChunk(d) == nil
}

// noBandToWin says whether a band is needed, there is none, and relocation cannot
// make one.
func (d *Device) noBandToWin() bool {
	return d.wantsBand() && d.freeBands.n <= d.lim.gcReserve && d.gc.rests() && !d.gc.blocked && !d.maySucceedLater() && pickBand(d) == nil
}

// Cramped says whether all that is under way are moves that wait for a band
// which only users can make, by replacing or trimming what they wrote: too many
// zones have failed. Either relocation can win none, or it has none to begin with
// and the log has no room for a detour. Writes go on while there are free chunks.
func (d *Device) Cramped() bool {
	c, g := &d.compaction, &d.gc
	if d.health != HealthOK || d.log_.q.head != nil || d.log_.rehome != nil || !c.stalled() || !g.stalled() ||
		d.bands[segClosing]+d.bands[segQuarantine] != 0 || !d.idleBut(c.under+g.under) {
		return false
	}
	return d.stranded() && !d.mayDetour() || c.waiting != nil && d.noBandToWin()
}

// bandEmptied books that relocation is through with a band. When it has been
// round several times while users waited and got nothing, there is nothing left
// to win: so many zones have failed that what is valid hardly fits any more.
func (d *Device) bandEmptied() {
	d.rounds++
	if d.rounds <= 4*int(d.lay.Bands) || !d.log_.starved || d.health != HealthOK {
		return
	}
	d.rounds = 0
	if !d.lend() {
		d.giveUpWriting(true, "too few bands are left that can be written")
	}
}

// lend lets those write who wait for relocation to win space, if there is a band
// that they may have. It says whether there is: they get it only once until a
// user's record was written.
func (d *Device) lend() bool {
	t, credit := &d.log_.cur, &d.log_.credit
	if !t.band {
		t, credit = &d.compaction.stream, &d.compaction.credit
	}
	if d.log_.lent || d.freeBands.n <= t.reserve {
		return false
	}
	d.log_.lent = true
	*credit = max(*credit, int64(d.lay.BandSlots))
	d.wake()
	d.wakeUser()
	return true
}

// oneWillBeFree says whether a segment is on its way to a state in which others
// may go on. One in quarantine is not, when it holds records that wait for those
// that cannot be written.
func (d *Device) oneWillBeFree() bool {
	if d.bands[segClosing]+d.bands[segOpening]+d.chunks[segClosing]+d.chunks[segOpening] > 0 {
		return true
	}
	return d.willBeFree(false) || d.willBeFree(true)
}

// willBeFree says whether a checkpoint, or the end of a read, will free a segment
// of the kind.
func (d *Device) willBeFree(band bool) bool {
	for i := range d.segs {
		if s := &d.segs[i]; s.band == band && s.state == segQuarantine && (s.freeable || s.lastU <= d.ackedU) {
			return true
		}
	}
	return false
}

// wantsBand says whether users wait for a band, or for compaction that does.
func (d *Device) wantsBand() bool {
	t := &d.log_.cur
	if !t.band {
		t = &d.compaction.stream
		if d.compaction.waiting == nil || d.compaction.blocked {
			return false
		}
	}
	return t.next == nil && (t.cur == nil || t.cur.state != segOpen || t.cur.next+d.headerSlots()+1 > t.cur.body)
}

// maySucceedLater says whether a band was put off because it could not be read:
// a timer will have it tried again.
func (d *Device) maySucceedLater() bool {
	for i := d.lay.Chunks; i < uint64(len(d.segs)); i++ {
		if s := &d.segs[i]; s.state == segFull && s.unreadable > 0 && d.th.Now() < s.retryAt {
			return true
		}
	}
	return false
}

// wakeIfDue wakes the background after records were acknowledged, when a limit
// may have been crossed.
func (d *Device) wakeIfDue() {
	if d.logBlocks >= d.ckpt.nextAt {
		d.wake()
	}
}

// ckptWanted says whether a checkpoint should start now: enough log since the
// last one, or segments in quarantine while free ones run short.
func (d *Device) ckptWanted() bool {
	if d.ckpt.active || d.ckpt.blocked || d.health != HealthOK || d.quiesce || !d.running {
		return false
	}
	if d.logBlocks >= d.ckpt.nextAt {
		return true
	}
	free, held := d.freeChunks.n, d.chunks[segQuarantine]
	if held > 0 && (free <= d.lim.critical || free <= d.lim.ckptChunks && held >= free) && d.releasable(false) {
		return true
	}
	free, held = d.freeBands.n, d.bands[segQuarantine]
	return held > 0 && (free <= d.lim.gcReserve+1 || free <= d.lim.gcStart && held >= free) && d.releasable(true)
}

// releasable says whether a checkpoint would free a quarantined segment of the
// kind: one that no read holds and that is not released already.
func (d *Device) releasable(band bool) bool {
	for i := range d.segs {
		s := &d.segs[i]
		if s.band == band && s.state == segQuarantine && !s.freeable && s.lastU <= d.ackedU {
			return true
		}
	}
	return false
}

// compactionWanted says whether a chunk should be emptied.
func compactionWanted(d *Device) bool {
	return d.freeChunks.n+d.chunks[segQuarantine] < d.lim.compactKeep || d.urgent[0] > 0
}

// pickChunk returns the oldest full chunk that may be drained.
func pickChunk(d *Device) *segment {
	var best *segment
	wanted := d.freeChunks.n+d.chunks[segQuarantine] < d.lim.compactKeep
	for i := range d.segs[:d.lay.Chunks] {
		s := &d.segs[i]
		if d.valid[i] == 0 || !s.drainable() {
			continue
		}
		if s.evacuate {
			return s
		}
		if wanted && (best == nil || s.opened < best.opened) {
			best = s
		}
	}
	return best
}

// gcWanted says whether a band should be emptied.
func gcWanted(d *Device) bool {
	return d.freeBands.n+d.bands[segQuarantine] < d.lim.gcStart || d.urgent[1] > 0
}

// worthMoving says whether relocating a band wins space: what becomes free,
// less what the moves take beside the blocks (a header for each record, one
// more where a band ends, and a slot too many there, in write units), is 1/32 of
// the band or more. While the log has no room, less helps too, but never
// nothing: relocation would go round for ever when the device is so full that
// its aim is out of reach. When nothing surely wins any more, what wins if the
// moves fall well is tried too; bandEmptied ends that.
func (d *Device) worthMoving(s *segment) bool {
	valid := d.valid[s.idx]
	records := (valid + record.MaxBlocks - 1) / record.MaxBlocks
	win := int(s.body-valid) - int((records+1)*s.unit)
	switch {
	case d.log_.desperate:
		return s.roundUp(valid+records) < s.body
	case d.log_.starved:
		return win >= 1
	default:
		return win-int(s.unit) >= int(s.body/32)+1
	}
}

// wearWeight is how much the victim's wear counts: at equal validity and age the
// least worn band is up to so much better than the most worn one.
const wearWeight = 0.25

// pickBand returns the victim of relocation: first what a device calls failing,
// then by garbage, age and wear. It is nil when none is worth moving: less than
// 1/32 of it is garbage, or Limits.InvalidPct while bands are not short.
func pickBand(d *Device) *segment {
	var best *segment
	var bestScore float64
	greedy := d.cfg.Policy == PolicyGreedy || d.freeBands.n <= d.lim.gcReserve
	wanted := d.freeBands.n+d.bands[segQuarantine] < d.lim.gcStart
	short := d.freeBands.n <= d.lim.gcStart/2
	for i := d.lay.Chunks; i < uint64(len(d.segs)); i++ {
		s := &d.segs[i]
		if !s.drainable() {
			continue
		}
		if s.evacuate {
			return s
		}
		valid := d.valid[i]
		garbage := s.body - valid
		if !wanted || !d.worthMoving(s) || !short && !d.log_.starved && garbage < s.body/100*uint32(d.lim.garbage) {
			continue
		}
		score := float64(garbage) / float64(valid+1)
		if !greedy {
			// Cost-benefit: (1-u)/(1+u) * age (Rosenblum and Ousterhout 1992),
			// age counted in records.
			score = float64(garbage) / float64(s.body+valid) * float64(d.lastG-s.opened+1)
			score *= 1 + wearWeight*float64(d.maxGen-s.gen)/float64(d.maxGen+1)
		}
		if best == nil || score > bestScore {
			best, bestScore = s, score
		}
	}
	return best
}

// held says whether a mover has to wait for the other: while bands are short,
// compaction goes on only as fast as relocation wins space. One that is stranded
// wins none: compaction then takes what its band has left, which makes room in
// the log for the detour.
func (d *Device) held(m *mover) bool {
	if m != &d.compaction || d.freeBands.n > d.lim.gcStart/2+1 {
		return false
	}
	return m.credit <= 0 && !d.stranded() && (len(d.gc.drains) > 0 || gcWanted(d) && pickBand(d) != nil)
}

// progress books that a mover dealt with span slots of a source, of which it
// moved n blocks, and passes the space on: relocation to compaction,
// compaction to user writes. The share grows with what is free, so that pacing
// is smooth and meets demand where both balance.
func (d *Device) progress(m *mover, span, n int) {
	if d.lay.NoCache {
		d.progressForUsers(n)
		return
	}
	if m == &d.gc {
		c := &d.compaction
		c.credit = min(c.credit+share(span-n, d.freeBands.n, d.lim.gcStart), int64(d.lay.BandBlocks))
		return
	}
	l := &d.log_
	l.credit = min(l.credit+share(span, d.freeChunks.n, d.lim.throttle), int64(d.lay.ChunkBlocks))
	if l.q.head != nil {
		d.wakeUser()
	}
}

// share is n * (1/2 + free/limit).
func share(n, free, limit int) int64 {
	return int64(n)*int64(free)/int64(limit) + int64(n)/2 + 1
}

// spaceForUser says whether a user record may be written now. While free
// chunks are short, records go at the pace of compaction. While there is no room
// for checkpoints there is no pace: moves wait for what only those free. Users
// then take what is open for them, and are told when that is full; so they do
// while moves wait for zones that cannot be finished.
func (d *Device) spaceForUser() bool {
	l := &d.log_
	if isNoSpace(d.ckpt.failErr) || d.zoneErr != nil && d.zonesHold() {
		return true
	}
	if d.lay.NoCache {
		return d.bandsForUser()
	}
	if d.freeChunks.n > d.lim.throttle || l.credit > 0 {
		return true
	}
	if d.compaction.blocked || len(d.compaction.drains) == 0 && d.compaction.under == 0 {
		return true // nobody would give credit
	}
	d.stats.Throttled++
	return false
}

// starve notes that user records wait for space: relocation then takes what it
// would leave alone otherwise.
func (d *Device) starve() {
	if !d.log_.starved {
		d.log_.starved = true
		d.wake()
	}
}

// paid takes the slots of a record from the credit while pacing is on.
func (d *Device) paid(slots uint32) {
	if d.lay.NoCache {
		if d.lim.userShare(d.freeBands.n) < 100 {
			d.log_.credit = max(d.log_.credit-int64(slots), -int64(d.lay.BandSlots))
		}
		return
	}
	if d.freeChunks.n <= d.lim.throttle {
		d.log_.credit -= int64(slots)
	}
}

// bandsForUser is spaceForUser without a cache: while free bands are short,
// users write in proportion to what relocation moves.
func (d *Device) bandsForUser() bool {
	if d.lim.userShare(d.freeBands.n) >= 100 || d.log_.credit > 0 {
		return true
	}
	if d.gc.blocked {
		return true // nobody gives credit
	}
	if len(d.gc.drains) == 0 && d.gc.under == 0 {
		if !gcWanted(d) || pickBand(d) == nil {
			return true // nobody would
		}
		d.wake() // a band was taken since relocation looked last
	}
	d.stats.Throttled++
	return false
}

// progressForUsers passes on that relocation moved n blocks.
func (d *Device) progressForUsers(n int) {
	l := &d.log_
	pct := d.lim.userShare(d.freeBands.n)
	give := int64(n)
	if pct < 100 {
		give = min(give*8, int64(n*pct)/int64(100-pct))
	}
	l.credit = min(l.credit+give, int64(d.lay.BandSlots))
	if l.q.head != nil {
		d.wakeUser()
	}
}

// noSpaceLeft is called when the log has no chunk to write to. Usually one is
// being opened or emptied. When the base device has no room, or the cache none
// for a checkpoint, nothing will be emptied until somebody makes some: users are
// told, and so they are when zones cannot be finished for want of room, and no
// others be opened. While it is being tried again, or a checkpoint is under way
// that may free chunks, nobody knows: what waits goes on waiting.
func (d *Device) noSpaceLeft() {
	if d.log_.cur.next == nil && d.freeChunks.n == 0 && d.chunks[segQuarantine] > 0 {
		d.stats.NoChunk++
	}
	zones := isNoSpace(d.zoneErr) && d.zonesHold()
	full := zones || isNoSpace(d.baseErr) && !d.gc.trying() && !d.compaction.trying() || isNoSpace(d.ckpt.failErr)
	if !full || d.ckpt.active || d.log_.cur.next != nil || !zones && d.freeList(d.log_.cur.band).n > d.log_.cur.reserve {
		return
	}
	d.refuseWrites()
}

// refuseWrites answers with ENOSPC what waits for a chunk that nobody can
// open: requests, and records that are to be written again.
func (d *Device) refuseWrites() {
	l := &d.log_
	d.dropQueue(unix.ENOSPC)
	if l.rehome == nil || l.failing {
		return
	}
	l.failing, l.failErr = true, unix.ENOSPC
	if l.writing == 0 {
		d.voidRecords()
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// retryLater tries again, after a pause, what an error stopped.
func (d *Device) retryLater() { d.retry.Resume() }

func retryTick(arg any) poller.Result {
	d := arg.(*Device)
	d.retry.Pause()
	d.compaction.blocked = false
	d.gc.blocked = false
	d.ckpt.blocked = false
	if d.zones != nil && d.zones.Unfinished() {
		d.zones.Retry(zonesRetried, d)
	}
	d.wake()
	d.wakeUser()
	return poller.Busy
}

// idleSoon lets the idle timer look whether the log came to rest.
func (d *Device) idleSoon() { d.idleTimer.Resume() }

func idleTick(arg any) poller.Result {
	d := arg.(*Device)
	if d.th.Now()-d.lastActive < idlePeriod {
		return poller.Idle
	}
	if d.pad() {
		d.idleTimer.Pause()
	}
	return poller.Busy
}

// fail makes the device serve less: reads only, or nothing.
func (d *Device) fail(h Health, why string, err error) {
	if d.health >= h {
		return
	}
	d.health = h
	d.failure = fmt.Errorf("%s: %w", why, err)
	if d.shm != nil {
		d.shm.invalidate() // a restart finds out from the devices what is there
	}
	d.log.Error("the device stops taking writes", "health", h.String(), "why", why, "err", err)
	if d.cfg.OnHealth != nil {
		d.cfg.OnHealth(h, d.failure)
	}
	d.wakeUser()
	d.wake()
}
