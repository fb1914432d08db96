package thread_test

import (
	"errors"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/thread"
)

func newDevice(t testing.TB, sys *thread.System, name string) *thread.IODevice {
	d, err := sys.RegisterIODevice(name, nil, thread.ChannelFuncs{
		Create: func(*thread.IODevice, *thread.Thread) (any, error) { return name, nil },
	})
	require.NoError(t, err)
	return d
}

// pollAll polls until nobody has work.
func pollAll(threads ...*thread.Thread) {
	for busy := true; busy; {
		busy = false
		for _, th := range threads {
			th.Poll(1, 1)
		}
		for _, th := range threads {
			busy = busy || th.HasMessages()
		}
	}
}

func TestOneChannelPerThreadAndDevice(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	created, destroyed := 0, 0
	owner := &struct{ x int }{}
	d, err := sys.RegisterIODevice("disk", owner, thread.ChannelFuncs{
		Create:  func(_ *thread.IODevice, th *thread.Thread) (any, error) { created++; return th.Name(), nil },
		Destroy: func(ctx any, th *thread.Thread) { destroyed++; require.Equal(t, th.Name(), ctx) },
	})
	require.NoError(t, err)
	require.Equal(t, owner, d.Owner())
	c1, err := d.Channel(a)
	require.NoError(t, err)
	c2, err := d.Channel(a)
	require.NoError(t, err)
	c3, err := d.Channel(b)
	require.NoError(t, err)
	require.Same(t, c1, c2)
	require.NotSame(t, c1, c3)
	require.Equal(t, 2, created)
	require.Equal(t, "a", c1.Ctx())
	require.Same(t, a, c1.Thread())
	require.Same(t, d, c1.Device())
	require.Equal(t, []thread.ChannelStats{{Device: "disk", Refs: 2}}, a.Stats().Channels)
	c1.Put()
	pollAll(a, b)
	require.Equal(t, 0, destroyed)
	c2.Put()
	require.Equal(t, 0, destroyed, "destroyed by a message only")
	pollAll(a, b)
	require.Equal(t, 1, destroyed)
	require.Panics(t, c2.Put)
}

func TestLastPutIsDeferredSoThatAGetRevivesTheChannel(t *testing.T) {
	sys := thread.NewSystem()
	a := sys.NewThread("a")
	created, destroyed := 0, 0
	d, err := sys.RegisterIODevice("disk", nil, thread.ChannelFuncs{
		Create:  func(*thread.IODevice, *thread.Thread) (any, error) { created++; return nil, nil },
		Destroy: func(any, *thread.Thread) { destroyed++ },
	})
	require.NoError(t, err)
	c, _ := d.Channel(a)
	c.Put()
	again, err := d.Channel(a)
	require.NoError(t, err)
	require.Same(t, c, again)
	pollAll(a)
	require.Equal(t, [2]int{1, 0}, [2]int{created, destroyed})
	c.Put()
	c, _ = d.Channel(a)
	c.Put() // two messages are under way now; only the last may destroy
	a.Poll(1, 1)
	c, err = d.Channel(a)
	require.NoError(t, err)
	pollAll(a)
	require.Equal(t, [2]int{1, 0}, [2]int{created, destroyed})
	c.Put()
	pollAll(a)
	require.Equal(t, [2]int{1, 1}, [2]int{created, destroyed})
}

func TestFailedCreateUnwinds(t *testing.T) {
	sys := thread.NewSystem()
	a := sys.NewThread("a")
	fail := true
	d, err := sys.RegisterIODevice("disk", nil, thread.ChannelFuncs{
		Create: func(d *thread.IODevice, th *thread.Thread) (any, error) {
			_, err := d.Channel(th)
			require.ErrorIs(t, err, unix.EDEADLK)
			if fail {
				return nil, unix.ENOMEM
			}
			return nil, nil
		},
	})
	require.NoError(t, err)
	_, err = d.Channel(a)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.ErrorContains(t, err, `channel of "disk" on "a"`)
	require.Empty(t, a.Stats().Channels)
	fail = false
	c, err := d.Channel(a)
	require.NoError(t, err)
	c.Put()
	gone := false
	require.NoError(t, d.Unregister(a, func(any) { gone = true }, nil))
	pollAll(a)
	require.True(t, gone, "no reference was leaked by the failure")
}

