package md

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/thread"
)

// fakeDisk is a device in memory with scripted faults, a volatile cache and
// power loss. Completions come from messages, in order, or shuffled by rng.
type fakeDisk struct {
	r      *rig
	name   string
	info   bdev.Info
	stride int

	media   []byte // what reads see
	durable []byte // what a power loss leaves
	loose   []looseBlock
	seq     uint64
	pending []*bdev.IO
	flushAt []uint64 // seq when a pending flush was submitted, by index of pending
	faults  []*fault
	free    [][]byte // memory of blocks
}

// looseBlock is a block that was written and not flushed.
type looseBlock struct {
	lba, seq uint64
	data     []byte
}

// fault makes operations that touch a block fail.
type fault struct {
	op    bdev.Op
	lba   uint64
	any   bool // any block
	times int  // 0: always
	err   error
}

func (d *fakeDisk) Info() bdev.Info { return d.info }
func (d *fakeDisk) Close() error    { return nil }
func (d *fakeDisk) NewChannel(*thread.Thread) (bdev.DriverChannel, error) {
	return (*fakeChannel)(d), nil
}

type fakeChannel fakeDisk

func (c *fakeChannel) Close() {}

func (c *fakeChannel) Submit(io *bdev.IO) {
	d := (*fakeDisk)(c)
	d.pending = append(d.pending, io)
	d.flushAt = append(d.flushAt, d.seq)
	d.r.th.Post(fakeComplete, d)
}

func fakeComplete(arg any) {
	d := arg.(*fakeDisk)
	r := d.r
	i := 0
	if r.rng != nil {
		i = r.rng.IntN(len(d.pending))
	}
	if r.countdown > 0 {
		if r.countdown--; r.countdown == 0 {
			r.powerLoss()
		}
	}
	io, at := d.pending[i], d.flushAt[i]
	d.pending = append(d.pending[:i], d.pending[i+1:]...)
	d.flushAt = append(d.flushAt[:i], d.flushAt[i+1:]...)
	err := error(unix.EIO)
	if !r.dead {
		err = d.perform(io, at)
	}
	if r.log != nil {
		r.log(d.describe(io, err))
	}
	io.Complete(err)
}

func (d *fakeDisk) perform(io *bdev.IO, flushAt uint64) error {
	if err := d.fault(io); err != nil {
		if io.Op == bdev.OpWrite { // some of it may have got there
			d.scatter(io)
		}
		return err
	}
	switch io.Op {
	case bdev.OpRead:
		for i := range io.Count {
			b := d.media[int(io.LBA+i)*d.stride:]
			copy(block(io, i), b[:BlockSize])
			if io.MD != nil {
				copy(io.MD[int(i)*d.md():], b[BlockSize:d.stride])
			}
		}
	case bdev.OpWrite:
		for i := range io.Count {
			d.store(io.LBA+i, d.image(io, i))
		}
	case bdev.OpFlush:
		d.flush(flushAt)
	default:
		return unix.ENOTSUP
	}
	return nil
}

func (d *fakeDisk) md() int { return d.stride - BlockSize }

func block(io *bdev.IO, i uint64) []byte {
	at := i * BlockSize
	for _, b := range io.Bufs {
		if at < uint64(len(b)) {
			return b[at : at+BlockSize]
		}
		at -= uint64(len(b))
	}
	panic("short IO")
}

// image is a block with its metadata, as it would be stored. The memory is
// reused.
func (d *fakeDisk) image(io *bdev.IO, i uint64) []byte {
	b := d.buffer()
	copy(b, block(io, i))
	if d.md() > 0 && io.MD != nil {
		copy(b[BlockSize:], io.MD[int(i)*d.md():][:d.md()])
	}
	return b
}

func (d *fakeDisk) store(lba uint64, b []byte) {
	copy(d.media[int(lba)*d.stride:], b)
	d.seq++
	if !d.info.VolatileCache {
		copy(d.durable[int(lba)*d.stride:], b)
		d.free = append(d.free, b)
		return
	}
	d.loose = append(d.loose, looseBlock{lba, d.seq, b})
}

