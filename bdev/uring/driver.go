package uring

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/hostfile"
	"goftl/internal/iouring"
	"goftl/thread"
)

// Direct says whether to bypass the page cache.
type Direct = hostfile.Direct

// The values of Direct.
const (
	DirectAuto = hostfile.DirectAuto // where the file system can
	DirectOn   = hostfile.DirectOn
	DirectOff  = hostfile.DirectOff
)

// Bounds of Options.Depth.
const (
	DepthDefault = 256
	DepthMax     = iouring.EntriesMax
)

// Options say how to open a file. The zero value opens an existing one.
type Options struct {
	Name     string // of the bdev; default: the last element of the path
	Size     uint64 // bytes, a multiple of 4096; 0: as the file is
	Create   bool   // make a sparse file of Size when there is none
	Direct   Direct
	ReadOnly bool
	Zoned    bool // the device may be a zoned one; for bdev/zbd
	Depth    int  // requests a channel has in flight at most; more wait in the channel
}

type driver struct {
	file *hostfile.File
	o    Options
}

// New opens path. It fails with an error that wraps ENOSYS or EPERM when io_uring
// is missing or forbidden (see Supported), else with what is wrong with the file.
func New(path string, o Options) (bdev.Driver, error) {
	if o.Depth == 0 {
		o.Depth = DepthDefault
	}
	if o.Depth < 1 || o.Depth > DepthMax {
		return nil, fmt.Errorf("uring: depth %d is not between 1 and %d: %w", o.Depth, DepthMax, unix.EINVAL)
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	f, err := hostfile.Open(path, hostfile.Options{Size: o.Size, Create: o.Create, Direct: o.Direct, ReadOnly: o.ReadOnly, Zoned: o.Zoned})
	if err != nil {
		return nil, err
	}
	return &driver{file: f, o: o}, nil
}

// Supported returns nil when the kernel has all of io_uring that the driver needs
// and this process may use it. It asks once.
func Supported() error { return supported() }

var supported = sync.OnceValue(func() error {
	r, err := iouring.New(4)
	if err != nil {
		return fmt.Errorf("uring: io_uring cannot be used here: %w", err)
	}
	if !r.Supports(opcodes[:]...) {
		err = fmt.Errorf("uring: the io_uring of this kernel is too old: %w", unix.ENOSYS)
	}
	if e := r.Close(); e != nil && err == nil {
		err = fmt.Errorf("uring: closing a ring: %w", e)
	}
	return err
})

// Info implements bdev.Driver.
func (d *driver) Info() bdev.Info { return d.file.Info(d.o.Name, "URING bdev") }

// NewChannel implements bdev.Driver.
func (d *driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	if d.file.InMemory() {
		return hostfile.NewInline(d.file), nil
	}
	return newChannel(d.file, t, d.o.Depth)
}

// Close implements bdev.Driver.
func (d *driver) Close() error { return d.file.Close() }
