package iobuf_test

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goftl/iobuf"
	"goftl/thread"
)

func pool(t testing.TB, small, large int) *iobuf.Pool {
	t.Helper()
	p, err := iobuf.NewPool(iobuf.Options{SmallCount: small, LargeCount: large})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestAlloc(t *testing.T) {
	for _, n := range []int{1, 4096, 5000, 2 << 20, 2<<20 + 1, 9 << 20} {
		b := iobuf.Alloc(n)
		align := uintptr(4096)
		if n >= 2<<20 {
			align = 2 << 20
		}
		if len(b) != n || uintptr(unsafe.Pointer(&b[0]))%align != 0 || uintptr(cap(b))%align != 0 {
			t.Fatal(n, len(b), cap(b), &b[0])
		}
		for i := 0; i < n; i += 511 {
			if b[i] != 0 {
				t.Fatal("not zero")
			}
			b[i] = 1
		}
		iobuf.Free(b)
	}
	if iobuf.Alloc(0) != nil || iobuf.Alloc(-1) != nil || iobuf.Alloc(1<<60) != nil {
		t.Fatal("gave memory")
	}
	iobuf.Free(nil)
}

func TestPopulateTakesAllPagesAndKeepsTheContent(t *testing.T) {
	for _, n := range []int{5000, 3 << 20, 70 << 20} {
		b := iobuf.Alloc(n)
		b[4999] = 7
		if err := iobuf.Populate(b); err != nil {
			t.Fatal(err)
		}
		resident := make([]byte, cap(b)/4096)
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(cap(b)), uintptr(unsafe.Pointer(&resident[0])))
		if errno != 0 {
			t.Fatal(errno)
		}
		for i, v := range resident {
			if v&1 == 0 {
				t.Fatalf("%d bytes: page %d is not there", n, i)
			}
		}
		if b[4999] != 7 || b[0] != 0 {
			t.Fatal("changed")
		}
		iobuf.Free(b)
	}
}

func TestPopulateRefusesWhatDoesNotFit(t *testing.T) {
	b := iobuf.Alloc(16 << 40)
	if b == nil {
		t.Skip("no room for the mapping")
	}
	defer iobuf.Free(b)
	if err := iobuf.Populate(b); !errors.Is(err, unix.ENOMEM) {
		t.Fatal(err)
	}
}

func TestDiscard(t *testing.T) {
	const size = 8 << 20
	b := iobuf.Alloc(size)
	defer iobuf.Free(b)
	for _, r := range [][2]int{{0, size}, {1, 10}, {4096, 2<<20 + 4096}, {1<<20 + 3, 7 << 20}, {2 << 20, 4 << 20}, {5, 5}} {
		for i := range b {
			b[i] = 7
		}
		iobuf.Discard(b[r[0]:r[1]])
		for i, v := range b {
			if inside := i >= r[0] && i < r[1]; inside != (v == 0) {
				t.Fatalf("%v: byte %d is %d", r, i, v)
			}
		}
	}
}

