// Package mngt runs management work as declared tables of named steps.
//
// A process (Desc) is a list of steps. A step has an action and, when it
// leaves something behind, a cleanup. Run executes the actions in order; when
// one fails, the cleanups of the steps that had finished run in reverse order,
// and the caller gets the error that started it, with the errors of cleanups
// joined to it. Rollback runs all cleanups of a process in reverse order, which
// is how a process is the undoing of another.
//
// An action or cleanup may wait for as long as it likes. It ends by exactly one
// call of Next, Continue, Skip, Fail, Call or CallRollback, inside itself or
// later, always on the process's thread. Every transition goes through a
// message, so the stack stays flat however long the table is and however fast
// its steps are.
//
// The package knows nothing of what its owner does: it is generic over the
// owner and depends only on thread. It reads no clock; durations come from
// thread.Now.
//
// Everything here belongs to the process's thread, except Run and Rollback,
// which may be called anywhere.
package mngt
