package md

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

var (
	simSeeds = flag.Int("md.seeds", 20000, "number of simulated schedules")
	simSeed  = flag.Int64("md.seed", -1, "run only this schedule, with a trace")
)

// TestSimulated runs seeded schedules of operations, device faults, damage,
// power losses and restarts against a model of what each entry may hold. As
// long as one copy of an entry was left good, the entry must come back with a
// value that it may have; else it may also be named as bad. Nothing else is
// ever right.
func TestSimulated(t *testing.T) {
	if *simSeed >= 0 {
		newSimulator(t).run(uint64(*simSeed), true)
		return
	}
	seeds := uint64(*simSeeds)
	if testing.Short() {
		seeds = min(seeds, 3000)
	}
	seeds /= simShare
	const shards = 2
	for shard := range uint64(shards) {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			s := newSimulator(t)
			for seed := shard; seed < seeds; seed += shards {
				s.run(seed, false)
			}
			t.Logf("%+v", s.did)
			if seeds >= 1000 {
				require.NotZero(t, s.did.losses)
				require.NotZero(t, s.did.bad)
				require.NotZero(t, s.did.repaired)
				require.NotZero(t, s.did.aged)
			}
		})
	}
}

const simBlocks = 12

// cell is what the model knows of an entry.
type cell struct {
	stable uint64   // what was last acknowledged
	maybe  []uint64 // what else it may hold
	unsure bool     // both copies may be bad
}

func (c *cell) allows(v uint64) bool { return v == c.stable || slices.Contains(c.maybe, v) }

func (c *cell) settle(v uint64) { c.stable, c.maybe, c.unsure = v, c.maybe[:0], false }

type simulator struct {
	t     *testing.T
	rigs  [4]*rig
	r     *rig
	o     *Object
	rng   *rand.Rand
	cells [simBlocks]cell // by entry
	dirty bool            // the next restore must bring the mirror up to date
	clock uint64          // the last value given
	seed  uint64
	trace bool
	did   struct{ ops, losses, restores, retried, bad, repaired, aged int }

	past [2][]byte              // the copies as they were after the last restart
	aged [2]map[uint64]struct{} // blocks of them that are so again: their last write was lost
}

func newSimulator(t *testing.T) *simulator {
	s := &simulator{t: t}
	for i := range s.rigs {
		o := rigOptions{blocks: simBlocks, entry: 1, volatile: i&1 != 0}
		if i&2 != 0 {
			o.md = 64
		}
		s.rigs[i] = newRig(t, o)
	}
	return s
}

func (s *simulator) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nreplay: go test ./ftl/md -run TestSimulated -md.seed %d -v", fmt.Sprintf(format, args...), s.seed)
}

func (s *simulator) logf(format string, args ...any) {
	if s.trace {
		s.t.Logf(format, args...)
	}
}

func (s *simulator) entries() uint64 { return s.r.primary.Blocks / s.unit() }
func (s *simulator) unit() uint64    { return max(uint64(s.r.primary.EntryBlocks), 1) }

// run is a schedule: a pure function of its seed.
func (s *simulator) run(seed uint64, trace bool) {
	s.seed, s.trace = seed, trace
	s.rng = rand.New(rand.NewPCG(seed, 0x6d64))
	s.setup()
	s.create()
	for range 1 + s.rng.IntN(4) {
		s.work()
		s.restart()
	}
	s.o.Destroy(false)
}

func (s *simulator) setup() {
	s.r = s.rigs[s.rng.IntN(len(s.rigs))]
	r := s.r
	r.rng, r.clean = s.rng, true
	r.powerOn()
	for _, d := range []*fakeDisk{r.cache, r.base} {
		clear(d.media)
		clear(d.durable)
		d.loose = d.loose[:0]
	}
	entry := uint32(s.rng.IntN(3))
	blocks := uint64(2 * (1 + s.rng.IntN(simBlocks/2)))
	for _, g := range []*uint32{&r.primary.EntryBlocks, &r.mirror.EntryBlocks} {
		*g = entry
	}
	r.primary.Blocks, r.mirror.Blocks = blocks, blocks
	r.log = nil
	if s.trace {
		r.log = func(line string) { s.t.Log("    " + line) }
	}
	s.dirty, s.clock = false, 0
	s.past, s.aged = [2][]byte{}, [2]map[uint64]struct{}{}
}

func (s *simulator) open() {
	depth, xfer, vss := 1+s.rng.IntN(4), uint64(1+s.rng.IntN(6)), uint32(s.r.cache.md())
	s.o = s.r.object(s.t, func(c *Config) {
		c.Depth, c.XferBlocks, c.VSS = depth, xfer, vss
		c.Alloc, c.Free = func(n int) []byte { return make([]byte, n) }, func([]byte) {}
	})
}

