package stack

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/ftlbdev"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/md"
	"goftl/ftl/superblock"
	"goftl/iobuf"
	"goftl/reactor"
	"goftl/thread"
)

// Options say how to open a stack.
type Options struct {
	Place      Place
	Name       string // of a new device
	Create     bool   // make the device when there is none
	ReadOnly   bool
	AcceptLoss bool
	NoVerify   bool
	Buffer     Buffer
	Shm        string // "", "auto", "off" or a directory
	CPU        int    // of the reactor; -1: any
	Mode       reactor.Mode
	Logger     *slog.Logger
	Progress   func(phase string, done, total uint64)
	OnHealth   func(h ftl.Health, err error)
}

// Buffer is the volatile write cache.
type Buffer struct {
	On    bool
	Bytes uint64 // of each IO channel; 0: the default
}

// Stack is a running device with everything under it.
type Stack struct {
	o       Options
	Group   *reactor.Group
	System  *thread.System
	Core    *thread.Thread
	Manager *bdev.Manager
	Specs   Specs
	Cache   *bdev.Bdev
	Base    *bdev.Bdev
	Device  *ftl.Device
	Bdev    *bdev.Bdev
	Desc    *bdev.Desc
	Created bool
	Took    time.Duration // to create or load
	pool    *iobuf.Pool
}

// A killed process holds its files until the kernel is through with its last
// requests, a moment after its end: that is waited for, because what such a
// request still writes must not reach a device that was already recovered.
const (
	busyLimit = 2 * time.Second
	busyRetry = 20 * time.Millisecond
)

// Open builds the stack up to the FTL.
func Open(o Options) (*Stack, error) {
	for began := time.Now(); ; time.Sleep(busyRetry) {
		s, err := open(o)
		if err == nil || !IsBusy(err) || time.Since(began) > busyLimit {
			return s, err
		}
	}
}

