package ftlsim

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"goftl/bdev"
	"goftl/tests/sim"
	"goftl/tests/sim/model"
)

// toy is the simplest device that keeps the promises: a log on the cache, one record at a time, found again by
// reading all of it. It proves that the player lets a correct device pass, and that it finds the bugs planted here.
type toy struct {
	bug toyBug
}

type toyBug uint8

const (
	toyCorrect      toyBug = iota
	toyNoFlush             // a flush does nothing
	toyAckEarly            // acknowledged when submitted to the disk
	toyNoChecksum          // a torn record counts
	toyNoFlushFirst        // recovery reads before it flushes, and does not flush later
	toyTrimForgets         // a trim is not logged
	toyReadsOld            // a read may miss the last write
	toyFUANoFlush          // FUA is ignored
	toySpins               // from some record on it only works and answers nothing
	toyCrawls              // ... or hardly ever
	numToyBugs
)

const toySpan = 400

type toyDevice struct {
	bug   toyBug
	b     *Boot
	desc  *bdev.Desc
	ch    *bdev.Channel
	m     [toySpan]uint64 // block of the log that has the content, plus 1
	next  uint64          // where the log goes on
	seq   uint64
	inc   uint64
	queue []*Request
	busy  bool
	open  int
	spins int
	buf   []byte
	ready func(d Device, err error)
}

func (t toy) Start(b *Boot, create bool, done func(d Device, err error)) {
	d := &toyDevice{bug: t.bug, b: b, ready: done, buf: make([]byte, 400*model.BlockSize)}
	var err error
	if d.desc, err = b.Manager.Open(diskNames[Cache], true, nil, nil, b.Thread); err == nil {
		d.ch, err = d.desc.Channel(b.Thread)
	}
	if err != nil {
		done(nil, err)
		return
	}
	if t.bug == toyNoFlushFirst {
		d.scan()
		return
	}
	d.must(d.ch.Flush(func(*bdev.IO) { d.scan() }, nil))
}

func (d *toyDevice) must(err error) {
	if err != nil {
		panic(err)
	}
}

// scan reads the record at d.next, applies it and goes on; at the first that is none it writes a mark with the number
// of this life.
func (d *toyDevice) scan() {
	d.must(d.ch.Read(d.buf[:model.BlockSize], d.next, 1, func(*bdev.IO) {
		h := d.header()
		if !h.ok || h.seq != d.seq+1 || h.inc != d.inc && (h.kind != 9 || h.inc < d.inc) {
			d.mark()
			return
		}
		if h.kind != uint64(Write) {
			d.apply(h)
			return
		}
		d.must(d.ch.Read(d.buf[model.BlockSize:(h.count+1)*model.BlockSize], d.next+1, h.count, func(*bdev.IO) {
			if xxh3.Hash(d.buf[model.BlockSize:(h.count+1)*model.BlockSize]) != h.sum && d.bug != toyNoChecksum {
				d.mark()
				return
			}
			d.apply(h)
		}, nil))
	}, nil))
}

type toyHeader struct {
	ok                              bool
	kind, seq, inc, lba, count, sum uint64
}

func (d *toyDevice) header() (h toyHeader) {
	w := func(i int) uint64 { return binary.LittleEndian.Uint64(d.buf[8*i:]) }
	h = toyHeader{kind: w(1), seq: w(2), inc: w(3), lba: w(4), count: w(5), sum: w(6)}
	h.ok = w(0) == 0x746f79 && w(7) == xxh3.Hash(d.buf[:56]) && h.lba+h.count <= toySpan
	return h
}

func (d *toyDevice) putHeader(kind, lba, count, sum uint64) {
	clear(d.buf[:model.BlockSize])
	for i, v := range []uint64{0x746f79, kind, d.seq, d.inc, lba, count, sum} {
		binary.LittleEndian.PutUint64(d.buf[8*i:], v)
	}
	binary.LittleEndian.PutUint64(d.buf[56:], xxh3.Hash(d.buf[:56]))
}

