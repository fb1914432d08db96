package main

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// stats count what happened, for all campaigns.
type stats struct {
	campaigns, lives             atomic.Uint64
	kills, killsStopped          atomic.Uint64 // kill -9 under load, of a frozen server
	killsStarting, killsStopping atomic.Uint64 // kill -9 before it was ready, after SIGTERM
	killsInside                  atomic.Uint64 // in the middle of a write back
	terms                        atomic.Uint64 // SIGTERM, waited for
	freezes, frozenMs            atomic.Uint64
	starts, startsShm            atomic.Uint64
	checks                       atomic.Uint64
	writes, trims, reads         atomic.Uint64 // acknowledged
	flushes, fuas                atomic.Uint64
	blocks                       atomic.Uint64 // written
	noSpace                      atomic.Uint64 // requests that failed with ENOSPC
	vanished, abandoned          atomic.Uint64 // clients, their requests
	verified, dropped            atomic.Uint64 // blocks
}

// line is the short form.
func (s *stats) line() string {
	return fmt.Sprintf("%d devices, %d lives, %d kills, %d SIGTERM, %d freezes, %d starts, %d writes, %d flushes, %d blocks verified",
		s.campaigns.Load(), s.lives.Load(), s.allKills(), s.terms.Load(), s.freezes.Load(), s.starts.Load(), s.writes.Load(),
		s.flushes.Load(), s.verified.Load())
}

func (s *stats) allKills() uint64 {
	return s.kills.Load() + s.killsStopped.Load() + s.killsStarting.Load() + s.killsStopping.Load() + s.killsInside.Load()
}

// table is the long form.
func (s *stats) table() string {
	var b strings.Builder
	row := func(what string, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	row("devices", "%d, which lived %d times", s.campaigns.Load(), s.lives.Load())
	row("kill -9", "%d: %d under load, %d between two blocks of a flush, %d of a frozen server, %d while starting, %d while stopping",
		s.allKills(), s.kills.Load(), s.killsInside.Load(), s.killsStopped.Load(), s.killsStarting.Load(), s.killsStopping.Load())
	row("SIGTERM", "%d waited for", s.terms.Load())
	row("SIGSTOP", "%d, %.1f s in all", s.freezes.Load(), float64(s.frozenMs.Load())/1000)
	row("starts", "%d, %d of them with the mapping from shared memory; %d offline checks",
		s.starts.Load(), s.startsShm.Load(), s.checks.Load())
	row("requests", "%d writes (%d blocks, %d with FUA), %d trims, %d reads, %d flushes; %d answered ENOSPC",
		s.writes.Load(), s.blocks.Load(), s.fuas.Load(), s.trims.Load(), s.reads.Load(), s.flushes.Load(), s.noSpace.Load())
	row("clients", "%d vanished with %d requests on their way", s.vanished.Load(), s.abandoned.Load())
	row("verified", "%d blocks", s.verified.Load())
	row("dropped", "%d blocks had been acknowledged and not flushed, and were older afterwards, as is allowed", s.dropped.Load())
	return b.String()
}
