package zone

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// Errors of zones.
var (
	ErrFull       error = bdev.NewError(unix.ENOSPC, "zone: not so much room left in the zone")
	ErrPosition   error = bdev.NewError(unix.EINVAL, "zone: write that is not at the write pointer")
	ErrTransition error = bdev.NewError(unix.EINVAL, "zone: not possible in this state of the zone")
	ErrReadOnly   error = bdev.NewError(unix.EROFS, "zone: the zone is read-only")
	ErrOffline    error = bdev.NewError(unix.ENXIO, "zone: the zone is offline")
	ErrOpen       error = bdev.NewError(unix.ETOOMANYREFS, "zone: too many open zones")
	ErrReset      error = bdev.NewError(unix.EIO, "zone: the reset failed, the zone is offline")
	ErrActive     error = bdev.NewError(unix.EOVERFLOW, "zone: too many active zones")
)

// word is the state of a zone, the generation that a reset ends, and the write
// pointer, counted from the zone's start. While a zone is reset nothing else
// is done with it.
type word uint64

const (
	wpBits         = 32
	genBits        = 24
	resetting word = 1 << 63
)

func makeWord(s bdev.ZoneState, gen uint32, wp uint64) word {
	return word(uint64(s)<<(wpBits+genBits) | uint64(gen)<<wpBits | wp)
}

func (w word) state() bdev.ZoneState { return bdev.ZoneState(w &^ resetting >> (wpBits + genBits)) }
func (w word) gen() uint32           { return uint32(w>>wpBits) & (1<<genBits - 1) }
func (w word) wp() uint64            { return uint64(w) & (1<<wpBits - 1) }

// to is the word in another state, with another write pointer.
func (w word) to(s bdev.ZoneState, wp uint64) word { return makeWord(s, w.gen(), wp) }

func isOpen(s bdev.ZoneState) bool {
	return s == bdev.ZoneImplicitOpen || s == bdev.ZoneExplicitOpen
}

func isActive(s bdev.ZoneState) bool { return isOpen(s) || s == bdev.ZoneClosed }

type zone struct{ w atomic.Uint64 }

// machine is the zones of a device and how many of them are open and active.
type machine struct {
	zones     []zone
	blocks    uint64 // size of a zone
	capacity  uint64 // usable blocks of one with a write pointer
	conv      uint64 // so many at the beginning have none
	maxOpen   uint64 // 0: no limit
	maxActive uint64
	used      atomic.Uint64 // open<<32 | active
	cursor    atomic.Uint64 // where the search for a zone to close begins
}

func (m *machine) load(i uint64) word { return word(m.zones[i].w.Load()) }

// become changes a zone from what it was to what it is to be, and the numbers
// with it. It returns false when the zone is not (any more) what it was.
func (m *machine) become(i uint64, from, to word) (bool, error) {
	var open, active uint64
	if isOpen(to.state()) && !isOpen(from.state()) {
		open = 1
	}
	if isActive(to.state()) && !isActive(from.state()) {
		active = 1
	}
	if err := m.acquire(i, open, active); err != nil {
		return false, err
	}
	if !m.zones[i].w.CompareAndSwap(uint64(from), uint64(to)) {
		m.release(open, active)
		return false, nil
	}
	open, active = 0, 0
	if isOpen(from.state()) && !isOpen(to.state()) {
		open = 1
	}
	if isActive(from.state()) && !isActive(to.state()) {
		active = 1
	}
	m.release(open, active)
	return true, nil
}

func (m *machine) acquire(i, open, active uint64) error {
	for open|active != 0 {
		u := m.used.Load()
		if active != 0 && m.maxActive != 0 && u&(1<<32-1)+active > m.maxActive {
			return ErrActive
		}
		if open != 0 && m.maxOpen != 0 && u>>32+open > m.maxOpen {
			if !m.closeAny(i) {
				return ErrOpen
			}
			continue
		}
		if m.used.CompareAndSwap(u, u+open<<32+active) {
			return nil
		}
	}
	return nil
}

func (m *machine) release(open, active uint64) {
	if open|active != 0 {
		m.used.Add(-(open<<32 + active))
	}
}

// closeAny closes a zone that was opened implicitly, other than zone not.
func (m *machine) closeAny(not uint64) bool {
	n := uint64(len(m.zones))
	start := m.cursor.Load()
	for j := range n {
		i := (start + j) % n
		w := m.load(i)
		if i == not || w.state() != bdev.ZoneImplicitOpen || w&resetting != 0 {
			continue
		}
		if ok, _ := m.become(i, w, w.to(bdev.ZoneClosed, w.wp())); ok {
			m.cursor.Store(i + 1)
			return true
		}
	}
	return false
}

func writable(w word) error {
	if w&resetting != 0 {
		return ErrTransition
	}
	switch w.state() {
	case bdev.ZoneFull:
		return ErrFull
	case bdev.ZoneReadOnly:
		return ErrReadOnly
	case bdev.ZoneOffline:
		return ErrOffline
	default:
		return nil
	}
}

const atWP = ^uint64(0)