func (d *toyDevice) apply(h toyHeader) {
	d.seq, d.inc = h.seq, h.inc
	d.next++
	for i := range h.count {
		switch h.kind {
		case uint64(Write):
			d.m[h.lba+i] = d.next + i + 1
		case uint64(Trim):
			d.m[h.lba+i] = 0
		}
	}
	if h.kind == uint64(Write) {
		d.next += h.count
	}
	d.scan()
}

func (d *toyDevice) mark() {
	if d.b.ReadOnly {
		d.ready(d, nil)
		return
	}
	d.inc++
	d.seq++
	d.putHeader(9, 0, 0, 0)
	d.must(d.ch.Write(d.buf[:model.BlockSize], d.next, 1, func(*bdev.IO) {
		d.next++
		if d.bug == toyNoFlushFirst {
			d.ready(d, nil)
			return
		}
		d.must(d.ch.Flush(func(*bdev.IO) { d.ready(d, nil) }, nil))
	}, nil))
}

func (d *toyDevice) Blocks() uint64                     { return toySpan }
func (d *toyDevice) Idle() bool                         { return d.open == 0 }
func (d *toyDevice) Rested(int64) error                 { return nil }
func (d *toyDevice) ReadOnly() bool                     { return false }
func (d *toyDevice) Sole(bool, uint64) bool             { return false }
func (d *toyDevice) Body(bool, uint64) bool             { return false }
func (d *toyDevice) Descriptor(bool, uint64) bool       { return false }
func (d *toyDevice) Front(bool) uint64                  { return 0 }
func (d *toyDevice) Acked() uint64                      { return 0 }
func (d *toyDevice) Forgotten(uint64) bool              { return false }
func (d *toyDevice) FreeZones(int) []uint64             { return nil }
func (d *toyDevice) Check(done func(error))             { d.b.Thread.Post(func(any) { done(nil) }, nil) }
func (d *toyDevice) Loaded(func(name string, n uint64)) {}
func (d *toyDevice) Ended(func(name string, n uint64))  {}

func (d *toyDevice) Submit(r *Request) {
	d.open++
	if r.Kind == Zero {
		r.Kind = Write
	}
	d.queue = append(d.queue, r)
	d.b.Thread.Post(func(any) { d.pump() }, nil)
}

func (d *toyDevice) pump() {
	if d.busy || len(d.queue) == 0 {
		return
	}
	if d.spin() {
		d.b.Thread.Post(func(any) { d.pump() }, nil)
		return
	}
	r := d.queue[0]
	d.queue = d.queue[1:]
	d.busy = true
	switch r.Kind {
	case Read:
		d.read(r, 0)
	case Flush:
		if d.bug == toyNoFlush {
			d.b.Thread.Post(func(any) { d.done(r, nil) }, nil)
			return
		}
		d.must(d.ch.Flush(func(io *bdev.IO) { d.done(r, io.Err()) }, nil))
	default:
		d.append(r)
	}
}

// spin says whether the device only turns round once more.
func (d *toyDevice) spin() bool {
	if d.seq <= 30 || d.bug < toySpins {
		return false
	}
	d.spins++
	return d.bug == toySpins || d.spins%400_000 != 0
}

func (d *toyDevice) done(r *Request, err error) {
	d.busy = false
	d.open--
	r.Err = err
	r.Done(r)
	d.pump()
}

// read copies the blocks of a request one by one.
func (d *toyDevice) read(r *Request, i uint64) {
	if i == r.Count {
		d.done(r, nil)
		return
	}
	at := i * model.BlockSize
	var dst []byte
	for _, b := range r.Bufs {
		if at < uint64(len(b)) {
			dst = b[at : at+model.BlockSize]
			break
		}
		at -= uint64(len(b))
	}
	where := d.m[r.LBA+i]
	if where == 0 || d.bug == toyReadsOld && d.seq%50 == 7 {
		clear(dst)
		d.b.Thread.Post(func(any) { d.read(r, i+1) }, nil)
		return
	}
	d.must(d.ch.Read(dst, where-1, 1, func(*bdev.IO) { d.read(r, i+1) }, nil))
}