func TestBadOptionsAreNamed(t *testing.T) {
	for _, o := range []iobuf.Options{
		{SmallSize: -1}, {SmallCount: -1}, {LargeSize: 4096}, {LargeCount: 1 << 30}, {SmallCache: 99999}, {LargeCache: -4},
	} {
		if _, err := iobuf.NewPool(o); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestWaitersAreServedInOrderAndNotOvertaken(t *testing.T) {
	p := pool(t, 2, 1)
	sys := thread.NewSystem()
	th := sys.NewThread("a")
	c := p.Channel(th)
	a, b := c.Get(100, nil), c.Get(8192, nil)
	if a == nil || b == nil || c.Get(1, nil) != nil {
		t.Fatal("not two")
	}
	var order []int
	ws := make([]iobuf.Waiter, 4)
	var got []byte
	for i := range ws {
		ws[i] = iobuf.Waiter{Fn: func(_ any, buf []byte) {
			order = append(order, i)
			if len(buf) != i+1 {
				t.Error("wrong size")
			}
			got = buf
			c.Put(buf)
		}}
		if c.Get(i+1, &ws[i]) != nil {
			t.Fatal("overtaken")
		}
	}
	if !c.Cancel(&ws[2]) || c.Cancel(&ws[2]) {
		t.Fatal("cancel")
	}
	c.Put(a[:5])
	if len(order) != 0 {
		t.Fatal("called inside Put")
	}
	if c.Get(1, nil) != nil {
		t.Fatal("overtook the waiters")
	}
	for i := range int64(20) {
		th.Poll(0, i)
	}
	if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 3 || got == nil {
		t.Fatal(order)
	}
	c.Put(b)
	c.Close()
	if s, l := p.Shared(); s != 2 || l != 1 {
		t.Fatal(s, l)
	}
}

func TestAnIdleCacheDoesNotStarveOthers(t *testing.T) {
	p := pool(t, 64, 4)
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	ca, cb := p.Channel(a), p.Channel(b)
	for _, size := range []int{4096, 100_000} {
		var all [][]byte
		for buf := ca.Get(size, nil); buf != nil; buf = ca.Get(size, nil) {
			all = append(all, buf)
		}
		for _, buf := range all {
			ca.Put(buf)
		}
		served := 0
		ws := make([]iobuf.Waiter, len(all))
		var mine [][]byte
		for i := range ws {
			ws[i].Fn = func(_ any, buf []byte) { served++; mine = append(mine, buf) }
			if buf := cb.Get(size, &ws[i]); buf != nil {
				served++
				mine = append(mine, buf)
			}
		}
		for i := range int64(100) {
			a.Poll(0, i)
			b.Poll(0, i)
		}
		if served != len(all) {
			t.Fatalf("%d of %d of size %d", served, len(all), size)
		}
		for _, buf := range mine {
			cb.Put(buf)
		}
	}
}

// TestThreadsInParallel has real goroutines fight for few buffers; every
// request must be served and no buffer be in two hands.
func TestThreadsInParallel(t *testing.T) {
	p := pool(t, 5, 2)
	sys := thread.NewSystem()
	const workers, each = 4, 2000
	ends := make(chan int)
	stop := make(chan struct{})
	for w := range workers {
		th := sys.NewThread("w")
		go func() {
			c := p.Channel(th)
			n := 0
			var waiter iobuf.Waiter
			use := func(_ any, buf []byte) {
				if buf[0] != 0 {
					panic("a buffer in two hands")
				}
				buf[0] = byte(w + 1)
				runtime.Gosched()
				buf[0] = 0
				c.Put(buf)
				n++
			}
			waiter.Fn = func(arg any, buf []byte) { use(arg, buf) }
			last := -1
			waiting := func() bool { return last == n }
			told := false
			for now := int64(0); ; now++ {
				if n < each && !waiting() {
					size := 1000
					if n%3 == 0 {
						size = 50_000
					}
					at := n
					if buf := c.Get(size, &waiter); buf != nil {
						use(nil, buf)
					} else {
						last = at
					}
				}
				if n == each && !told {
					told = true
					ends <- w
				}
				th.Poll(0, now)
				runtime.Gosched()
				select {
				case <-stop:
					c.Close()
					ends <- w
					return
				default:
				}
			}
		}()
	}
	for range workers {
		<-ends
	}
	close(stop)
	for range workers {
		<-ends
	}
	if s, l := p.Shared(); s != 5 || l != 2 {
		t.Fatal(s, l)
	}
}

// TestRandomUseAgainstAModel checks that every request is served in order and
// that no buffer is lost, under random schedules of three threads.
func TestRandomUseAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, err := iobuf.NewPool(iobuf.Options{
			SmallCount: rapid.IntRange(1, 6).Draw(rt, "small"), LargeCount: rapid.IntRange(1, 3).Draw(rt, "large"),
		})
		if err != nil {
			rt.Fatal(err)
		}
		defer p.Close()
		sys := thread.NewSystem()
		type user struct {
			th   *thread.Thread
			c    *iobuf.Channel
			held [][]byte
			next [2]int // of each kind: number of the next request, and to be served next
			due  [2]int
		}
		users := make([]*user, 3)
		for i := range users {
			th := sys.NewThread("u")
			users[i] = &user{th: th, c: p.Channel(th)}
		}
		now := int64(0)
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			u := users[rapid.IntRange(0, 2).Draw(rt, "user")]
			switch rapid.IntRange(0, 2).Draw(rt, "what") {
			case 0:
				kind := rapid.IntRange(0, 1).Draw(rt, "kind")
				n := u.next[kind]
				u.next[kind]++
				take := func(_ any, buf []byte) {
					if u.due[kind] != n {
						rt.Fatal("out of order")
					}
					u.due[kind]++
					u.held = append(u.held, buf)
				}
				if buf := u.c.Get(100+kind*100_000, &iobuf.Waiter{Fn: take}); buf != nil {
					take(nil, buf)
				}
			case 1:
				if n := len(u.held); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(rt, "which")
					u.c.Put(u.held[i])
					u.held = append(u.held[:i], u.held[i+1:]...)
				}
			case 2:
				now++
				u.th.Poll(0, now)
			}
		}
		for range 2000 {
			now++
			for _, u := range users {
				for _, b := range u.held {
					u.c.Put(b)
				}
				u.held = nil
				u.th.Poll(0, now)
			}
		}
		for _, u := range users {
			if u.due != u.next {
				rt.Fatalf("served %v of %v", u.due, u.next)
			}
			u.c.Close()
		}
		s, l := p.Shared()
		if sc, lc := p.Counts(); s != sc || l != lc {
			rt.Fatalf("%d of %d and %d of %d left", s, sc, l, lc)
		}
	})
}

func TestGetAndPutDoNotAllocate(t *testing.T) {
	p := pool(t, 64, 8)
	c := p.Channel(thread.NewSystem().NewThread("a"))
	if n := testing.AllocsPerRun(1000, func() {
		a, b := c.Get(4096, nil), c.Get(100_000, nil)
		c.Put(a)
		c.Put(b)
	}); n != 0 {
		t.Fatal(n)
	}
}

func BenchmarkGetPut(b *testing.B) {
	p := pool(b, 64, 8)
	c := p.Channel(thread.NewSystem().NewThread("a"))
	b.ReportAllocs()
	for b.Loop() {
		c.Put(c.Get(4096, nil))
	}
}
