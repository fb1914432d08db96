// Package zbd serves zoned block devices of the host: namespaces with zones
// (ZNS) and host-managed disks with shingled tracks (SMR), by the kernel's
// interface of <linux/blkzoned.h>.
//
// # What is found out
//
// When a device is made, its zones are read in batches of 64 (BLKREPORTZONE)
// and checked: they must follow each other and, but for a shorter last one that
// is not used, have the same size. Their capacity may be smaller than that, and
// differ. Limits come from the queue's attributes in sysfs. A path that is no
// zoned device, and a kernel without support for them, are refused with an error
// that says which of the two it is.
//
// # What is served
//
// Data goes through bdev/file, without the page cache, on an inner device of its
// own. Of a zone that is written in order one write at a time is under way, the
// next ones of the same thread wait in the order in which they came: the kernel
// does not promise to keep the order of requests that are under way together.
// Writers of one zone must therefore share a thread.
//
// Zone append is missing from Info.Ops, and MaxAppend is 0: a block device of
// Linux has none for programs. The offline operation is missing as well.
//
// # Threads
//
// The zone operations and reports are ioctls that wait for the device. Workers
// of each channel make them, up to 4 at a time, and send the results back as
// messages. Only the states of zones that failed are kept: when a report, or one
// that follows a failed IO, finds a zone that turned read-only or offline, all
// descriptors are told (bdev.ZoneChange).
package zbd
