// Package zone makes a zoned block device out of a conventional one.
//
// The base is cut into zones of the same size. A zone is written from its
// first block on at its write pointer, by writes that must name it or by
// appends that are told where they went, until its capacity is used; then it
// is full until it is reset. Blocks at and behind the write pointer read as
// zeroes. Zones are empty, open (implicitly by a write, or explicitly), closed,
// full, read-only or offline; the numbers of open zones and of active ones
// (open or closed) can be limited. When a write needs an open zone too many,
// one that was opened implicitly is closed; when all are explicit, or too many
// are active, the write fails.
//
// The first ConvZones zones are conventional: written anywhere, without a write
// pointer, as on host-managed disks with shingled tracks. They take part in
// the numbering of zones; reset, open, close, finish and append fail there.
//
// # Failures
//
// SetZoneState turns a zone read-only or offline while it is used and tells the
// openers by bdev.ZoneChange; FailReset has a reset fail, which takes its zone
// offline; PushMedia asks the openers to relocate extents. Options begin with
// such zones.
//
// The write pointer moves when a write is submitted. A write that then fails
// leaves undefined blocks behind the write pointer, as a disk would.
//
// # Threads
//
// The state of a zone is one atomic word, and the numbers of open and active
// zones another, so channels of all threads work on the same zones without
// locks.
//
// # What survives
//
// Without Persist the zones begin empty (or full, with InitFull) each time the
// device is made. With Persist the last blocks of the base hold a table that
// says which zones are not empty; a zone is entered there before its first
// write, and taken out when it is reset, before either is answered. Where the
// write pointer stood is not known after a restart: a zone that was not empty
// is full then. The table belongs to the thread that made the device (table).
package zone
