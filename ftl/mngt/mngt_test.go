package mngt

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/thread"
)

var _ Logger = (*slog.Logger)(nil)

// rig runs processes on a thread whose clock moves 1 ms with each Poll.
type rig struct {
	th    *thread.Thread
	now   int64
	descs map[string]*Desc[*rig]
	tries map[string]int
	out   strings.Builder
	over  bool
	err   error
	proc  *Process[*rig]
}

func newRig() *rig {
	return &rig{th: thread.NewSystem().NewThread("core"), descs: map[string]*Desc[*rig]{}, tries: map[string]int{}}
}

func (r *rig) printf(depth int, format string, args ...any) {
	fmt.Fprintf(&r.out, "%s%s\n", strings.Repeat("  ", depth), fmt.Sprintf(format, args...))
}

func (r *rig) poll() {
	r.now += int64(time.Millisecond)
	r.th.Poll(0, r.now)
}

func (r *rig) settle(t testing.TB) {
	for range 10000 {
		if r.over && !r.th.HasWork() {
			return
		}
		r.poll()
	}
	t.Fatal("the process does not end")
}

func finished(r *rig, err error) {
	r.over, r.err = true, err
	r.printf(0, "done: %v", err)
}

// parseStep reads "name attr=value ...": fail=, cleanup-fail= (an error text),
// again= (times that it continues), call=, undo= (a process), skip, bare (no cleanup), later.
func (r *rig) parseStep(line string) Step[*rig] {
	f := strings.Fields(line)
	attr := map[string]string{}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		attr[k] = v
	}
	name := f[0]
	s := Step[*rig]{Name: name, Action: func(p *Process[*rig]) { r.act(p, attr) }, New: func() any { return new(int) }}
	if _, bare := attr["bare"]; !bare {
		s.Cleanup = func(p *Process[*rig]) { r.undo(p, attr) }
	}
	return s
}

func (r *rig) act(p *Process[*rig], attr map[string]string) {
	n := p.StepCtx().(*int)
	*n++
	r.printf(p.depth, "%s: action %d", p.StepName(), *n)
	if again, _ := strconv.Atoi(attr["again"]); *n <= again {
		p.Continue()
		return
	}
	_, skip := attr["skip"]
	_, later := attr["later"]
	switch {
	case attr["fail"] != "":
		p.Fail(errors.New(attr["fail"]))
	case skip:
		p.Skip()
	case later:
		r.th.Send(func(any) { r.th.Send(func(any) { p.Next() }, nil) }, nil)
	case attr["call"] != "":
		p.Call(r.descs[attr["call"]])
	case attr["undo"] != "":
		p.CallRollback(r.descs[attr["undo"]])
	default:
		p.Next()
	}
}

func (r *rig) undo(p *Process[*rig], attr map[string]string) {
	r.printf(p.depth, "%s: cleanup (acted %d times)", p.StepName(), *p.StepCtx().(*int))
	switch {
	case attr["cleanup-fail"] != "":
		p.Fail(errors.New(attr["cleanup-fail"]))
	case attr["call"] != "":
		p.CallRollback(r.descs[attr["call"]])
	default:
		p.Next()
	}
}

func (r *rig) define(td *datadriven.TestData) {
	d := &Desc[*rig]{Name: td.CmdArgs[0].Key}
	for _, line := range strings.Split(strings.TrimSpace(td.Input), "\n") {
		d.Steps = append(d.Steps, r.parseStep(line))
	}
	if td.HasArg("handlers") {
		d.Init = func(p *Process[*rig]) error { r.printf(p.depth, "%s: init", d.Name); return nil }
		d.Deinit = func(p *Process[*rig]) { r.printf(p.depth, "%s: deinit", d.Name) }
		d.ErrorHandler = func(p *Process[*rig]) { r.printf(p.depth, "%s: failed: %v", d.Name, p.Err()) }
	}
	if td.HasArg("init-fails") {
		d.Init = func(p *Process[*rig]) error { return errors.New("no init") }
	}
	r.descs[d.Name] = d
}

func (r *rig) history() string {
	var b strings.Builder
	for _, h := range r.proc.History() {
		kind := "action"
		if h.Cleanup {
			kind = "cleanup"
		}
		fmt.Fprintf(&b, "%s%s/%s %s %s %v", strings.Repeat("  ", h.Depth), h.Process, h.Name, kind, h.Status, h.Duration)
		if h.Err != nil {
			fmt.Fprintf(&b, " (%v)", h.Err)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestGolden runs the traces in testdata; -rewrite writes them anew.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		r := newRig()
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			r.out.Reset()
			switch td.Cmd {
			case "define":
				r.define(td)
			case "run", "rollback":
				r.over = false
				start := Run[*rig]
				if td.Cmd == "rollback" {
					start = Rollback[*rig]
				}
				r.proc = start(r.th, r, r.descs[td.CmdArgs[0].Key], nil, finished)
				var after int
				if td.MaybeScanArgs(t, "abort-after", &after) {
					for range after {
						r.poll()
					}
					r.printf(0, "abort")
					r.proc.Abort(errors.New("shutting down"))
				}
				r.settle(t)
			case "history":
				return r.history()
			default:
				t.Fatalf("unknown command %s", td.Cmd)
			}
			return r.out.String()
		})
	})
}

