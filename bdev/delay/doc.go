// Package delay is a block device that makes another one slower: every read
// and write is answered so much later than the base answers it, and one of a
// hundred by another time. Flushes count as writes. The times can be changed
// while it runs.
package delay
