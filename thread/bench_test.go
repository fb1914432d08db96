package thread_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"goftl/poller"
	"goftl/thread"
)

// What is passed in the comparisons with Go channels.
type call struct {
	fn  thread.Func
	arg any
}

const burst = 64

// BenchmarkSameThread is a message queued and run by one goroutine, in bursts of 64.
func BenchmarkSameThread(b *testing.B) {
	b.Run("post", func(b *testing.B) {
		th := thread.NewSystem().NewThread("t")
		b.ReportAllocs()
		for i := 0; i < b.N; i += burst {
			for range burst {
				th.Post(nop, th)
			}
			th.Poll(burst, 0)
		}
	})
	b.Run("send", func(b *testing.B) {
		th := thread.NewSystem().NewThread("t")
		b.ReportAllocs()
		for i := 0; i < b.N; i += burst {
			for range burst {
				th.Send(nop, th)
			}
			th.Poll(burst, 0)
		}
	})
	b.Run("sendto", func(b *testing.B) { // to another thread, polled by the same goroutine
		sys := thread.NewSystem()
		from, to := sys.NewThread("from"), sys.NewThread("to")
		from.RegisterPoller("send", func(any) poller.Result {
			for range burst {
				from.SendTo(to, nop, to)
			}
			return poller.Busy
		}, nil, 0)
		b.ReportAllocs()
		for i := 0; i < b.N; i += burst {
			from.Poll(burst, 0)
			to.Poll(burst, 0)
		}
	})
	b.Run("channel", func(b *testing.B) {
		c := make(chan call, burst)
		for i := 0; i < b.N; i += burst {
			for range burst {
				c <- call{nop, b}
			}
			for range burst {
				m := <-c
				m.fn(m.arg)
			}
		}
	})
}

// BenchmarkCrossThread is one way from one goroutine to another that polls all the time. The sender keeps at most a
// window of messages under way, as everything with a queue depth does.
func BenchmarkCrossThread(b *testing.B) {
	const window = 4096
	b.Run("send", func(b *testing.B) {
		th := thread.NewSystem().NewThread("t")
		var seen atomic.Int64
		got := int64(0)
		recv := func(any) { got++ }
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			defer close(done)
			for got < int64(b.N) {
				th.Poll(burst, 0)
				seen.Store(got)
			}
		}()
		b.ReportAllocs()
		b.ResetTimer()
		free := int64(0)
		for i := range int64(b.N) {
			for i >= free {
				free = seen.Load() + window
			}
			th.Send(recv, th)
		}
		<-done
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
	})
	b.Run("channel", func(b *testing.B) {
		c := make(chan call, window)
		got := 0
		recv := func(any) { got++ }
		done := make(chan struct{})
		go func() {
			defer close(done)
			for got < b.N {
				m := <-c
				m.fn(m.arg)
			}
		}()
		b.ResetTimer()
		for range b.N {
			c <- call{recv, b}
		}
		<-done
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
	})
}

// BenchmarkManySenders has four goroutines send to one thread, with a window as above for all of them together.
func BenchmarkManySenders(b *testing.B) {
	const senders, window = 4, 4096
	b.Run("send", func(b *testing.B) {
		th := thread.NewSystem().NewThread("t")
		var seen atomic.Int64
		got := int64(0)
		recv := func(any) { got++ }
		for range senders {
			go func() {
				free := int64(0)
				for i := range int64(b.N) {
					for senders*i >= free {
						if free = seen.Load() + window; senders*i >= free {
							runtime.Gosched()
						}
					}
					th.Send(recv, th)
				}
			}()
		}
		for got < int64(senders*b.N) {
			if th.Poll(burst, 0) == poller.Idle {
				runtime.Gosched()
			}
			seen.Store(got)
		}
		b.ReportMetric(float64(senders*b.N)/b.Elapsed().Seconds()/1e6, "M/s")
	})
	b.Run("channel", func(b *testing.B) {
		c := make(chan call, window)
		got := 0
		recv := func(any) { got++ }
		for range senders {
			go func() {
				for range b.N {
					c <- call{recv, b}
				}
			}()
		}
		for got < senders*b.N {
			m := <-c
			m.fn(m.arg)
		}
		b.ReportMetric(float64(senders*b.N)/b.Elapsed().Seconds()/1e6, "M/s")
	})
}

// BenchmarkEmptyPoll is a turn of a thread that has nothing to do.
func BenchmarkEmptyPoll(b *testing.B) {
	th := thread.NewSystem().NewThread("t")
	for i := 0; b.Loop(); i++ {
		th.Poll(0, int64(i))
	}
}