// TestFlatStack: a long table of instant steps, and a step that continues
// often, do not nest.
func TestFlatStack(t *testing.T) {
	r := newRig()
	n := 0
	d := &Desc[*rig]{Name: "long"}
	for range 1000 {
		d.Steps = append(d.Steps, Step[*rig]{Name: "s", Action: func(p *Process[*rig]) {
			n++
			require.Less(t, stackDepth(), 40)
			if n%3 == 0 {
				p.Continue()
				return
			}
			p.Next()
		}})
	}
	Run(r.th, r, d, nil, finished)
	r.settle(t)
	require.NoError(t, r.err)
	require.Greater(t, n, 1000)
	require.Greater(t, r.now, int64(10*time.Millisecond), "a long table leaves the thread to others in between")
}

// TestNothingInline: neither an action nor done runs inside Run.
func TestNothingInline(t *testing.T) {
	r := newRig()
	ran := false
	p := Run(r.th, r, &Desc[*rig]{Name: "x", Steps: []Step[*rig]{{Name: "a", Action: func(p *Process[*rig]) { ran = true; p.Next() }}}}, nil, finished)
	require.False(t, ran)
	require.Equal(t, "x", p.Name())
	r.settle(t)
	require.True(t, ran)
	Run(r.th, r, &Desc[*rig]{Name: "empty"}, nil, func(r *rig, err error) { r.over = true })
	r.over = false
	r.settle(t)
}

// TestErrorsWrap: errno of the cause and of every failed cleanup survive.
func TestErrorsWrap(t *testing.T) {
	r := newRig()
	fail := func(err error) func(p *Process[*rig]) { return func(p *Process[*rig]) { p.Fail(err) } }
	child := &Desc[*rig]{Name: "child", Steps: []Step[*rig]{{Name: "read", Action: fail(unix.EILSEQ)}}}
	d := &Desc[*rig]{Name: "startup", Steps: []Step[*rig]{
		{Name: "open", Cleanup: fail(unix.EBUSY)},
		{Name: "load", Action: func(p *Process[*rig]) { p.Call(child) }},
	}}
	Run(r.th, r, d, nil, finished)
	r.settle(t)
	require.ErrorIs(t, r.err, unix.EILSEQ)
	require.ErrorIs(t, r.err, unix.EBUSY)
	require.ErrorContains(t, r.err, "startup: load: read: ")
}

func TestStepEndsTwice(t *testing.T) {
	r := newRig()
	Run(r.th, r, &Desc[*rig]{Name: "x", Steps: []Step[*rig]{{Name: "a", Action: func(p *Process[*rig]) {
		p.Next()
		require.Panics(t, p.Next)
		require.Panics(t, func() { p.Call(&Desc[*rig]{}) })
	}}}}, nil, finished)
	r.settle(t)
}

func TestContexts(t *testing.T) {
	r := newRig()
	child := &Desc[*rig]{Name: "child", Steps: []Step[*rig]{{Name: "a", Action: func(p *Process[*rig]) {
		require.Equal(t, "given", p.ProcessCtx())
		require.Same(t, r, p.Owner())
		require.Same(t, r.th, p.Thread())
		p.Next()
	}}}}
	Run(r.th, r, &Desc[*rig]{Name: "x", New: func() any { return "made" }, Steps: []Step[*rig]{
		{Name: "a", Action: func(p *Process[*rig]) {
			require.Equal(t, "made", p.ProcessCtx())
			require.Nil(t, p.StepCtx())
			p.CallWith(child, "given")
		}},
	}}, nil, finished)
	r.settle(t)
	require.NoError(t, r.err)
}

// TestRandomTables: in any tree of processes with any failures, every action
// that finished is cleaned up exactly once when the whole fails, in reverse
// order, and never when it succeeds.
func TestRandomTables(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig()
		var live []int
		next, failures := 0, 0
		var build func(depth int) *Desc[*rig]
		build = func(depth int) *Desc[*rig] {
			d := &Desc[*rig]{Name: "p"}
			for range 1 + rng.IntN(4) {
				if depth < 3 && rng.IntN(4) == 0 {
					c := build(depth + 1)
					d.Steps = append(d.Steps, Step[*rig]{
						Name: "call", Action: func(p *Process[*rig]) { p.Call(c) }, Cleanup: func(p *Process[*rig]) { p.CallRollback(c) },
					})
					continue
				}
				id := next
				next++
				bad := rng.IntN(12) == 0
				d.Steps = append(d.Steps, Step[*rig]{Name: "s", Action: func(p *Process[*rig]) {
					if bad {
						failures++
						p.Fail(unix.EIO)
						return
					}
					live = append(live, id)
					p.Next()
				}, Cleanup: func(p *Process[*rig]) {
					require.NotEmpty(t, live)
					require.Equal(t, live[len(live)-1], id, "seed %d", seed)
					live = live[:len(live)-1]
					p.Next()
				}})
			}
			return d
		}
		Run(r.th, r, build(0), nil, finished)
		r.settle(t)
		if failures == 0 {
			require.NoError(t, r.err)
			continue
		}
		require.ErrorIs(t, r.err, unix.EIO, "seed %d", seed)
		require.Empty(t, live, "seed %d", seed)
	}
}
