package target

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/bdev"
	"goftl/reactor"
	"goftl/thread"
)

// Placement says where jobs run.
type Placement struct {
	CPUs    []int // one pinned reactor each; empty: Threads that are not pinned
	Threads int
	Mode    reactor.Mode

	Prefault bool // write devices in memory once before anything else
}

// Target is an open target.
type Target interface {
	// Info says what it is. It does not change while the target is open.
	Info() Info
	// Lanes are the threads that jobs may run on.
	Lanes() []*thread.Thread
	// On returns what a job on that lane is started with.
	On(lane int) job.Target
	// Where says in words what the jobs run on.
	Where() string
	// Close releases everything. No job is running.
	Close() error
}

// machine is a set of reactors with one thread each, and the block devices.
type machine struct {
	system  *thread.System
	group   *reactor.Group
	manager *bdev.Manager
	threads []*thread.Thread
	where   string
}

func newMachine(p Placement) (*machine, error) {
	g, err := reactor.NewGroup(reactor.GroupOptions{CPUs: p.CPUs, Count: p.Threads, Mode: p.Mode})
	if err != nil {
		return nil, err
	}
	m := &machine{system: thread.NewSystem(), group: g, where: place(p, len(g.Reactors()))}
	m.manager = bdev.NewManager(m.system, nil)
	for i, r := range g.Reactors() {
		t := m.system.NewThread(fmt.Sprintf("perf%d", i))
		r.Add(t)
		m.threads = append(m.threads, t)
	}
	g.Start()
	return m, nil
}

func place(p Placement, n int) string {
	cores := "1 core"
	if n != 1 {
		cores = fmt.Sprintf("%d cores", n)
	}
	if len(p.CPUs) > 0 {
		cores += " (CPU " + strings.Trim(fmt.Sprint(p.CPUs), "[]") + ")"
	}
	return fmt.Sprintf("%s, %v mode", cores, p.Mode)
}

// on runs fn on a thread and waits until it returned.
func (m *machine) on(t *thread.Thread, fn func() error) error {
	done := make(chan error, 1)
	t.Send(func(any) { done <- fn() }, nil)
	return <-done
}

// await runs fn on a thread and waits until it called its argument, once.
func (m *machine) await(t *thread.Thread, fn func(done func(error))) error {
	done := make(chan error, 1)
	t.Send(func(any) { fn(func(err error) { done <- err }) }, nil)
	return <-done
}

// Busy returns how long the threads have been working since they were made.
func (m *machine) Busy() time.Duration {
	total := int64(0)
	for _, t := range m.threads {
		_ = m.on(t, func() error { total += t.BusyTime(); return nil })
	}
	return time.Duration(total)
}

// errHangs is returned when a device does not go away.
var errHangs = fmt.Errorf("a device did not close within %v: %w", closeLimit, unix.ETIMEDOUT)

const closeLimit = 10 * time.Second

// unregister removes every block device, last made first, so that wrappers go
// before what they wrap.
func (m *machine) unregister() error {
	var errs []error
	all := m.manager.All()
	for i := len(all) - 1; i >= 0; i-- {
		b := all[i]
		if m.manager.Lookup(b.Name()) == nil {
			continue // went with its wrapper
		}
		done := make(chan error, 1)
		m.threads[0].Send(func(any) {
			b.Unregister(m.threads[0], func(_ any, err error) { done <- err }, nil)
		}, nil)
		select {
		case err := <-done:
			if !errors.Is(err, unix.EALREADY) { // a wrapper takes what it owns along
				errs = append(errs, err)
			}
		case <-time.After(closeLimit):
			errs = append(errs, fmt.Errorf("%s: %w", b.Name(), errHangs))
		}
	}
	for end := time.Now().Add(closeLimit); len(m.manager.All()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			errs = append(errs, fmt.Errorf("%s: %w", m.manager.All()[0].Name(), errHangs))
			break
		}
	}
	return errors.Join(errs...)
}

func (m *machine) close() error {
	err := errors.Join(m.unregister(), m.group.ExitThreads())
	m.group.Stop()
	return err
}
