package md

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart; each wraps a unix.Errno.
var (
	// ErrIO: no copy could be read, or a copy could not be written. EIO.
	ErrIO error = unix.EIO
	// ErrSum: a block is torn, rotten, or belongs elsewhere. EBADMSG.
	ErrSum = fmt.Errorf("checksum does not match: %w", unix.EBADMSG)
	// ErrCut: the blocks of an entry are not of the same write. EBADMSG.
	ErrCut = fmt.Errorf("a write was cut off in the middle of an entry: %w", unix.EBADMSG)
	// ErrVersion: a block is whole but of another version. ENOTSUP.
	ErrVersion = fmt.Errorf("metadata has another version: %w", unix.ENOTSUP)
	// ErrBusy: another operation of the object is under way. EINVAL, EBUSY.
	ErrBusy = fmt.Errorf("%w, %w", unix.EINVAL, unix.EBUSY)
	// ErrInvalid: a request or configuration that contradicts itself. EINVAL.
	ErrInvalid = unix.EINVAL
	// ErrNoMem: no memory. ENOMEM.
	ErrNoMem = unix.ENOMEM
)

// BadError says which entries of an object have no readable copy. It wraps
// ErrIO and the error of the first of them.
type BadError struct {
	Region  string
	Entries []uint64 // ascending, at most MaxBadListed
	Count   uint64
	First   error
}

// MaxBadListed bounds BadError.Entries.
const MaxBadListed = 1024

func (e *BadError) Error() string {
	return fmt.Sprintf("md %s: %d entries have no readable copy, first %d: %v", e.Region, e.Count, e.Entries[0], e.First)
}

// Unwrap returns ErrIO and the error of the first entry.
func (e *BadError) Unwrap() []error { return []error{ErrIO, e.First} }

func (o *Object) errorf(what string, err error) error {
	return fmt.Errorf("md %s: %s: %w", o.name(), what, err)
}

// deviceError is the error of a device: EIO, whatever the device called it.
type deviceError struct {
	what  string
	cause error
}

func (e *deviceError) Error() string   { return e.what + ": " + e.cause.Error() }
func (e *deviceError) Unwrap() []error { return []error{ErrIO, e.cause} }

func (o *Object) ioError(what string, a *area, err error) error {
	return &deviceError{"md " + o.name() + ": " + what + " " + a.name, err}
}
