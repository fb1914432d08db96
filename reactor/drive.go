package reactor

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/thread"
)

// driveNap bounds the sleep of a driven thread, because cond may become true by the hand of somebody who wakes no one.
const driveNap = time.Millisecond

// Drive polls t in the calling goroutine, with the real clock and file descriptors, until cond, which is called in
// every turn, returns true; it reports false when timeout has passed before that. It locks the goroutine to its OS
// thread for good, because rings made on the thread are bound to that, so call it for one thread always from the same
// goroutine. A thread that was driven once keeps its host: it may be driven again, or added to a reactor.
func Drive(t *thread.Thread, cond func() bool, timeout time.Duration) bool {
	return DriveAll([]*thread.Thread{t}, cond, timeout)
}

// DriveAll is Drive for several threads.
func DriveAll(threads []*thread.Thread, cond func() bool, timeout time.Duration) bool {
	assert.That(len(threads) > 0, "reactor: no thread to drive")
	runtime.LockOSThread()
	r := driver(threads)
	end := Now() + int64(timeout)
	awake.Add(1)
	defer awake.Add(-1)
	for !cond() {
		r.turn()
		if r.now >= end {
			return cond()
		}
	}
	return true
}

// Attach gives t what Drive would give it, so that it can watch file descriptors before it is driven first. It does
// nothing when t has a host of this package.
func Attach(t *thread.Thread) { driver([]*thread.Thread{t}) }

// driver returns the inline reactor of the threads.
func driver(threads []*thread.Thread) *Reactor {
	var r *Reactor
	if s := seatOf(threads[0]); s != nil {
		r = s.reactor.Load()
	}
	if r == nil || !r.inline {
		var err error
		r, err = New(Options{Name: "drive", CPU: -1})
		assert.That(err == nil, "reactor: no descriptors left for a driven thread")
		r.inline = true
		r.longest = driveNap
		r.started.Store(true)
		runtime.AddCleanup(r, func(fds [2]int) { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }, [2]int{r.poll.fd, r.poll.bellFD})
	}
	for _, t := range threads {
		if s := seatOf(t); s == nil || s.reactor.Load() != r {
			r.Add(t)
		}
	}
	r.runControls()
	return r
}
