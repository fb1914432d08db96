package sim

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Faults are the chances, per IO, that a device fails. They may be changed while it works.
type Faults struct {
	ReadEIO  float64 // a read fails once
	WriteEIO float64 // a write fails; any part of it may have reached the medium
	FlushEIO float64 // a flush fails; nothing has become durable for sure
	NoMem    float64 // the IO is refused with ENOMEM
	NoSpace  float64 // a write fails with ENOSPC, as over a sparse file on a full disk
	Stray    float64 // a write lands where SetAim says, and not where it should; nobody notices

	Gone bool // the device is lost: everything fails with ENODEV
}

type badKind uint8

const (
	badRead badKind = 1 << iota
	badWrite
)

var (
	errRead    = fmt.Errorf("simulated read error: %w", unix.EIO)
	errWrite   = fmt.Errorf("simulated write error: %w", unix.EIO)
	errFlush   = fmt.Errorf("simulated flush error: %w", unix.EIO)
	errNoMem   = fmt.Errorf("simulated lack of memory: %w", unix.ENOMEM)
	errNoSpace = fmt.Errorf("simulated full disk: %w", unix.ENOSPC)
	errGone    = fmt.Errorf("simulated loss of the device: %w", unix.ENODEV)
)

// Break makes reads, or writes, of a range of blocks fail from now on. A write that succeeds repairs a bad read, as on
// a real disk, unless writes are bad too.
func (d *Disk) Break(lba, count uint64, read, write bool) {
	for i := lba; i < lba+count; i++ {
		if read {
			d.bad[i] |= badRead
		}
		if write {
			d.bad[i] |= badWrite
		}
	}
}

// SetAim says where writes go that stray: aim returns an address with room for the whole write, or false for a write
// that does not stray.
func (d *Disk) SetAim(aim func(lba, count uint64) (to uint64, ok bool)) { d.aim = aim }

// Mend ends all faults.
func (d *Disk) Mend() {
	clear(d.bad)
	d.opt.Faults = Faults{}
}

// refuse says whether an IO fails as soon as it arrives.
func (d *Disk) refuse() error {
	f := &d.opt.Faults
	switch {
	case f.Gone:
		return errGone
	case d.r.Chance(f.NoMem):
		d.stats.NoMem++
		return errNoMem
	}
	return nil
}

// readFault decides whether a read fails.
func (d *Disk) readFault(lba, count uint64) error {
	f := &d.opt.Faults
	switch {
	case f.Gone:
		return errGone
	case d.r.Chance(f.ReadEIO), d.anyBad(lba, count, badRead):
		d.stats.ReadErrors++
		return errRead
	}
	return nil
}

// writeFault decides whether a write fails.
func (d *Disk) writeFault(lba, count uint64) error {
	f := &d.opt.Faults
	switch {
	case f.Gone:
		return errGone
	case d.r.Chance(f.NoSpace):
		d.stats.NoSpace++
		return errNoSpace
	case d.r.Chance(f.WriteEIO), d.anyBad(lba, count, badWrite):
		d.stats.WriteErrors++
		return errWrite
	}
	return nil
}

// flushFault decides whether a flush fails.
func (d *Disk) flushFault() error {
	switch {
	case d.opt.Faults.Gone:
		return errGone
	case d.r.Chance(d.opt.Faults.FlushEIO):
		d.stats.FlushErrors++
		return errFlush
	}
	return nil
}

func (d *Disk) anyBad(lba, count uint64, kind badKind) bool {
	if len(d.bad) == 0 {
		return false
	}
	for i := lba; i < lba+count; i++ {
		if d.bad[i]&kind != 0 {
			return true
		}
	}
	return false
}

func (d *Disk) repair(lba uint64) {
	if len(d.bad) != 0 && d.bad[lba]&badWrite == 0 {
		delete(d.bad, lba)
	}
}
