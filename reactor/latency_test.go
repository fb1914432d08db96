package reactor_test

import (
	"runtime"
	"runtime/metrics"
	"sort"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

func percentile(d []time.Duration, p float64) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[min(len(d)-1, int(p*float64(len(d))))]
}

// BenchmarkMessageToSleepingReactor has the latency of a message to a reactor that sleeps in the kernel, and, for what
// the machine allows, that of a Go channel to a goroutine with an OS thread of its own, and that of an eventfd that an
// OS thread reads. They take turns, so that each meets the same machine.
func BenchmarkMessageToSleepingReactor(b *testing.B) {
	done := make(chan int64, 1)
	type contestant struct {
		name string
		send func()
		all  []time.Duration
	}
	var list []*contestant
	for _, mode := range []reactor.Mode{reactor.Adaptive, reactor.Interrupt} {
		r := newReactor(b, reactor.Options{CPU: -1, Mode: mode})
		th := thread.NewSystem().NewThread("t")
		r.Add(th)
		answer := func(any) { done <- reactor.Now() }
		list = append(list, &contestant{name: mode.String(), send: func() { th.Send(answer, nil) }})
	}
	ask := make(chan struct{})
	defer close(ask)
	go func() {
		runtime.LockOSThread()
		for range ask {
			done <- reactor.Now()
		}
	}()
	list = append(list, &contestant{name: "channel", send: func() { ask <- struct{}{} }})
	bell := newBell(b, done)
	list = append(list, &contestant{name: "eventfd", send: bell.ring})

	for b.Loop() {
		for _, c := range list {
			time.Sleep(200 * time.Microsecond)
			from := reactor.Now()
			c.send()
			c.all = append(c.all, time.Duration(<-done-from))
		}
	}
	for _, c := range list {
		b.ReportMetric(float64(percentile(c.all, .5).Nanoseconds())/1e3, c.name+"-p50-us")
		b.ReportMetric(float64(percentile(c.all, .99).Nanoseconds())/1e3, c.name+"-p99-us")
	}
}

// bell is an eventfd with an OS thread that sleeps in a read of it.
type bell struct{ fd int }

func newBell(b *testing.B, rung chan<- int64) bell {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.NoError(b, err)
	e := bell{fd: fd}
	var stop atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		runtime.LockOSThread()
		count := make([]byte, 8)
		for {
			_, err := unix.Read(fd, count)
			now := reactor.Now()
			if stop.Load() {
				return
			}
			if err == nil {
				rung <- now
			}
		}
	}()
	b.Cleanup(func() {
		stop.Store(true)
		e.ring()
		<-stopped
		_ = unix.Close(fd)
	})
	return e
}

func (e bell) ring() {
	one := [8]byte{1} // the count is of the machine's byte order, and any but 0 will do
	_, _ = unix.Write(e.fd, one[:])
}

// stopping returns the runtime's histogram of how long it took to stop the world for a collection.
func stopping() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	return &metrics.Float64Histogram{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets}
}

// since returns an upper bound of the given share of the stops since then.
func since(then *metrics.Float64Histogram, share float64) time.Duration {
	now := stopping()
	var total, seen uint64
	for i, n := range now.Counts {
		total += n - then.Counts[i]
	}
	for i, n := range now.Counts {
		if seen += n - then.Counts[i]; float64(seen) >= share*float64(total) {
			return time.Duration(now.Buckets[i+1] * float64(time.Second))
		}
	}
	return 0
}

// BenchmarkGCBesideReactors has how long it takes to stop for a garbage collection, with a goroutine that allocates,
// beside two reactors that always have work. For comparison: beside nothing, and beside two goroutines that do nothing
// but call a function, which is what any program with as many busy goroutines as cores has.
func BenchmarkGCBesideReactors(b *testing.B) {
	for _, name := range []string{"none", "goroutines", "adaptive", "poll"} {
		b.Run(name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(reactor.Procs(2)))
			switch name {
			case "none":
			case "goroutines":
				var stop atomic.Bool
				defer stop.Store(true)
				for range 2 {
					go func() {
						for !stop.Load() {
							idleCall()
						}
					}()
				}
			default:
				busyReactors(b, name)
			}
			before := stopping()
			var sink []byte
			var all []time.Duration
			for b.Loop() {
				from := time.Now()
				for range 64 {
					sink = make([]byte, 64<<10)
				}
				runtime.GC()
				all = append(all, time.Since(from))
			}
			_ = sink
			b.ReportMetric(float64(since(before, .5).Microseconds()), "p50-stop-us")
			b.ReportMetric(float64(since(before, .99).Microseconds()), "p99-stop-us")
			b.ReportMetric(float64(since(before, 1).Microseconds()), "max-stop-us")
			b.ReportMetric(float64(percentile(all, .99).Microseconds()), "p99-cycle-us")
		})
	}
}

// busyReactors starts two reactors on CPUs of their own that always have work.
func busyReactors(b *testing.B, name string) {
	mode, err := reactor.ParseMode(name)
	require.NoError(b, err)
	for i := range 2 {
		r := newReactor(b, reactor.Options{CPU: i, Mode: mode})
		th := thread.NewSystem().NewThread("t")
		r.Add(th)
		ping(b, th, func() {
			th.RegisterPoller("busy", func(any) poller.Result { return poller.Busy }, nil, 0)
		})
	}
}

//go:noinline
func idleCall() { leafCall() }

//go:noinline
func leafCall() {}
