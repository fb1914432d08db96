package stack

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	Config     ftl.Config // how the device is tuned
	Name       string     // of a new device
	Create     bool       // make the device when there is none
	ReadOnly   bool
	AcceptLoss bool
	// RewriteSuperblock: see ftl.Config.
	RewriteSuperblock bool
	NoVerify          bool
	Shm               string // "", "auto", "off" or a directory
	CPU               int    // of the reactor; -1: any
	Mode              reactor.Mode
	Logger            *slog.Logger
	Progress          func(phase string, done, total uint64)
	OnHealth          func(h ftl.Health, err error)
	// Remember is called before anything of a new device is written, with the
	// specs of its devices; Forget after it could not be made.
	Remember func() error
	Forget   func()
	// Cancel, if set, ends the start of the device when it is closed:
	// ftl.ErrCancelled. What was there is as it was.
	Cancel <-chan struct{}
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
	noted   bool          // Remember was called
	made    []string      // files that did not exist before
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
	s := &Stack{o: o}
	var err error
	if s.Specs, err = o.Place.Resolve(o.Create, &o.Config); err != nil {
		return nil, err
	}
	if s.Specs.Create {
		// Files and zones are not made for a device that cannot be.
		if _, err := planOf(s.Specs, &o); err != nil {
			return nil, err
		}
		if err := s.remember(); err != nil {
			return nil, err
		}
	}
	if err := s.run(); err != nil {
		return nil, s.failed(err)
	}
	if err := s.OnCore(s.openDevices); err != nil {
		return nil, s.unmake(err)
	}
	if err := s.startFTL(); err != nil {
		return nil, s.unmake(err)
	}
	return s, nil
}

// unmake ends a stack that could not be opened and removes the files that it
// made, while they are still locked: nobody else can have begun to use them.
func (s *Stack) unmake(err error) error {
	if s.Device == nil && !IsBusy(err) && !errors.Is(err, unix.EEXIST) { // else somebody else may just be making the device
		for _, path := range s.made {
			if rm := os.Remove(path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
				err = errors.Join(err, rm)
			}
		}
	}
	return s.failed(errors.Join(err, s.Close(true)))
}

// remember notes how the device is made, so that a later start knows.
func (s *Stack) remember() error {
	if s.noted || s.o.Remember == nil {
		return nil
	}
	s.noted = true
	return s.o.Remember()
}

// failed takes that back.
func (s *Stack) failed(err error) error {
	if s.noted && s.o.Forget != nil {
		s.o.Forget()
	}
	return err
}

// run starts the reactor and the core thread.
func (s *Stack) run() error {
	g := reactor.GroupOptions{Count: 1, Mode: s.o.Mode}
	if s.o.CPU >= 0 {
		g.CPUs = []int{s.o.CPU}
	}
	s.System = thread.NewSystem()
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
	role := "cache"
	if s.Specs.NoCache {
		role = "metadata"
	}
	var err error
	if s.Specs.Cache != "" {
		if s.Cache, err = s.openDevice(role, s.Specs.Cache); err != nil {
			return err
		}
	}
	s.Base, err = s.openDevice("base", s.Specs.Base)
	return err
}

// noteMade notes a file that is made with the device that stands on it.
func (s *Stack) noteMade(sp *spec.Spec) {
	for ; sp != nil && s.Specs.Create; sp = sp.Base {
		if sp.Kind != "file" {
			continue
		}
		if _, err := os.Lstat(sp.Main); errors.Is(err, os.ErrNotExist) {
			s.made = append(s.made, sp.Main)
		}
	}
}

func (s *Stack) openDevice(role, text string) (*bdev.Bdev, error) {
	name := role
	if sp, err := spec.Parse(text); err == nil {
		name = nameOf(sp, role)
		s.noteMade(sp)
	}
	o := spec.Options{Create: s.Specs.Create, Name: name}
	b, err := spec.Create(s.Manager, s.Core, text, o)
	if err != nil && s.o.ReadOnly && cannotWrite(err) {
		// Opened for writing if possible, because that finds out whether
		// somebody has it open; else it is enough to read it.
		b, err = spec.Create(s.Manager, s.Core, text+",readonly=on", o)
	}
	if err != nil {
		return nil, fmt.Errorf("%s device: %w", role, err)
	}
	return b, nil
}

// nameOf names a device after the file that it stands on, so that errors name
// the file.
func nameOf(sp *spec.Spec, otherwise string) string {
	for ; sp != nil; sp = sp.Base {
		if sp.Kind == "file" || sp.Kind == "zbd" {
			return sp.Main
		}
	}
	return otherwise
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
		if err = s.remember(); err != nil {
			return err
		}
		s.Created = true
		began = time.Now()
		err = s.start(true)
	}
	s.Took = time.Since(began)
	return err
}

func (s *Stack) start(create bool) error {
	c := s.o.Config
	cfg := &c
	cfg.Name, cfg.System, cfg.Thread, cfg.Manager = s.o.Name, s.System, s.Core, s.Manager
	cfg.NoCache, cfg.Base, cfg.Create = s.Specs.NoCache, s.Base.Name(), create
	if s.Cache != nil {
		cfg.Cache = s.Cache.Name()
	}
	cfg.ReadOnly, cfg.AcceptLoss, cfg.NoVerify = s.o.ReadOnly, s.o.AcceptLoss, s.o.NoVerify
	cfg.RewriteSuperblock = s.o.RewriteSuperblock
	cfg.ShmDir, cfg.Logger, cfg.Progress, cfg.OnHealth = s.shmDir(), s.o.Logger, s.o.Progress, s.o.OnHealth
	if create {
		cfg.UUID, cfg.CreatedNs = uuid.New(), time.Now().UnixNano()
		cfg.SizeBytes = s.o.Place.UserSize()
	}
	over := make(chan struct{})
	defer close(over)
	return s.await(func(done func(error)) {
		starting := ftl.Start(cfg, func(d *ftl.Device, err error) {
			s.Device = d
			done(err)
		})
		go func() {
			select {
			case <-s.o.Cancel:
				s.Core.Send(func(any) { starting.Cancel() }, nil)
			case <-over:
			}
		}()
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
			errs = append(errs, s.unregister(b))
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

func (s *Stack) unregister(b *bdev.Bdev) error {
	return s.await(func(done func(error)) {
		b.Unregister(s.Core, func(_ any, err error) { done(err) }, nil)
	})
}

// IsBusy says whether err means that another process has the device.
func IsBusy(err error) bool { return errors.Is(err, unix.EBUSY) }
