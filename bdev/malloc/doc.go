// Package malloc is a block device in memory. Its content goes away with it.
//
// The memory lies outside the Go heap and is taken from the system when a
// block is first written, so that a large device costs what is used of it; with
// Populate it is taken when the device is made, so that no IO pays for it. Both
// ask for transparent hugepages.
// Writes to a device that is larger than the caches of a processor go past them
// (see internal/memcopy): its blocks are not read again soon.
//
// Channels of several threads may be used at the same time; like any disk it
// does not order IOs to the same block that are in flight together.
package malloc
