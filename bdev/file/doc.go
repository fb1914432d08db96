// Package file chooses the driver for a file or block device of the host: uring
// where the kernel allows it, else aio.
package file
