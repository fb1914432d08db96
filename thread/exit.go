package thread

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ExitLimit is how long an exiting thread waits for what it still holds.
const ExitLimit = 5 * time.Second

type exitState struct {
	started bool
	limit   int64
	err     error
}

// Exit asks the thread to end; see the package's documentation. It may be called only on t, also from a message or a
// poller. Calling it again does nothing.
func (t *Thread) Exit() {
	if t.exit.started {
		return
	}
	t.exit.started = true
	t.exit.limit = t.now + int64(ExitLimit)
}

// Exiting reports whether Exit was called. It may be called only on t.
func (t *Thread) Exiting() bool { return t.exit.started }

// Exited reports whether the thread has ended. Safe from any goroutine.
func (t *Thread) Exited() bool { return t.exited.Load() }

// ExitErr returns nil unless the thread had to be ended with things still held: then an error, wrapping
// unix.ETIMEDOUT, that names them. Safe from any goroutine once Exited reports true.
func (t *Thread) ExitErr() error {
	if !t.exited.Load() {
		return nil
	}
	return t.exit.err
}

func (t *Thread) tryExit() {
	if t.exited.Load() {
		return
	}
	held := t.walks > 0 || t.unregisters > 0 || t.pollers.Len() > 0 || len(t.channels) > 0 ||
		t.local.len() > 0 || t.critical.Load() != nil
	// Closing the queue is what decides: it succeeds only while no message is in it, and none can come after it.
	if !held && t.in.close() {
		t.ended()
		return
	}
	if t.now < t.exit.limit {
		return
	}
	t.exit.err = fmt.Errorf("thread %q: exit forced after %v, still held: %s: %w",
		t.name, ExitLimit, t.holdings(), unix.ETIMEDOUT)
	t.dropped.Add(uint64(t.local.len() + t.in.abandon()))
	t.local = fifo{}
	t.ended()
}

func (t *Thread) ended() {
	t.exited.Store(true)
	t.out = outbox{}
	t.sys.removeThread(t)
}

// holdings names what keeps the thread from ending.
func (t *Thread) holdings() string {
	var list []string
	for _, p := range t.pollers.All() {
		list = append(list, fmt.Sprintf("poller %q", p.Name()))
	}
	for _, ch := range t.channels {
		list = append(list, fmt.Sprintf("channel of %q (%d references)", ch.dev.name, ch.refs))
	}
	if t.walks > 0 {
		list = append(list, fmt.Sprintf("%d walks over channels", t.walks))
	}
	if t.unregisters > 0 {
		list = append(list, fmt.Sprintf("%d devices being unregistered", t.unregisters))
	}
	if t.HasMessages() {
		list = append(list, "messages")
	}
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
