package ftlbdev_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/ftlbdev"
	"goftl/bdev/passthru"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/iobuf"
	"goftl/thread"
)

// house is an FTL whose core thread runs in the goroutine of the test.
type house struct {
	t     *testing.T
	sys   *thread.System
	core  *thread.Thread
	m     *bdev.Manager
	dev   *ftl.Device
	disk  *bdev.Bdev
	start time.Time
}

func newHouse(t *testing.T, change func(c *ftl.Config)) *house {
	h := &house{t: t, sys: thread.NewSystem(), start: time.Now()}
	h.core = h.sys.NewThread("core")
	h.m = bdev.NewManager(h.sys, nil)
	for name, text := range map[string]string{"cache": "malloc:64MiB", "base": "malloc:256MiB"} {
		_, err := spec.Create(h.m, h.core, text, spec.Options{Name: name})
		require.NoError(t, err)
	}
	cfg := &ftl.Config{
		System: h.sys, Thread: h.core, Manager: h.m, Cache: "cache", Base: "base", Create: true, Name: "t", UUID: uuid.New(),
	}
	if change != nil {
		change(cfg)
	}
	h.wait(func(done func(error)) {
		ftl.Start(cfg, func(d *ftl.Device, err error) { h.dev = d; done(err) })
	})
	var err error
	h.disk, err = h.m.Register(ftlbdev.New("ftl", h.dev))
	require.NoError(t, err)
	return h
}

func (h *house) turn(th *thread.Thread) {
	th.Poll(0, int64(time.Since(h.start)))
	runtime.Gosched()
}

// until drives the core thread.
func (h *house) until(cond func() bool) {
	h.t.Helper()
	for due := time.Now().Add(time.Minute); !cond(); h.turn(h.core) {
		require.True(h.t, time.Now().Before(due), "nothing came back within a minute")
	}
}

func (h *house) wait(f func(done func(error))) {
	h.t.Helper()
	over := false
	f(func(err error) { require.NoError(h.t, err); over = true })
	h.until(func() bool { return over })
}

// down ends everything.
func (h *house) down() {
	h.t.Helper()
	h.wait(func(done func(error)) { h.disk.Unregister(h.core, func(_ any, err error) { done(err) }, nil) })
	h.wait(func(done func(error)) { h.dev.Stop(false, done) })
	for _, b := range h.m.All() {
		h.wait(func(done func(error)) { b.Unregister(h.core, func(_ any, err error) { done(err) }, nil) })
	}
	h.core.Exit()
	h.until(h.core.Exited)
	require.NoError(h.t, h.core.ExitErr())
}

// worker is a thread in a goroutine of its own, with a part of the device for
// itself.
type worker struct {
	h     *house
	th    *thread.Thread
	lba   uint64
	gen   []uint64 // of each block of its part
	rnd   uint64
	ch    *bdev.Channel
	under int
	done  *atomic.Int64
}

const part = 256

func (w *worker) random(n uint64) uint64 {
	w.rnd = w.rnd*6364136223846793005 + 1442695040888963407
	return (w.rnd >> 33) % n
}

// life opens the device, works and leaves, several times.
func (w *worker) life(rounds, ios int) {
	for range rounds {
		desc, err := w.h.m.Open("ftl", true, nil, nil, w.th)
		if err != nil {
			w.h.t.Error(err)
			return
		}
		if w.ch, err = desc.Channel(w.th); err != nil {
			w.h.t.Error(err)
			return
		}
		for range ios {
			w.next()
			for w.under >= 8 {
				w.h.turn(w.th)
			}
		}
		for w.under > 0 {
			w.h.turn(w.th)
		}
		w.ch.Put()
		desc.Close()
		for range 20 {
			w.h.turn(w.th)
		}
	}
	w.th.Exit()
	for !w.th.Exited() {
		w.h.turn(w.th)
	}
	if err := w.th.ExitErr(); err != nil {
		w.h.t.Error(err)
	}
}

func fill(b []byte, lba, gen uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], lba)
		binary.LittleEndian.PutUint64(b[i+8:], gen)
	}
}

// next writes a block and then reads it back, or flushes. What a worker writes
// it waits for before it uses the block again.
func (w *worker) next() {
	var err error
	if w.random(10) == 0 {
		err = w.ch.Flush(w.ended, nil)
	} else {
		i := w.random(part)
		for w.gen[i]&1 == 1 { // under way
			i = (i + 1) % part
		}
		w.gen[i]++
		lba := w.lba + i
		buf := iobuf.Alloc(4096)
		gen := w.gen[i]
		fill(buf, lba, gen)
		err = w.ch.Write(buf, lba, 1, func(io *bdev.IO) {
			w.check(io.Err())
			clear(buf) // from now on it is ours again
			err := w.ch.Read(buf, lba, 1, func(io *bdev.IO) {
				want := make([]byte, 4096)
				fill(want, lba, gen)
				if !bytes.Equal(buf, want) {
					w.h.t.Errorf("block %d: not what was written, generation %d", lba, gen)
				}
				iobuf.Free(buf)
				w.gen[i]++
				w.ended(io)
			}, nil)
			w.check(err)
		}, nil)
	}
	w.under++
	w.check(err)
}

func (w *worker) check(err error) {
	if err != nil {
		w.h.t.Error(err)
	}
}

