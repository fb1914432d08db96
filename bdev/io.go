package bdev

import (
	"goftl/internal/assert"
	"goftl/thread"
)

// DoneFunc is told that an IO is complete. io is valid only during the call:
// its fields as submitted, its Ctx, Err and Result.
type DoneFunc func(io *IO)

type ioState uint8

const (
	ioFree     ioState = iota
	ioHeld             // in one of the layer's queues, not yet begun
	ioNoMem            // begun, waits for the driver to have memory
	ioDriver           // submitted to the driver
	ioParent           // waiting for its children
	ioFinished         // completed, its callback not yet run
)

// Flags of an IO.
const (
	ioAborted  uint8 = 1 << iota // asked to be aborted: an error ends it, ENOMEM is not retried
	ioInternal                   // has a continuation in the layer
	ioCharged                    // has passed the rate limits
)

// IO is one operation. The layer makes it, fills it in from the arguments of a
// submit method and owns it; drivers see it between Submit and Complete.
type IO struct {
	Op    Op
	FUA   bool
	state ioState
	flags uint8
	plan  plan
	stage uint8

	LBA, Count uint64
	Bufs       [][]byte
	MD         []byte // nil, or Count times Info.MDSize bytes

	k    *core
	next *IO
	done DoneFunc
	Ctx  any
	t0   int64 // ns, time of submission
	err  error

	// Result is the LBA that a zone append wrote to, or how many of Extents were
	// filled in.
	Result uint64
	// Driver is the driver's own state. It survives the reuse of the IO, so
	// that it is allocated once.
	Driver any

	ch  *Channel
	one [1][]byte

	// Src is the first block to copy from.
	Src uint64
	// Bufs2 is what compare-and-write writes when Bufs is what is there.
	Bufs2 [][]byte
	// Zones is filled in by OpZoneInfo, from the zone at LBA on.
	Zones []ZoneInfo
	// Extents is filled in by OpExtents.
	Extents []Extent
	// Target is the IO that OpAbort is about.
	Target   *IO
	abortCtx any

	// Parents.
	issued uint64 // blocks given to children
	out    uint32 // children in flight
	starve bool   // in the queue for children
	seg    int    // the first of Bufs that has bytes not given to children
	segOff int    // and how many of its bytes were

	child *child // children only
	lock  *rangeLock
	fwd   *forward // survives reuse
}

// Err returns how the IO ended; nil is success.
func (io *IO) Err() error { return io.err }

// Channel returns the channel that the IO was submitted on.
func (io *IO) Channel() *Channel { return io.ch }

// Thread returns the thread that owns the IO.
func (io *IO) Thread() *thread.Thread { return io.k.th }

// BlockSize returns the block size of the device in bytes.
func (io *IO) BlockSize() uint32 { return 1 << io.k.shift }

// Bytes returns the length of the IO in bytes.
func (io *IO) Bytes() uint64 { return io.Count << io.k.shift }

// Complete ends an IO. Only its driver calls it, once, on the IO's thread. The
// user's callback runs before Complete returns, unless the driver is inside
// Submit: then it runs from a message.
func (io *IO) Complete(err error) {
	assert.That(io.state == ioDriver, "bdev: IO completed that is not in the driver")
	k := io.k
	io.err = err
	k.inflight--
	if k.submitting {
		if err != nil && k.noMemory(io) { // at once, so that nothing behind it passes it
			k.requeue(io)
			return
		}
		k.finishLater(io)
		return
	}
	k.finish(io)
}
