// Package aio is a bdev driver for files and block devices on systems that forbid
// io_uring: worker goroutines make blocking preadv2 and pwritev2 calls, and the
// results come back to the channel's thread as messages.
//
// Each channel has workers of its own, which end with it. The hand-over to a
// worker is a Go channel: it is what goroutines can sleep on, and it never blocks
// the thread because it has room for every request of the window. More workers
// mean more IO in flight at the device; the depth beyond that waits.
//
// Files on tmpfs and ramfs are served inside Submit: a call on them does not wait,
// and costs less than the way to a worker and back.
package aio
