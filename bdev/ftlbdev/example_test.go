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

// store is an FTL over two devices in memory, opened as a block device.
type store struct {
	core  *thread.Thread
	m     *bdev.Manager
	group *reactor.Group
	dev   *ftl.Device
	desc  *bdev.Desc
	ch    *bdev.Channel
}

// wait runs f on the core thread, which owns everything here, and waits until f
// has called done. A program that lives on its own thread.Thread needs no wait.
func (s *store) wait(f func(done func(error))) {
	ch := make(chan error, 1)
	s.core.Send(func(any) { f(func(err error) { ch <- err }) }, nil)
	if err := <-ch; err != nil {
		log.Fatal(err)
	}
}

// start makes the reactor, the two devices and the FTL.
func (s *store) start() {
	var err error
	if s.group, err = reactor.NewGroup(reactor.GroupOptions{Count: 1}); err != nil {
		log.Fatal(err)
	}
	sys := thread.NewSystem()
	s.core = sys.NewThread("core")
	s.group.Add(s.core)
	s.group.Start()
	s.m = bdev.NewManager(sys, nil)
	s.wait(func(done func(error)) {
		for name, text := range map[string]string{"cache": "malloc:64MiB,md=64", "base": "malloc:256MiB"} {
			if _, err := spec.Create(s.m, s.core, text, spec.Options{Name: name}); err != nil {
				done(err)
				return
			}
		}
		ftl.Start(&ftl.Config{
			System: sys, Thread: s.core, Manager: s.m, Cache: "cache", Base: "base",
			Create: true, Name: "example", UUID: uuid.New(), CreatedNs: time.Now().UnixNano(), SizeBytes: 128 << 20,
		}, func(d *ftl.Device, err error) {
			s.dev = d
			done(err)
		})
	})
}

// open makes a block device of the FTL, and a channel to it.
func (s *store) open() {
	s.wait(func(done func(error)) {
		_, err := s.m.Register(ftlbdev.New("ftl0", s.dev))
		if err == nil {
			s.desc, err = s.m.Open("ftl0", true, nil, nil, s.core)
		}
		if err == nil {
			s.ch, err = s.desc.Channel(s.core)
		}
		done(err)
	})
}

// do submits one IO and waits for it.
func (s *store) do(submit func(done bdev.DoneFunc) error) {
	s.wait(func(done func(error)) {
		if err := submit(func(io *bdev.IO) { done(io.Err()) }); err != nil {
			done(err) // refused: done will not be called for it
		}
	})
}

// stop takes everything down in the order opposite to that of its making.
func (s *store) stop() {
	s.wait(func(done func(error)) {
		s.ch.Put()
		s.desc.Close()
		s.m.Lookup("ftl0").Unregister(s.core, func(_ any, err error) { done(err) }, nil)
	})
	s.wait(func(done func(error)) { s.dev.Stop(false, done) })
	for _, name := range []string{"cache", "base"} {
		s.wait(func(done func(error)) {
			s.m.Lookup(name).Unregister(s.core, func(_ any, err error) { done(err) }, nil)
		})
	}
	if err := s.group.ExitThreads(); err != nil {
		log.Fatal(err)
	}
	s.group.Stop()
}

// Example writes a block, makes it durable, reads it back, and stops cleanly.
func Example() {
	var s store
	s.start()
	s.open()

	out, in := iobuf.Alloc(4096), iobuf.Alloc(4096)
	copy(out, "hello, flash")
	s.do(func(done bdev.DoneFunc) error { return s.ch.Write(out, 7, 1, done, nil) })
	s.do(func(done bdev.DoneFunc) error { return s.ch.Flush(done, nil) })
	s.do(func(done bdev.DoneFunc) error { return s.ch.Read(in, 7, 1, done, nil) })
	fmt.Println(s.dev.Blocks(), "blocks,", bytes.Equal(in, out), string(in[:12]))
	iobuf.Free(out)
	iobuf.Free(in)

	s.stop()
	// Output: 32768 blocks, true hello, flash
}
