package hostfile

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zeroes is memory that reads as zero, made on first use and never written.
var zeroes = sync.OnceValue(func() []byte {
	const size = 1 << 20
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return make([]byte, size)
	}
	return b
})

// Run serves the Request by blocking system calls and returns its result. It may
// run on any goroutine that owns the Request.
func (r *Request) Run() error {
	for {
		more, err := r.Step(r.file.do(r.Call()))
		if !more {
			return err
		}
	}
}

// do makes one call and answers as the kernel does: a count or a negative errno.
func (f *File) do(c Call) int {
	var n uintptr
	var e unix.Errno
	fd := uintptr(f.fd)
	switch c.Kind {
	case CallReadv:
		n, _, e = unix.Syscall6(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(&c.Iov[0])), uintptr(len(c.Iov)),
			uintptr(c.Off), 0, uintptr(c.Flags))
	case CallWritev:
		n, _, e = unix.Syscall6(unix.SYS_PWRITEV2, fd, uintptr(unsafe.Pointer(&c.Iov[0])), uintptr(len(c.Iov)),
			uintptr(c.Off), 0, uintptr(c.Flags))
	case CallFdatasync:
		_, _, e = unix.Syscall(unix.SYS_FDATASYNC, fd, 0, 0)
	case CallFallocate:
		_, _, e = unix.Syscall6(unix.SYS_FALLOCATE, fd, uintptr(c.Flags), uintptr(c.Off), uintptr(c.Length), 0, 0)
	}
	if e != 0 {
		return -int(e)
	}
	return int(n)
}
