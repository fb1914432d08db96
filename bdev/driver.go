package bdev

import "goftl/thread"

// Driver is a kind of device below this layer.
//
// Info is read when the driver is registered. NewChannel and Close may be
// called on any thread; Close is called once, after the last channel was
// closed.
type Driver interface {
	Info() Info
	NewChannel(t *thread.Thread) (DriverChannel, error)
	Close() error
}

// DriverChannel is one thread's way into a driver. All its methods are called
// on that thread only.
//
// Submit takes an IO that is within the limits of Info and calls its Complete
// exactly once, inside Submit or later on the same thread. Until then the IO's
// fields and buffers may be read (and, for reads, the buffers written); the
// driver must not change other fields than Driver and Result. An IO that is
// completed with ENOMEM is submitted again later. Close is called when no IO
// is in flight.
type DriverChannel interface {
	Submit(io *IO)
	Close()
}
