package bdev_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/thread"
)

// strict is a driver that refuses to see what is not within its Info. It
// answers later, in an order of its own, and is sometimes out of memory.
type strict struct {
	t        testing.TB
	info     bdev.Info
	data, md []byte
	sync     bool // answer inside Submit
	noMem    int  // of so many IOs one is refused
	n        int
	pending  []*bdev.IO
	most     int // in flight
	chans    int
	closed   bool
	resets   int
	hold     bool // answer nothing
	seen     [bdev.NumOps]int
	order    func(n int) int
}

func newStrict(t testing.TB, info bdev.Info) *strict {
	if info.Name == "" {
		info.Name = "strict"
	}
	if info.BlockSize == 0 {
		info.BlockSize = 512
	}
	if info.Ops == 0 {
		info.Ops = bdev.Ops(bdev.OpRead, bdev.OpWrite)
	}
	return &strict{
		t: t, info: info, data: make([]byte, info.Blocks*uint64(info.BlockSize)), md: make([]byte, info.Blocks*uint64(info.MDSize)),
		order: func(int) int { return 0 },
	}
}

func (s *strict) Info() bdev.Info { return s.info }
func (s *strict) Close() error {
	s.closed = true
	return nil
}

func (s *strict) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	s.chans++
	return &strictChannel{s}, nil
}

type strictChannel struct{ *strict }

func (c *strictChannel) Close() { c.chans-- }

func (s *strict) Submit(io *bdev.IO) {
	s.n++
	s.seen[io.Op]++
	if s.noMem > 0 && s.n%s.noMem == 0 {
		io.Complete(fmt.Errorf("no memory: %w", unix.ENOMEM))
		return
	}
	if io.Op == bdev.OpAbort {
		for i, p := range s.pending {
			if p == io.Target {
				s.pending = append(s.pending[:i], s.pending[i+1:]...)
				p.Complete(bdev.ErrAborted)
				io.Complete(nil)
				return
			}
		}
		io.Complete(bdev.ErrNotFound)
		return
	}
	s.check(io)
	if s.sync {
		io.Complete(s.perform(io))
		return
	}
	s.pending = append(s.pending, io)
	s.most = max(s.most, len(s.pending))
}

// answer completes one of what is pending.
func (s *strict) answer() {
	if len(s.pending) == 0 || s.hold {
		return
	}
	i := s.order(len(s.pending))
	io := s.pending[i]
	s.pending = append(s.pending[:i], s.pending[i+1:]...)
	io.Complete(s.perform(io))
}

func (s *strict) check(io *bdev.IO) {
	i := &s.info
	bad := func(why string) {
		s.t.Errorf("%s of %d at %d with %d buffers: %s", io.Op, io.Count, io.LBA, len(io.Bufs), why)
	}
	if !i.Ops.Has(io.Op) {
		bad("operation that the driver does not have")
	}
	if io.FUA && !i.FUA {
		bad("FUA")
	}
	if io.LBA+io.Count > i.Blocks {
		bad("outside")
	}
	switch io.Op {
	case bdev.OpUnmap:
		if i.MaxUnmap != 0 && io.Count > uint64(i.MaxUnmap) {
			bad("too much")
		}
	case bdev.OpRead, bdev.OpWrite, bdev.OpCompare:
		s.checkTransfer(io, bad)
	default:
	}
}

func (s *strict) checkTransfer(io *bdev.IO, bad func(string)) {
	i := &s.info
	if i.MaxTransfer != 0 && io.Count > uint64(i.MaxTransfer) {
		bad("too long")
	}
	if b := uint64(i.OptimalBoundary); b != 0 && io.LBA/b != (io.LBA+io.Count-1)/b {
		bad("crosses the boundary")
	}
	if i.MaxSegments != 0 && len(io.Bufs) > i.MaxSegments {
		bad("too many segments")
	}
	if u := uint64(i.WriteUnit); io.Op == bdev.OpWrite && u > 1 && (io.LBA%u != 0 || io.Count%u != 0) {
		bad("not in write units")
	}
	n := 0
	for _, b := range io.Bufs {
		n += len(b)
		if a := uintptr(i.BufAlign); a > 1 && (uintptr(unsafe.Pointer(unsafe.SliceData(b)))|uintptr(len(b)))%a != 0 {
			bad("misaligned")
		}
	}
	if n != int(io.Count*uint64(i.BlockSize)) {
		bad(fmt.Sprintf("%d bytes", n))
	}
	if io.MD != nil && len(io.MD) != int(io.Count*uint64(i.MDSize)) {
		bad(fmt.Sprintf("%d bytes of metadata", len(io.MD)))
	}
}

