// Package md keeps metadata in memory and on devices, with mirrors.
//
// An Object is a run of blocks in memory (its own, shared memory that outlives
// the process, or none) and up to two copies of it on devices: the primary and
// its mirror. It is persisted and restored as a whole, or entry by entry.
//
// # Ownership
//
// An object belongs to the thread given in Config. All its methods are called
// there and all callbacks run there, exactly once each, never inside the call
// that they belong to. The buffer is the owner's; what is being written must
// not change until the operation is done.
//
// # Blocks
//
// Of every block the last 16 bytes belong to this package (block.go): a
// checksum, bound to the FTL, the region and the place in it, and the version
// of the region. A block that is torn, rotten, of another FTL or from another
// place counts as unreadable, and the other copy is used.
//
// # Order of writes
//
//   - Persist and Clear: mirror, flush, primary, flush. An error in the mirror
//     leaves the primary untouched.
//   - PersistEntryOrdered: the same for a few entries; one update at a time.
//   - PersistEntry: both copies at once, for what can be rebuilt.
//   - Restore: primary, else mirror; repair of the primary, flush; after a
//     shutdown that was not clean, the mirror last.
//
// So at any time one copy of every entry is whole, except for entries under
// PersistEntry.
//
// # Errors
//
// An error of a device wraps ErrIO (EIO) and the device's own error. An empty
// IO pool is not an error: it is waited for.
package md