func (s *simulator) create() {
	s.open()
	if err := s.r.do(s.t, func(done DoneFunc, arg any) { s.o.Clear(0, nil, done, arg) }); err != nil {
		s.fatalf("clear: %v", err)
	}
	for i := range s.entries() {
		s.cells[i] = cell{}
	}
}

// work runs operations, with faults, until it has had enough or the power is
// lost.
func (s *simulator) work() {
	if s.rng.IntN(2) == 0 {
		s.r.countdown = 1 + s.rng.IntN(40)
	}
	for range s.rng.IntN(12) {
		if s.rng.IntN(6) == 0 {
			s.addFault()
		}
		switch s.rng.IntN(8) {
		case 0:
			s.persistAll()
		case 1:
			s.persistEntry()
		case 2:
			s.readEntry()
		default:
			s.orderedBurst()
		}
		s.did.ops++
		if s.r.dead {
			return
		}
	}
}

func (s *simulator) addFault() {
	d, g := s.r.cache, &s.r.primary
	if s.rng.IntN(2) == 0 {
		d, g = s.r.base, &s.r.mirror
	}
	op := []bdev.Op{bdev.OpRead, bdev.OpWrite, bdev.OpWrite, bdev.OpFlush}[s.rng.IntN(4)]
	err := []error{unix.EIO, unix.ENODEV, unix.EILSEQ}[s.rng.IntN(3)]
	d.faults = append(d.faults, &fault{
		op: op, lba: g.Offset + s.rng.Uint64N(g.Blocks), any: op == bdev.OpFlush, times: 1 + s.rng.IntN(2), err: err,
	})
}

// put gives an entry a new value in memory. A region without entries has the
// same value everywhere.
func (s *simulator) put(entry uint64) uint64 {
	if s.r.primary.EntryBlocks != 0 || entry == 0 {
		s.clock++
	}
	u := s.unit()
	for i := entry * u; i < (entry+1)*u; i++ {
		p := s.o.Payload(i)
		le.PutUint64(p, s.clock)
		le.PutUint64(p[8:], entry)
		for n := 16; n < len(p); n *= 2 {
			copy(p[n:], p[:n])
		}
	}
	return s.clock
}

// value reads an entry from memory; false: it is not whole.
func value(buf []byte, entry uint64) (uint64, bool) {
	v := le.Uint64(buf)
	for at := 0; at < len(buf); at += BlockSize {
		p := buf[at : at+PayloadSize]
		for i := 0; i+16 <= len(p); i += 16 {
			if le.Uint64(p[i:]) != v || v != 0 && le.Uint64(p[i+8:]) != entry {
				return 0, false
			}
		}
	}
	return v, true
}

func (s *simulator) entryBuf(entry uint64) []byte {
	n := s.unit() * BlockSize
	return s.o.Buffer()[entry*n : (entry+1)*n]
}

func (s *simulator) persistAll() {
	for i := range s.entries() {
		if s.r.primary.EntryBlocks == 0 || s.rng.IntN(2) == 0 {
			s.put(i)
		}
	}
	err := s.r.do(s.t, s.o.Persist)
	s.logf("persist: %v", err)
	s.book(0, s.entries(), err, false)
}

// book notes in the model how a write of entries ended.
func (s *simulator) book(first, count uint64, err error, loose bool) {
	if err != nil {
		s.dirty = true
	}
	for i := first; i < first+count; i++ {
		v, _ := value(s.entryBuf(i), i)
		c := &s.cells[i]
		if err == nil && !loose {
			c.settle(v)
			continue
		}
		c.maybe = append(c.maybe, v)
		c.unsure = c.unsure || loose
	}
}

func (s *simulator) someEntries() (first, count uint64) {
	first = s.rng.Uint64N(s.entries())
	return first, 1 + s.rng.Uint64N(min(3, s.entries()-first))
}

// persistEntry writes both copies at once: until something better comes, both
// may be lost.
func (s *simulator) persistEntry() {
	if s.r.primary.EntryBlocks == 0 {
		return
	}
	first, count := s.someEntries()
	for i := first; i < first+count; i++ {
		s.put(i)
	}
	err := s.r.do(s.t, func(done DoneFunc, arg any) { s.o.PersistEntry(&EntryOp{Done: done, Arg: arg}, first, count) })
	s.logf("persist entries %d+%d: %v", first, count, err)
	s.dirty = true
	s.book(first, count, err, err != nil || s.r.cache.info.VolatileCache)
}

