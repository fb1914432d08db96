package poller_test

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/poller"
)

// trace collects the names of the callbacks that ran.
type trace struct{ names []string }

func (tr *trace) take() []string {
	names := tr.names
	tr.names = nil
	return names
}

type probe struct {
	tr   *trace
	name string
	res  poller.Result
	do   func()
}

func runProbe(arg any) poller.Result {
	p := arg.(*probe)
	p.tr.names = append(p.tr.names, p.name)
	if p.do != nil {
		p.do()
	}
	return p.res
}

func TestActivePollersRunEveryPollInOrder(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	for _, n := range []string{"a", "b", "c"} {
		s.Register(n, runProbe, &probe{tr: tr, name: n}, 0)
	}
	for now := range int64(3) {
		require.Equal(t, poller.Idle, s.Poll(now))
		require.Equal(t, []string{"a", "b", "c"}, tr.take())
	}
}

func TestPollIsBusyWhenOneCallbackIs(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	s.Register("idle", runProbe, &probe{tr: tr, name: "idle"}, 0)
	busy := &probe{tr: tr, name: "busy", res: poller.Busy}
	p := s.Register("busy", runProbe, busy, 0)
	require.Equal(t, poller.Busy, s.Poll(1))
	busy.res = poller.Idle
	require.Equal(t, poller.Idle, s.Poll(2))
	require.Equal(t, uint64(2), p.Stats().Runs)
	require.Equal(t, uint64(1), p.Stats().Busy)
	timed := &probe{tr: tr, name: "timed", res: poller.Busy}
	s.Register("timed", runProbe, timed, 10)
	require.Equal(t, poller.Idle, s.Poll(11))
	require.Equal(t, poller.Busy, s.Poll(12))
}

func TestTimedPollersRunInTheOrderOfTheirDeadlines(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	s.Poll(1000)
	for _, period := range []time.Duration{30, 10, 20, 15, 40} {
		s.Register("t", runProbe, &probe{tr: tr, name: fmt.Sprint(int64(period))}, period)
	}
	at, ok := s.NextDeadline()
	require.True(t, ok)
	require.Equal(t, int64(1010), at)
	s.Poll(1009)
	require.Empty(t, tr.take())
	s.Poll(1010)
	require.Equal(t, []string{"10"}, tr.take())
	s.Poll(1030) // late: once each, by deadline, equal ones in the order of arming
	require.Equal(t, []string{"15", "20", "10", "30"}, tr.take()[:4])
}

func TestTimedPollerThatIsLateRunsOnceAndKeepsItsRateWhenItCan(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	s.Poll(0)
	s.Register("p", runProbe, &probe{tr: tr, name: "p"}, 100)
	s.Poll(130)
	at, _ := s.NextDeadline()
	require.Equal(t, int64(200), at, "a little late: the rate is kept")
	s.Poll(1000)
	require.Equal(t, []string{"p", "p"}, tr.take())
	at, _ = s.NextDeadline()
	require.Equal(t, int64(1100), at, "very late: a period from now")
}

func TestTimedPollerOfAnUnpolledSetCountsFromTheFirstTime(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	s.Register("p", runProbe, &probe{tr: tr, name: "p"}, 100)
	s.Poll(1 << 40)
	require.Empty(t, tr.take())
	s.Poll(1<<40 + 100)
	require.Equal(t, []string{"p"}, tr.take())
}

func TestUnregisterInOwnCallback(t *testing.T) {
	for _, period := range []time.Duration{0, 1} {
		var s poller.Set
		tr := &trace{}
		var p *poller.Poller
		p = s.Register("p", runProbe, &probe{tr: tr, name: "p", do: func() { p.Unregister(); p.Unregister() }}, period)
		s.Register("q", runProbe, &probe{tr: tr, name: "q"}, period)
		s.Poll(0)
		s.Poll(1)
		s.Poll(2)
		require.Equal(t, 1, s.Len())
		require.Equal(t, "unregistered", p.Stats().State.String())
		require.Equal(t, uint64(1), p.Stats().Runs)
		require.NotContains(t, tr.take()[2:], "p")
	}
}

func TestUnregisterByAnEarlierCallbackTakesEffectInTheSamePoll(t *testing.T) {
	for _, period := range []time.Duration{0, 1} {
		var s poller.Set
		tr := &trace{}
		var victim *poller.Poller
		s.Poll(0)
		s.Register("first", runProbe, &probe{tr: tr, name: "first", do: func() { victim.Unregister() }}, period)
		victim = s.Register("victim", runProbe, &probe{tr: tr, name: "victim"}, period)
		s.Register("last", runProbe, &probe{tr: tr, name: "last"}, period)
		s.Poll(1)
		require.Equal(t, []string{"first", "last"}, tr.take())
		s.Poll(2)
		require.Equal(t, []string{"first", "last"}, tr.take())
	}
}

func TestRegisterInACallbackRunsFromTheNextPoll(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	once := true
	s.Register("a", runProbe, &probe{tr: tr, name: "a", do: func() {
		if once {
			once = false
			for range 100 { // enough to move the list that is being walked
				s.Register("b", runProbe, &probe{tr: tr, name: "b"}, 0)
			}
		}
	}}, 0)
	s.Register("c", runProbe, &probe{tr: tr, name: "c"}, 0)
	s.Poll(0)
	require.Equal(t, []string{"a", "c"}, tr.take())
	s.Poll(1)
	require.Len(t, tr.take(), 102)
}

