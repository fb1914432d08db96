// Package zoned presents a zoned block device as bands that are written front
// to back: one zone of each parallel unit makes a band, and the slots of a band
// go round its zones in stripes. It is a type of base under the translation
// layer, which addresses a band's slots as blocks of one long device.
//
// # Bands
//
// Zones are discovered in batches of 64. Conventional zones in front of the
// others stay outside: they can be written at random and hold metadata. From
// there on band b is made of zones First + b*Units to First + (b+1)*Units - 1.
// A zone that is offline, read-only or conventional takes no part, and where
// the capacity of zones differs, the smallest one of a band counts; a band
// without zones has no slots. Which zones a band was opened with, its mask,
// belongs into its descriptor: Use brings it back.
//
// # Writes
//
// A zone is written at its write pointer only, so each has a queue. Where the
// device keeps the order of submission (bdev.Info.ZoneOrder) a few device writes
// are under way in a zone, elsewhere one; what gathers meanwhile goes in one
// write. With Append that write is a zone append, and where the device says that
// it went is compared with where it had to go: a device that chose the order
// itself would have to get one at a time, because a record must lie where its
// header says.
//
// A write that fails breaks its zone until the zone is reset: where its write
// pointer stands is not known, so what is in line behind it fails too. What is
// under way behind it may succeed; the caller has no use for it.
//
// # Threads, buffers, errors
//
// Everything is called, and calls back, on the thread of the channel. Buffers
// belong to the package from the call until the callback. A callback never runs
// inside the call. Running out of IOs is waited out here, in order. Errors are
// those of the device; ErrBroken and ErrNoBlock wrap EIO, ErrShape EINVAL.
package zoned