func TestRegisteringAnOwnerTwiceFails(t *testing.T) {
	sys := thread.NewSystem()
	a := sys.NewThread("a")
	owner := new(int)
	f := thread.ChannelFuncs{Create: func(*thread.IODevice, *thread.Thread) (any, error) { return nil, nil }}
	d, err := sys.RegisterIODevice("one", owner, f)
	require.NoError(t, err)
	_, err = sys.RegisterIODevice("two", owner, f)
	require.ErrorIs(t, err, unix.EEXIST)
	require.ErrorContains(t, err, `"two"`)
	require.NoError(t, d.Unregister(a, nil, nil))
	pollAll(a)
	_, err = sys.RegisterIODevice("two", owner, f)
	require.NoError(t, err)
	require.Len(t, sys.IODevices(), 1)
}

func TestUnregisterWaitsForTheLastChannel(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	d := newDevice(t, sys, "disk")
	c, err := d.Channel(b)
	require.NoError(t, err)
	var order []string
	require.NoError(t, d.Unregister(a, func(arg any) { order = append(order, arg.(string)) }, "done"))
	require.ErrorIs(t, d.Unregister(b, nil, nil), unix.EALREADY)
	_, err = d.Channel(a)
	require.ErrorIs(t, err, unix.ENODEV)
	_, err = d.Channel(b)
	require.ErrorIs(t, err, unix.ENODEV, "not even where a channel is left")
	pollAll(a, b)
	require.Empty(t, order)
	require.Len(t, sys.IODevices(), 1)
	c.Put()
	for b.HasMessages() {
		b.Poll(0, 1)
	}
	require.Empty(t, order, "the callback runs on the unregistering thread")
	pollAll(a)
	require.Equal(t, []string{"done"}, order)
	require.Empty(t, sys.IODevices())
}

func TestUnregisterWaitsForAWalk(t *testing.T) {
	sys := thread.NewSystem()
	a, b := sys.NewThread("a"), sys.NewThread("b")
	d := newDevice(t, sys, "disk")
	c, err := d.Channel(b)
	require.NoError(t, err)
	var held *thread.ChannelIter
	walked, gone := false, false
	d.ForEachChannel(a, func(it *thread.ChannelIter) { held = it }, func(any, error) { walked = true }, nil)
	pollAll(a, b)
	require.NotNil(t, held)
	require.NoError(t, d.Unregister(a, func(any) { gone = true }, nil))
	c.Put()
	pollAll(a, b)
	require.False(t, gone)
	var status error
	d.ForEachChannel(a, func(*thread.ChannelIter) { t.Error("visited") }, func(_ any, err error) { status = err }, nil)
	held.Continue(nil)
	pollAll(a, b)
	require.True(t, walked && gone)
	require.ErrorIs(t, status, unix.ENODEV)
}

func TestForEachChannelVisitsEachThreadInTurn(t *testing.T) {
	sys := thread.NewSystem()
	var threads []*thread.Thread
	d := newDevice(t, sys, "disk")
	for _, name := range []string{"a", "b", "c", "d"} {
		th := sys.NewThread(name)
		threads = append(threads, th)
		if name != "c" {
			_, err := d.Channel(th)
			require.NoError(t, err)
		}
	}
	threads[3].Exit() // while it holds a channel it goes on
	var got []string
	visit := func(it *thread.ChannelIter) {
		require.Same(t, d, it.Device())
		require.Equal(t, "disk", it.Channel().Ctx())
		got = append(got, it.Channel().Thread().Name())
		it.Continue(nil)
	}
	d.ForEachChannel(threads[1], visit, func(arg any, status error) {
		require.NoError(t, status)
		got = append(got, arg.(string))
	}, "done")
	require.Empty(t, got, "nothing runs inside ForEachChannel")
	late := sys.NewThread("late")
	_, err := d.Channel(late)
	require.NoError(t, err)
	pollAll(append(threads, late)...)
	require.Equal(t, []string{"a", "b", "d", "done"}, got)

	got = nil
	stop := errors.New("stop")
	d.ForEachChannel(threads[0], func(it *thread.ChannelIter) {
		got = append(got, it.Channel().Thread().Name())
		if it.Channel().Thread() == threads[1] {
			it.Continue(stop)
			return
		}
		it.Continue(nil)
	}, func(_ any, status error) { require.Equal(t, stop, status); got = append(got, "done") }, nil)
	pollAll(append(threads, late)...)
	require.Equal(t, []string{"a", "b", "done"}, got)
}

