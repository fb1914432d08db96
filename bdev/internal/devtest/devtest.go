// Package devtest drives block devices by hand in tests: one goroutine polls
// the threads in turn with a clock that moves one microsecond a turn.
package devtest

import (
	"testing"

	"goftl/bdev"
	"goftl/bdev/malloc"
	"goftl/thread"
)

// Env is a set of threads and a registry of devices.
type Env struct {
	T       testing.TB
	Sys     *thread.System
	M       *bdev.Manager
	Main    *thread.Thread
	Now     int64
	threads []*thread.Thread
}

// New makes an Env with one thread.
func New(t testing.TB) *Env {
	e := &Env{T: t, Sys: thread.NewSystem()}
	e.M = bdev.NewManager(e.Sys, nil)
	e.Main = e.Thread("main")
	return e
}

// Thread adds a thread.
func (e *Env) Thread(name string) *thread.Thread {
	t := e.Sys.NewThread(name)
	e.threads = append(e.threads, t)
	e.Turn(1)
	return t
}

// Turn polls every thread n times.
func (e *Env) Turn(n int) {
	for range n {
		e.Now += 1000
		for _, t := range e.threads {
			t.Poll(0, e.Now)
		}
	}
}

// Until polls until cond is true.
func (e *Env) Until(what string, cond func() bool) {
	e.T.Helper()
	for range 1_000_000 {
		if cond() {
			return
		}
		e.Turn(1)
	}
	e.T.Fatalf("never came true: %s", what)
}

// Malloc registers a device in memory with blocks of 4 KiB.
func (e *Env) Malloc(name string, blocks uint64, md uint32) *malloc.Driver {
	e.T.Helper()
	d, err := malloc.New(malloc.Options{Name: name, Blocks: blocks, MDSize: md})
	if err != nil {
		e.T.Fatal(err)
	}
	if _, err := e.M.Register(d); err != nil {
		e.T.Fatal(err)
	}
	return d
}

// Open opens a device for write and gets a channel of t.
func (e *Env) Open(name string, t *thread.Thread) (*bdev.Desc, *bdev.Channel) {
	e.T.Helper()
	d, err := e.M.Open(name, true, nil, nil, t)
	if err != nil {
		e.T.Fatal(err)
	}
	c, err := d.Channel(t)
	if err != nil {
		e.T.Fatal(err)
	}
	return d, c
}

// Result is how an IO ended.
type Result struct {
	N     int // times that it ended
	Err   error
	Value uint64 // IO.Result
}

// Done is the DoneFunc of an IO whose Ctx is a *Result.
func Done(io *bdev.IO) {
	r := io.Ctx.(*Result)
	r.N++
	r.Err = io.Err()
	r.Value = io.Result
}

// Do submits one IO and polls until it ended.
func (e *Env) Do(submit func(done bdev.DoneFunc, ctx any) error) *Result {
	e.T.Helper()
	r := &Result{}
	if err := submit(Done, r); err != nil {
		r.Err = err
		return r
	}
	e.Until("IO ended", func() bool { return r.N > 0 })
	return r
}

// Write writes blocks that are full of one byte.
func (e *Env) Write(c *bdev.Channel, lba, count uint64, fill byte) error {
	e.T.Helper()
	buf := make([]byte, count*4096)
	for i := range buf {
		buf[i] = fill
	}
	return e.Do(func(d bdev.DoneFunc, x any) error { return c.Write(buf, lba, count, d, x) }).Err
}

// Read reads blocks.
func (e *Env) Read(c *bdev.Channel, lba, count uint64) ([]byte, error) {
	e.T.Helper()
	buf := make([]byte, count*4096)
	for i := range buf {
		buf[i] = 0xEE
	}
	r := e.Do(func(d bdev.DoneFunc, x any) error { return c.Read(buf, lba, count, d, x) })
	return buf, r.Err
}

// End unregisters a device and waits for its end.
func (e *Env) End(name string) {
	e.T.Helper()
	ended := false
	e.M.Lookup(name).Unregister(e.Main, func(_ any, err error) {
		if err != nil {
			e.T.Error(err)
		}
		ended = true
	}, nil)
	e.Until("device ended", func() bool { return ended })
	e.Turn(10)
}
