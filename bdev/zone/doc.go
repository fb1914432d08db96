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
// A reset gives the blocks of its zone back to the base (Options.Unmap), unless
// the base took its space beforehand: there that saves nothing, and costs the
// next writes the time to get it again.
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
// device is made. With Persist the base holds, behind the zones, a sum of every
// block and, in its last blocks, a table of the zones (sums, table); both belong
// to the thread that made the device and are written in rounds (round). What is
// promised then, if the base keeps its own promises:
//
//   - What was written before a flush began, or with FUA, lies before the write
//     pointer after a power loss. What was answered at all does so after the
//     process died; on a base without a volatile cache after a power loss too.
//   - What lies before the write pointer is what was written there, whole write
//     units, without a gap. (Only a write that failed may have left anything at
//     all in its blocks.) Of the blocks that were not flushed those survive that
//     have no gap before them. Behind the write pointer everything reads as
//     zeroes.
//   - Writes of a zone are answered in their order.
//   - A reset, a finish, and a zone that was taken offline, are durable when they
//     are answered. A reset that is cut off has happened or has not.
//   - Zones that SetZoneState or FailReset spoils stay so, if there was time to
//     write it down. Open zones are closed, or empty when nothing was written.
//
// How: a write is followed by a write of its sums, before it is answered; a
// flush by one of how far each zone is written into the table. A load flushes
// the base, reads the table, and follows the sums of each zone from where the
// table knows of, as long as the blocks fit; then the zone gets a new
// generation, so that what survived behind a gap never fits again. The load
// reads at most what was written since the last flush. The price is one block
// more to write for each write (or for several that come together), an update
// of the table when a zone is first written, reset or finished, and 0.4 % of the
// space.
//
// A base that fails reads costs nothing but what cannot be read: the load tries
// again, a block with a sum counts as written though it cannot be read, and a
// zone whose sums cannot be read as full. Behind its blocks stands then what the
// base holds there.
//
// Rot is not what this is for: a damaged table or sum that was durable can take
// unflushed blocks with it, and, where it hits both slots of a unit of the
// table, make its zones full.
package zone
