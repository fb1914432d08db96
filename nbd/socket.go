package nbd

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

// Socket is a connected stream that does not block. It belongs to the thread
// that watches it.
type Socket interface {
	// Watch has fn called on t while the socket is ready for one of events, which
	// are epoll's bits, level-triggered. A hang-up and an error are told unasked.
	Watch(t *thread.Thread, events uint32, fn thread.FDFunc, arg any) (thread.FDWatch, error)
	// Recv fills the vectors, in order, with what is there: 0 bytes at the end of
	// the stream, EAGAIN when there is nothing yet.
	Recv(vecs []unix.Iovec) (n int, errno unix.Errno)
	// Send takes a beginning of what the vectors hold: EAGAIN when there is no
	// room. What it took is no longer needed.
	Send(vecs []unix.Iovec) (n int, errno unix.Errno)
	// Close ends the stream; the watch must be closed before.
	Close()
}

// fdSocket is a socket of the system.
type fdSocket struct {
	fd  int
	msg unix.Msghdr // must not lie on the stack of a goroutine
}

// Watch implements Socket.
func (f *fdSocket) Watch(t *thread.Thread, events uint32, fn thread.FDFunc, arg any) (thread.FDWatch, error) {
	return t.WatchFD(f.fd, events, fn, arg)
}

// Recv implements Socket.
func (f *fdSocket) Recv(vecs []unix.Iovec) (int, unix.Errno) {
	f.msg = unix.Msghdr{Iov: &vecs[0], Iovlen: uint64(len(vecs))}
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&f.msg)), unix.MSG_DONTWAIT)
	return int(n), errno
}

// Send implements Socket.
func (f *fdSocket) Send(vecs []unix.Iovec) (int, unix.Errno) {
	f.msg = unix.Msghdr{Iov: &vecs[0], Iovlen: uint64(len(vecs))}
	n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&f.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return int(n), errno
}

// Close implements Socket.
func (f *fdSocket) Close() { _ = unix.Close(f.fd) } // nothing can be done about an error
