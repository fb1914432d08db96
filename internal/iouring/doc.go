// Package iouring is a thin binding to the io_uring system calls: set-up, the
// two shared rings, submission in batches, completion without system calls.
//
// It knows nothing of files, threads or block devices; bdev/uring builds on it.
//
// Ownership: a Ring belongs to one goroutine at a time. No method may run
// concurrently with another one of the same Ring.
//
// Two modes. A Shared ring may be entered from any OS thread, one at a time: it
// is what a goroutine needs that is not locked to its OS thread, or a thread
// that may move to another reactor. An Owned ring (SINGLE_ISSUER and
// DEFER_TASKRUN) runs completion work only when its owner enters the kernel;
// after Enable, the kernel refuses any other OS thread with EEXIST.
//
// Memory that an entry points to (buffers, iovecs) is passed as an integer, so
// the garbage collector does not see it: the caller keeps it reachable, and off
// goroutine stacks, until the completion was taken.
package iouring
