// Package errinj is a block device that makes another one fail: it lets IOs
// fail, waits with them, changes or cuts or forgets what they write, or never
// answers.
//
// What happens to which IO is said by rules, which any thread may add, switch
// and remove while the device is used. Rules are asked in the order in which
// they were added; the first that hits decides. A rule counts the IOs that it
// matches over all channels, and draws its random numbers from its seed and
// that count, so a run with the same order of IOs has the same faults.
package errinj
