package bdev_test

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/iobuf"
)

// load keeps a queue depth of 4 KiB IOs on a channel: every completion submits
// the next one.
type load struct {
	ch    *bdev.Channel
	left  int
	rnd   uint64
	mask  uint64
	write bool
}

type slot struct {
	l   *load
	buf []byte
}

func (s *slot) submit() {
	l := s.l
	l.rnd ^= l.rnd << 13
	l.rnd ^= l.rnd >> 7
	l.rnd ^= l.rnd << 17
	var err error
	if l.write {
		err = l.ch.Write(s.buf, l.rnd&l.mask, 1, slotDone, s)
	} else {
		err = l.ch.Read(s.buf, l.rnd&l.mask, 1, slotDone, s)
	}
	if err != nil {
		panic(err)
	}
}

func slotDone(io *bdev.IO) {
	s := io.Ctx.(*slot)
	if s.l.left--; s.l.left > 0 {
		s.submit()
	}
}

func runLoad(b *testing.B, blocks uint64, depth int, write, null bool) {
	e := newEnv(b, nil)
	if null {
		e.null("d", blocks)
	} else {
		e.malloc(malloc.Options{Name: "d", Blocks: blocks})
	}
	_, ch := e.open("d", e.th)
	l := &load{ch: ch, rnd: 88172645463325252, mask: blocks - 1, write: write}
	mem := iobuf.Alloc(depth * 4096)
	slots := make([]slot, depth)
	for i := range slots {
		slots[i] = slot{l, mem[i*4096 : (i+1)*4096]}
		copy(slots[i].buf, "data")
	}
	l.left = depth * 4
	for i := range slots {
		slots[i].submit()
	}
	for l.left > 0 {
		e.turn()
	}
	e.turns(3)
	b.ReportAllocs()
	b.ResetTimer()
	l.left = b.N
	for i := range slots {
		slots[i].submit()
	}
	for l.left > 0 {
		e.turn()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "MIOPS")
	iobuf.Free(mem)
}

func BenchmarkNullRead4KQD128(b *testing.B)    { runLoad(b, 1<<26, 128, false, true) }
func BenchmarkNullRead4KQD1(b *testing.B)      { runLoad(b, 1<<26, 1, false, true) }
func BenchmarkMallocWrite4KQD128(b *testing.B) { runLoad(b, 1<<18, 128, true, false) }
func BenchmarkMallocRead4KQD128(b *testing.B)  { runLoad(b, 1<<18, 128, false, false) }
