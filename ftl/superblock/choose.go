package superblock

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// Copy is one device's first block, as it was read.
type Copy struct {
	Device string // for messages
	Blocks uint64 // size of the device
	Block  []byte
	Err    error // of the read; Block is then not looked at
	// Overwrite: the user has given leave to overwrite foreign data here.
	Overwrite bool
}

// Choice is what was found on the two devices.
type Choice struct {
	SB *Superblock
	// From is the device that it was taken from.
	From Role
	// RewriteCache and RewriteBase: that copy is unreadable, damaged or
	// older. It has to be rewritten, and flushed, before any other write.
	RewriteCache, RewriteBase bool
	// CacheErr and BaseErr say what was wrong with a copy; nil when whole.
	CacheErr, BaseErr error
}

// Choose takes the newer whole copy of the superblock. want is the FTL that is
// expected, or uuid.Nil for any. The error names the device and wraps one of
// the errors of this package: a whole copy of another FTL, of a newer version,
// or of the other role stops the choice even though the other copy is good,
// because the devices are then not what the user thinks. So does foreign data,
// which nobody has given leave to overwrite; a blank or damaged copy is
// repaired from the other. A block that still resembles the other copy is
// damaged and not foreign.
func Choose(cache, base Copy, want uuid.UUID) (*Choice, error) {
	c := &Choice{}
	csb, cerr := cache.decode()
	bsb, berr := base.decode()
	c.CacheErr, c.BaseErr = cerr, berr

	for _, err := range []error{cerr, berr} {
		if errors.Is(err, ErrNewer) {
			return nil, err
		}
	}
	if err := checkRoles(&cache, &base, csb, bsb); err != nil {
		return nil, err
	}
	if csb == nil && bsb == nil {
		return nil, nothing(cerr, berr)
	}
	if c.CacheErr = cache.spared(cerr, &base); errors.Is(c.CacheErr, ErrForeign) {
		return nil, fmt.Errorf("%w; %s belongs to %s (%q)", c.CacheErr, base.Device, bsb.UUID, bsb.Name)
	}
	if c.BaseErr = base.spared(berr, &cache); errors.Is(c.BaseErr, ErrForeign) {
		return nil, fmt.Errorf("%w; %s belongs to %s (%q)", c.BaseErr, cache.Device, csb.UUID, csb.Name)
	}
	c.pick(csb, bsb)
	if want != uuid.Nil && c.SB.UUID != want {
		return nil, fmt.Errorf("%w: %s belongs to %s, not to %s", ErrMismatch, c.device(&cache, &base), c.SB.UUID, want)
	}
	l := c.SB.Layout
	if l == nil { // it is being made
		return c, nil
	}
	if cache.Blocks < l.CacheBlocks {
		return nil, fmt.Errorf("%w: cache %s has %d blocks, the FTL needs %d", ErrResized, cache.Device, cache.Blocks, l.CacheBlocks)
	}
	if base.Blocks < l.BaseBlocks {
		return nil, fmt.Errorf("%w: base %s has %d blocks, the FTL needs %d", ErrResized, base.Device, base.Blocks, l.BaseBlocks)
	}
	return c, nil
}

func (c *Copy) decode() (*Superblock, error) {
	if c.Err != nil {
		return nil, fmt.Errorf("superblock of %s: %w", c.Device, c.Err)
	}
	s, err := Decode(c.Block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Device, err)
	}
	return s, nil
}

// spared turns the verdict that a block is foreign into one that it is damaged,
// when it is what is left of a copy like the other, or may be overwritten.
func (c *Copy) spared(err error, other *Copy) error {
	if errors.Is(err, ErrForeign) && (c.Overwrite || resembles(c.Block, other.Block)) {
		return fmt.Errorf("%s: %w", c.Device, ErrDamaged)
	}
	return err
}

// resembles says whether a block has a sixteenth of the words of a whole copy,
// those that are not zero, at the same places: a copy may be torn twice, once
// while it is repaired. Foreign data has next to none.
func resembles(b, whole []byte) bool {
	same, all := 0, 0
	for i := 0; i+8 <= min(Size, len(whole), len(b)); i += 8 {
		if w := le.Uint64(whole[i:]); w != 0 {
			all++
			if le.Uint64(b[i:]) == w {
				same++
			}
		}
	}
	return all > 0 && same*16 >= all
}

func (c *Choice) device(cache, base *Copy) string {
	if c.From == RoleBase {
		return base.Device
	}
	return cache.Device
}

func (c *Choice) pick(csb, bsb *Superblock) {
	switch {
	case bsb == nil:
		c.SB, c.From, c.RewriteBase = csb, RoleCache, true
	case csb == nil:
		c.SB, c.From, c.RewriteCache = bsb, RoleBase, true
	case bsb.Seq > csb.Seq:
		c.SB, c.From, c.RewriteCache = bsb, RoleBase, true
	default:
		c.SB, c.From, c.RewriteBase = csb, RoleCache, bsb.Seq < csb.Seq
	}
}

func checkRoles(cache, base *Copy, csb, bsb *Superblock) error {
	cSwapped := csb != nil && csb.Role != RoleCache
	bSwapped := bsb != nil && bsb.Role != RoleBase
	both := csb != nil && bsb != nil
	switch {
	case both && csb.UUID != bsb.UUID && csb.State&bsb.State&StateCreating != 0:
		// A second attempt to make a device was interrupted between its copies, too: the first one gave it another UUID.
		// Nothing was ever stored, whichever copy is taken.
	case both && csb.UUID != bsb.UUID:
		return fmt.Errorf("%w: %s is the %s of %s (%q), %s is the %s of %s (%q)", ErrMismatch,
			cache.Device, csb.Role, csb.UUID, csb.Name, base.Device, bsb.Role, bsb.UUID, bsb.Name)
	case cSwapped && bSwapped:
		return fmt.Errorf("%w: %s is the base and %s the cache of %s", ErrSwapped, cache.Device, base.Device, csb.UUID)
	case cSwapped:
		return fmt.Errorf("%w: %s was given as the cache, but it is the base of %s", ErrSwapped, cache.Device, csb.UUID)
	case bSwapped:
		return fmt.Errorf("%w: %s was given as the base, but it is the cache of %s", ErrSwapped, base.Device, bsb.UUID)
	}
	return nil
}

// nothing says what is wrong when no copy is whole. A damaged or unreadable
// copy comes first: something was here.
func nothing(cerr, berr error) error {
	rank := func(err error) int {
		switch {
		case errors.Is(err, ErrBlank):
			return 0
		case errors.Is(err, ErrForeign):
			return 1
		default:
			return 2
		}
	}
	if rank(berr) > rank(cerr) {
		cerr, berr = berr, cerr
	}
	return fmt.Errorf("no usable superblock: %w (and %s)", cerr, berr.Error())
}
