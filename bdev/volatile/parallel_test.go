package volatile_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/bdev/volatile"
	"goftl/thread"
)

const (
	workers   = 3
	blocksOf  = 64 // of each worker
	depthOf   = 8  // its IOs in flight, each on blocks of its own
	roundsAll = 3000
)

// TestThreadsInParallel has goroutines drive a thread each, and another one the thread that owns the cache. Each
// worker reads, writes and flushes blocks of its own. At the end the device goes, and what was flushed must be below.
func TestThreadsInParallel(t *testing.T) {
	sys := thread.NewSystem()
	m := bdev.NewManager(sys, nil)
	mem, err := malloc.New(malloc.Options{Name: "m", Blocks: workers * blocksOf})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Register(mem); err != nil {
		t.Fatal(err)
	}
	home := sys.NewThread("home")
	b, err := volatile.Create(m, home, volatile.Options{Name: "v", Base: "m", Blocks: 100, Early: 0.1, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	drive := func(th *thread.Thread, more func() bool) {
		for more() {
			th.Poll(0, int64(time.Since(start)))
			runtime.Gosched()
		}
	}
	var wg sync.WaitGroup
	list := make([]*worker, workers)
	for i := range list {
		w := &worker{t: t, th: sys.NewThread("worker"), lo: uint64(i * blocksOf), rnd: uint64(i + 1)}
		list[i] = w
		wg.Add(1)
		go func() {
			defer wg.Done()
			if !w.begin(m) {
				return
			}
			drive(w.th, func() bool { return w.flying > 0 })
			w.ch.Put()
			w.d.Close()
			for range 100 {
				w.th.Poll(0, int64(time.Since(start)))
			}
			w.th.Exit()
			drive(w.th, func() bool { return !w.th.Exited() })
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	drive(home, func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	})
	ended := false
	b.Unregister(home, func(any, error) { ended = true }, nil)
	drive(home, func() bool { return !ended })
	for range 100 {
		home.Poll(0, int64(time.Since(start)))
	}
	for _, w := range list {
		for i := range uint64(blocksOf) {
			if got := mem.Data()[(w.lo+i)*4096]; got < w.flushed[i] {
				t.Errorf("block %d holds %d, and %d was flushed", w.lo+i, got, w.flushed[i])
			}
		}
		if w.ios < roundsAll {
			t.Errorf("only %d IOs", w.ios)
		}
	}
}

// worker writes its blocks with growing numbers.
type worker struct {
	t       *testing.T
	th      *thread.Thread
	d       *bdev.Desc
	ch      *bdev.Channel
	lo      uint64
	rnd     uint64
	flying  int
	ios     int
	written [blocksOf]byte // acknowledged
	flushed [blocksOf]byte
}

func (w *worker) begin(m *bdev.Manager) bool {
	var err error
	if w.d, err = m.Open("v", true, nil, nil, w.th); err == nil {
		w.ch, err = w.d.Channel(w.th)
	}
	if err != nil {
		w.t.Error(err)
		return false
	}
	for slot := range uint64(depthOf) {
		w.next(slot, make([]byte, 2*4096))
	}
	return true
}

// next submits an IO on the blocks that belong to a slot: two neighbours out of eight.
func (w *worker) next(slot uint64, buf []byte) {
	if w.ios++; w.ios > roundsAll {
		return
	}
	w.rnd = w.rnd*6364136223846793005 + 1442695040888963407
	at := slot*8 + w.rnd>>40%7
	lba := w.lo + at
	var err error
	switch w.rnd >> 33 % 16 {
	case 0:
		covered := w.written
		err = w.ch.Flush(func(io *bdev.IO) {
			w.ended(io)
			for i := range covered {
				w.flushed[i] = max(w.flushed[i], covered[i])
			}
			w.next(slot, buf)
		}, nil)
	case 1, 2, 3, 4, 5:
		err = w.ch.Read(buf, lba, 2, func(io *bdev.IO) {
			w.ended(io)
			if buf[0] != w.written[at] || buf[4096] != w.written[at+1] {
				w.t.Errorf("read %d %d at %d, wrote %d %d", buf[0], buf[4096], lba, w.written[at], w.written[at+1])
			}
			w.next(slot, buf)
		}, nil)
	default:
		for i := range uint64(2) {
			n := w.written[at+i] + 1
			if n == 0 {
				w.t.Error("a block was written 256 times: the numbers are used up")
			}
			for j := range 4096 {
				buf[i*4096+uint64(j)] = n
			}
		}
		write := w.ch.Writev
		if w.rnd>>20%8 == 0 {
			write = w.ch.WritevFUA
		}
		err = write([][]byte{buf[:1000], buf[1000:]}, nil, lba, 2, func(io *bdev.IO) {
			w.ended(io)
			w.written[at], w.written[at+1] = buf[0], buf[4096]
			w.next(slot, buf)
		}, nil)
	}
	if err != nil {
		w.t.Error(err)
		return
	}
	w.flying++
}

func (w *worker) ended(io *bdev.IO) {
	w.flying--
	if err := io.Err(); err != nil {
		w.t.Error(io.Op, err)
	}
}
