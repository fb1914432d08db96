package hostfile

import "goftl/bdev"

// Inline is the driver channel of a file in memory: a call on it never waits for a
// device, so it is made on the spot, inside Submit.
type Inline struct{ window Window }

// NewInline makes a channel.
func NewInline(f *File) *Inline {
	c := &Inline{}
	// One request is enough, as none outlives Submit.
	c.window.Reset(f, c, 1)
	return c
}

// Submit implements bdev.DriverChannel.
func (c *Inline) Submit(io *bdev.IO) { c.window.Submit(io) }

// Start implements Engine.
func (c *Inline) Start(r *Request) { c.window.Finish(r, r.Run()) }

// Close implements bdev.DriverChannel.
func (c *Inline) Close() {}
