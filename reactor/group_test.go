package reactor_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

// work keeps a thread busy for a share of the time.
func work(share time.Duration) poller.Func {
	return func(any) poller.Result {
		for end := reactor.Now() + int64(share); reactor.Now() < end; {
		}
		return poller.Busy
	}
}

func TestGroupSpreadsBusyThreadsAndParksIdleReactors(t *testing.T) {
	g, err := reactor.NewGroup(reactor.GroupOptions{Count: 2, Balance: 50 * time.Millisecond})
	require.NoError(t, err)
	g.Start()
	defer g.Stop()
	sys := thread.NewSystem()
	var threads []*thread.Thread
	for i := range 2 {
		th := sys.NewThread(fmt.Sprint(i))
		threads = append(threads, th)
		g.Add(th)
	}
	counts := func() [2]int { return [2]int{len(g.Reactors()[0].Threads()), len(g.Reactors()[1].Threads())} }
	gathered := func() bool { c := counts(); return c[0] == 2 || c[1] == 2 }
	require.Eventually(t, gathered, 10*time.Second, 5*time.Millisecond, "idle threads are gathered")
	var pollers [2]*poller.Poller
	for i, th := range threads {
		ping(t, th, func() { pollers[i] = th.RegisterPoller("w", work(5*time.Millisecond), nil, 0) })
	}
	require.Eventually(t, func() bool { return counts() == [2]int{1, 1} }, 10*time.Second, 5*time.Millisecond, "busy ones are spread")
	for i, th := range threads {
		ping(t, th, func() { pollers[i].Unregister() })
	}
	require.Eventually(t, gathered, 10*time.Second, 5*time.Millisecond)
	require.NotZero(t, g.Moves())
	require.NoError(t, g.ExitThreads())
	require.Empty(t, sys.Threads())
	g.Stop()
}

func TestGroupOptionsThatCannotBeMet(t *testing.T) {
	cpus, err := reactor.CPUs()
	require.NoError(t, err)
	_, err = reactor.NewGroup(reactor.GroupOptions{CPUs: []int{cpus[0], cpus[0]}})
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = reactor.NewGroup(reactor.GroupOptions{CPUs: []int{cpus[0], 4000}})
	require.ErrorIs(t, err, unix.EINVAL)
	require.ErrorContains(t, err, "cpu 4000")
}

func TestGroupPlacesThreadsEvenlyAndReportsWhatIsHeld(t *testing.T) {
	g, err := reactor.NewGroup(reactor.GroupOptions{Count: 3, Mode: reactor.Interrupt})
	require.NoError(t, err)
	g.Start()
	defer g.Stop()
	sys := thread.NewSystem()
	seen := map[*reactor.Reactor]int{}
	for range 3 {
		th := sys.NewThread("t")
		seen[g.Add(th)]++
		ping(t, th, func() {})
	}
	require.Len(t, seen, 3)
	require.NoError(t, g.ExitThreads())
	for _, r := range g.Reactors() {
		require.Empty(t, r.Threads())
		require.NotZero(t, r.Stats().Turns)
	}
}