func (d *toyDevice) append(r *Request) {
	n := uint64(0)
	for _, b := range r.Bufs {
		n += uint64(copy(d.buf[model.BlockSize+n:], b))
	}
	if r.Kind == Trim {
		n = 0
		if d.bug == toyTrimForgets {
			clear(d.m[r.LBA : r.LBA+r.Count])
			d.b.Thread.Post(func(any) { d.done(r, nil) }, nil)
			return
		}
	}
	d.seq++
	d.putHeader(uint64(r.Kind), r.LBA, r.Count, xxh3.Hash(d.buf[model.BlockSize:model.BlockSize+n]))
	early := d.bug == toyAckEarly
	d.must(d.ch.Write(d.buf[:model.BlockSize+n], d.next, 1+n/model.BlockSize, func(io *bdev.IO) {
		if io.Err() != nil {
			d.done(r, io.Err())
			return
		}
		d.next++
		for i := range r.Count {
			d.m[r.LBA+i] = 0
			if r.Kind == Write {
				d.m[r.LBA+i] = d.next + 1
				d.next++
			}
		}
		switch {
		case early:
			d.busy = false
			d.open--
			d.pump()
		case r.FUA && d.bug != toyFUANoFlush:
			d.must(d.ch.Flush(func(io *bdev.IO) { d.done(r, io.Err()) }, nil))
		default:
			d.done(r, nil)
		}
	}, nil))
	if early {
		d.b.Thread.Post(func(any) { r.Done(r) }, nil)
	}
}

func (d *toyDevice) Stop(_ bool, done func(err error)) {
	d.must(d.ch.Flush(func(io *bdev.IO) {
		err := io.Err()
		d.b.Thread.Post(func(any) {
			d.ch.Put()
			d.desc.Close()
			done(err)
		}, nil)
	}, nil))
}

// toyPlan is the plan of a run of the toy: its log does not wrap, so it gets room, and no metadata.
func toyPlan(seed uint64) *Plan {
	p := NewPlan(seed, &Kinds[0])
	p.Config.Shm = false
	p.Disks[Cache].MDSize = 0
	p.Geometry.CacheRest += 60_000
	for i := range p.Lives {
		l := &p.Lives[i]
		l.Faults = [2]sim.Faults{}
		l.Hasty = false // its stop waits for nobody
		for k := range l.Phases {
			l.Phases[k].Ops = min(l.Phases[k].Ops, 60)
		}
	}
	return p
}

func toyPlay(c *sim.Case, bug toyBug) *Play { return NewPlay(c, toy{bug}, toyPlan(c.Seed), "") }

func TestToyPasses(t *testing.T) {
	sim.ForEachSeed(t, 60, 20, func(c *sim.Case) error { return toyPlay(c, toyCorrect).Run() })
}

// TestPlantedBugsAreFound shows that the player notices a device that breaks its promises.
func TestPlantedBugsAreFound(t *testing.T) {
	const seeds = 400
	for bug := toyCorrect + 1; bug < numToyBugs; bug++ {
		t.Run(fmt.Sprint(bug), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= seeds; seed++ {
				if err := quietly(toyPlay(sim.NewCase(seed, nil), bug)); err != nil {
					t.Logf("bug %d: seed %d: %.300v", bug, seed, err)
					return
				}
			}
			require.Fail(t, "not found")
		})
	}
}

// TestWorkWithoutAnswersIsFound: a device that is busy for ever and answers nothing makes no progress, nor does one that
// answers too seldom.
func TestWorkWithoutAnswersIsFound(t *testing.T) {
	for _, bug := range []toyBug{toySpins, toyCrawls} {
		require.ErrorIs(t, toyPlay(sim.NewCase(1, nil), bug).Run(), sim.ErrSteps)
	}
}

// quietly runs a play and turns a panic into an error.
func quietly(p *Play) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return p.Run()
}
