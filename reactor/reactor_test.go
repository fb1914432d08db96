package reactor_test

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

func newReactor(t testing.TB, o reactor.Options) *reactor.Reactor {
	r, err := reactor.New(o)
	require.NoError(t, err)
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// ping has fn run on th and waits for it.
func ping(t testing.TB, th *thread.Thread, fn func()) {
	done := make(chan struct{})
	th.Send(func(any) { fn(); close(done) }, nil)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "no answer from the thread")
	}
}

func TestEveryModeRunsMessagesTimersAndEvents(t *testing.T) {
	for _, mode := range []reactor.Mode{reactor.Adaptive, reactor.Poll, reactor.Interrupt} {
		t.Run(mode.String(), func(t *testing.T) {
			r := newReactor(t, reactor.Options{CPU: -1, Mode: mode})
			th := thread.NewSystem().NewThread("t")
			r.Add(th)
			var ticks, events atomic.Int32
			efd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
			require.NoError(t, err)
			defer func() { _ = unix.Close(efd) }()
			var watch thread.FDWatch
			ping(t, th, func() {
				th.RegisterPoller("tick", func(any) poller.Result { ticks.Add(1); return poller.Idle }, nil, time.Millisecond)
				watch, err = th.WatchFD(efd, unix.EPOLLIN, func(any, uint32) {
					var buf [8]byte
					_, _ = unix.Read(efd, buf[:])
					events.Add(1)
				}, nil)
			})
			require.NoError(t, err)
			_, _ = unix.Write(efd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			require.Eventually(t, func() bool { return ticks.Load() > 5 && events.Load() == 1 }, 10*time.Second, time.Millisecond)
			ping(t, th, func() { err = watch.Close() })
			require.NoError(t, err)
			require.Equal(t, []*thread.Thread{th}, r.Threads())
		})
	}
}

func TestNoMessageIsMissedByAReactorThatFallsAsleep(t *testing.T) {
	r := newReactor(t, reactor.Options{CPU: -1, Mode: reactor.Interrupt})
	th := thread.NewSystem().NewThread("t")
	r.Add(th)
	var ran atomic.Int64
	count := func(any) { ran.Add(1) }
	for i := range int64(20000) {
		th.Send(count, nil)
		for until := time.Now().Add(10 * time.Second); ran.Load() <= i; {
			require.True(t, time.Now().Before(until), "message %d was missed", i)
		}
	}
}

func TestUnbackedPollerIsPolledByASleepingReactor(t *testing.T) {
	r := newReactor(t, reactor.Options{CPU: -1})
	th := thread.NewSystem().NewThread("t")
	r.Add(th)
	var runs atomic.Int64
	ping(t, th, func() {
		th.RegisterPoller("p", func(any) poller.Result { runs.Add(1); return poller.Idle }, nil, 0)
	})
	time.Sleep(50 * time.Millisecond)
	before := runs.Load()
	require.Eventually(t, func() bool { return runs.Load() > before+10 }, 5*time.Second, time.Millisecond)
	require.NotZero(t, r.Stats().Naps)
}

func TestMoveTakesWatchesAlong(t *testing.T) {
	a := newReactor(t, reactor.Options{Name: "a", CPU: -1})
	b := newReactor(t, reactor.Options{Name: "b", CPU: -1})
	th := thread.NewSystem().NewThread("t")
	require.ErrorIs(t, reactor.Move(th, a), unix.ENOENT)
	a.Add(th)
	var p [2]int
	require.NoError(t, unix.Pipe2(p[:], unix.O_NONBLOCK))
	var got atomic.Int64
	ping(t, th, func() {
		_, err := th.WatchFD(p[0], unix.EPOLLIN, func(any, uint32) {
			var buf [1]byte
			if n, _ := unix.Read(p[0], buf[:]); n == 1 {
				got.Add(1)
			}
		}, nil)
		require.NoError(t, err)
	})
	var sent, ran int64
	for i := range 200 {
		to := []*reactor.Reactor{a, b}[i%2]
		require.NoError(t, reactor.Move(th, to))
		require.NoError(t, reactor.Move(th, to))
		for range 5 {
			th.Send(func(any) { ran++ }, nil)
			_, _ = unix.Write(p[1], []byte{1})
			sent++
		}
		if i%10 == 0 {
			require.Eventually(t, func() bool { return got.Load() == sent }, 5*time.Second, 100*time.Microsecond)
		}
	}
	ping(t, th, func() { require.Equal(t, sent, ran) })
	require.Eventually(t, func() bool { return got.Load() == sent }, 5*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return len(b.Threads()) == 1 && len(a.Threads()) == 0 }, 5*time.Second, time.Millisecond)
	_ = unix.Close(p[0])
	_ = unix.Close(p[1])
}

