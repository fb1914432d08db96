// Package job is the load generator: one Job keeps a number of IOs in flight
// on one Channel and measures them.
//
// A Job belongs to one thread.Thread. It is started by New and Start, both on
// that thread (Start may be sent there as a message), runs entirely in the
// callbacks of its IOs and of one timed poller, and ends by calling its done
// function there, once, when nothing is in flight. Other goroutines may call
// Stop, Abandon and Progress.
//
// An IO of the common case, random or sequential without verification, costs a
// draw, a histogram index and two additions; it allocates nothing. Everything
// else (verification, flushes, trim-then-write, errors) leaves that path by one branch.
//
// The time is read from thread.Now, once a turn of the reactor, so a latency
// is exact to the length of a turn; Spec.Precise reads the clock twice an IO instead.
package job