func (s *strict) perform(io *bdev.IO) error {
	bs, ms := uint64(s.info.BlockSize), uint64(s.info.MDSize)
	data, md := s.data[io.LBA*bs:(io.LBA+io.Count)*bs], s.md[io.LBA*ms:(io.LBA+io.Count)*ms]
	switch io.Op {
	case bdev.OpRead:
		for _, b := range io.Bufs {
			data = data[copy(b, data):]
		}
		copy(io.MD, md)
	case bdev.OpWrite:
		for _, b := range io.Bufs {
			data = data[copy(data, b):]
		}
		copy(md, io.MD)
	case bdev.OpUnmap, bdev.OpWriteZeroes:
		clear(data)
		clear(md)
	case bdev.OpReset:
		s.resets++
	default:
	}
	return nil
}

// doStrict is env.do with the driver answering.
func (e *env) doStrict(s *strict, submit func(done bdev.DoneFunc, ctx any) error) error {
	r := &result{}
	if err := submit(finished, r); err != nil {
		return err
	}
	for i := 0; r.n == 0; i++ {
		if i > 100_000 {
			e.t.Fatal("an IO never ended")
		}
		e.turn()
		s.answer()
	}
	e.turns(2)
	if r.n != 1 {
		e.t.Fatalf("completed %d times", r.n)
	}
	return r.err
}

// pieces cuts n bytes into random buffers, some of them misaligned.
func pieces(t *rapid.T, n int) ([][]byte, []byte) {
	slack := rapid.IntRange(0, 3).Draw(t, "slack")
	all := iobuf.Alloc(n + 4096)[slack*slack : n+slack*slack : n+slack*slack]
	var bufs [][]byte
	for rest := all; len(rest) > 0; {
		k := rapid.SampledFrom([]int{len(rest), 1, 100, 512, 1024, 4096}).Draw(t, "piece")
		k = min(k, len(rest))
		bufs = append(bufs, rest[:k])
		rest = rest[k:]
		if len(bufs) > 40 {
			bufs = append(bufs, rest)
			break
		}
	}
	return bufs, all
}

func drawInfo(t *rapid.T) bdev.Info {
	i := bdev.Info{
		Blocks:      256,
		MDSize:      uint32(rapid.SampledFrom([]int{0, 0, 8}).Draw(t, "md")),
		MaxTransfer: uint32(rapid.SampledFrom([]int{0, 4, 8, 32}).Draw(t, "transfer")), OptimalBoundary: uint32(rapid.SampledFrom([]int{0, 8, 64}).Draw(t, "boundary")),
		MaxSegments: rapid.SampledFrom([]int{0, 1, 2, 5}).Draw(t, "segments"), BufAlign: rapid.SampledFrom([]int{0, 4, 512}).Draw(t, "align"),
		WriteUnit: uint32(rapid.SampledFrom([]int{0, 1, 4}).Draw(t, "unit")), MaxUnmap: uint32(rapid.SampledFrom([]int{0, 3}).Draw(t, "unmap")),
		VolatileCache: rapid.Bool().Draw(t, "volatile"), FUA: rapid.Bool().Draw(t, "fua"),
		Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush, bdev.OpUnmap),
	}
	if rapid.Bool().Draw(t, "native zeroes") {
		i.Ops = i.Ops.With(bdev.OpWriteZeroes)
	}
	return i
}

// TestRandomIOsAgainstAModel runs every operation over drivers with random
// limits, and compares with plain memory.
func TestRandomIOsAgainstAModel(t *testing.T) {
	pool, err := iobuf.NewPool(iobuf.Options{SmallCount: 4, LargeCount: 2, LargeSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	rapid.Check(t, func(rt *rapid.T) {
		p := pool
		if rapid.Bool().Draw(rt, "no pool") {
			p = nil
		}
		e := newEnv(t, p)
		s := newStrict(t, drawInfo(rt))
		s.sync = rapid.Bool().Draw(rt, "sync")
		s.noMem = rapid.SampledFrom([]int{0, 0, 2, 5}).Draw(rt, "nomem")
		s.order = func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "order") }
		e.register(s)
		d, ch := e.open("strict", e.th)
		m := &model{e: e, s: s, ch: ch, data: make([]byte, len(s.data)), md: make([]byte, len(s.md))}
		for range rapid.IntRange(1, 12).Draw(rt, "ops") {
			m.step(rt)
		}
		if !bytes.Equal(m.data, s.data) || !bytes.Equal(m.md, s.md) {
			rt.Fatal("the device holds something else")
		}
		ch.Put()
		d.Close()
		e.turns(4)
		if s.chans != 0 {
			rt.Fatal("the channel was not closed")
		}
	})
}

