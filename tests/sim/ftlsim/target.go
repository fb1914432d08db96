package ftlsim

import (
	"goftl/bdev"
	"goftl/tests/sim"
	"goftl/thread"
)

// OpKind is what a Request asks for.
type OpKind uint8

// The kinds.
const (
	Read OpKind = iota
	Write
	Trim
	Flush
	Zero // a write of zeroes
	NumKinds
)

var kindNames = [NumKinds]string{"read", "write", "trim", "flush", "zero"}

// String names the kind.
func (k OpKind) String() string { return kindNames[k] }

// Request is one operation on a Device. It may be used again once it is done.
type Request struct {
	Kind       OpKind
	FUA        bool
	LBA, Count uint64
	Bufs       [][]byte
	Done       func(r *Request)
	Err        error

	play   any // the player's own
	native any // the target's own
}

// Device is what is tested. Its methods are called on the core thread, its callbacks come there.
type Device interface {
	Blocks() uint64
	Submit(r *Request)
	Stop(fast bool, done func(err error))
	// Check verifies a device that is idle or was started read-only, and calls done with what it found.
	Check(done func(problem error))
	// Idle says whether nothing is under way or waiting, in the background either.
	Idle() bool
	// Rested says what a device that is idle still holds, has not got back or needs too much of. buffers is the memory
	// that it has outside of the Go heap; 0: not known.
	Rested(buffers int64) error
	// ReadOnly says whether the device has given up writing, which only faults may make it do.
	ReadOnly() bool
	// Sole says whether a block of the cache, or of the base, may rot while the device is down: it is not the second
	// copy of something.
	Sole(cache bool, lba uint64) bool
	// Body says whether a block is one of the log, and so has no second copy.
	Body(cache bool, lba uint64) bool
	// Descriptor says whether a block describes a segment.
	Descriptor(cache bool, lba uint64) bool
	// Front is the number of blocks in front of the cache, or of the base, that hold metadata.
	Front(cache bool) uint64
	// FreeZones are the zones of the bands that hold nothing, if those are no more than so many, and the device can go on
	// without.
	FreeZones(most int) []uint64
	// Acked is the number of the last record that was acknowledged.
	Acked() uint64
	// Forgotten says whether the log held record u once, and does not any more: only the checkpoint that was loaded
	// knows of it.
	Forgotten(u uint64) bool
	// Loaded adds what the start found to the counters of the run, Ended what happened in a life.
	Loaded(add func(name string, n uint64))
	Ended(add func(name string, n uint64))
}

// Boot is what a device is started on: one life of the process.
type Boot struct {
	World   *sim.World
	Manager *bdev.Manager
	Thread  *thread.Thread
	Plan    *Plan
	Zones   *bdev.Bdev // over the base, if that has zones
	Watch   *watch
	ShmDir  string // "" without shared memory
	// ReadOnly is for a look at a device that must write nothing.
	ReadOnly bool
	// AcceptLoss lets the device take writes again although it has lost what was durable.
	AcceptLoss bool
	// Rewrite has the superblock of a device written anew where something else stands in its place. Strayed says that this
	// may be: writes have gone astray.
	Rewrite, Strayed bool

	Life   int
	Tried  bool // making the device was begun in an earlier life
	Spoilt bool // a power loss has left something that nobody wrote
	Force  bool // the device is made whatever stands there
	// Count adds to a counter of the run.
	Count func(name string, n uint64)
	// Tolerant says whether requests that are submitted now may fail.
	Tolerant func() bool
	// Failf reports what a target finds wrong.
	Failf func(format string, args ...any)
}

// Remote is a Target whose devices are reached over connections. Acknowledgements take different ways then, and do not
// arrive in the order of the log.
type Remote interface {
	Target
	// Forgives says whether a request may end with an error although no device has failed.
	Forgives(err error) bool
}

// Target builds devices.
type Target interface {
	// Start creates or loads a device; it is called on the thread of b, and so is done.
	Start(b *Boot, create bool, done func(d Device, err error))
}
