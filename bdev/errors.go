package bdev

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is an error of the layer that was allocated in advance. It wraps its
// Errno.
type Error struct {
	errno unix.Errno
	text  string
}

func (e *Error) Error() string { return e.text + ": " + e.errno.Error() }

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.errno }

// Errno returns the errno.
func (e *Error) Errno() unix.Errno { return e.errno }

// NewError makes an error for a package-level variable: it is meant to be made
// once and returned on hot paths.
func NewError(errno unix.Errno, text string) *Error { return &Error{errno, text} }

// What submit methods return, and what IOs complete with.
var (
	ErrNoMem       error = NewError(unix.ENOMEM, "bdev: the channel's IO pool is empty")
	ErrNoBuffer    error = NewError(unix.ENOMEM, "bdev: no memory for a bounce buffer")
	ErrReadOnly    error = NewError(unix.EBADF, "bdev: the descriptor is not open for write")
	ErrRemoved     error = NewError(unix.ENODEV, "bdev: the device is removed")
	ErrAborted     error = NewError(unix.ECANCELED, "bdev: aborted")
	ErrNotFound    error = NewError(unix.ENOENT, "bdev: no such IO in flight")
	ErrMiscompare  error = NewError(unix.EILSEQ, "bdev: the data differs")
	ErrUnsupported error = NewError(unix.ENOTSUP, "bdev: the device cannot do this")
	ErrIO          error = NewError(unix.EIO, "bdev: input/output failure")
)

// ioError explains a refused submission. It is off the hot path: a correct
// caller never gets here.
//
//go:noinline
func (k *core) rangeError(op Op, lba, count uint64) error {
	info := k.b.Info()
	if count == 0 {
		return fmt.Errorf("bdev %s: %s of 0 blocks at %d: %w", info.Name, op, lba, unix.EINVAL)
	}
	return fmt.Errorf("bdev %s: %s of %d blocks at %d goes beyond its %d blocks: %w",
		info.Name, op, count, lba, info.Blocks, unix.EINVAL)
}

//go:noinline
func (k *core) lengthError(op Op, what string, have, want uint64) error {
	return fmt.Errorf("bdev %s: %s: %d bytes of %s given, %d needed: %w", k.b.Name(), op, have, what, want, unix.EINVAL)
}

//go:noinline
func (k *core) limitError(op Op, lba, count uint64, why string) error {
	return fmt.Errorf("bdev %s: %s of %d blocks at %d: %s: %w", k.b.Name(), op, count, lba, why, unix.EINVAL)
}