type model struct {
	e        *env
	s        *strict
	ch       *bdev.Channel
	data, md []byte
	stamp    byte
}

func (m *model) step(t *rapid.T) {
	unit := max(int(m.s.info.WriteUnit), 1)
	blocks := int(m.s.info.Blocks)
	op := rapid.SampledFrom([]bdev.Op{
		bdev.OpRead, bdev.OpWrite, bdev.OpWrite, bdev.OpUnmap, bdev.OpWriteZeroes, bdev.OpCompare,
		bdev.OpCompareAndWrite, bdev.OpCopy, bdev.OpFlush,
	}).Draw(t, "op")
	lba := rapid.IntRange(0, blocks-1).Draw(t, "lba")
	count := rapid.IntRange(1, blocks-lba).Draw(t, "count")
	if op.Modifies() {
		lba = lba / unit * unit
		count = (count + unit - 1) / unit * unit
	}
	bs, ms := int(m.s.info.BlockSize), int(m.s.info.MDSize)
	data, md := m.data[lba*bs:(lba+count)*bs], m.md[lba*ms:(lba+count)*ms]
	bufs, flat := pieces(t, count*bs)
	var mdBuf []byte
	if ms > 0 {
		mdBuf = make([]byte, count*ms)
	}
	m.stamp++
	l, c := uint64(lba), uint64(count)
	var err, want error
	switch op {
	case bdev.OpRead:
		err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.Readv(bufs, mdBuf, l, c, d, x) })
		if !bytes.Equal(flat, data) || !bytes.Equal(mdBuf, md) {
			t.Fatal("read something else")
		}
	case bdev.OpWrite:
		fill(flat, m.stamp)
		fill(mdBuf, m.stamp+100)
		write := m.ch.Writev
		if rapid.Bool().Draw(t, "fua") {
			write = m.ch.WritevFUA
		}
		err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return write(bufs, mdBuf, l, c, d, x) })
		copy(data, flat)
		copy(md, mdBuf)
	case bdev.OpUnmap:
		err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.Unmap(l, c, d, x) })
		clear(data)
		clear(md)
	case bdev.OpWriteZeroes:
		err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.WriteZeroes(l, c, d, x) })
		clear(data)
		clear(md)
	case bdev.OpFlush:
		err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.Flush(d, x) })
	case bdev.OpCompare, bdev.OpCompareAndWrite:
		err, want = m.compare(t, op, bufs, flat, data, l, c)
	case bdev.OpCopy:
		err = m.copy(t, lba, count, unit)
	default:
		t.Fatal("no such step")
	}
	if !errors.Is(err, want) {
		t.Fatalf("%s of %d at %d: %v instead of %v", op, count, lba, err, want)
	}
}

func (m *model) compare(t *rapid.T, op bdev.Op, bufs [][]byte, flat, data []byte, l, c uint64) (err, want error) {
	copy(flat, data)
	if rapid.Bool().Draw(t, "differs") {
		flat[rapid.IntRange(0, len(flat)-1).Draw(t, "where")] ^= 1
		want = bdev.ErrMiscompare
	}
	if op == bdev.OpCompare {
		return m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.Compare(bufs, nil, l, c, d, x) }), want
	}
	with, withFlat := pieces(t, len(flat))
	fill(withFlat, m.stamp)
	err = m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error { return m.ch.CompareAndWrite(bufs, with, l, c, d, x) })
	if want == nil {
		copy(data, withFlat)
	}
	return err, want
}

func (m *model) copy(t *rapid.T, lba, count, unit int) error {
	half := int(m.s.info.Blocks) / 2
	count = min(count, half)
	src := rapid.IntRange(0, half-count).Draw(t, "src") / unit * unit
	dst := (half + lba%(half-count+1)) / unit * unit
	if dst < half || dst+count > 2*half {
		dst = half
	}
	count -= count % unit
	if count == 0 {
		return nil
	}
	bs, ms := int(m.s.info.BlockSize), int(m.s.info.MDSize)
	copy(m.data[dst*bs:(dst+count)*bs], m.data[src*bs:(src+count)*bs])
	copy(m.md[dst*ms:(dst+count)*ms], m.md[src*ms:(src+count)*ms])
	return m.e.doStrict(m.s, func(d bdev.DoneFunc, x any) error {
		return m.ch.Copy(uint64(dst), uint64(src), uint64(count), d, x)
	})
}

func fill(b []byte, stamp byte) {
	for i := range b {
		b[i] = stamp + byte(i) + byte(i>>8)*3
	}
}
