package bdev_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/iobuf"
	"goftl/thread"
)

// TestThreadsInParallel has goroutines drive a thread each. They read, write,
// compare-and-write, reset, change limits and collect statistics, until the
// device is removed under them. Every IO must end, and so must the device.
func TestThreadsInParallel(t *testing.T) {
	pool, err := iobuf.NewPool(iobuf.Options{SmallCount: 16, LargeCount: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	sys := thread.NewSystem()
	m := bdev.NewManager(sys, pool)
	mem, err := malloc.New(malloc.Options{Name: "m", Blocks: 256})
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Register(mem)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	start := time.Now()
	drive := func(th *thread.Thread, more func() bool) {
		for more() {
			th.Poll(0, int64(time.Since(start)))
			runtime.Gosched()
		}
	}
	var total atomic.Int64
	for i := range 3 {
		th := sys.NewThread("worker")
		u := &user{t: t, th: th, b: b, rnd: uint64(i + 1), total: &total}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if !u.open(m) {
				return
			}
			drive(th, func() bool { return !u.gone || u.flying > 0 })
			for range 100 {
				th.Poll(0, int64(time.Since(start)))
			}
			th.Exit()
			drive(th, func() bool { return !th.Exited() })
			if err := th.ExitErr(); err != nil {
				t.Error(err)
			}
		}()
	}
	admin := sys.NewThread("admin")
	ended := false
	due := time.Now().Add(500 * time.Millisecond)
	n := 0
	drive(admin, func() bool {
		if n++; n%1000 == 0 {
			b.SetQoS(bdev.QoS{IOPS: uint64(n%3000) * 100}, admin, func(any, error) {}, nil)
			b.CollectStats(admin, n%2000 == 0, func(any, *bdev.Stats) {}, nil)
		}
		if !stop.Load() && time.Now().After(due) {
			stop.Store(true)
			b.Unregister(admin, func(_ any, err error) {
				if err != nil {
					t.Error(err)
				}
				ended = true
			}, nil)
		}
		if time.Since(due) > 20*time.Second {
			t.Error("the device never ended")
			return false
		}
		return !ended
	})
	wg.Wait()
	if total.Load() < 100 {
		t.Fatalf("only %d IOs", total.Load())
	}
}

type user struct {
	t      *testing.T
	th     *thread.Thread
	b      *bdev.Bdev
	d      *bdev.Desc
	ch     *bdev.Channel
	rnd    uint64
	flying int
	gone   bool
	total  *atomic.Int64
}

func (u *user) open(m *bdev.Manager) bool {
	d, err := m.Open("m", true, func(_ any, ev bdev.Event, _ *bdev.Bdev, _ []bdev.MediaExtent) {
		if ev == bdev.Remove {
			u.gone = true
			u.ch.Put()
			u.d.Close()
		}
	}, nil, u.th)
	if err != nil {
		u.t.Error(err)
		return false
	}
	u.d = d
	if u.ch, err = d.Channel(u.th); err != nil {
		u.t.Error(err)
		return false
	}
	for range 16 {
		u.next()
	}
	return true
}

func (u *user) next() {
	if u.gone {
		return
	}
	u.rnd = u.rnd*6364136223846793005 + 1442695040888963407
	r := u.rnd >> 33
	lba := r % 250
	buf := make([]byte, 4096*3)
	done := func(io *bdev.IO) {
		u.flying--
		u.total.Add(1)
		if err := io.Err(); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, bdev.ErrMiscompare) &&
			!errors.Is(err, bdev.ErrAborted) {
			u.t.Error(io.Op, err)
		}
		u.next()
	}
	var err error
	switch r >> 10 % 64 {
	case 0:
		err = u.ch.Reset(done, nil)
	case 1, 2, 3:
		err = u.ch.CompareAndWrite([][]byte{buf}, [][]byte{buf}, lba, 3, done, nil)
	case 4:
		err = u.ch.Copy(lba%100, 150+lba%50, 3, done, nil)
	case 5:
		err = u.ch.WriteZeroes(lba, 3, done, nil)
	default:
		// Threads own blocks of their own, as the memory below is not ordered.
		err = u.ch.Flush(done, nil)
	}
	switch {
	case err == nil:
		u.flying++
	case !errors.Is(err, unix.ENODEV):
		u.t.Error(err)
	}
}
