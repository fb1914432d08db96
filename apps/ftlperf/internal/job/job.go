package job

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/gen"
	"goftl/internal/assert"
	"goftl/iobuf"
	"goftl/poller"
	"goftl/thread"
)

// Job is one load generator; see the package's documentation.
type Job struct {
	// The hot path, in the order of use.
	th       *thread.Thread
	ch       Channel
	inflight uint32
	plain    bool // nothing to do on completion but to count and go on
	precise  bool
	mixed    bool
	random   bool
	single   Dir // the direction when there is one only
	deadline int64
	left     int64 // bytes that may still be submitted
	leftIOs  int64
	readMix  uint64 // threshold of a 32-bit draw
	base     uint64
	size     [NumDirs]uint64
	blocks   [NumDirs]uint64 // blocks in the range
	position [NumDirs]uint64 // sequential
	source   [NumDirs]*gen.Source
	rand     gen.Rand
	ops      [NumDirs]Op

	stats Stats
	spec  Spec

	ios         []IO
	memory      []byte
	waiting     list // for room in the channel
	blocked     list // for another IO on the same unit
	awaiting    bool
	retired     int
	writesSince uint64
	scan        uint64 // next unit of a verify pass
	ended       bool
	abandoned   bool
	flushed     bool

	begin    int64 // start of what is measured
	ramping  bool
	ticker   *poller.Poller
	rampEnd  *poller.Poller
	sampled  [NumDirs]uint64
	sampleAt int64
	done     func(j *Job)
	shared   progress
}

// progress is what other goroutines may read, published every tick.
type progress struct {
	ios      [NumDirs]atomic.Uint64
	bytes    [NumDirs]atomic.Uint64
	doneFrac atomic.Uint64 // float64 bits
}

const (
	tickPeriod     = 100 * time.Millisecond
	samplePeriodNs = int64(500 * time.Millisecond)
	redraws        = 16
)

// New checks the spec and makes a job for t. done is called on t.
func New(spec Spec, t *thread.Thread, done func(j *Job)) (*Job, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", spec.Name, err)
	}
	j := &Job{th: t, spec: spec, done: done, precise: spec.Precise, base: spec.Offset, random: spec.Mode.Random}
	j.plain = spec.Table == nil && spec.FlushEvery == 0 && spec.AbandonAfter == 0 && !spec.Mode.TrimFirst
	j.rand = gen.NewRand(spec.Seed ^ 0x6d697865)
	j.mixed = spec.Mode.Dirs[Read] && spec.Mode.Dirs[Write]
	j.readMix = uint64(spec.MixRead) << 32 / 100
	j.ops = [NumDirs]Op{OpRead, OpWrite, OpTrim}
	if spec.FUA {
		j.ops[Write] = OpWriteFUA
	}
	for d := range NumDirs {
		if spec.Mode.Dirs[d] {
			j.single = d // of trimwrite: Trim, which is the last
			j.prepareDir(d)
		}
	}
	j.limits()
	return j, nil
}

// prepareDir sets up the addresses of one direction. Directions with the same
// block size share one source, so that a pass over all blocks is one pass.
func (j *Job) prepareDir(d Dir) {
	j.size[d] = j.spec.BlockSize[d]
	j.blocks[d] = j.spec.Size / j.size[d]
	if !j.random {
		return
	}
	for other := range d {
		if j.source[other] != nil && j.size[other] == j.size[d] {
			j.source[d] = j.source[other]
			return
		}
	}
	j.source[d] = gen.NewSource(gen.Options{
		Blocks: j.blocks[d], Seed: j.spec.Seed + uint64(d), Dist: j.spec.Distribution, Once: j.spec.Once,
	})
}

func (j *Job) limits() {
	j.left, j.leftIOs, j.deadline = math.MaxInt64, math.MaxInt64, math.MaxInt64
	if j.spec.Mode.Verify {
		return
	}
	if !j.spec.TimeBased {
		if j.left = int64(min(j.spec.Bytes, math.MaxInt64)); j.left == 0 {
			j.left = int64(j.spec.Size / j.size[j.single] * j.size[j.single])
		}
	}
	if j.spec.Count > 0 {
		j.leftIOs = int64(min(j.spec.Count, math.MaxInt64))
	}
}

