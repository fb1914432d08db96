package file

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/aio"
	"goftl/bdev/internal/hostfile"
	"goftl/bdev/uring"
)

// Direct says whether to bypass the page cache.
type Direct = hostfile.Direct

// The values of Direct.
const (
	DirectAuto = hostfile.DirectAuto // where the file system can
	DirectOn   = hostfile.DirectOn
	DirectOff  = hostfile.DirectOff
)

// ParseDirect reads "auto", "on" or "off"; the empty text is auto.
func ParseDirect(s string) (Direct, error) { return hostfile.ParseDirect(s) }

// Options say how to open a file. The zero value opens an existing one.
type Options struct {
	Name     string // of the bdev; default: the last element of the path
	Driver   string // "uring", "aio", or "" for uring where it is allowed
	Size     uint64 // bytes, a multiple of 4096; 0: as the file is
	Create   bool   // make a sparse file of Size when there is none
	Direct   Direct
	ReadOnly bool
	Zoned    bool // the device may be a zoned one; for bdev/zbd
	Depth    int  // requests a channel has in flight at most; 0: the driver's default
	// Logger hears once per process that io_uring cannot be used; nil: slog.Default().
	Logger *slog.Logger
}

// toldOnce is set when somebody was told that aio stands in for uring.
var toldOnce atomic.Bool

// allowed is replaced by tests.
var allowed = uring.Supported

// New opens path with the driver asked for. "uring" fails where io_uring cannot be
// used; "" falls back to aio there.
func New(path string, o Options) (bdev.Driver, error) {
	switch o.Driver {
	case "uring":
		return newUring(path, &o)
	case "aio":
		return newAio(path, &o)
	case "":
	default:
		return nil, fmt.Errorf("driver=%s is not one of uring, aio: %w", o.Driver, unix.EINVAL)
	}
	err := allowed()
	if err == nil {
		return newUring(path, &o)
	}
	if !toldOnce.Swap(true) {
		log := o.Logger
		if log == nil {
			log = slog.Default()
		}
		log.Warn("io_uring cannot be used, files are served by the slower aio driver", "reason", err)
	}
	return newAio(path, &o)
}

func newUring(path string, o *Options) (bdev.Driver, error) {
	return uring.New(path, uring.Options{
		Name: o.Name, Size: o.Size, Create: o.Create, Direct: o.Direct, ReadOnly: o.ReadOnly, Zoned: o.Zoned, Depth: o.Depth,
	})
}

func newAio(path string, o *Options) (bdev.Driver, error) {
	return aio.New(path, aio.Options{
		Name: o.Name, Size: o.Size, Create: o.Create, Direct: o.Direct, ReadOnly: o.ReadOnly, Zoned: o.Zoned, Depth: o.Depth,
	})
}
