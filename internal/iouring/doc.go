// Package iouring is a thin binding to the io_uring system calls: set-up, the
// two shared rings, submission in batches, completion without system calls.
//
// It knows nothing of files, threads or block devices; bdev/uring builds on it.
//
// Ownership: a Ring belongs to one goroutine at a time. No method may run
// concurrently with another one of the same Ring. It may be entered from any OS
// thread, so it serves threads that move between reactors, and goroutines that
// are not locked to an OS thread.
//
// That rules out SINGLE_ISSUER and DEFER_TASKRUN, with which the kernel refuses
// every OS thread but the first with EEXIST, and what is in flight then never
// completes. They gained nothing that could be measured over COOP_TASKRUN, which
// is used: on ext4 and a virtio disk, CPU time per IO and IOPS were the same within
// noise, at depths of 1 and 32, sleeping and spinning.
//
// Memory that an entry points to (buffers, iovecs) is passed as an integer, so
// the garbage collector does not see it: the caller keeps it reachable, and off
// goroutine stacks, until the completion was taken.
package iouring
