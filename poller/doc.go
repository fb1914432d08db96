// Package poller holds the sets of callbacks that an event loop runs over and over.
//
// A Set belongs to one thread: every method of Set and of Poller may be called only by the code that polls the
// set, which includes the callbacks themselves. The package knows neither threads nor clocks: time comes in with
// Poll and Advance, so that a set driven by a virtual clock behaves exactly like one driven by a real clock.
//
// There are two kinds of poller. An active one (period 0) runs in every Poll, in the order of registration. A timed
// one runs when its deadline has come, in the order of the deadlines and, where these are equal, of arming; while no
// deadline has come, timed pollers cost one comparison in a Poll, however many there are.
//
// A callback may register, pause, resume and unregister any poller of its set, itself included. A poller that was
// paused or unregistered does not run again, not even later in the same Poll; one that was registered or resumed
// runs in the next Poll at the earliest.
package poller
