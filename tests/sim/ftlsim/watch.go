package ftlsim

import (
	"context"
	"log/slog"
	"strings"
)

// watch hears what the device logs: each message is counted and noted in the trace, and the steps of starting and
// stopping say where a crash fell.
type watch struct {
	p       *Play
	process string // of the last step that ended
	step    string
}

func newWatch(p *Play) *watch { return &watch{p: p} }

// Logger is the watch as the device takes it.
func (w *watch) Logger() *slog.Logger { return slog.New(w) }

// Enabled is true: steps are logged at the level of details.
func (w *watch) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs and WithGroup are not used by the device.
func (w *watch) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup returns the watch.
func (w *watch) WithGroup(string) slog.Handler { return w }

// Handle takes a message.
func (w *watch) Handle(_ context.Context, r slog.Record) error {
	var process, step, detail string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "process":
			process = a.Value.String()
		case "step":
			step = a.Value.String()
		case "why", "region":
			detail = ": " + a.Value.String()
		}
		return true
	})
	if process != "" {
		if step != "" && strings.HasPrefix(r.Message, "step ") {
			w.process, w.step = process, step
		}
		return nil
	}
	if r.Level >= slog.LevelInfo && r.Message != "device ready" {
		w.p.count("log: "+r.Message+detail, 1)
		w.p.life.w.Note("ftl", r.Message+detail, 0, 0, 0, nil)
	}
	return nil
}

// crashedIn counts in which part of a start or stop a crash fell.
func (p *Play) crashedIn(what string) {
	w := p.life.boot.Watch
	switch what {
	case "recovery":
		p.cutShort++
		switch {
		case p.cutShort == 2:
			p.count("recovery interrupted twice", 1)
		case p.cutShort > 2:
			p.count("recovery interrupted three times", 1)
		}
		switch {
		case w.process != "load":
		case w.step == "free lists" && p.clean:
			p.count("crash while the clean flag is cleared", 1)
		case w.step == "free lists":
			p.count("crash in recovery's checkpoint", 1)
		case w.step == "begin incarnation":
			p.count("crash while recovered segments are closed", 1)
		default:
			p.count("crash while the log is read", 1)
		}
	case "stop":
		if p.life.plan.Fast {
			p.count("crash in a fast stop", 1)
			return
		}
		p.count("crash in a clean stop", 1)
		switch w.step {
		case "close segments":
			p.count("crash in a stop's checkpoint", 1)
		case "checkpoint":
			p.count("crash while marked clean", 1)
		}
	}
}
