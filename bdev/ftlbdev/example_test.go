package ftlbdev_test

import (
	"bytes"
	"fmt"
	"log"
	"time"

	"github.com/google/uuid"

	"goftl/bdev"
	"goftl/bdev/ftlbdev"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/iobuf"
	"goftl/reactor"
	"goftl/thread"
)

// Example makes an FTL over two devices in memory, writes a block, makes it
// durable, reads it back and stops cleanly. The thread runs in this goroutine
// (reactor.Drive); a server gives it to a reactor.Group instead and talks to it
// by Thread.Send.
func Example() {
	sys := thread.NewSystem()
	core := sys.NewThread("core")
	m := bdev.NewManager(sys, nil)

	// wait starts something and runs the thread until it has called done.
	wait := func(start func(done func(error))) {
		var err error
		over := false
		start(func(e error) { err, over = e, true })
		if !reactor.Drive(core, func() bool { return over }, time.Minute) {
			log.Fatal("nothing came back within a minute")
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}

	cache, err := spec.Create(m, core, "malloc:64MiB,md=64", spec.Options{Name: "cache"})
	must(err)
	base, err := spec.Create(m, core, "malloc:256MiB", spec.Options{Name: "base"})
	must(err)
	var dev *ftl.Device
	wait(func(done func(error)) {
		ftl.Start(&ftl.Config{
			System: sys, Thread: core, Manager: m, Cache: "cache", Base: "base",
			Create: true, Name: "example", UUID: uuid.New(), SizeBytes: 128 << 20,
		}, func(d *ftl.Device, err error) { dev = d; done(err) })
	})

	// From here on it is a block device like any other.
	disk, err := m.Register(ftlbdev.New("ftl0", dev))
	must(err)
	desc, err := m.Open("ftl0", true, nil, nil, core)
	must(err)
	ch, err := desc.Channel(core)
	must(err)
	out, in := iobuf.Alloc(4096), iobuf.Alloc(4096) // aligned, off the Go heap
	copy(out, "hello, flash")
	do := func(submit func(done bdev.DoneFunc) error) {
		wait(func(done func(error)) { must(submit(func(io *bdev.IO) { done(io.Err()) })) })
	}
	do(func(done bdev.DoneFunc) error { return ch.Write(out, 7, 1, done, nil) })
	do(func(done bdev.DoneFunc) error { return ch.Flush(done, nil) })
	do(func(done bdev.DoneFunc) error { return ch.Read(in, 7, 1, done, nil) })
	fmt.Println(dev.Blocks(), "blocks;", bytes.Equal(in, out), string(in[:12]))

	// Down again, in the opposite order.
	ch.Put()
	desc.Close()
	gone := func(b *bdev.Bdev) {
		wait(func(done func(error)) { b.Unregister(core, func(_ any, err error) { done(err) }, nil) })
	}
	gone(disk)
	wait(func(done func(error)) { dev.Stop(false, done) })
	gone(cache)
	gone(base)
	core.Exit()
	reactor.Drive(core, core.Exited, time.Minute)
	must(core.ExitErr())
	// Output: 32768 blocks; true hello, flash
}
