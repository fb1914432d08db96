package filetest

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/reactor"
	"goftl/thread"
)

// worker keeps IO in flight on a thread of its own: it writes blocks of its own
// and reads them back.
type worker struct {
	t      *testing.T
	th     *thread.Thread
	desc   *bdev.Desc
	ch     *bdev.Channel
	base   uint64
	slots  [8]workSlot
	left   int
	flying int
	ended  atomic.Bool
}

type workSlot struct {
	w     *worker
	lba   uint64
	stamp byte
	buf   []byte
}

func workerStart(arg any) {
	w := arg.(*worker)
	var err error
	if w.ch, err = w.desc.Channel(w.th); err != nil {
		w.t.Error(err)
		w.ended.Store(true)
		return
	}
	for i := range w.slots {
		s := &w.slots[i]
		s.w, s.lba = w, w.base+uint64(i)
		s.write()
	}
}

func (s *workSlot) write() {
	w := s.w
	if w.left == 0 {
		if w.flying == 0 {
			w.ch.Put()
			w.ended.Store(true)
		}
		return
	}
	w.left--
	w.flying++
	s.stamp++
	for i := range s.buf {
		s.buf[i] = s.stamp
	}
	if err := w.ch.Write(s.buf, s.lba, 1, written, s); err != nil {
		w.t.Error(err)
	}
}

func written(io *bdev.IO) {
	s := io.Ctx.(*workSlot)
	if io.Err() != nil {
		s.w.t.Error(io.Err())
	}
	clear(s.buf)
	if err := s.w.ch.Read(s.buf, s.lba, 1, readBack, s); err != nil {
		s.w.t.Error(err)
	}
}

func readBack(io *bdev.IO) {
	s := io.Ctx.(*workSlot)
	if io.Err() != nil {
		s.w.t.Error(io.Err())
	}
	if s.buf[0] != s.stamp || s.buf[4095] != s.stamp {
		s.w.t.Errorf("block %d has %d, not %d", s.lba, s.buf[0], s.stamp)
	}
	s.w.flying--
	s.write()
}

func startWorkers(t *testing.T, h *Harness, n, rounds int) []*worker {
	ws := make([]*worker, n)
	for i := range ws {
		w := &worker{t: t, th: h.Sys.NewThread("worker"), desc: h.Desc, base: uint64(i * 64), left: rounds}
		for j := range w.slots {
			w.slots[j].buf = Buffer(t, 4096, 0)
		}
		w.th.Send(workerStart, w)
		ws[i] = w
	}
	return ws
}

func ended(ws []*worker) bool {
	for _, w := range ws {
		if !w.ended.Load() {
			return false
		}
	}
	return true
}

func await(t *testing.T, cond func() bool, meanwhile func()) {
	for end := time.Now().Add(Timeout); !cond(); {
		require.True(t, time.Now().Before(end), "timed out")
		meanwhile()
	}
}

// RunThreads runs tests with channels on several threads: on reactors, moving
// between reactors, and polled by goroutines that change their OS threads.
func RunThreads(t *testing.T, open OpenFunc) {
	for _, dir := range Dirs(t) {
		s := suite{open: open, dir: dir}
		t.Run(dir.Name+"/Reactors", s.reactors)
		t.Run(dir.Name+"/Moving", s.moving)
		t.Run(dir.Name+"/UnlockedGoroutine", s.unlocked)
	}
}

func newGroup(t *testing.T, ws []*worker) *reactor.Group {
	g, err := reactor.NewGroup(reactor.GroupOptions{Count: 2})
	require.NoError(t, err)
	g.Start()
	for _, w := range ws {
		g.Add(w.th)
	}
	return g
}

func (s *suite) reactors(t *testing.T) {
	h, _ := s.new(t, mib)
	ws := startWorkers(t, h, 3, 2000)
	g := newGroup(t, ws)
	await(t, func() bool { return ended(ws) }, func() { time.Sleep(time.Millisecond) })
	require.NoError(t, g.ExitThreads())
	g.Stop()
}

func (s *suite) moving(t *testing.T) {
	h, _ := s.new(t, mib)
	ws := startWorkers(t, h, 2, 5000)
	g := newGroup(t, ws)
	moves := 0
	await(t, func() bool { return ended(ws) }, func() {
		for i, w := range ws {
			require.NoError(t, g.Move(w.th, g.Reactors()[(i+moves)%2]))
		}
		moves++
		time.Sleep(500 * time.Microsecond)
	})
	require.NoError(t, g.ExitThreads())
	g.Stop()
}

// unlocked polls a thread by a chain of goroutines, each of which ends its OS
// thread, with IO in flight.
func (s *suite) unlocked(t *testing.T) {
	h, _ := s.new(t, mib)
	w := startWorkers(t, h, 1, 300)[0]
	clock := int64(1)
	await(t, w.ended.Load, func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // not unlocked: the OS thread ends with the goroutine
			for range 20 {
				clock += 1000
				w.th.Poll(0, clock)
			}
		}()
		<-done
	})
	w.th.Exit()
	await(t, w.th.Exited, func() {
		clock++
		w.th.Poll(0, clock)
	})
}
