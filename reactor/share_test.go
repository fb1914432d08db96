package reactor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/poller"
	"goftl/thread"
)

// TestBusyReactorOffersItsCoreEverySlice: a reactor with work offers its core before a slice is over, whether reactors are many
// or few, and, when they have taken every place, leaves it once every ShareEvery instead.
func TestBusyReactorOffersItsCoreEverySlice(t *testing.T) {
	for _, crowded := range []bool{false, true} {
		r, err := New(Options{CPU: -1})
		require.NoError(t, err)
		taken := awake.Load()
		if crowded {
			awake.Store(taken + places())
		} else {
			awake.Store(0)
		}
		const step = 10 * time.Microsecond
		const steps = int(20 * ShareEvery / step)
		at := int64(time.Hour)
		for range steps {
			r.now = at
			r.share()
			at += int64(step)
		}
		awake.Store(taken)
		naps := uint64(steps) * uint64(step) / uint64(ShareEvery)
		turns := naps * uint64((ShareEvery+offerEvery-1)/offerEvery)
		if !crowded {
			naps = 0
		}
		require.Equal(t, naps, r.stats.naps, "crowded: %v", crowded)
		require.Equal(t, turns-naps, r.stats.offers, "crowded: %v", crowded)
		r.close()
	}
}

// TestReactorThatNapsKeepsItsPlace: while reactors have taken every place, none of them takes the nap of another for
// room to go on without naps. (When the world was stopped during the nap of one, the other went on until the next tick
// of the kernel, and the goroutine that stopped the world waited behind it.)
func TestReactorThatNapsKeepsItsPlace(t *testing.T) {
	all := make([]*Reactor, places())
	for i := range all {
		r, err := New(Options{CPU: -1, Mode: Poll})
		require.NoError(t, err)
		r.Start()
		t.Cleanup(r.Stop)
		th := thread.NewSystem().NewThread("busy")
		r.Add(th)
		th.Send(func(any) {
			th.RegisterPoller("busy", func(any) poller.Result { return poller.Busy }, nil, 0)
		}, nil)
		all[i] = r
	}
	naps := func() uint64 {
		least := ^uint64(0)
		for _, r := range all {
			least = min(least, r.Stats().Naps)
		}
		return least
	}
	for naps() < 1 {
		time.Sleep(ShareNap) // until all of them are busy
	}
	for naps() < 100 {
		require.GreaterOrEqual(t, awake.Load(), places())
	}
}
