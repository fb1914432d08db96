package thread

import (
	"reflect"
	"sync/atomic"

	"goftl/internal/assert"
)

// System is the registry of the threads and io_devices that can reach each other. It is safe from any goroutine. Its
// lists are replaced, never changed, so reading them takes no lock.
type System struct {
	threads atomic.Pointer[[]*Thread]
	devices atomic.Pointer[[]*IODevice]
	ids     atomic.Uint64
}

// NewSystem returns an empty registry.
func NewSystem() *System {
	s := &System{}
	s.threads.Store(&[]*Thread{})
	s.devices.Store(&[]*IODevice{})
	return s
}

// NewThread makes a thread. It runs nothing until something polls it.
func (s *System) NewThread(name string) *Thread {
	t := &Thread{sys: s, name: name, id: s.ids.Add(1)}
	t.in.init()
	for {
		old := s.threads.Load()
		list := append(append(make([]*Thread, 0, len(*old)+1), *old...), t)
		if s.threads.CompareAndSwap(old, &list) {
			return t
		}
	}
}

// Threads returns the threads that have not exited, oldest first. The slice must not be changed.
func (s *System) Threads() []*Thread { return *s.threads.Load() }

// IODevices returns the registered devices, oldest first. The slice must not be changed.
func (s *System) IODevices() []*IODevice { return *s.devices.Load() }

func without[T comparable](list []T, gone T) []T {
	kept := make([]T, 0, len(list))
	for _, x := range list {
		if x != gone {
			kept = append(kept, x)
		}
	}
	return kept
}

func (s *System) removeThread(t *Thread) {
	for {
		old := s.threads.Load()
		list := without(*old, t)
		if s.threads.CompareAndSwap(old, &list) {
			return
		}
	}
}

func (s *System) addDevice(d *IODevice) error {
	assert.That(d.owner == nil || reflect.TypeOf(d.owner).Comparable(), "thread: owner of an io_device cannot be compared")
	for {
		old := s.devices.Load()
		for _, other := range *old {
			if d.owner != nil && other.owner == d.owner {
				return errRegistered
			}
		}
		list := append(append(make([]*IODevice, 0, len(*old)+1), *old...), d)
		if s.devices.CompareAndSwap(old, &list) {
			return nil
		}
	}
}

func (s *System) removeDevice(d *IODevice) {
	for {
		old := s.devices.Load()
		list := without(*old, d)
		if s.devices.CompareAndSwap(old, &list) {
			return
		}
	}
}