func (d *fakeDisk) flush(upTo uint64) {
	kept := d.loose[:0]
	for _, l := range d.loose {
		if l.seq > upTo {
			kept = append(kept, l)
			continue
		}
		copy(d.durable[int(l.lba)*d.stride:], l.data)
		d.free = append(d.free, l.data)
	}
	d.loose = kept
}

// tear stores some sectors of a block.
func (d *fakeDisk) tear(to []byte, lba uint64, b []byte) {
	dst := to[int(lba)*d.stride : int(lba+1)*d.stride]
	switch d.r.random(4) {
	case 0:
	case 1, 2:
		copy(dst, b)
	default:
		const sector = 512
		for s := 0; s < len(dst); s += sector {
			if d.r.random(2) == 0 {
				end := min(s+sector, len(dst))
				copy(dst[s:end], b[s:end])
			}
		}
	}
}

// scatter stores parts of a write that failed.
func (d *fakeDisk) scatter(io *bdev.IO) {
	if d.r.rng == nil {
		return
	}
	for i := range io.Count {
		b := d.image(io, i)
		was := append([]byte(nil), d.media[int(io.LBA+i)*d.stride:int(io.LBA+i+1)*d.stride]...)
		d.tear(was, 0, b)
		copy(b, was)
		d.store(io.LBA+i, b)
	}
}

func (d *fakeDisk) fault(io *bdev.IO) error {
	for _, f := range d.faults {
		if f.op != io.Op || f.times < 0 || !f.any && (f.lba < io.LBA || f.lba >= io.LBA+io.Count) {
			continue
		}
		if f.times > 0 {
			if f.times--; f.times == 0 {
				f.times = -1
			}
		}
		return f.err
	}
	return nil
}

func (d *fakeDisk) describe(io *bdev.IO, err error) string {
	s := fmt.Sprintf("%s: %s", d.name, io.Op)
	if io.Op != bdev.OpFlush {
		s += " " + d.r.where(d, io.LBA, io.Count)
		if io.MD != nil {
			s += " +md"
		}
	}
	if err != nil {
		s += ": " + err.Error()
	}
	return s
}

// rig is a thread with two devices and an object over them.
type rig struct {
	sys    *thread.System
	th     *thread.Thread
	m      *bdev.Manager
	now    int64
	cache  *fakeDisk
	base   *fakeDisk
	target [2]Target
	stats  [2]IOStats
	rng    *rand.Rand
	dead   bool
	// countdown is the number of completions until the power goes; 0: never.
	countdown int
	log       func(line string)

	primary, mirror layout.Region
	clean           bool
}

var testUUID = uuid.MustParse("8c5e4d10-3b8e-4f53-9a55-7f1d7a1be001")

type rigOptions struct {
	blocks   uint64 // of the region
	entry    uint32
	md       uint32 // metadata bytes of the cache device
	volatile bool
	pool     int
}

func newRig(t testing.TB, o rigOptions) *rig {
	r := &rig{sys: thread.NewSystem(), clean: true}
	r.th = r.sys.NewThread("core")
	r.m = bdev.NewManager(r.sys, nil)
	if o.pool > 0 {
		require.NoError(t, r.m.SetPool(o.pool, 1))
	}
	size := 2*o.blocks + 8
	r.cache = r.disk(t, "cache", size, o.md, o.volatile)
	r.base = r.disk(t, "base", size, 0, o.volatile)
	r.primary = layout.Region{Type: layout.RegionChunkMD, Name: "chunk_md", Offset: 3, Blocks: o.blocks, EntryBlocks: o.entry, Version: 1}
	r.mirror = layout.Region{
		Type: layout.RegionChunkMDMirror, Name: "chunk_md_mirror", Dev: layout.DevBase, Offset: 5,
		Blocks: o.blocks, EntryBlocks: o.entry, Version: 1,
	}
	for i, d := range []*fakeDisk{r.cache, r.base} {
		desc, err := r.m.Open(d.name, true, nil, nil, r.th)
		require.NoError(t, err)
		ch, err := desc.Channel(r.th)
		require.NoError(t, err)
		r.target[i] = Target{Desc: desc, Ch: ch, Stats: &r.stats[i]}
	}
	return r
}

