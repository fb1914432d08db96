package thread_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/poller"
	"goftl/thread"
)

func TestSendToGoesOverAtTheEndOfAPollOrWhenALaneIsFull(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	host := &fakeHost{}
	b.SetHost(host)
	ran := 0
	count := func(any) { ran++ }
	send := func(n int) {
		for range n {
			a.SendTo(b, count, nil)
		}
	}
	seen := -1
	look := func(any) { b.Poll(1000, 0); seen = ran }

	// Outside a Poll: at once.
	send(2)
	require.Equal(t, 2, host.wakes)
	b.Poll(1000, 0)
	require.Equal(t, 2, ran)

	// In a message: together, after the messages and before the pollers, with one look whether b sleeps.
	p := a.RegisterPoller("look", func(any) poller.Result { look(nil); return poller.Idle }, nil, 0)
	a.Send(func(any) { send(5); require.False(t, b.HasMessages()) }, nil)
	a.Poll(1000, 1)
	require.Equal(t, []int{3, 7, 7}, []int{host.wakes, seen, ran})
	p.Unregister()

	// In a poller, a critical message or an event: at the end.
	p = a.RegisterPoller("send", func(any) poller.Result { send(3); look(nil); return poller.Busy }, nil, 0)
	a.Poll(1000, 2)
	require.Equal(t, []int{4, 7}, []int{host.wakes, seen})
	p.Unregister()
	a.SendCritical(func() { send(1) })
	a.Poll(1000, 3)
	a.Event(func(any, uint32) { send(1) }, nil, 0, 4)
	require.Equal(t, 6, host.wakes)
	b.Poll(1000, 5)
	require.Equal(t, 12, ran)

	// A full lane does not wait for the end.
	a.Send(func(any) { send(64 + 3); look(nil) }, nil)
	a.Poll(1000, 6)
	require.Equal(t, 12+64, seen)
	b.Poll(1000, 7)
	require.Equal(t, 12+64+3, ran)
	require.Equal(t, 8, host.wakes)
}

func TestSendToItselfIsPost(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	var got []int
	th.SendTo(th, appendN, &appender{&got, 1})
	th.Send(func(any) {
		th.SendTo(th, appendN, &appender{&got, 2})
		th.Post(appendN, &appender{&got, 3})
	}, nil)
	th.Poll(64, 1)
	require.Equal(t, []int{1, 2, 3}, got)
	require.Equal(t, uint64(3), th.Stats().Posted)
}

// More destinations than lanes are found at once, and threads of another System with the same numbers.
func TestSendToManyThreadsKeepsTheirOrder(t *testing.T) {
	const each = 300
	sys, other := thread.NewSystem(), thread.NewSystem()
	from := sys.NewThread("from")
	var to []*thread.Thread
	for range 40 {
		to = append(to, sys.NewThread("to"), other.NewThread("to"))
	}
	got := make([][]int, len(to))
	for round := range 3 {
		from.Send(func(any) {
			for n := range each {
				for i := range to {
					from.SendTo(to[i], appendN, &appender{&got[i], round*each + n})
				}
			}
		}, nil)
		from.Poll(64, int64(round))
	}
	for i, th := range to {
		for th.Poll(64, 0) == poller.Busy {
		}
		require.Len(t, got[i], 3*each)
		for n := range got[i] {
			require.Equal(t, n, got[i][n])
		}
	}
}

func TestSendToAnExitedThreadIsDroppedAndCounted(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	b.Exit()
	b.Poll(0, 1)
	require.True(t, b.Exited())
	a.Send(func(any) {
		for range 70 {
			a.SendTo(b, nop, nil)
		}
	}, nil)
	a.Poll(0, 1)
	a.SendTo(b, nop, nil)
	require.Equal(t, uint64(71), b.Stats().Dropped)
}

// What a thread sends in the Poll in which it ends is sent.
func TestLastWordsOfAThread(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	ran := 0
	a.Send(func(any) {
		a.SendTo(b, func(any) { ran++ }, nil)
		a.Exit()
	}, nil)
	a.Poll(0, 1)
	require.True(t, a.Exited())
	b.Poll(0, 1)
	require.Equal(t, 1, ran)
}

func TestSendToDoesNotAllocate(t *testing.T) {
	sys := thread.NewSystem()
	a, b, c := sys.NewThread("a"), sys.NewThread("b"), sys.NewThread("c")
	a.RegisterPoller("send", func(any) poller.Result {
		for range 100 {
			a.SendTo(b, nop, b)
			a.SendTo(c, nop, c)
		}
		return poller.Busy
	}, nil, 0)
	turn := func() {
		a.Poll(0, 0)
		b.Poll(1000, 0)
		c.Poll(1000, 0)
	}
	turn()
	require.Zero(t, testing.AllocsPerRun(100, turn))
}

// Threads that send in batches and goroutines that send one by one, into rings that grow: every sender's order holds.
func TestBatchesAndSingleMessagesTogether(t *testing.T) {
	const senders, each = 3, 30000
	type msg struct{ sender, n int }
	sys := thread.NewSystem()
	to := sys.NewThread("to")
	var next [2 * senders]int
	total, bad := 0, 0
	recv := func(arg any) {
		m := arg.(*msg)
		if next[m.sender] != m.n {
			bad++
		}
		next[m.sender]++
		total++
	}
	var wg sync.WaitGroup
	var stop atomic.Bool
	for s := range senders {
		wg.Go(func() {
			for n := range each {
				to.Send(recv, &msg{s, n})
			}
		})
		wg.Go(func() {
			th := sys.NewThread("from")
			n := 0
			th.RegisterPoller("send", func(any) poller.Result {
				for range 1 + n%200 {
					if n < each {
						th.SendTo(to, recv, &msg{senders + s, n})
						n++
					}
				}
				return poller.Busy
			}, nil, 0)
			for n < each && !stop.Load() {
				th.Poll(0, 0)
			}
		})
	}
	for total < 2*senders*each && bad == 0 {
		to.Poll(64, 1)
	}
	stop.Store(true)
	wg.Wait()
	require.Zero(t, bad)
}

// A batch either comes in whole before the receiver ends, and keeps it from ending, or is dropped whole.
func TestBatchesRaceWithExit(t *testing.T) {
	for range 300 {
		sys := thread.NewSystem()
		a, b := sys.NewThread("a"), sys.NewThread("b")
		ran, sent := 0, 0
		var wg sync.WaitGroup
		wg.Go(func() {
			a.RegisterPoller("send", func(any) poller.Result {
				for range 20 {
					a.SendTo(b, func(any) { ran++ }, nil)
				}
				sent += 20
				return poller.Busy
			}, nil, 0)
			for !b.Exited() {
				a.Poll(0, 0)
			}
		})
		b.Exit()
		for !b.Exited() {
			b.Poll(1000, 1)
		}
		wg.Wait()
		require.Equal(t, sent, ran+int(b.Stats().Dropped))
		require.Zero(t, ran%20)
	}
}
