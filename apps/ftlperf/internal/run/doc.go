// Package run carries out one measurement: yardstick, opening the target, the
// phases (fill, jobs, crash and recovery, verification), closing, yardstick
// again, and hands back a report.Run.
//
// It runs in the main goroutine, which only waits: the work is done on the
// target's threads. Cancelling the context stops the jobs; what was measured
// until then is reported.
package run
