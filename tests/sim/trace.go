package sim

import (
	"fmt"
	"io"
	"strings"
)

// traceKeep is how many of the last entries a Trace keeps for the report of a failure.
const traceKeep = 4096

// Entry is one line of a trace: at which virtual time who did what, to which blocks.
type Entry struct {
	At         int64
	Who, What  string
	ID         uint64
	LBA, Count uint64
	Err        error
}

// String formats the entry for a person.
func (e *Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%14.6f ms  %-9s %-16s", float64(e.At)/1e6, e.Who, e.What)
	if e.ID != 0 {
		fmt.Fprintf(&b, " #%d", e.ID)
	}
	if e.Count != 0 {
		fmt.Fprintf(&b, " [%d +%d]", e.LBA, e.Count)
	} else if e.LBA != 0 {
		fmt.Fprintf(&b, " %d", e.LBA)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, " error: %v", e.Err)
	}
	return b.String()
}

// Trace notes what happened in a run: a hash over everything, and the last entries in full.
type Trace struct {
	ring []Entry
	n    uint64
	hash uint64
	live io.Writer
}

// NewTrace returns an empty trace that also writes every entry to live, unless that is nil.
func NewTrace(live io.Writer) *Trace { return &Trace{live: live, hash: 14695981039346656037} }

// Add notes one entry.
func (t *Trace) Add(e Entry) {
	t.mix(uint64(e.At))
	t.mixString(e.What)
	t.mix(e.ID)
	t.mix(e.LBA)
	t.mix(e.Count)
	if len(t.ring) < traceKeep {
		t.ring = append(t.ring, e)
	} else {
		t.ring[t.n%traceKeep] = e
	}
	t.n++
	if t.live != nil {
		fmt.Fprintln(t.live, e.String())
	}
}

func (t *Trace) mix(v uint64) { t.hash = (t.hash ^ v) * 1099511628211 }

func (t *Trace) mixString(s string) {
	for i := range len(s) {
		t.mix(uint64(s[i]))
	}
}

// Hash is equal for two runs that did the same.
func (t *Trace) Hash() uint64 { return t.hash }

// Len is the number of entries noted so far.
func (t *Trace) Len() uint64 { return t.n }

// Tail writes the last n entries, as far as they were kept.
func (t *Trace) Tail(w io.Writer, n int) {
	n = min(n, len(t.ring))
	if uint64(n) < t.n {
		fmt.Fprintf(w, "... %d entries before these; -simtrace shows them\n", t.n-uint64(n))
	}
	for i := t.n - uint64(n); i < t.n; i++ {
		fmt.Fprintln(w, t.ring[i%traceKeep].String())
	}
}
