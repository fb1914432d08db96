package ftl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart; each wraps a unix.Errno.
var (
	// ErrExists: the devices hold an FTL already, and Force was not set.
	ErrExists = fmt.Errorf("ftl: the devices already hold an FTL: %w", unix.EEXIST)
	// ErrNotEmpty: a device holds data that is not an FTL's.
	ErrNotEmpty = fmt.Errorf("ftl: a device is not empty: %w", unix.EEXIST)
	// ErrHalfBlank: one device belongs to an FTL, the other is blank.
	ErrHalfBlank = fmt.Errorf("ftl: one of the devices is blank: %w", unix.EINVAL)
	// ErrBusy: the device is stopping already.
	ErrBusy = fmt.Errorf("ftl: the device is stopping: %w", unix.EBUSY)
	// ErrCancelled: the start was ended by Starting.Cancel.
	ErrCancelled = fmt.Errorf("ftl: the start was cancelled: %w", unix.ECANCELED)
	// ErrLoss: durable records or pages of the mapping cannot be read; a
	// person has to accept that.
	ErrLoss = fmt.Errorf("ftl: durable data cannot be read: %w", unix.EIO)

	errBlind      = fmt.Errorf("ftl: the segment cannot be read to its end: %w", unix.EIO)
	errNoRoom     = fmt.Errorf("ftl: the zones are not where a summary could follow: %w", unix.EIO)
	errChecksum   = fmt.Errorf("ftl: checksum mismatch: %w", unix.EIO)
	errCheckpoint = fmt.Errorf("ftl: checkpoint numbers used up: %w", unix.EIO)
	errIncomplete = fmt.Errorf("ftl: stopped without a clean shutdown: %w", unix.EIO)
)
