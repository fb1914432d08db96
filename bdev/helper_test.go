package bdev_test

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/bdev/null"
	"goftl/iobuf"
	"goftl/thread"
)

// env drives threads by hand with a clock that moves one microsecond a turn.
type env struct {
	t       testing.TB
	sys     *thread.System
	m       *bdev.Manager
	th      *thread.Thread
	threads []*thread.Thread
	now     int64
}

func newEnv(t testing.TB, pool *iobuf.Pool) *env {
	e := &env{t: t, sys: thread.NewSystem()}
	e.m = bdev.NewManager(e.sys, pool)
	e.th = e.thread("main")
	return e
}

func (e *env) thread(name string) *thread.Thread {
	t := e.sys.NewThread(name)
	e.threads = append(e.threads, t)
	e.turn()
	return t
}

func (e *env) turn() {
	e.now += 1000
	for _, t := range e.threads {
		t.Poll(0, e.now)
	}
}

func (e *env) turns(n int) {
	for range n {
		e.turn()
	}
}

func (e *env) until(what string, cond func() bool) {
	e.t.Helper()
	for range 1_000_000 {
		if cond() {
			return
		}
		e.turn()
	}
	e.t.Fatalf("never came true: %s", what)
}

func (e *env) register(d bdev.Driver) *bdev.Bdev {
	e.t.Helper()
	b, err := e.m.Register(d)
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

func (e *env) malloc(o malloc.Options) *bdev.Bdev {
	e.t.Helper()
	d, err := malloc.New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	return e.register(d)
}

func (e *env) null(name string, blocks uint64) *bdev.Bdev {
	e.t.Helper()
	return e.register(null.New(null.Options{Name: name, Blocks: blocks}))
}

func (e *env) open(name string, t *thread.Thread) (*bdev.Desc, *bdev.Channel) {
	e.t.Helper()
	d, err := e.m.Open(name, true, nil, nil, t)
	if err != nil {
		e.t.Fatal(err)
	}
	c, err := d.Channel(t)
	if err != nil {
		e.t.Fatal(err)
	}
	return d, c
}

// result is the Ctx of a test's IO.
type result struct {
	n   int
	err error
	at  uint64
}

func finished(io *bdev.IO) {
	r := io.Ctx.(*result)
	r.n++
	r.err = io.Err()
	r.at = io.Result
}

// do submits one IO and returns how it ended.
func (e *env) do(submit func(done bdev.DoneFunc, ctx any) error) error {
	e.t.Helper()
	r := &result{}
	if err := submit(finished, r); err != nil {
		return err
	}
	if r.n != 0 {
		e.t.Fatal("completed inside submit")
	}
	e.until("IO done", func() bool { return r.n > 0 })
	return r.err
}
