package reactor_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

// flood is an active poller that sends what its window allows.
type flood struct {
	from, to  *thread.Thread
	batched   bool // by SendTo
	sent, all int64
	_         [64]byte
	seen      atomic.Int64
	_         [64]byte
	got, want int64 // the receiver's; want is all
	done      chan struct{}
}

const window = 4096

func (f *flood) poll() poller.Result {
	n := min(f.all, f.seen.Load()+window, f.sent+thread.DefaultBatch)
	if f.sent == n {
		return poller.Idle
	}
	for ; f.sent < n; f.sent++ {
		if f.batched {
			f.from.SendTo(f.to, flooded, f)
		} else {
			f.to.Send(flooded, f)
		}
	}
	return poller.Busy
}

func pollFlood(arg any) poller.Result { return arg.(*flood).poll() }

func flooded(arg any) {
	f := arg.(*flood)
	f.got++
	if f.got&63 == 0 || f.got == f.want {
		f.seen.Store(f.got)
		if f.got == f.want {
			close(f.done)
		}
	}
}

// BenchmarkAcrossReactors has messages go one way between two threads on reactors of their own, pinned to two CPUs,
// with at most 4096 under way; and the same through a Go channel of that size between two goroutines.
func BenchmarkAcrossReactors(b *testing.B) {
	cpus, err := reactor.CPUs()
	require.NoError(b, err)
	if len(cpus) < 2 {
		b.Skip("one CPU")
	}
	for _, how := range []string{"sendto", "send"} {
		b.Run(how, func(b *testing.B) {
			from := newReactor(b, reactor.Options{CPU: cpus[0]})
			to := newReactor(b, reactor.Options{CPU: cpus[1]})
			sys := thread.NewSystem()
			x, y := sys.NewThread("x"), sys.NewThread("y")
			from.Add(x)
			to.Add(y)
			f := &flood{from: x, to: y, batched: how == "sendto", all: int64(b.N), want: int64(b.N), done: make(chan struct{})}
			ping(b, y, func() {})
			b.ResetTimer()
			x.Send(func(any) { x.RegisterPoller("flood", pollFlood, f, 0) }, nil)
			<-f.done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
			b.ReportMetric(float64(b.N)/float64(to.Stats().BusyTurns), "batch")
		})
	}
	b.Run("channel", func(b *testing.B) {
		type call struct {
			fn  thread.Func
			arg any
		}
		c := make(chan call, window)
		f := &flood{want: int64(b.N), done: make(chan struct{})}
		go func() {
			for m := range c {
				m.fn(m.arg)
			}
		}()
		for range b.N {
			c <- call{flooded, f}
		}
		<-f.done
		close(c)
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
	})
}

// BenchmarkIdleTurn is a turn of a driven thread that has nothing to do.
func BenchmarkIdleTurn(b *testing.B) {
	th := thread.NewSystem().NewThread("t")
	p := th.RegisterPoller("busy", func(any) poller.Result { return poller.Busy }, nil, 0)
	n := 0
	reactor.Drive(th, func() bool { n++; return n > b.N }, 1<<40)
	p.Unregister()
}