// orderedBurst has several updates of different entries queued at once.
func (s *simulator) orderedBurst() {
	if s.r.primary.EntryBlocks == 0 {
		return
	}
	type update struct {
		first, count uint64
		op           EntryOp
		res          result
	}
	var all []*update
	var taken [simBlocks]bool
	for range 1 + s.rng.IntN(3) {
		u := &update{}
		u.first, u.count = s.someEntries()
		if slices.Contains(taken[u.first:u.first+u.count], true) {
			continue
		}
		for i := u.first; i < u.first+u.count; i++ {
			taken[i] = true
			s.put(i)
		}
		u.op.Done, u.op.Arg = record, &u.res
		s.o.PersistEntryOrdered(&u.op, u.first, u.count)
		all = append(all, u)
	}
	s.r.settle()
	for _, u := range all {
		if u.res.called != 1 {
			s.fatalf("an ordered update was answered %d times", u.res.called)
		}
		s.logf("ordered %d+%d: %v", u.first, u.count, u.res.err)
		s.book(u.first, u.count, u.res.err, false)
	}
}

func (s *simulator) readEntry() {
	if s.r.primary.EntryBlocks == 0 {
		return
	}
	first, count := s.someEntries()
	n := s.unit() * BlockSize
	buf := make([]byte, count*n)
	err := s.r.do(s.t, func(done DoneFunc, arg any) { s.o.ReadEntry(&EntryOp{Done: done, Arg: arg}, first, count, buf) })
	s.logf("read entries %d+%d: %v", first, count, err)
	if err != nil {
		return // faults may hit both copies
	}
	for i := range count {
		v, whole := value(buf[i*n:(i+1)*n], first+i)
		if !whole || !s.cells[first+i].allows(v) {
			s.fatalf("read of entry %d gave %d (whole: %v), allowed %+v", first+i, v, whole, s.cells[first+i])
		}
	}
}

// restart opens a new object, with damage, perhaps another power loss, and
// faults at first, and checks what comes back.
func (s *simulator) restart() {
	lost := s.r.dead
	if lost {
		s.did.losses++
	}
	s.logf("restart (power lost: %v)", lost)
	s.o.Destroy(false)
	s.r.powerOn()
	s.dirty = s.dirty || lost || s.rng.IntN(3) == 0
	s.r.clean = !s.dirty
	s.damage()
	for try := 0; ; try++ {
		s.open()
		if try < 3 && s.rng.IntN(3) == 0 && len(s.aged[0])+len(s.aged[1]) == 0 {
			s.addFault()
		}
		if try < 3 && s.rng.IntN(4) == 0 {
			s.r.countdown = 1 + s.rng.IntN(20)
		}
		faulty := len(s.r.cache.faults)+len(s.r.base.faults) > 0
		err := s.r.do(s.t, s.o.Restore)
		s.did.restores++
		s.logf("restore: %v", err)
		again := s.r.dead || err != nil && (len(s.r.cache.faults)+len(s.r.base.faults) > 0)
		if !again {
			s.verify(err, faulty)
			return
		}
		s.did.retried++
		s.o.Destroy(false)
		s.r.powerOn()
		s.dirty, s.r.clean = true, false
	}
}

// damage spoils copies at rest. Most schedules leave a good copy of everything
// that had one.
func (s *simulator) damage() {
	careful := s.rng.IntN(4) != 0
	u := s.unit()
	s.aged = [2]map[uint64]struct{}{{}, {}}
	for range s.rng.IntN(5) {
		which, i := s.rng.IntN(2), s.rng.Uint64N(s.r.primary.Blocks)
		if s.unit() == 1 && s.r.primary.EntryBlocks == 0 && careful {
			which = 0 // copies are good only as a whole: spoil one of them
		}
		if careful && !s.good(1-which, i/u*u, u) || careful && s.r.primary.EntryBlocks == 0 && !s.good(1, 0, s.r.primary.Blocks) {
			continue
		}
		if careful && s.age(which, i) {
			continue
		}
		s.spoil(which, i)
		if !careful {
			s.cells[i/u].unsure = true
			if s.r.primary.EntryBlocks == 0 {
				for e := range s.entries() {
					s.cells[e].unsure = true
				}
			}
		}
	}
}

// age gives a block the content that it had after the last restart: what was
// written since was lost, and nobody noticed.
func (s *simulator) age(which int, i uint64) bool {
	if s.past[which] == nil || s.r.primary.EntryBlocks == 0 || s.rng.IntN(3) != 0 {
		return false
	}
	now, then := s.r.copyOf(which, i), s.past[which][i*BlockSize:(i+1)*BlockSize]
	if _, _, ok := checkBlock(then, placeSeed(testUUID, uint64(s.r.primary.Type)), i); !ok || bytes.Equal(now, then) {
		return false
	}
	s.logf("age copy %d block %d", which, i)
	s.did.aged++
	copy(now, then)
	s.aged[which][i/s.unit()] = struct{}{}
	s.harden()
	return true
}

