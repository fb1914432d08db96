package thread_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/thread"
)

const second = int64(time.Second)

func idlePoller(any) poller.Result { return poller.Idle }

func TestExitOfAThreadThatHoldsNothing(t *testing.T) {
	sys := thread.NewSystem()
	th := sys.NewThread("t")
	require.Equal(t, []*thread.Thread{th}, sys.Threads())
	th.Exit()
	require.False(t, th.Exited())
	th.Poll(0, 1)
	require.True(t, th.Exited())
	require.NoError(t, th.ExitErr())
	require.Empty(t, sys.Threads())
	require.False(t, th.TrySend(nop, nil))
	require.False(t, th.SendCritical(func() {}))
	th.Post(nop, nil)
	require.Equal(t, poller.Idle, th.Poll(0, 2))
	require.False(t, th.HasWork())
	require.Equal(t, uint64(2), th.Stats().Dropped)
}

// An exit ends only without messages, pollers, channels, walks and pending unregisters; each keeps it waiting.
func TestExitWaitsForEverythingHeld(t *testing.T) {
	for _, tc := range []struct {
		name string
		hold func(sys *thread.System, th, other *thread.Thread) (release func())
		want string
	}{
		{"poller", func(_ *thread.System, th, _ *thread.Thread) func() {
			return th.RegisterPoller("nagger", idlePoller, nil, 0).Unregister
		}, `poller "nagger"`},
		{"paused poller", func(_ *thread.System, th, _ *thread.Thread) func() {
			p := th.RegisterPoller("nagger", idlePoller, nil, time.Second)
			p.Pause()
			return p.Unregister
		}, `poller "nagger"`},
		{"channel", func(sys *thread.System, th, _ *thread.Thread) func() {
			c, err := newDevice(t, sys, "disk").Channel(th)
			require.NoError(t, err)
			return c.Put
		}, `channel of "disk" (1 references)`},
		{"walk", func(sys *thread.System, th, other *thread.Thread) func() {
			d := newDevice(t, sys, "disk")
			_, err := d.Channel(other)
			require.NoError(t, err)
			var held *thread.ChannelIter
			d.ForEachChannel(th, func(it *thread.ChannelIter) { held = it }, nil, nil)
			return func() { held.Continue(nil) }
		}, "1 walks over channels"},
		{"unregister", func(sys *thread.System, th, other *thread.Thread) func() {
			d := newDevice(t, sys, "disk")
			c, err := d.Channel(other)
			require.NoError(t, err)
			require.NoError(t, d.Unregister(th, nil, nil))
			return c.Put
		}, "1 devices being unregistered"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, forced := range []bool{false, true} {
				sys := thread.NewSystem()
				th, other := sys.NewThread("th"), sys.NewThread("other")
				th.Poll(0, second)
				release := tc.hold(sys, th, other)
				poll := func(now int64) {
					for range 5 {
						th.Poll(0, now)
						other.Poll(0, now)
					}
				}
				poll(second)
				th.Exit()
				th.Exit()
				poll(6*second - 1)
				require.False(t, th.Exited())
				at, ok := th.NextTimer()
				require.True(t, ok)
				require.LessOrEqual(t, at, 6*second)
				if forced {
					poll(6 * second)
					require.True(t, th.Exited())
					require.ErrorIs(t, th.ExitErr(), unix.ETIMEDOUT)
					require.ErrorContains(t, th.ExitErr(), tc.want)
					continue
				}
				require.NoError(t, th.ExitErr())
				release()
				poll(6*second - 1)
				require.True(t, th.Exited())
				require.NoError(t, th.ExitErr())
			}
		})
	}
}

func TestExitRunsTheMessagesThatAreThere(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	n := 0
	th.Exit()
	for range 100 {
		th.Send(func(any) { n++ }, nil)
		th.Post(func(any) { n++ }, nil)
	}
	for now := int64(1); !th.Exited(); now++ {
		th.Poll(8, now)
	}
	require.Equal(t, 200, n)
}

func TestForcedExitCountsTheMessagesItDrops(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	th.RegisterPoller("p", idlePoller, nil, 0)
	th.Poll(0, 1)
	th.Exit()
	for range 1000 {
		th.Send(nop, nil)
	}
	th.Poll(10, 6*second)
	require.True(t, th.Exited())
	require.ErrorContains(t, th.ExitErr(), "messages")
	require.Equal(t, uint64(990), th.Stats().Dropped)
}

// No message is accepted and then never run, however a Send meets the exit.
func TestSendRacesWithExit(t *testing.T) {
	for range 200 {
		th := thread.NewSystem().NewThread("t")
		ran, accepted := 0, 0
		count := func(any) { ran++ }
		done := make(chan struct{})
		go func() {
			defer close(done)
			for th.TrySend(count, nil) {
				accepted++
			}
		}()
		th.Poll(0, 1)
		th.Exit()
		for !th.Exited() {
			th.Poll(0, 2)
		}
		<-done
		require.Equal(t, accepted, ran)
	}
}
