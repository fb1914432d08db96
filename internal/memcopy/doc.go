// Package memcopy copies into memory that nobody will read soon, such as the
// blocks of a large device in RAM, past the caches.
//
// An ordinary copy reads every line of its destination before it overwrites
// it, and drives what is in use out of the caches. Non-temporal stores do
// neither: into memory that is in no cache they take about half the time, into
// memory that is in a cache three times as long. The choice is the caller's.
//
// They are weakly ordered: after Past, and before another thread may be told
// that the copy is there, Fence must be called. Any thread may call both; they
// keep no state. Where there is no implementation they are an ordinary copy.
package memcopy