// write moves the write pointer of zone i past count blocks at offset at, or
// wherever it is for atWP. It returns where it was, and the generation.
func (m *machine) write(i, at, count uint64) (off uint64, gen uint32, err error) {
	for {
		w := m.load(i)
		if err := writable(w); err != nil {
			return 0, 0, err
		}
		wp := w.wp()
		if w.state() == bdev.ZoneNotWP {
			if at == atWP {
				return 0, 0, ErrTransition
			}
			return at, 0, nil
		}
		if at != atWP && at != wp {
			return 0, 0, ErrPosition
		}
		if count > m.capacity-wp {
			return 0, 0, ErrFull
		}
		s := w.state()
		if !isOpen(s) {
			s = bdev.ZoneImplicitOpen
		}
		if wp+count == m.capacity {
			s = bdev.ZoneFull
		}
		if ok, err := m.become(i, w, w.to(s, wp+count)); ok || err != nil {
			return wp, w.gen(), err
		}
	}
}

// beginReset closes the zone and keeps all others from changing it until
// endReset. need is false, and nothing begun, when the zone is empty.
func (m *machine) beginReset(i uint64) (need bool, err error) {
	for {
		w := m.load(i)
		if _, err := m.target(w, bdev.OpZoneReset); err != nil {
			return false, err
		}
		if w.state() == bdev.ZoneEmpty {
			return false, nil
		}
		to := w
		if isOpen(w.state()) {
			to = w.to(bdev.ZoneClosed, w.wp())
		}
		if ok, _ := m.become(i, w, to|resetting); ok {
			return true, nil
		}
	}
}

// endReset makes the zone empty, or leaves it as it was when the reset failed.
// A zone that turned read-only or offline meanwhile stays that.
func (m *machine) endReset(i uint64, failed error) error {
	for {
		w := m.load(i)
		if w&resetting == 0 {
			return errors.Join(failed, writable(w))
		}
		to := w &^ resetting
		if failed == nil {
			to = makeWord(bdev.ZoneEmpty, nextGen(w.gen()), 0)
		}
		if ok, _ := m.become(i, w, to); ok {
			return failed
		}
	}
}

func nextGen(gen uint32) uint32 { return (gen + 1) & (1<<genBits - 1) }

// change performs a zone operation.
func (m *machine) change(i uint64, op bdev.Op) error {
	for {
		w := m.load(i)
		to, err := m.target(w, op)
		if err != nil || to == w {
			return err
		}
		if ok, err := m.become(i, w, to); ok || err != nil {
			return err
		}
	}
}

func (m *machine) target(w word, op bdev.Op) (word, error) {
	s := w.state()
	if s == bdev.ZoneOffline {
		return w, ErrOffline
	}
	if s == bdev.ZoneReadOnly && op != bdev.OpZoneOffline {
		return w, ErrReadOnly
	}
	if w&resetting != 0 {
		return w, ErrTransition
	}
	if s == bdev.ZoneNotWP && op != bdev.OpZoneOffline {
		return w, ErrTransition
	}
	switch op {
	case bdev.OpZoneReset:
		return w.to(bdev.ZoneEmpty, 0), nil
	case bdev.OpZoneOpen:
		if s == bdev.ZoneFull {
			return w, ErrTransition
		}
		return w.to(bdev.ZoneExplicitOpen, w.wp()), nil
	case bdev.OpZoneClose:
		switch {
		case isOpen(s) && w.wp() == 0:
			return w.to(bdev.ZoneEmpty, 0), nil
		case isOpen(s), s == bdev.ZoneClosed:
			return w.to(bdev.ZoneClosed, w.wp()), nil
		}
		return w, ErrTransition
	case bdev.OpZoneFinish:
		return w.to(bdev.ZoneFull, w.wp()), nil
	case bdev.OpZoneOffline:
		return w.to(bdev.ZoneOffline, w.wp()), nil
	default:
		return w, bdev.ErrUnsupported
	}
}

// readable returns how many blocks of a zone hold data. A zone that was
// finished may hold fewer than its capacity.
func readable(w word) (uint64, error) {
	if w.state() == bdev.ZoneOffline {
		return 0, ErrOffline
	}
	return w.wp(), nil
}

// info describes zone i.
func (m *machine) info(i uint64) bdev.ZoneInfo {
	w := m.load(i)
	start := i * m.blocks
	z := bdev.ZoneInfo{LBA: start, Capacity: m.capacity, WP: start + w.wp(), State: w.state()}
	if i < m.conv {
		z.Capacity, z.Conventional = m.blocks, true
	}
	if z.State == bdev.ZoneFull {
		z.WP = start + z.Capacity
	}
	return z
}

// worsen makes a zone read-only or offline. It says whether it was not.
func (m *machine) worsen(i uint64, s bdev.ZoneState) bool {
	for {
		w := m.load(i)
		if w.state() == s || w.state() == bdev.ZoneOffline {
			return false
		}
		if ok, _ := m.become(i, w, w.to(s, w.wp())); ok {
			return true
		}
	}
}