// remember keeps the copies for age.
func (s *simulator) remember() {
	for which := range s.past {
		s.past[which] = s.past[which][:0]
		for i := range s.r.primary.Blocks {
			s.past[which] = append(s.past[which], s.r.copyOf(which, i)[:BlockSize]...)
		}
	}
}

// good says whether a copy of blocks is whole and durable, and not older than
// it should be.
func (s *simulator) good(which int, at, n uint64) bool {
	if _, ok := s.aged[which][at/s.unit()]; ok {
		return false
	}
	d, g := s.r.cache, &s.r.primary
	if which == 1 {
		d, g = s.r.base, &s.r.mirror
	}
	for _, l := range d.loose {
		if l.lba >= g.Offset+at && l.lba < g.Offset+at+n {
			return false
		}
	}
	return s.whole(d, g.Offset, d.media, at, n)
}

func (s *simulator) whole(d *fakeDisk, offset uint64, mem []byte, at, n uint64) bool {
	seed := placeSeed(testUUID, uint64(s.r.primary.Type))
	block := func(i uint64) []byte { return mem[int(offset+i)*d.stride:][:BlockSize] }
	for i := at; i < at+n; i++ {
		if _, _, ok := checkBlock(block(i), seed, i); !ok {
			return false
		}
		first := i / s.unit() * s.unit()
		if s.r.primary.EntryBlocks == 0 {
			first = 0
		}
		if le.Uint32(block(i)[offNumber:]) != le.Uint32(block(first)[offNumber:]) {
			return false
		}
	}
	return true
}

func (s *simulator) spoil(which int, i uint64) {
	b := s.r.copyOf(which, i)
	kind := s.rng.IntN(6)
	s.logf("spoil copy %d block %d (%d)", which, i, kind)
	switch kind {
	case 0:
		clear(b)
	case 1:
		b[s.rng.IntN(len(b))] ^= 1 << s.rng.IntN(8)
	case 2: // truncated
		clear(b[s.rng.IntN(len(b)):])
	case 3: // somebody else's
		for j := range b {
			b[j] = byte(s.rng.Uint32())
		}
	default: // another block of either copy, put here
		j := s.rng.Uint64N(s.r.primary.Blocks)
		if j != i {
			copy(b, s.r.copyOf(s.rng.IntN(2), j))
		}
	}
	s.harden()
}

// harden makes damage durable, with all that was written before.
func (s *simulator) harden() {
	for _, d := range []*fakeDisk{s.r.cache, s.r.base} {
		copy(d.durable, d.media)
		d.flush(^uint64(0))
		copy(d.durable, d.media)
	}
}

// verify compares what was restored, perhaps from devices that failed, with the
// model.
func (s *simulator) verify(err error, faulty bool) {
	var bad *BadError
	if err != nil && !errors.As(err, &bad) {
		s.fatalf("restore without faults: %v", err)
	}
	for i := range s.entries() {
		c := &s.cells[i]
		if bad != nil && (slices.Contains(bad.Entries, i) || s.r.primary.EntryBlocks == 0) {
			if !c.unsure {
				s.fatalf("entry %d is lost, though a good copy was left: %v", i, err)
			}
			s.did.bad++
			continue
		}
		v, whole := value(s.entryBuf(i), i)
		if first, _ := value(s.entryBuf(0), 0); s.r.primary.EntryBlocks == 0 && v != first {
			s.fatalf("block %d came back as %d, block 0 as %d", i, v, first)
		}
		if !whole || !c.allows(v) {
			s.fatalf("entry %d came back as %d (whole: %v), allowed %+v", i, v, whole, *c)
		}
		c.settle(v)
	}
	s.r.powerOn()
	if bad != nil { // start over with everything known
		for i := range s.entries() {
			s.put(i)
		}
		if err := s.r.do(s.t, s.o.Persist); err != nil {
			s.fatalf("persist without faults: %v", err)
		}
		s.book(0, s.entries(), nil, false)
	}
	s.did.repaired++
	s.dirty = false
	s.aged = [2]map[uint64]struct{}{}
	s.remember()
	if !s.r.clean || bad != nil || s.r.primary.EntryBlocks != 0 && !faulty { // everything must have come good
		for which := range 2 {
			if !s.good(which, 0, s.r.primary.Blocks) {
				s.fatalf("copy %d is not whole after a restore", which)
			}
		}
	} else if !s.good(0, 0, s.r.primary.Blocks) {
		s.fatalf("the primary is not whole after a restore")
	}
}