func open(o Options) (*Stack, error) {
	s := &Stack{o: o, System: thread.NewSystem()}
	var err error
	if s.Specs, err = o.Place.Resolve(o.Create); err != nil {
		return nil, err
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	if err := s.OnCore(s.openDevices); err != nil {
		return nil, errors.Join(err, s.Close(true))
	}
	if err := s.startFTL(); err != nil {
		return nil, errors.Join(err, s.Close(true))
	}
	return s, nil
}

// run starts the reactor and the core thread.
func (s *Stack) run() error {
	g := reactor.GroupOptions{Count: 1, Mode: s.o.Mode}
	if s.o.CPU >= 0 {
		g.CPUs = []int{s.o.CPU}
	}
	var err error
	if s.Group, err = reactor.NewGroup(g); err != nil {
		return err
	}
	if s.pool, err = iobuf.NewPool(iobuf.Options{}); err != nil {
		return err
	}
	s.Manager = bdev.NewManager(s.System, s.pool)
	s.Core = s.System.NewThread("core")
	s.Group.Reactors()[0].Add(s.Core)
	s.Group.Start()
	return nil
}

// await runs f on the core thread and waits until it calls done.
func (s *Stack) await(f func(done func(error))) error {
	ch := make(chan error, 1)
	s.Core.Send(func(any) { f(func(err error) { ch <- err }) }, nil)
	return <-ch
}

// OnCore runs f on the core thread and waits for its result.
func (s *Stack) OnCore(f func() error) error {
	return s.await(func(done func(error)) { done(f()) })
}

func (s *Stack) openDevices() error {
	for i, text := range []string{s.Specs.Cache, s.Specs.Base} {
		role := [2]string{"cache", "base"}[i]
		name := role
		if sp, err := spec.Parse(text); err == nil && (sp.Kind == "file" || sp.Kind == "zbd") {
			name = sp.Main // errors name the file
		}
		o := spec.Options{Create: s.Specs.Create, Name: name}
		b, err := spec.Create(s.Manager, s.Core, text, o)
		if err != nil && s.o.ReadOnly && cannotWrite(err) {
			// Opened for writing if possible, because that finds out whether
			// somebody has it open; else it is enough to read it.
			b, err = spec.Create(s.Manager, s.Core, text+",readonly=on", o)
		}
		if err != nil {
			return fmt.Errorf("%s device: %w", role, err)
		}
		if i == 0 {
			s.Cache = b
		} else {
			s.Base = b
		}
	}
	return nil
}

// cannotWrite says whether a file could be opened if only for reading.
func cannotWrite(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// startFTL loads the device, or makes one when both devices are blank and that
// is wanted.
func (s *Stack) startFTL() error {
	began := time.Now()
	err := s.start(false)
	if s.o.Create && errors.Is(err, superblock.ErrBlank) && !errors.Is(err, ftl.ErrHalfBlank) {
		s.Created = true
		began = time.Now()
		err = s.start(true)
	}
	s.Took = time.Since(began)
	return err
}

func (s *Stack) start(create bool) error {
	cfg := &ftl.Config{
		Name: s.o.Name, System: s.System, Thread: s.Core, Manager: s.Manager,
		Cache: s.Cache.Name(), Base: s.Base.Name(), Create: create,
		ReadOnly: s.o.ReadOnly, AcceptLoss: s.o.AcceptLoss, NoVerify: s.o.NoVerify,
		VolatileWriteCache: s.o.Buffer.On, WriteBufferBytes: s.o.Buffer.Bytes,
		ShmDir: s.shmDir(), Logger: s.o.Logger, Progress: s.o.Progress, OnHealth: s.o.OnHealth,
	}
	if create {
		cfg.UUID, cfg.CreatedNs = uuid.New(), time.Now().UnixNano()
		cfg.SizeBytes, cfg.SparePct = s.o.Place.UserSize(), s.o.Place.SparePct
	}
	return s.await(func(done func(error)) {
		ftl.Start(cfg, func(d *ftl.Device, err error) {
			s.Device = d
			done(err)
		})
	})
}

func (s *Stack) shmDir() string {
	switch s.o.Shm {
	case "off":
		return ""
	case "", "auto":
		return md.ShmDir("", 0)
	}
	return s.o.Shm
}

// Export makes a block device of the FTL and opens it.
func (s *Stack) Export(name string) error {
	return s.OnCore(func() error {
		b, err := s.Manager.Register(ftlbdev.New(name, s.Device))
		if err != nil {
			return err
		}
		s.Bdev = b
		s.Desc, err = s.Manager.Open(name, !s.o.ReadOnly, nil, nil, s.Core)
		return err
	})
}

// Close stops the device and gives everything back. A fast stop writes no
// checkpoint.
func (s *Stack) Close(fast bool) error {
	var errs []error
	if s.Bdev != nil {
		errs = append(errs, s.await(func(done func(error)) {
			if s.Desc != nil {
				s.Desc.Close()
			}
			s.Bdev.Unregister(s.Core, func(_ any, err error) { done(err) }, nil)
		}))
	}
	if s.Device != nil {
		errs = append(errs, s.await(func(done func(error)) { s.Device.Stop(fast, done) }))
	}
	for _, b := range []*bdev.Bdev{s.Cache, s.Base} {
		if b != nil {
			errs = append(errs, s.await(func(done func(error)) {
				b.Unregister(s.Core, func(_ any, err error) { done(err) }, nil)
			}))
		}
	}
	errs = append(errs, s.Group.ExitThreads())
	s.Group.Stop()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.pool.Close()
	return nil
}

// Wipe overwrites both superblocks and what surrounds them with zeroes, so that
// the devices count as empty.
func Wipe(o Options) error {
	s := &Stack{o: o, System: thread.NewSystem()}
	var err error
	if s.Specs, err = o.Place.Resolve(false); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	err = s.OnCore(s.openDevices)
	for _, b := range []*bdev.Bdev{s.Cache, s.Base} {
		if err == nil {
			err = s.wipe(b)
		}
	}
	return errors.Join(err, s.Close(true))
}

// wipeFront and wipeBack are the blocks in which a new device looks for data of
// somebody else, see ftl.
const (
	wipeFront = 256
	wipeBack  = 16
)

// wiper zeroes the front and the end of a device, then flushes.
type wiper struct {
	desc *bdev.Desc
	ch   *bdev.Channel
	step int
	done func(error)
}

func (s *Stack) wipe(b *bdev.Bdev) error {
	return s.await(func(done func(error)) {
		w := &wiper{done: done}
		var err error
		if w.desc, err = s.Manager.Open(b.Name(), true, nil, nil, s.Core); err != nil {
			done(err)
			return
		}
		if w.ch, err = w.desc.Channel(s.Core); err != nil {
			w.desc.Close()
			done(err)
			return
		}
		w.next(nil)
	})
}

// next starts the next step, or ends after the last or an error.
func (w *wiper) next(err error) {
	blocks := w.desc.Bdev().Info().Blocks
	done := func(io *bdev.IO) { w.next(io.Err()) }
	if err == nil && w.step < 3 {
		w.step++
		switch w.step {
		case 1:
			err = w.ch.WriteZeroes(0, min(wipeFront, blocks), done, nil)
		case 2:
			err = w.ch.WriteZeroes(blocks-min(wipeBack, blocks), min(wipeBack, blocks), done, nil)
		default:
			err = w.ch.Flush(done, nil)
		}
		if err == nil {
			return
		}
	}
	w.ch.Put()
	w.desc.Close()
	w.done(err)
}

// IsBusy says whether err means that another process has the device.
func IsBusy(err error) bool { return errors.Is(err, unix.EBUSY) }
