package proto

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Error returns the text of the error number.
func (e Errno) Error() string {
	switch e {
	case OK:
		return "success"
	case ErrPerm:
		return "operation not permitted"
	case ErrIO:
		return "input/output error"
	case ErrNoMem:
		return "cannot allocate memory"
	case ErrInval:
		return "invalid argument"
	case ErrNoSpc:
		return "no space left on device"
	case ErrOverflow:
		return "value too large"
	case ErrNotSup:
		return "operation not supported"
	case ErrShutdown:
		return "server is shutting down"
	default:
		return "unknown NBD error"
	}
}

// Is makes errors.Is(e, unix.ENOSPC) work for the numbers that both know.
func (e Errno) Is(target error) bool {
	n, ok := target.(unix.Errno)
	return ok && n != 0 && n == e.Unix()
}

// Unix returns the platform's number for e; a number that the protocol does
// not define is EIO, as the specification asks of clients.
func (e Errno) Unix() unix.Errno {
	switch e {
	case OK:
		return 0
	case ErrPerm:
		return unix.EPERM
	case ErrNoMem:
		return unix.ENOMEM
	case ErrInval:
		return unix.EINVAL
	case ErrNoSpc:
		return unix.ENOSPC
	case ErrOverflow:
		return unix.EOVERFLOW
	case ErrNotSup:
		return unix.ENOTSUP
	case ErrShutdown:
		return unix.ESHUTDOWN
	case ErrIO:
		return unix.EIO
	default:
		return unix.EIO
	}
}

// ErrnoOf maps an error of a block device to what a client is told. Errors
// that carry no errno, or one that the protocol has no word for, become EIO.
func ErrnoOf(err error) Errno {
	if err == nil {
		return OK
	}
	var n unix.Errno
	if !errors.As(err, &n) {
		return ErrIO
	}
	switch n {
	case unix.EPERM, unix.EACCES, unix.EROFS, unix.EBADF:
		return ErrPerm
	case unix.ENOMEM:
		return ErrNoMem
	case unix.EINVAL:
		return ErrInval
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return ErrNoSpc
	case unix.EOVERFLOW:
		return ErrOverflow
	case unix.ENOTSUP:
		return ErrNotSup
	case unix.ESHUTDOWN:
		return ErrShutdown
	default:
		return ErrIO
	}
}
