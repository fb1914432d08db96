// Package volatile is a block device that puts a volatile write cache in front
// of another one, so that a process that is killed loses what it did not flush.
//
// Written blocks stay in memory of the process until a flush, or a write with
// FUA of the same blocks, takes them to the base. A few leave earlier, one by
// one and in random order: with a chance at every write, and when the cache is
// full. The end of the process, however it comes, is a power loss: what was
// written back by then is there, the rest is not, and of a write of several
// blocks any part may be. Unregistering the device drops the rest as well, so
// that a clean stop that forgets its flush shows.
//
// With Die the device ends its process by itself, right behind some block that
// it wrote back: so the moments in the middle of a flush, when some of it is
// there, are hit often.
//
// A block that cannot be written back stays in the cache and readable. The
// error is that of the flush or the FUA write that needs the block, and of
// writes that wait for room; the next flush tries again.
//
// The thread that creates the device owns the cache and does all IO of the
// base; channels of other threads send their IOs there and get them back by
// message. That thread must live longer than the device.
//
// Invariants: a block has at most one version that is being written back, and
// one newer that waits; a version that was answered is in the cache or on the
// base; the pages of all versions come from one area of fixed size.
package volatile
