// Package sim runs threads and block devices in one goroutine under a virtual clock, as a pure function of a seed.
//
// A World is one life of a process: a clock that moves only when the scheduler moves it, a heap of timed events, and
// the threads of one thread.System, which it polls in random order. A Disk is a device whose media outlive the World:
// it reorders and delays what it is given, fails on request, keeps writes in a volatile cache until a flush
// completes, and decides at a power loss what of the rest is still there. A crash is: stop stepping the World, tell
// each Disk how it ended (PowerLoss or Kill), build the next World over the same Disks.
//
// Every decision comes from the one Rand of the run, and every decision that matters is noted in the Trace, whose
// hash says whether two runs were the same. ForEachSeed runs a test over many seeds and prints, for the first that
// fail, the end of the trace and the command that replays it:
//
//	go test ./tests/sim/... -seeds 10000          10000 fresh seeds for each test, fewer for those of a larger scale
//	go test ./tests/sim/... -total 10000          10000 fresh seeds in all worlds together
//	go test ./tests/sim -run Schedules -seed 4711 -simtrace   one seed, with its trace
//
// Nothing here reads a clock or starts a goroutine, except ForEachSeed, which gives every core seeds of its own.
package sim
