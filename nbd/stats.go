package nbd

import (
	"sync/atomic"

	"goftl/nbd/proto"
)

// counters are what an export counts, on its thread.
type counters struct {
	requests [proto.NumCommands]uint64
	bytes    [proto.NumCommands]uint64
	errors   uint64
}

// exportCounters are counters that other threads may read. The export's thread
// stores them once for every batch of replies.
type exportCounters struct {
	requests [proto.NumCommands]atomic.Uint64
	bytes    [proto.NumCommands]atomic.Uint64
	errors   atomic.Uint64
	conns    atomic.Int64
}

// publish stores what changed.
func (e *exportCounters) publish(c *counters) {
	for i := range c.requests {
		if e.requests[i].Load() != c.requests[i] {
			e.requests[i].Store(c.requests[i])
			e.bytes[i].Store(c.bytes[i])
		}
	}
	if e.errors.Load() != c.errors {
		e.errors.Store(c.errors)
	}
}

func (e *exportCounters) load() (c counters) {
	for i := range c.requests {
		c.requests[i], c.bytes[i] = e.requests[i].Load(), e.bytes[i].Load()
	}
	c.errors = e.errors.Load()
	return c
}

// ExportStats counts what an export did since it was added.
type ExportStats struct {
	Name        string
	Connections int64
	// Requests and Bytes are by proto.Command; bytes are what the requests
	// are about, moved or not.
	Requests, Bytes [proto.NumCommands]uint64
	Errors          uint64
}

// Stats counts what a server did.
type Stats struct {
	Accepted     uint64 // connections accepted
	Rejected     uint64 // closed at once: too many
	Failed       uint64 // ended before they entered transmission
	Negotiating  int    // now
	Transmitting int64  // now
	Exports      []ExportStats
}

func (x *export) statistics() ExportStats {
	s := ExportStats{Name: x.Name, Connections: x.stats.conns.Load(), Errors: x.stats.errors.Load()}
	for i := range s.Requests {
		s.Requests[i], s.Bytes[i] = x.stats.requests[i].Load(), x.stats.bytes[i].Load()
	}
	return s
}
