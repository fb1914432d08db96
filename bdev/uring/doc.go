// Package uring is a bdev driver for files and block devices through io_uring.
//
// A channel has a ring of its own and belongs to its thread. Submit only puts an
// entry into the ring; a poller enters the kernel once per turn,
// for all of them, and takes completions without system calls. Large IOs do not wait
// for that: the kernel is entered whenever there are 256 KiB of data for it. The poller rests while nothing is
// in flight. When the host of the thread watches file descriptors, the ring signals
// an eventfd whenever the poller has found nothing to do, so that a reactor may
// sleep with IO in flight; while the poller is busy the eventfd is muted.
//
// The thread may move between reactors while IO is in flight, and a goroutine that
// polls it between OS threads.
//
// Files on tmpfs and ramfs are served inside Submit by plain system calls:
// io_uring would hand each one to a kernel thread, for half the speed.
package uring
