package reactor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/reactor"
	"goftl/thread"
)

// pong sends itself from thread to thread.
type pong struct {
	a, b *thread.Thread
	left int
	at   time.Time
	slow time.Duration
	done chan struct{}
}

func (p *pong) served() {
	now := time.Now()
	p.slow, p.at = max(p.slow, now.Sub(p.at)), now
	if p.left--; p.left == 0 {
		close(p.done)
		return
	}
	p.a, p.b = p.b, p.a
	p.a.Send(func(any) { p.served() }, nil)
}

// A reactor without timers sleeps until it is woken: a wake that is lost is the end.
func TestNoMessageWaitsForASleepingReactor(t *testing.T) {
	for _, mode := range []reactor.Mode{reactor.Interrupt, reactor.Adaptive} {
		x, y := newReactor(t, reactor.Options{CPU: -1, Mode: mode}), newReactor(t, reactor.Options{CPU: -1, Mode: mode})
		sys := thread.NewSystem()
		p := &pong{a: sys.NewThread("a"), b: sys.NewThread("b"), left: 50_000, at: time.Now(), done: make(chan struct{})}
		x.Add(p.a)
		y.Add(p.b)
		p.a.Send(func(any) { p.served() }, nil)
		select {
		case <-p.done:
			t.Logf("%v: the slowest message took %v", mode, p.slow)
		case <-time.After(time.Minute):
			require.Fail(t, "a message waits", "%d messages are left", p.left)
		}
	}
}
