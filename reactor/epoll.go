package reactor

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/thread"
)

const maxEvents = 64 // collected by one look

// watch is a watched file descriptor. The kernel keeps its index and generation, never a pointer.
type watch struct {
	seat   *seat
	fd     int
	events uint32
	fn     thread.FDFunc
	arg    any
	index  int32 // in epoll.watches
	gen    int32
	closed bool
}

// epoll is a reactor's access to the kernel's epoll, with the eventfd that wakes it.
type epoll struct {
	fd      int
	bellFD  int
	bell    watch
	watches []*watch // nil: free
	free    []int32
	gen     int32
	watched int // watches in use, the bell not counted
	coarse  bool

	// Read and written by the kernel, so they live here and not on a stack.
	events [maxEvents]unix.EpollEvent
	until  unix.Timespec
	count  [8]byte
	one    [8]byte
}

func (p *epoll) open() error {
	var err error
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if p.bellFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.fd)
		return fmt.Errorf("eventfd: %w", err)
	}
	binary.NativeEndian.PutUint64(p.one[:], 1)
	p.bell.fd, p.bell.events = p.bellFD, unix.EPOLLIN|unix.EPOLLET // each ring is an event, so nobody reads the count
	if err = p.add(&p.bell); err != nil {
		p.close()
		return err
	}
	p.watched = 0
	// Kernels before 5.11 and some sandboxes know milliseconds only.
	_, errno := p.enter(true, 0)
	p.coarse = errno != 0 && errno != unix.EINTR
	return nil
}

func (p *epoll) close() {
	if p.fd < 0 {
		return
	}
	_ = unix.Close(p.fd)
	_ = unix.Close(p.bellFD)
	p.fd, p.bellFD = -1, -1
}

// ring wakes the reactor. Any goroutine.
func (p *epoll) ring() {
	for {
		_, err := unix.Write(p.bellFD, p.one[:])
		if err != unix.EINTR {
			return // the counter cannot overflow: each sleep is rung at most once
		}
	}
}

// unring returns how many times the bell was rung since the last call.
func (p *epoll) unring() int {
	n, err := unix.Read(p.bellFD, p.count[:])
	if err != nil || n != len(p.count) {
		return 0
	}
	return int(binary.NativeEndian.Uint64(p.count[:]))
}

func (p *epoll) add(w *watch) error {
	if n := len(p.free); n > 0 {
		w.index = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		w.index = int32(len(p.watches))
		p.watches = append(p.watches, nil)
	}
	p.gen++
	w.gen = p.gen
	ev := unix.EpollEvent{Events: w.events, Fd: w.index, Pad: w.gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, w.fd, &ev); err != nil {
		p.free = append(p.free, w.index)
		return fmt.Errorf("watch fd %d: %w", w.fd, err)
	}
	p.watches[w.index] = w
	p.watched++
	return nil
}

func (p *epoll) modify(w *watch) error {
	ev := unix.EpollEvent{Events: w.events, Fd: w.index, Pad: w.gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, w.fd, &ev); err != nil {
		return fmt.Errorf("watch fd %d: %w", w.fd, err)
	}
	return nil
}

// remove forgets a watch; events of it that were collected already are not delivered.
func (p *epoll) remove(w *watch) error {
	if p.fd < 0 {
		return nil
	}
	p.watches[w.index] = nil
	p.free = append(p.free, w.index)
	p.watched--
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, w.fd, nil); err != nil {
		return fmt.Errorf("unwatch fd %d: %w", w.fd, err)
	}
	return nil
}

// event returns the i-th event collected, nil when its watch has gone.
func (p *epoll) event(i int) (*watch, uint32) {
	ev := &p.events[i]
	if int(ev.Fd) >= len(p.watches) {
		return nil, 0
	}
	w := p.watches[ev.Fd]
	if w == nil || w.gen != ev.Pad {
		return nil, 0
	}
	return w, ev.Events
}

// look collects events without waiting. It does not tell the scheduler, which costs more than the call.
func (p *epoll) look() int {
	n, errno := p.enter(true, 0)
	if errno != 0 {
		return 0
	}
	return n
}

// wait collects events, waiting for at most d, MaxInt64 for as long as it takes.
func (p *epoll) wait(d time.Duration) int {
	n, errno := p.enter(false, d)
	if errno != 0 {
		return 0 // EINTR: the loop comes back
	}
	return n
}

func (p *epoll) enter(raw bool, d time.Duration) (int, syscall.Errno) {
	var n uintptr
	var errno syscall.Errno
	events := uintptr(unsafe.Pointer(&p.events[0]))
	if p.coarse {
		ms := -1
		if d != math.MaxInt64 {
			ms = int(min((d+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
		}
		if raw {
			n, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), events, maxEvents, uintptr(ms), 0, 8)
		} else {
			n, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), events, maxEvents, uintptr(ms), 0, 8)
		}
		return int(n), errno
	}
	var until uintptr
	if d != math.MaxInt64 {
		p.until = unix.NsecToTimespec(int64(d))
		until = uintptr(unsafe.Pointer(&p.until))
	}
	if raw {
		n, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), events, maxEvents, until, 0, 8)
	} else {
		n, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), events, maxEvents, until, 0, 8)
	}
	return int(n), errno
}

// pause sleeps for d whatever happens.
func (p *epoll) pause(d time.Duration) {
	p.until = unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&p.until, nil)
}

// offer lets another thread have the core if Linux thinks that it is its turn, and comes back at once if not. The
// scheduler of Go is told, so that a stop of the world need not wait for this goroutine meanwhile.
func offer() { _, _, _ = syscall.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
