// Package timeline holds IOs back until a time. A Line belongs to one thread
// and looks at the time from a timed poller, which is paused while nothing is
// held.
package timeline
