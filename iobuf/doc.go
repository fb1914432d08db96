// Package iobuf owns the memory that IO moves through.
//
// Alloc gives page-aligned memory outside the Go heap, so that the garbage
// collector neither scans nor moves it and a device can read it directly.
// Memory of 2 MiB and more asks for transparent hugepages. Pages are taken
// from the system when they are first touched, or by Populate.
//
// Pool hands out small and large buffers from two such areas. Every thread
// has a Channel with a cache of its own; a Channel is used only by code that
// runs on its thread and takes no lock. The areas behind the caches are
// lock-free stacks shared by all channels.
//
// A caller that finds the pool empty queues a Waiter. Waiters of a channel are
// served first come, first served, and a later Get never overtakes them. A
// channel that starves asks the others to give back what they only cache, so
// an idle thread's cache cannot starve a busy one.
//
// Invariants: a buffer is in exactly one place (a user, one cache, the shared
// stack); the number of buffers never changes during the life of a pool; a
// queued Waiter is called exactly once.
//
// Lifecycle: NewPool, Channel on each thread, Close of each channel (gives
// its cache back), Pool.Close once no buffer is in use.
package iobuf
