package thread

import (
	"time"

	"goftl/poller"
)

// Stats are the counters of a thread.
type Stats struct {
	ID   uint64
	Name string

	Polls     uint64 // calls of Poll
	BusyPolls uint64 // those that found work
	Messages  uint64 // messages run that came by Send
	Posted    uint64 // messages run that came by Post
	Criticals uint64 // critical messages run
	Events    uint64 // events of file descriptors
	Dropped   uint64 // messages that came after the exit

	Busy time.Duration // time in Polls that found work
	Idle time.Duration // all other time between the first Poll and the last

	Pollers  []poller.Stats // in the order of registration
	Channels []ChannelStats // in the order of creation
}

// ChannelStats describe one io_channel.
type ChannelStats struct {
	Device string
	Refs   int
}

// BusyTime returns the time spent in Polls that found work, in nanoseconds, up to the last Poll.
func (t *Thread) BusyTime() int64 { return t.stats.busy }

// Stats returns a copy of the counters. It may be called only on t.
func (t *Thread) Stats() Stats {
	c := &t.stats
	s := Stats{
		ID: t.id, Name: t.name,
		Polls: c.polls, BusyPolls: c.busyPolls, Messages: c.remote, Posted: c.local, Criticals: c.criticals,
		Events: c.events, Dropped: t.dropped.Load(),
		Busy: time.Duration(c.busy), Idle: time.Duration(t.now - c.began - c.busy),
	}
	for _, p := range t.pollers.All() {
		s.Pollers = append(s.Pollers, p.Stats())
	}
	for _, ch := range t.channels {
		s.Channels = append(s.Channels, ChannelStats{Device: ch.dev.name, Refs: ch.refs})
	}
	return s
}
