package mngt

import "time"

// Step is one line of a process.
type Step[T any] struct {
	Name string
	// Action does the step's work. A nil action counts as done.
	Action func(p *Process[T])
	// Cleanup undoes the action when a later step fails, or when the process
	// is rolled back as a whole. It must be idempotent and must cope with an
	// action that never ran. Skip and Next mean the same in it; after Fail the
	// rollback goes on.
	Cleanup func(p *Process[T])
	// New makes the step's context, once, before its first action or cleanup.
	New func() any
}

// Desc is a process. It is not changed while it runs, and may run several
// times at once.
type Desc[T any] struct {
	Name  string
	Steps []Step[T]
	// New makes the process's context.
	New func() any
	// Init runs before the first step. Its error fails the process; Deinit is
	// then not called.
	Init func(p *Process[T]) error
	// ErrorHandler is told of the failure (p.Err) before the rollback begins.
	ErrorHandler func(p *Process[T])
	// Deinit runs last, whatever the outcome, before the caller is told.
	Deinit func(p *Process[T])
}

// Logger is told of the beginning and end of every process and step. A
// *slog.Logger is one.
type Logger interface {
	Debug(msg string, args ...any)
	Info(msg string, args ...any)
	Error(msg string, args ...any)
}

type nopLogger struct{}

func (nopLogger) Debug(string, ...any) {}
func (nopLogger) Info(string, ...any)  {}
func (nopLogger) Error(string, ...any) {}

// Status is how a step stands.
type Status uint8

// The states of a step.
const (
	StatusRunning Status = iota
	StatusDone
	StatusSkipped
	StatusFailed
)

// String names the status.
func (s Status) String() string {
	switch s {
	case StatusRunning:
		return "running"
	case StatusDone:
		return "done"
	case StatusSkipped:
		return "skipped"
	case StatusFailed:
		return "failed"
	}
	return "unknown"
}

// StepRecord is the account of one action or cleanup.
type StepRecord struct {
	Process  string // the process that the step belongs to
	Name     string
	Depth    int  // 0 for the process that was run, 1 for one that it called, ...
	Cleanup  bool // a cleanup, else an action
	Status   Status
	Err      error // of a failed one
	Began    int64 // thread.Now
	Duration time.Duration
}
