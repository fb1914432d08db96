// Package bdev is the layer of block devices: one interface for those who use
// them, one for those who drive them, and between the two everything that no
// driver should have to do itself.
//
// # Users
//
// A Manager knows the devices by name. Open gives a descriptor (Desc), which
// belongs to a thread and is told of events: the device goes away, changes its
// size, wants blocks relocated. A descriptor can claim the device. Desc.Channel
// gives a thread its Channel, which takes IOs. Submit methods either refuse at
// once or call back exactly once, later, on the same thread; see Channel.
//
// # Drivers
//
// A Driver describes itself by an Info and makes a DriverChannel for each
// thread. It sees only IOs that are within its Info: the layer checks ranges,
// splits what is too large or crosses a boundary, sends buffers that are not
// aligned, or are too many, through its own, replaces operations that the
// driver lacks (write zeroes, compare, compare-and-write, copy, FUA, reset),
// and tries again what the driver refused with ENOMEM.
//
// # Ownership and order
//
// All state of a channel belongs to its thread (core); nothing is locked. What
// threads share about a device (who has it open, claims, limits) are immutable
// values that are replaced by compare-and-swap. IOs come from a pool of the
// channel, and parts of IOs from another, so that parts cannot starve behind
// what they are parts of. A completion inside DriverChannel.Submit is put off
// to a message; one outside runs the user's callback directly.
//
// # Invariants
//
// An IO is in one state (ioState) and in at most one queue. Its callback runs
// once. Memory of the user is not touched any more when its callback runs. IOs
// to the same blocks that are in flight together have no order, except that
// compare-and-write excludes other modifications.
package bdev