// Start opens a channel of target and begins. It is called on the job's
// thread; an error is reported through done and Stats.Err.
func (j *Job) Start(target Target) {
	ch, err := target.Open(j.th)
	if err == nil {
		j.ch = ch
		err = j.allocate()
	}
	if err != nil {
		j.stats.Err = err
		j.finish()
		return
	}
	now := j.clock()
	j.begin, j.sampleAt = now, now
	if j.spec.Runtime > 0 {
		j.deadline = now + int64(j.spec.Ramp+j.spec.Runtime)
	}
	if j.spec.Ramp > 0 && !j.spec.Mode.Verify {
		j.ramping = true
		j.rampEnd = j.th.RegisterPoller(j.spec.Name+" ramp", rampOver, j, j.spec.Ramp)
	}
	j.ticker = j.th.RegisterPoller(j.spec.Name+" tick", tick, j, tickPeriod)
	for i := range j.ios {
		j.advance(&j.ios[i], now)
	}
}

func (j *Job) allocate() error {
	block := j.spec.maxBlock()
	stride := (block + iobuf.Align - 1) / iobuf.Align * iobuf.Align
	j.memory = iobuf.Alloc(int(stride) * j.spec.Depth)
	if j.memory == nil {
		return fmt.Errorf("%s: no memory for %d buffers of %d bytes: %w", j.spec.Name, j.spec.Depth, block, unix.ENOMEM)
	}
	r := gen.NewRand(j.spec.Seed)
	for at := 0; at+8 <= len(j.memory); at += 8 {
		v := r.Uint64()
		for k := range 8 {
			j.memory[at+k] = byte(v >> (8 * k))
		}
	}
	j.ios = make([]IO, j.spec.Depth)
	for i := range j.ios {
		at := uint64(i) * stride
		j.ios[i] = IO{job: j, memory: j.memory[at : at+block : at+block]}
	}
	return nil
}

// Spec returns what the job was made from.
func (j *Job) Spec() *Spec { return &j.spec }

// Stats returns what was measured: on the job's thread, or after done was called.
func (j *Job) Stats() *Stats { return &j.stats }

// Stop ends the job early: nothing new is submitted. Any goroutine.
func (j *Job) Stop() { j.th.Send(stop, j) }

func stop(arg any) {
	j := arg.(*Job)
	if !j.ended {
		j.stats.Interrupted = true
		j.deadline = math.MinInt64
		j.wind()
	}
}

// Abandon ends the job at once, whatever is in flight: the answers that still
// come are ignored, and the buffers are never freed. It is for a device that
// is about to be dropped. Any goroutine; done is called as usual.
func (j *Job) Abandon() { j.th.Send(abandon, j) }

// Abandoned reports whether the job ended by Abandon or Spec.AbandonAfter;
// after done was called.
func (j *Job) Abandoned() bool { return j.abandoned }

func abandon(arg any) {
	j := arg.(*Job)
	if j.ended {
		return
	}
	j.abandoned = true
	j.memory = nil
	j.ch = nil // what it holds goes with the device
	j.finish()
}

// wind retires what is parked once the job may submit no more; ends the job
// when nothing is in flight.
func (j *Job) wind() {
	for io := j.waiting.pop(); io != nil; io = j.waiting.pop() {
		j.unwindParked(io)
	}
	for io := j.blocked.pop(); io != nil; io = j.blocked.pop() {
		j.retired++
	}
	j.checkEnd()
}

// unwindParked retires an IO that was prepared but never submitted.
func (j *Job) unwindParked(io *IO) {
	if t := j.spec.Table; t != nil && io.Op != OpFlush {
		j.settle(io, false)
	}
	j.retired++
}

func (j *Job) retire() {
	j.retired++
	j.checkEnd()
}

func (j *Job) checkEnd() {
	if j.retired < len(j.ios) || j.ended || j.abandoned {
		return
	}
	if j.spec.EndFlush && !j.flushed && j.stats.Err == nil {
		j.flushed = true
		j.retired--
		j.flush(&j.ios[0], j.clock())
		return
	}
	j.finish()
}

// finish runs once.
func (j *Job) finish() {
	assert.That(!j.ended, "a job ends twice")
	j.ended = true
	if j.ticker != nil {
		j.stats.Elapsed = max(j.clock()-j.begin, 1)
		j.ticker.Unregister()
		if j.rampEnd != nil {
			j.rampEnd.Unregister()
		}
	}
	j.derive()
	if j.ch != nil {
		j.ch.Close()
		j.ch = nil
	}
	if j.memory != nil && !j.abandoned {
		iobuf.Free(j.memory)
		j.memory, j.ios = nil, nil
	}
	j.publish(1)
	j.done(j)
}

// derive fills in what the hot path leaves out.
func (j *Job) derive() {
	for d := range NumDirs {
		j.stats.Dir[d].Bytes = j.stats.Dir[d].IOs * j.size[d]
	}
}
