//go:build amd64 && !race

package thread

import "sync/atomic"

// publish stores v to seq after everything that was stored before, and asks for the cache line of next to write to.
//
// An atomic store would do, but it is a locked instruction on this architecture: it waits until the line, which the
// receiver looks at all the time, has come back. A plain store, which the processor does not order before earlier ones,
// goes on. Unlike an atomic store it may be overtaken by later loads; see inbox.empty.
//
//go:noescape
func publish(seq *atomic.Uint64, v uint64, next *slot)
