// Command bench measures this project beside its yardstick and its peers, in one run, since absolute figures of shared
// machines drift, and prints one table for each target:
//
//	make bench-yardstick   what the machine allows: 4 KiB random log-writes of one thread
//	make bench             the floor: messages, pollers, reactors, null and malloc devices, metadata objects
//	make bench-file        ftlperf on a file against fio's io_uring engine on the same file
//	make bench-ftl         the FTL: IOPS, allocations, create, load, recovery after kill -9, memory
//	make bench-zoned       zoned bases and no cache, against zones alone, the yardstick and a conventional base
//	make bench-nbd         ftlnbd in memory against nbdkit, qemu-nbd and nbd-server, with the same client
//
// Contestants take turns (A B A B) and medians count. A target runs in bounded time: when its -budget is used up no
// further round is begun, and what was not measured says so. BENCHARGS passes options on, for example
//
//	make bench-ftl BENCHARGS='-budget 10m -rounds 5 -big'
//
// A ratio by CPU time (in brackets) divides the CPU time of the yardstick's write by that of our IO. It hardly changes
// when other processes share the machine, while ratios of rates then compare who got how much of a core.
package main
