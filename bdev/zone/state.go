package zone

import (
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

// word is the state of a zone and its write pointer, counted from its start.
type word uint64

const wpBits = 56

func makeWord(s bdev.ZoneState, wp uint64) word { return word(uint64(s)<<wpBits | wp) }

func (w word) state() bdev.ZoneState { return bdev.ZoneState(w >> wpBits) }
func (w word) wp() uint64            { return uint64(w) & (1<<wpBits - 1) }

func isOpen(s bdev.ZoneState) bool {
	return s == bdev.ZoneImplicitOpen || s == bdev.ZoneExplicitOpen
}

func isActive(s bdev.ZoneState) bool { return isOpen(s) || s == bdev.ZoneClosed }

type zone struct {
	w      atomic.Uint64
	marked atomic.Bool // the table says that it is not empty
}

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
		if m.maxActive != 0 && u&(1<<32-1)+active > m.maxActive {
			return ErrActive
		}
		if m.maxOpen != 0 && u>>32+open > m.maxOpen {
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
		if i == not || w.state() != bdev.ZoneImplicitOpen {
			continue
		}
		if ok, _ := m.become(i, w, makeWord(bdev.ZoneClosed, w.wp())); ok {
			m.cursor.Store(i + 1)
			return true
		}
	}
	return false
}

func writable(s bdev.ZoneState) error {
	switch s {
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
// wherever it is for atWP, and returns where it was.
func (m *machine) write(i, at, count uint64) (uint64, error) {
	for {
		w := m.load(i)
		if err := writable(w.state()); err != nil {
			return 0, err
		}
		wp := w.wp()
		if w.state() == bdev.ZoneNotWP {
			if at == atWP {
				return 0, ErrTransition
			}
			return at, nil
		}
		if at != atWP && at != wp {
			return 0, ErrPosition
		}
		if count > m.capacity-wp {
			return 0, ErrFull
		}
		s := w.state()
		if !isOpen(s) {
			s = bdev.ZoneImplicitOpen
		}
		if wp+count == m.capacity {
			s = bdev.ZoneFull
		}
		if ok, err := m.become(i, w, makeWord(s, wp+count)); ok || err != nil {
			return wp, err
		}
	}
}

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
	if s == bdev.ZoneNotWP && op != bdev.OpZoneOffline {
		return w, ErrTransition
	}
	switch op {
	case bdev.OpZoneReset:
		return makeWord(bdev.ZoneEmpty, 0), nil
	case bdev.OpZoneOpen:
		if s == bdev.ZoneFull {
			return w, ErrTransition
		}
		return makeWord(bdev.ZoneExplicitOpen, w.wp()), nil
	case bdev.OpZoneClose:
		switch {
		case isOpen(s) && w.wp() == 0:
			return makeWord(bdev.ZoneEmpty, 0), nil
		case isOpen(s), s == bdev.ZoneClosed:
			return makeWord(bdev.ZoneClosed, w.wp()), nil
		}
		return w, ErrTransition
	case bdev.OpZoneFinish:
		return makeWord(bdev.ZoneFull, w.wp()), nil
	case bdev.OpZoneOffline:
		return makeWord(bdev.ZoneOffline, w.wp()), nil
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
		if ok, _ := m.become(i, w, makeWord(s, w.wp())); ok {
			return true
		}
	}
}
