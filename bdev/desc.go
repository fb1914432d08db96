package bdev

import (
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/thread"
)

// Desc is an open device. It belongs to the thread given to Open; Channel may
// be called on any other thread too.
type Desc struct {
	b      *Bdev
	th     *thread.Thread
	ev     EventFunc
	arg    any
	write  atomic.Bool
	closed bool

	media     []MediaExtent
	mediaRoom atomic.Int64 // extents that may still be queued, those on their way counted
}

// Open opens a device by its name. ev, which may be nil, is called on t, the
// calling thread, for every event until Close. A device that is claimed
// against writers is not opened for write: EPERM.
func (m *Manager) Open(name string, write bool, ev EventFunc, arg any, t *thread.Thread) (*Desc, error) {
	b := m.Lookup(name)
	if b == nil {
		return nil, fmt.Errorf("bdev %q: open: there is no such device: %w", name, unix.ENODEV)
	}
	d := &Desc{b: b, th: t, ev: ev, arg: arg}
	d.write.Store(write)
	d.mediaRoom.Store(MediaQueue)
	_, err := b.update(func(s *bstate) error {
		switch {
		case s.removing:
			return fmt.Errorf("bdev %s: open: %w", name, ErrRemoved)
		case write && b.Info().ReadOnly:
			return fmt.Errorf("bdev %s: open for write: the device is read-only: %w", name, unix.EROFS)
		case write && s.claim != ClaimNone:
			return fmt.Errorf("bdev %s: open for write: claimed by %s (%s): %w", name, s.module, s.claim, unix.EPERM)
		}
		s.descs = append(s.descs, d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Bdev returns the device.
func (d *Desc) Bdev() *Bdev { return d.b }

// Thread returns the thread that the descriptor belongs to.
func (d *Desc) Thread() *thread.Thread { return d.th }

// Writable says whether the device is open for write.
func (d *Desc) Writable() bool { return d.write.Load() }

// Channel returns a channel of t, which is the calling thread, to the device.
// Every one must be Put.
func (d *Desc) Channel(t *thread.Thread) (*Channel, error) {
	if d.b.state.Load().removing {
		return nil, fmt.Errorf("bdev %s: channel: %w", d.b.Name(), ErrRemoved)
	}
	c, err := d.b.dev.Channel(t)
	if err != nil {
		return nil, fmt.Errorf("bdev %s: channel on thread %s: %w", d.b.Name(), t.Name(), err)
	}
	return &Channel{k: c.Ctx().(*core), d: d, ioch: c}, nil
}

// Close closes the descriptor and releases its claim. Events that are on their
// way are dropped.
func (d *Desc) Close() {
	assert.That(!d.closed, "bdev: descriptor closed twice")
	d.closed = true
	b := d.b
	ends := false
	_, _ = b.update(func(s *bstate) error {
		s.descs = slices.DeleteFunc(s.descs, func(o *Desc) bool { return o == d })
		s.unclaim(d)
		ends = s.told && !s.ending && len(s.descs) == 0
		s.ending = s.ending || ends
		return nil
	})
	if ends {
		b.removal.t.Send(endRemoval, b)
	}
}

// ClaimKind is what a claim keeps others from.
type ClaimKind uint8

// The kinds of claim. All but the last are refused while somebody else has the
// device open for write.
const (
	ClaimNone ClaimKind = iota
	// ClaimExclusiveWrite: one module writes, nobody else claims. The
	// descriptor becomes writable.
	ClaimExclusiveWrite
	// ClaimReadManyWriteOne: the same, named as SPDK does.
	ClaimReadManyWriteOne
	// ClaimReadManyWriteNone: nobody writes; many may claim.
	ClaimReadManyWriteNone
	// ClaimReadManyWriteShared: all that claim with the same module may write.
	// The descriptor becomes writable.
	ClaimReadManyWriteShared
)

var claimNames = [...]string{"not_claimed", "exclusive_write", "read_many_write_one", "read_many_write_none", "read_many_write_shared"}

func (c ClaimKind) String() string {
	if int(c) < len(claimNames) {
		return claimNames[c]
	}
	return "unknown"
}

// Claimed returns how the device is claimed and by which module.
func (b *Bdev) Claimed() (ClaimKind, string) {
	s := b.state.Load()
	return s.claim, s.module
}

// Claim claims the device for a module until Release or Close. It fails with
// EPERM when another claim or an open writer stands against it.
func (d *Desc) Claim(kind ClaimKind, module string) error {
	b := d.b
	if kind == ClaimNone || int(kind) >= len(claimNames) || module == "" {
		return fmt.Errorf("bdev %s: claim %s by %q: no such claim, or no module: %w", b.Name(), kind, module, unix.EINVAL)
	}
	_, err := b.update(func(s *bstate) error { return s.addClaim(d, kind, module) })
	if err != nil {
		return fmt.Errorf("bdev %s: claim %s by %s: %w", b.Name(), kind, module, err)
	}
	if kind != ClaimReadManyWriteNone {
		d.write.Store(true)
	}
	return nil
}

func (s *bstate) addClaim(d *Desc, kind ClaimKind, module string) error {
	shared := kind == ClaimReadManyWriteNone || kind == ClaimReadManyWriteShared
	switch {
	case s.removing:
		return ErrRemoved
	case slices.Contains(s.holders, d):
		return fmt.Errorf("the descriptor holds a claim already: %w", unix.EPERM)
	case kind != ClaimReadManyWriteNone && d.b.Info().ReadOnly:
		return fmt.Errorf("the device is read-only: %w", unix.EROFS)
	case s.claim != ClaimNone && (!shared || s.claim != kind || kind == ClaimReadManyWriteShared && s.module != module):
		return fmt.Errorf("claimed by %s (%s): %w", s.module, s.claim, unix.EPERM)
	}
	for _, o := range s.descs {
		if o.write.Load() && (o != d || kind == ClaimReadManyWriteNone) && !slices.Contains(s.holders, o) {
			return fmt.Errorf("the device is open for write: %w", unix.EPERM)
		}
	}
	s.claim, s.module = kind, module
	s.holders = append(s.holders, d)
	return nil
}

func (s *bstate) unclaim(d *Desc) {
	s.holders = slices.DeleteFunc(s.holders, func(o *Desc) bool { return o == d })
	if len(s.holders) == 0 {
		s.claim, s.module = ClaimNone, ""
	}
}

// Release gives the claim up. The descriptor stays open, as writable as it is.
func (d *Desc) Release() {
	_, _ = d.b.update(func(s *bstate) error {
		s.unclaim(d)
		return nil
	})
}