func TestPauseAndResume(t *testing.T) {
	for _, period := range []time.Duration{0, 10} {
		var s poller.Set
		tr := &trace{}
		p := s.Register("p", runProbe, &probe{tr: tr, name: "p"}, period)
		s.Poll(0)
		tr.take()
		p.Pause()
		p.Pause()
		s.Poll(100)
		require.Empty(t, tr.take())
		require.Equal(t, poller.Paused, p.Stats().State)
		_, ok := s.NextDeadline()
		require.False(t, ok)
		p.Resume()
		p.Resume()
		s.Poll(110)
		require.Equal(t, []string{"p"}, tr.take())
		p.Pause()
		p.Unregister()
		p.Resume()
		s.Poll(500)
		require.Empty(t, tr.take())
	}
}

func TestPauseAndResumeInOwnCallback(t *testing.T) {
	for _, period := range []time.Duration{0, 10} {
		var s poller.Set
		tr := &trace{}
		pr := &probe{tr: tr, name: "p"}
		p := s.Register("p", runProbe, pr, period)
		pr.do = func() { p.Pause(); p.Resume() }
		s.Poll(0)
		tr.take()
		s.Poll(10)
		require.Equal(t, []string{"p"}, tr.take())
		s.Poll(20)
		require.Equal(t, []string{"p"}, tr.take())
		pr.do = func() { p.Pause() }
		s.Poll(30)
		s.Poll(40)
		require.Equal(t, []string{"p"}, tr.take())
	}
}

func TestUnbackedPollersKeepALoopAwake(t *testing.T) {
	var s poller.Set
	tr := &trace{}
	require.False(t, s.HasUnbacked())
	timed := s.Register("t", runProbe, &probe{tr: tr, name: "t"}, 10)
	timed.SetEventBacked(true)
	require.False(t, s.HasUnbacked())
	p := s.Register("p", runProbe, &probe{tr: tr, name: "p"}, 0)
	require.True(t, s.HasUnbacked())
	p.SetEventBacked(true)
	p.SetEventBacked(true)
	require.False(t, s.HasUnbacked())
	p.Pause()
	p.SetEventBacked(false)
	require.False(t, s.HasUnbacked())
	p.Resume()
	require.True(t, s.HasUnbacked())
	p.Unregister()
	require.False(t, s.HasUnbacked())
}

// A set under random operations, from outside and from callbacks, against a plain model.
func TestRandomOperationsAgainstAModel(t *testing.T) {
	for seed := range int64(300) {
		rng := rand.New(rand.NewSource(seed))
		var s poller.Set
		type model struct {
			p      *poller.Poller
			paused bool
			gone   bool
			ran    int
			calls  uint64
			period time.Duration
		}
		var all []*model
		now := int64(1)
		turn := 0
		var act func()
		register := func() {
			m := &model{period: time.Duration(rng.Intn(4) * 3)}
			m.p = s.Register("m", func(arg any) poller.Result {
				m := arg.(*model)
				require.False(t, m.paused || m.gone, "seed %d: ran although paused or gone", seed)
				require.NotEqual(t, turn, m.ran, "seed %d: ran twice in a poll", seed)
				m.ran = turn
				m.calls++
				if rng.Intn(4) == 0 {
					act()
				}
				return poller.Idle
			}, m, m.period)
			m.ran = turn
			all = append(all, m)
		}
		act = func() {
			if len(all) == 0 || rng.Intn(3) == 0 {
				register()
				return
			}
			m := all[rng.Intn(len(all))]
			switch rng.Intn(3) {
			case 0:
				m.p.Pause()
				m.paused = true
			case 1:
				m.p.Resume()
				m.paused = false
			case 2:
				m.p.Unregister()
				m.gone = true
			}
		}
		for range 60 {
			act()
			turn++
			now += int64(rng.Intn(5))
			s.Poll(now)
			alive := 0
			for _, m := range all {
				require.Equal(t, m.calls, m.p.Stats().Runs)
				if !m.gone {
					alive++
				}
			}
			require.Equal(t, alive, s.Len())
			if at, ok := s.NextDeadline(); ok {
				require.Greater(t, at, now)
			}
		}
	}
}

func idle(any) poller.Result { return poller.Idle }

func TestPollDoesNotAllocate(t *testing.T) {
	var s poller.Set
	for range 10 {
		s.Register("a", idle, &s, 0)
		s.Register("t", idle, &s, 3)
	}
	now := int64(0)
	require.Zero(t, testing.AllocsPerRun(1000, func() { now++; s.Poll(now) }))
}

func BenchmarkPoll100IdleActive(b *testing.B) {
	var s poller.Set
	for range 100 {
		s.Register("a", idle, &s, 0)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Poll(int64(i))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/poller")
}

func BenchmarkPollTimedNotDue(b *testing.B) {
	for _, n := range []int{0, 1, 1000} {
		b.Run(fmt.Sprintf("timed=%d", n), func(b *testing.B) {
			var s poller.Set
			for range n {
				s.Register("t", idle, &s, time.Hour)
			}
			for b.Loop() {
				s.Poll(1)
			}
		})
	}
}

func BenchmarkPollTimedDue(b *testing.B) {
	var s poller.Set
	for range 100 {
		s.Register("t", idle, &s, 100)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Poll(int64(i) * 100)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/poller")
}
