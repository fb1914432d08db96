package aio

import (
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/hostfile"
	"goftl/internal/assert"
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

// Bounds of Options.Depth and Options.Workers.
const (
	DepthDefault   = 256
	DepthMax       = 4096
	WorkersDefault = 16
	WorkersMax     = 256
)

// Options say how to open a file. The zero value opens an existing one.
type Options struct {
	Name     string // of the bdev; default: the last element of the path
	Size     uint64 // bytes, a multiple of 4096; 0: as the file is
	Create   bool   // make a sparse file of Size when there is none
	Direct   Direct
	ReadOnly bool
	Zoned    bool // the device may be a zoned one; for bdev/zbd

	Depth   int // requests a channel hands out at most; more wait in the channel
	Workers int // of each channel: how many requests it has at the device
}

type driver struct {
	file *hostfile.File
	o    Options
}

// New opens path.
func New(path string, o Options) (bdev.Driver, error) {
	if o.Depth == 0 {
		o.Depth = DepthDefault
	}
	if o.Workers == 0 {
		o.Workers = WorkersDefault
	}
	if o.Depth < 1 || o.Depth > DepthMax {
		return nil, fmt.Errorf("aio: depth %d is not between 1 and %d: %w", o.Depth, DepthMax, unix.EINVAL)
	}
	if o.Workers < 1 || o.Workers > WorkersMax {
		return nil, fmt.Errorf("aio: %d workers are not between 1 and %d: %w", o.Workers, WorkersMax, unix.EINVAL)
	}
	f, err := hostfile.Open(path, hostfile.Options{Size: o.Size, Create: o.Create, Direct: o.Direct, ReadOnly: o.ReadOnly, Zoned: o.Zoned})
	if err != nil {
		return nil, err
	}
	return &driver{file: f, o: o}, nil
}

// Info implements bdev.Driver.
func (d *driver) Info() bdev.Info { return d.file.Info(d.o.Name, "AIO disk") }

// NewChannel implements bdev.Driver.
func (d *driver) NewChannel(t *thread.Thread) (bdev.DriverChannel, error) {
	if d.file.InMemory() {
		return hostfile.NewInline(d.file), nil
	}
	c := &channel{thread: t, jobs: make(chan *hostfile.Request, d.o.Depth)}
	c.window.Reset(d.file, c, d.o.Depth)
	for range d.o.Workers {
		go c.work()
	}
	return c, nil
}

// Close implements bdev.Driver.
func (d *driver) Close() error { return d.file.Close() }

// channel is one thread's workers.
type channel struct {
	window hostfile.Window
	thread *thread.Thread
	jobs   chan *hostfile.Request // room for every request of the window
}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) { c.window.Submit(io) }

// Start implements hostfile.Engine.
func (c *channel) Start(r *hostfile.Request) {
	r.Owner = c
	c.jobs <- r
}

// work is one worker's life.
func (c *channel) work() {
	for r := range c.jobs {
		r.Err = r.Run()
		c.thread.Send(finished, r)
	}
}

// finished is the message that brings a request back.
func finished(arg any) {
	r := arg.(*hostfile.Request)
	c := r.Owner.(*channel)
	c.window.Finish(r, r.Err)
	c.window.Pump()
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() {
	assert.That(c.window.Idle(), "aio: channel closed with IO in flight")
	close(c.jobs)
}
