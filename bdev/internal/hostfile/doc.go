// Package hostfile is what the drivers of files and block devices of the host
// have in common: opening them with all checks, describing them, and the calls
// that serve one bdev.IO.
//
// A File is immutable after Open, except for atomic flags, and is shared by all
// channels of a driver. A Window belongs to one channel and its thread: it holds
// a fixed table of Requests, and in a queue the IOs that found no free one.
// Between Engine.Start and Window.Finish a Request belongs to the engine, which
// may hand it to another goroutine.
//
// A Request is a small state machine: Call says what to ask of the kernel, Step
// takes the answer and says whether that was all. It deals with short transfers,
// passing errors, and ways of writing zeroes that the file system does not have.
// It never allocates after its iovecs have grown to the largest IO.
//
// Durability: a flush is fdatasync, which also makes allocation durable; a write
// with FUA is a write with RWF_DSYNC. The kernel reports a failed write-back to
// the first flush of the file only, so a File remembers failures and each Window
// passes on every one of them, once.
package hostfile
