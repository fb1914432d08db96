// Package reactor hosts threads on OS threads of their own: it reads the clock, waits for file descriptors and sleeps.
//
// A Reactor is one goroutine locked to its OS thread, pinned to a CPU when asked, that polls the threads it was given
// one after the other. While there is work it does nothing else; without work its Mode says when it sleeps in the
// kernel (epoll) until a message, a watched file descriptor or a timer. A reactor without threads is parked: it sleeps
// in every mode. A sender wakes a reactor by an eventfd, which it writes only when the reactor has said that it sleeps.
//
// A Group is a set of reactors that are started and stopped together; it places threads, moves them, and, when asked,
// balances them by busy time and empties reactors that are hardly used. Drive runs threads in the calling goroutine,
// for tests and for tools that have a loop of their own.
//
// This is the only package below the commands that reads a clock or starts an OS thread, and the only one whose
// behaviour is not a function of its input.
//
// # Sharing the machine
//
// A loop that never sleeps is a danger to the rest of the process: the garbage collector and other goroutines need a
// processor of the Go scheduler (Procs tells how many) and a core, and they must be able to stop it. So a reactor that
// finds all of either taken by reactors sleeps ShareNap in every ShareEvery; one that has work offers its core to the
// kernel eleven times as often, because the kernel may have put the goroutine that stops the world behind it, even beside
// a core that is idle; and every turn passes a safepoint.
//
// # Ownership
//
// The threads, watches and counters of a reactor belong to its loop. Add, Wake, Stop, Stats and Threads are safe from
// any goroutine; they talk to the loop by control messages and atomics.
package reactor