func TestForEachChannelSkipsThreadsThatHaveExited(t *testing.T) {
	sys := thread.NewSystem()
	a, b, c := sys.NewThread("a"), sys.NewThread("b"), sys.NewThread("c")
	d := newDevice(t, sys, "disk")
	_, err := d.Channel(c)
	require.NoError(t, err)
	visits, done := 0, false
	d.ForEachChannel(a, func(it *thread.ChannelIter) { visits++; it.Continue(nil) }, func(any, error) { done = true }, nil)
	b.Exit()
	b.Poll(0, 1)
	require.True(t, b.Exited())
	pollAll(a, c)
	require.True(t, done)
	require.Equal(t, 1, visits)
}

// Random schedules of gets, puts, walks, unregisters and exits: nothing is leaked, nothing is done twice, everything
// ends. A failing seed fails again.
func TestRandomSchedules(t *testing.T) {
	seeds := int64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		runSchedule(t, seed)
	}
}

func runSchedule(t *testing.T, seed int64) {
	rng := rand.New(rand.NewSource(seed))
	sys := thread.NewSystem()
	type dev struct {
		d                    *thread.IODevice
		created, destroyed   int
		unregistered, gone   int
		walks, walksFinished int
	}
	var threads []*thread.Thread
	held := map[*thread.Thread][]*thread.IOChannel{}
	for range 1 + rng.Intn(4) {
		threads = append(threads, sys.NewThread("t"))
	}
	var devs []*dev
	for range 1 + rng.Intn(3) {
		x := &dev{}
		var err error
		x.d, err = sys.RegisterIODevice("d", x, thread.ChannelFuncs{
			Create: func(*thread.IODevice, *thread.Thread) (any, error) {
				if rng.Intn(8) == 0 {
					return nil, unix.ENOMEM
				}
				x.created++
				return x, nil
			},
			Destroy: func(any, *thread.Thread) { x.destroyed++; require.Zero(t, x.gone, "seed %d", seed) },
		})
		require.NoError(t, err)
		devs = append(devs, x)
	}
	unregister := func(x *dev, th *thread.Thread) {
		if x.d.Unregister(th, func(any) { x.gone++ }, nil) == nil {
			x.unregistered++
		}
	}
	act := func(th *thread.Thread) {
		x := devs[rng.Intn(len(devs))]
		switch rng.Intn(8) {
		case 0, 1, 2:
			if c, err := x.d.Channel(th); err == nil {
				held[th] = append(held[th], c)
			}
		case 3, 4, 5:
			if n := len(held[th]); n > 0 {
				held[th][n-1].Put()
				held[th] = held[th][:n-1]
			}
		case 6:
			x.walks++
			x.d.ForEachChannel(th, func(it *thread.ChannelIter) {
				if rng.Intn(2) == 0 {
					it.Continue(nil)
					return
				}
				it.Channel().Thread().Post(func(any) { it.Continue(unix.EIO) }, nil)
			}, func(any, error) { x.walksFinished++ }, nil)
		case 7:
			if rng.Intn(6) == 0 {
				unregister(x, th)
			}
		}
	}
	for range 100 {
		th := threads[rng.Intn(len(threads))]
		if rng.Intn(2) == 0 {
			th.Send(func(any) { act(th) }, nil)
		} else {
			th.Poll(1+rng.Intn(4), 1)
		}
	}
	pollAll(threads...)
	for _, th := range threads {
		for _, c := range held[th] {
			c.Put()
		}
	}
	for _, x := range devs {
		unregister(x, threads[0])
	}
	for _, th := range threads {
		th.Exit()
	}
	pollAll(threads...)
	for _, x := range devs {
		require.Equal(t, x.created, x.destroyed, "seed %d", seed)
		require.Equal(t, 1, x.unregistered, "seed %d", seed)
		require.Equal(t, 1, x.gone, "seed %d", seed)
		require.Equal(t, x.walks, x.walksFinished, "seed %d", seed)
	}
	for _, th := range threads {
		th.Poll(0, 1)
		require.True(t, th.Exited(), "seed %d", seed)
		require.NoError(t, th.ExitErr())
	}
	require.Empty(t, sys.IODevices())
	require.Empty(t, sys.Threads())
}
