package thread_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/thread"
)

func nop(any) {}

type appender struct {
	list *[]int
	n    int
}

func appendN(arg any) { a := arg.(*appender); *a.list = append(*a.list, a.n) }

func TestMessagesRunInTheOrderSentInBatches(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	var got []int
	for i := range 1000 { // more than the first ring holds
		th.Send(appendN, &appender{&got, i})
	}
	require.True(t, th.HasWork())
	require.Equal(t, poller.Busy, th.Poll(8, 1))
	require.Len(t, got, 8)
	for th.Poll(64, 2) == poller.Busy {
	}
	require.False(t, th.HasWork())
	require.Len(t, got, 1000)
	for i, n := range got {
		require.Equal(t, i, n)
	}
}

func TestPostedByPostedRunsInTheNextPoll(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	runs := 0
	var again thread.Func
	again = func(any) { runs++; th.Post(again, nil) }
	th.Post(again, nil)
	for i := range 5 {
		require.Equal(t, i, runs)
		th.Poll(64, int64(i))
	}
}

func TestPollOrderCriticalMessagesActiveTimed(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	var got []string
	say := func(s string) { got = append(got, s) }
	th.Poll(0, 0)
	th.RegisterPoller("active", func(any) poller.Result { say("active"); return poller.Idle }, nil, 0)
	th.RegisterPoller("timed", func(any) poller.Result { say("timed"); return poller.Idle }, nil, 1)
	th.Send(func(any) { say("message") }, nil)
	require.True(t, th.SendCritical(func() { say("critical") }))
	require.False(t, th.SendCritical(func() { say("second") }))
	require.Equal(t, poller.Busy, th.Poll(0, 1))
	require.Equal(t, []string{"critical", "message", "active", "timed"}, got)
	require.True(t, th.SendCritical(func() {}))
}

func TestNothingIsLostAndEachSendersOrderIsKept(t *testing.T) {
	const senders, each = 8, 20000
	th := thread.NewSystem().NewThread("t")
	type msg struct{ sender, n int }
	next := [senders]int{}
	total := 0
	bad := 0
	recv := func(arg any) {
		m := arg.(*msg)
		if next[m.sender] != m.n {
			bad++
		}
		next[m.sender]++
		total++
	}
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := range each {
				th.Send(recv, &msg{s, n})
			}
		})
	}
	for total < senders*each {
		th.Poll(64, 1)
	}
	wg.Wait()
	require.Zero(t, bad)
	require.False(t, th.HasMessages())
}

type fakeHost struct{ wakes int }

func (h *fakeHost) Wake() { h.wakes++ }
func (h *fakeHost) WatchFD(int, uint32, thread.FDFunc, any) (thread.FDWatch, error) {
	return nil, unix.EPERM
}

func TestHostIsWokenOnlyWhenItSleeps(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	_, err := th.WatchFD(0, unix.EPOLLIN, nil, nil)
	require.ErrorIs(t, err, unix.ENOTSUP)
	h := &fakeHost{}
	th.SetHost(h)
	require.Equal(t, thread.Host(h), th.Host())
	th.Send(nop, nil)
	require.Equal(t, 1, h.wakes)
	th.SetAsleep(false)
	th.Send(nop, nil)
	require.Equal(t, 1, h.wakes)
	th.SetAsleep(true)
	th.SendCritical(func() {})
	require.Equal(t, 2, h.wakes)
	_, err = th.WatchFD(0, unix.EPOLLIN, nil, nil)
	require.ErrorIs(t, err, unix.EPERM)
	th.SetHost(nil)
	th.Send(nop, nil)
}

func TestMessagesDoNotAllocate(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	for range 2000 { // past the growth of the queues
		th.Send(nop, th)
		th.Post(nop, th)
	}
	for th.Poll(0, 0) == poller.Busy {
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		for range 32 {
			th.Send(nop, th)
			th.Post(nop, th)
		}
		th.Poll(64, 0)
	}))
}

func TestStatistics(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	th.Poll(0, 1000)
	th.Send(nop, nil)
	th.Post(nop, nil)
	th.Poll(0, 2000)
	th.Poll(0, 2300) // the busy poll took 300
	th.SendCritical(func() {})
	th.Poll(0, 3000)
	th.Ended(3100)
	th.Poll(0, 4000)
	th.RegisterPoller("p", func(any) poller.Result { return poller.Idle }, nil, time.Second)
	s := th.Stats()
	require.Equal(t, uint64(5), s.Polls)
	require.Equal(t, uint64(2), s.BusyPolls)
	require.Equal(t, uint64(1), s.Messages)
	require.Equal(t, uint64(1), s.Posted)
	require.Equal(t, uint64(1), s.Criticals)
	require.Equal(t, time.Duration(400), s.Busy)
	require.Equal(t, time.Duration(2600), s.Idle)
	require.Len(t, s.Pollers, 1)
	require.Equal(t, "p", s.Pollers[0].Name)
}

// A thread needs nothing from its host but Poll: a foreign loop that sleeps in its own way hosts it with a Wake.
func TestForeignLoopHostsAThread(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	h := &loopHost{wake: make(chan struct{}, 1)}
	th.SetHost(h)
	ticks := 0
	var tick *poller.Poller
	th.Send(func(any) {
		tick = th.RegisterPoller("tick", func(any) poller.Result { ticks++; return poller.Busy }, nil, time.Millisecond)
	}, nil)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		start := time.Now()
		for !th.Exited() {
			th.Poll(0, int64(time.Since(start)))
			if th.HasWork() || th.Exited() {
				continue
			}
			sleep := time.Hour
			if at, ok := th.NextTimer(); ok {
				sleep = time.Duration(at - int64(time.Since(start)))
			}
			select {
			case <-h.wake:
			case <-time.After(sleep):
			}
		}
	}()
	time.Sleep(10 * time.Millisecond)
	done := make(chan int)
	th.Send(func(any) { done <- ticks }, nil)
	require.Positive(t, <-done)
	th.Send(func(any) { tick.Unregister(); th.Exit() }, nil)
	<-finished
	require.NoError(t, th.ExitErr())
}

type loopHost struct{ wake chan struct{} }

func (h *loopHost) Wake() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *loopHost) WatchFD(int, uint32, thread.FDFunc, any) (thread.FDWatch, error) {
	return nil, unix.ENOTSUP
}