func (w *worker) ended(io *bdev.IO) {
	w.check(io.Err())
	w.under--
	w.done.Add(1)
}

// inParallel has workers come and go while the core thread serves them.
func inParallel(t *testing.T, change func(c *ftl.Config)) {
	h := newHouse(t, change)
	var wg sync.WaitGroup
	var total, left atomic.Int64
	const workers, rounds, ios = 4, 5, 400
	left.Store(workers)
	for i := range uint64(workers) {
		w := &worker{h: h, th: h.sys.NewThread("worker"), lba: i * part, gen: make([]uint64, part), rnd: i + 1, done: &total}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer left.Add(-1)
			w.life(rounds, ios)
		}()
	}
	h.until(func() bool { return left.Load() == 0 })
	wg.Wait()
	require.EqualValues(t, workers*rounds*ios, total.Load())
	var s ftl.Stats
	h.until(func() bool { h.dev.Stats(&s); return s.Channels == 0 })
	h.down()
}

func TestChannelsOfSeveralThreads(t *testing.T) { inParallel(t, nil) }

func TestBufferedChannelsOfSeveralThreads(t *testing.T) {
	inParallel(t, func(c *ftl.Config) { c.VolatileWriteCache, c.WriteBufferBytes = true, 6*4096 })
}

// TestI12TooManyThreads: a thread more than the device has IO channels for is
// told so; when one leaves, another may come.
func TestI12TooManyThreads(t *testing.T) {
	h := newHouse(t, func(c *ftl.Config) { c.MaxIOChannels = 2 })
	desc, err := h.m.Open("ftl", true, nil, nil, h.core)
	require.NoError(t, err)
	var threads []*thread.Thread
	var chans []*bdev.Channel
	for range 3 {
		threads = append(threads, h.sys.NewThread("user"))
	}
	turn := func() {
		for _, th := range threads {
			h.turn(th)
		}
		h.turn(h.core)
	}
	for _, th := range threads[:2] {
		ch, err := desc.Channel(th)
		require.NoError(t, err)
		chans = append(chans, ch)
	}
	_, err = desc.Channel(threads[2])
	require.ErrorIs(t, err, unix.EAGAIN)
	require.ErrorContains(t, err, "MaxIOChannels")
	chans[0].Put()
	var s ftl.Stats
	for range 100 {
		turn()
	}
	h.dev.Stats(&s)
	require.EqualValues(t, 1, s.Channels)
	chans[0], err = desc.Channel(threads[2])
	require.NoError(t, err)
	for _, ch := range chans {
		ch.Put()
	}
	for range 100 {
		turn()
	}
	desc.Close()
	for _, th := range threads {
		th.Exit()
	}
	h.until(func() bool { turn(); return threads[0].Exited() && threads[1].Exited() && threads[2].Exited() })
	h.down()
}

// TestExtentsOfOtherThreads: the question goes to the core thread and the answer
// comes back, through a device in front too.
func TestExtentsOfOtherThreads(t *testing.T) {
	h := newHouse(t, nil)
	th := h.sys.NewThread("user")
	for _, c := range []struct {
		name string
		th   *thread.Thread
		lba  uint64
	}{{"ftl", h.core, 10}, {"ftl", th, 20}, {"front", h.core, 30}, {"front", th, 40}} {
		if c.name == "front" && h.m.Lookup("front") == nil {
			_, err := passthru.Create(h.m, h.core, passthru.Options{Name: "front", Base: "ftl"})
			require.NoError(t, err)
		}
		desc, err := h.m.Open(c.name, c.name == "ftl", nil, nil, c.th)
		if c.name == "front" {
			require.True(t, desc.Bdev().Info().Ops.Has(bdev.OpExtents))
		}
		require.NoError(t, err)
		ch, err := desc.Channel(c.th)
		require.NoError(t, err)
		over := false
		end := func(io *bdev.IO) { require.NoError(t, io.Err()); over = true }
		both := func() bool { h.turn(th); return over }
		if c.name == "ftl" {
			buf := iobuf.Alloc(4096)
			fill(buf, c.lba, 1)
			require.NoError(t, ch.Write(buf, c.lba, 1, end, nil))
			h.until(both)
			iobuf.Free(buf)
		}
		over = false
		out, n := make([]bdev.Extent, 4), uint64(0)
		want := []bdev.Extent{{Blocks: 5, Hole: true}, {Blocks: 1}, {Blocks: 4, Hole: true}}
		at := c.lba - 5
		if c.name == "front" {
			at -= 20
		}
		require.NoError(t, ch.Extents(at, 10, out, func(io *bdev.IO) { n = io.Result; end(io) }, nil))
		h.until(both)
		require.Equal(t, want, out[:n])
		require.ErrorIs(t, ch.Extents(h.dev.Blocks(), 1, out, end, nil), unix.EINVAL)
		require.ErrorIs(t, ch.Extents(0, 1, nil, end, nil), unix.EINVAL)
		ch.Put()
		desc.Close()
		h.until(func() bool { h.turn(th); return !th.HasMessages() && !h.core.HasMessages() })
	}
	th.Exit()
	h.until(func() bool { h.turn(th); return th.Exited() })
	front := h.m.Lookup("front")
	h.wait(func(done func(error)) { front.Unregister(h.core, func(_ any, err error) { done(err) }, nil) })
	h.down()
}
