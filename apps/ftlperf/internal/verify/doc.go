// Package verify knows what every block of a verified run must contain.
//
// Each unit (at most 4 KiB) that is written carries its address, the seed of
// the run, a generation that grows with every write of that unit, marks in
// every 512-byte sector and a checksum over everything: torn, misplaced,
// stale, foreign and rotten data are told apart.
//
// A Table remembers, 4 bytes a unit, off the Go heap, the generation that was
// acknowledged last and what is in flight. It has one owner, the job's thread. In a file it survives
// the process, so that a later run can check what a killed one wrote.
package verify