func TestThreadThatExitsLeavesTheReactor(t *testing.T) {
	r := newReactor(t, reactor.Options{CPU: -1})
	th := thread.NewSystem().NewThread("t")
	r.Add(th)
	ping(t, th, th.Exit)
	require.Eventually(t, func() bool { return th.Exited() && len(r.Threads()) == 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, th.ExitErr())
}

func TestStoppedReactorLeavesItsThreadsToOthers(t *testing.T) {
	a, err := reactor.New(reactor.Options{CPU: -1})
	require.NoError(t, err)
	a.Start()
	th := thread.NewSystem().NewThread("t")
	a.Add(th)
	var events int
	efd, _ := unix.Eventfd(1, unix.EFD_NONBLOCK)
	defer func() { _ = unix.Close(efd) }()
	ping(t, th, func() {
		_, err := th.WatchFD(efd, unix.EPOLLIN, func(any, uint32) { events++ }, nil)
		require.NoError(t, err)
	})
	a.Stop()
	a.Stop()
	before := events
	th.Send(func(any) {}, nil)
	require.True(t, reactor.Drive(th, func() bool { return events > before }, 5*time.Second))
	b := newReactor(t, reactor.Options{CPU: -1})
	b.Add(th)
	ping(t, th, func() {})

	never, err := reactor.New(reactor.Options{CPU: -1})
	require.NoError(t, err)
	never.Stop()
}

func TestOptionsThatCannotBeMet(t *testing.T) {
	for _, cpu := range []int{-2, 4095, 1 << 40} {
		_, err := reactor.New(reactor.Options{CPU: cpu})
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "does not exist or is not allowed")
	}
	_, err := reactor.New(reactor.Options{CPU: -1, Mode: 9})
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = reactor.ParseMode("eager")
	require.ErrorIs(t, err, unix.EINVAL)
	m, err := reactor.ParseMode("interrupt")
	require.NoError(t, err)
	require.Equal(t, reactor.Interrupt, m)
}

func TestPinnedReactorRunsOnItsCPUAndLeavesNoAffinityBehind(t *testing.T) {
	cpus, err := reactor.CPUs()
	require.NoError(t, err)
	cpu := cpus[len(cpus)-1]
	r, err := reactor.New(reactor.Options{CPU: cpu})
	require.NoError(t, err)
	r.Start()
	th := thread.NewSystem().NewThread("t")
	r.Add(th)
	ping(t, th, func() {
		var set unix.CPUSet
		require.NoError(t, unix.SchedGetaffinity(0, &set))
		require.True(t, set.Count() == 1 && set.IsSet(cpu))
	})
	r.Stop()
	for range 20 {
		done := make(chan int)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var set unix.CPUSet
			_ = unix.SchedGetaffinity(0, &set)
			done <- set.Count()
		}()
		require.Equal(t, len(cpus), <-done)
	}
}

func TestReactorsAskForShortSlices(t *testing.T) {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil || own.Policy != unix.SCHED_NORMAL || own.Runtime == 0 {
		t.Skip("this system has no slices: ", err)
	}
	r, err := reactor.New(reactor.Options{CPU: -1})
	require.NoError(t, err)
	r.Start()
	th := thread.NewSystem().NewThread("t")
	r.Add(th)
	ping(t, th, func() {
		a, err := unix.SchedGetAttr(0, 0)
		require.NoError(t, err)
		require.Equal(t, uint64(100_000), a.Runtime)
		require.Equal(t, own.Nice, a.Nice)
	})
	r.Stop()
	for range 20 { // and leave none behind
		done := make(chan uint64)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			a, _ := unix.SchedGetAttr(0, 0)
			done <- a.Runtime
		}()
		require.Equal(t, own.Runtime, <-done)
	}
}

func processCPU(t testing.TB) time.Duration {
	var ru unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func TestIdleAdaptiveReactorsUseNextToNothing(t *testing.T) {
	for range 2 {
		r := newReactor(t, reactor.Options{CPU: -1})
		th := thread.NewSystem().NewThread("t")
		r.Add(th)
		ping(t, th, func() {
			th.RegisterPoller("second", func(any) poller.Result { return poller.Busy }, nil, time.Second)
			th.RegisterPoller("ring", func(any) poller.Result { return poller.Idle }, nil, 0).SetEventBacked(true)
		})
	}
	time.Sleep(20 * time.Millisecond)
	const window = time.Second
	before := processCPU(t)
	time.Sleep(window)
	used := processCPU(t) - before
	t.Logf("two idle reactors: %.3f %% of a core", 100*float64(used)/float64(window))
	require.Less(t, used, window/50, "the goal is 0.5 %; the limit here leaves room for a loaded machine")
}

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), reactor.Procs(2)))
	os.Exit(m.Run())
}