func (r *rig) disk(t testing.TB, name string, blocks uint64, md uint32, volatile bool) *fakeDisk {
	d := &fakeDisk{r: r, name: name, stride: BlockSize + int(md), info: bdev.Info{
		Name: name, Product: "fake", BlockSize: BlockSize, Blocks: blocks, MDSize: md, VolatileCache: volatile,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush),
	}}
	d.media = make([]byte, int(blocks)*d.stride)
	d.durable = make([]byte, len(d.media))
	_, err := r.m.Register(d)
	require.NoError(t, err)
	return d
}

func (r *rig) config() Config {
	return Config{
		Thread: r.th, UUID: testUUID, Region: &r.primary, Mirror: &r.mirror, Target: r.target[0], MirrorTarget: r.target[1],
		XferBlocks: 4, Depth: 1, Clean: func() bool { return r.clean },
	}
}

func (r *rig) object(t testing.TB, change func(c *Config)) *Object {
	cfg := r.config()
	if change != nil {
		change(&cfg)
	}
	o, err := New(cfg)
	require.NoError(t, err)
	return o
}

func (r *rig) where(d *fakeDisk, lba, n uint64) string {
	g := &r.primary
	name := "primary"
	if d == r.base {
		g, name = &r.mirror, "mirror"
	}
	if lba < g.Offset || lba >= g.End() {
		return "of somebody else"
	}
	return fmt.Sprintf("%s %d+%d", name, lba-g.Offset, n)
}

func (r *rig) random(n int) int {
	if r.rng == nil {
		return 0
	}
	return r.rng.IntN(n)
}

func (d *fakeDisk) buffer() []byte {
	if k := len(d.free); k > 0 {
		b := d.free[k-1]
		d.free = d.free[:k-1]
		return b
	}
	return make([]byte, d.stride)
}

func (r *rig) poll() {
	r.now += 1000
	r.th.Poll(0, r.now)
}

// settle polls until nothing is left to do.
func (r *rig) settle() {
	for i := 0; r.th.HasWork(); i++ {
		if i > 1_000_000 {
			panic("the thread never comes to rest")
		}
		r.poll()
	}
}

// powerLoss leaves what is durable and a random part of what is not.
func (r *rig) powerLoss() {
	r.dead = true
	for _, d := range []*fakeDisk{r.cache, r.base} {
		for _, l := range d.loose {
			d.tear(d.durable, l.lba, l.data)
		}
		d.loose = d.loose[:0]
		for _, io := range d.pending {
			if io.Op != bdev.OpWrite {
				continue
			}
			for i := range io.Count {
				b := d.image(io, i)
				d.tear(d.durable, io.LBA+i, b)
				d.free = append(d.free, b)
			}
		}
		copy(d.media, d.durable)
	}
}

// powerOn makes the devices work again, without faults.
func (r *rig) powerOn() {
	r.dead, r.countdown = false, 0
	r.cache.faults, r.base.faults = nil, nil
}

// result is a callback's record.
type result struct {
	called int
	err    error
}

func record(arg any, err error) {
	res := arg.(*result)
	res.called++
	res.err = err
}

// do runs an operation to its end.
func (r *rig) do(t testing.TB, start func(done DoneFunc, arg any)) error {
	res := &result{}
	start(record, res)
	require.Zero(t, res.called, "completed inline")
	r.settle()
	require.Equal(t, 1, res.called)
	return res.err
}

// copyOf returns block i of a copy on the medium: 0 primary, 1 mirror.
func (r *rig) copyOf(which int, i uint64) []byte {
	d, g := r.cache, &r.primary
	if which == 1 {
		d, g = r.base, &r.mirror
	}
	at := int(g.Offset+i) * d.stride
	return d.media[at : at+BlockSize]
}

// setEntry fills the payload of a block with a letter.
func setBlock(o *Object, i uint64, letter byte) { fill(o.Payload(i), letter) }

// letters shows blocks by the letter that they hold.
func letters(n uint64, at func(i uint64) []byte) string {
	var b strings.Builder
	for i := range n {
		p := at(i)
		c := p[0]
		for _, x := range p[:PayloadSize] {
			if x != c {
				c = '?'
				break
			}
		}
		if c == 0 {
			c = '.'
		}
		b.WriteByte(c)
	}
	return b.String()
}
