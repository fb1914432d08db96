package superblock

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"

	"goftl/ftl/layout"
	"goftl/internal/assert"
)

var le = binary.LittleEndian

// magic is "goftl-SB", little endian.
const magic = 0x42532d6c74666f67

// Places of the fields.
const (
	offMagic   = 0
	offSum     = 8
	offVersion = 16
	offRole    = 20
	offFlags   = 24 // u32: clean, verify reads
	offState   = 28
	offUUID    = 32
	offCache   = 48
	offBase    = 64
	offSeq     = 80
	offCkptK   = 88
	offCU      = 96
	offCM      = 104
	offInc     = 112
	offDirSlot = 116
	offCreated = 120
	offSpare   = 128
	offInvalid = 132
	offCkptBlk = 136
	offLimits  = 144
	offNameLen = offLimits + NumLimits*8
	offName    = offNameLen + 4
	offDurable = 312 // zero in what older programs wrote
	offLayout  = 1024
	offEnd     = offLayout + layout.EncodedSize

	sectorSize = 512 // that devices write whole

	flagClean  = 1
	flagVerify = 2
)

// The fields must fit; a negative array length does not compile.
var (
	_ [offLayout - offName - MaxName]struct{}
	_ [offDurable - offName - MaxName]struct{}
	_ [sectorSize - offDurable - 8]struct{}
	_ [Size - offEnd]struct{}
)

// Encode stores the superblock in buf[:Size] and leaves what follows alone.
// Preconditions: len(buf) >= Size; the layout is valid; the name is no longer
// than MaxName; the role is set. s.Version is not used: it writes Version.
//
// Of an FTL that is being made the layout is left out: all that stands in the
// block then lies in its first sector, so that the very first write to a new
// device leaves it blank or marked, whatever a power loss does to it.
func (s *Superblock) Encode(buf []byte) {
	assert.That(len(buf) >= Size, "superblock: buffer too small")
	assert.That(len(s.Name) <= MaxName, "superblock: name too long")
	assert.That(s.Layout != nil || s.State&StateCreating != 0, "superblock: no layout")
	b := buf[:Size]
	clear(b)
	le.PutUint64(b[offMagic:], magic)
	le.PutUint32(b[offVersion:], Version)
	flags := uint32(0)
	if s.Clean {
		flags |= flagClean
	}
	if s.Config.VerifyReads {
		flags |= flagVerify
	}
	le.PutUint32(b[offFlags:], flags)
	le.PutUint32(b[offState:], uint32(s.State))
	copy(b[offUUID:], s.UUID[:])
	copy(b[offCache:], s.CacheUUID[:])
	copy(b[offBase:], s.BaseUUID[:])
	le.PutUint64(b[offSeq:], s.Seq)
	le.PutUint64(b[offCkptK:], s.CkptK)
	le.PutUint64(b[offCU:], s.CU)
	le.PutUint64(b[offCM:], s.CM)
	le.PutUint64(b[offDurable:], s.Durable)
	le.PutUint32(b[offInc:], s.Inc)
	le.PutUint32(b[offDirSlot:], s.DirSlot)
	le.PutUint64(b[offCreated:], uint64(s.Created))
	s.Config.put(b)
	le.PutUint32(b[offNameLen:], uint32(len(s.Name)))
	copy(b[offName:], s.Name)
	if s.State&StateCreating == 0 {
		s.Layout.Encode(b[offLayout:])
	}
	Seal(b, s.Role)
}

func (c *Config) put(b []byte) {
	le.PutUint32(b[offSpare:], c.SparePct)
	le.PutUint32(b[offInvalid:], c.InvalidPct)
	le.PutUint64(b[offCkptBlk:], c.CkptBlocks)
	for i, l := range c.Limits {
		le.PutUint32(b[offLimits+8*i:], l.FreeBands)
		le.PutUint32(b[offLimits+8*i+4:], l.SharePct)
	}
}

// Seal makes an encoded superblock the copy of role: it sets the role and the
// checksum. It allocates nothing.
func Seal(b []byte, role Role) {
	assert.That(role == RoleCache || role == RoleBase, "superblock: no role")
	b[offRole] = byte(role)
	le.PutUint64(b[offSum:], xxhash.Sum64(b[offVersion:Size]))
}

// Decode reads a superblock. Any bytes may be given; the error wraps one of
// the errors of this package.
func Decode(buf []byte) (*Superblock, error) {
	if len(buf) < Size {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrDamaged, len(buf), Size)
	}
	b := buf[:Size]
	if le.Uint64(b[offMagic:]) != magic {
		if blank(buf) {
			return nil, ErrBlank
		}
		return nil, ErrForeign
	}
	if sum := xxhash.Sum64(b[offVersion:]); sum != le.Uint64(b[offSum:]) {
		return nil, fmt.Errorf("%w: checksum %#x, stored %#x", ErrDamaged, sum, le.Uint64(b[offSum:]))
	}
	if v := le.Uint32(b[offVersion:]); v > Version {
		return nil, fmt.Errorf("%w: superblock version %d, this program knows %d", ErrNewer, v, Version)
	}
	s := &Superblock{
		Version:   le.Uint32(b[offVersion:]),
		Role:      Role(b[offRole]),
		UUID:      uuid.UUID(b[offUUID : offUUID+16]),
		CacheUUID: uuid.UUID(b[offCache : offCache+16]),
		BaseUUID:  uuid.UUID(b[offBase : offBase+16]),
		Seq:       le.Uint64(b[offSeq:]),
		Clean:     le.Uint32(b[offFlags:])&flagClean != 0,
		State:     State(le.Uint32(b[offState:])),
		Inc:       le.Uint32(b[offInc:]),
		CkptK:     le.Uint64(b[offCkptK:]),
		DirSlot:   le.Uint32(b[offDirSlot:]),
		CU:        le.Uint64(b[offCU:]),
		CM:        le.Uint64(b[offCM:]),
		Durable:   le.Uint64(b[offDurable:]),
		Created:   int64(le.Uint64(b[offCreated:])),
	}
	s.Config.load(b)
	if err := s.check(b); err != nil {
		return nil, err
	}
	s.Name = string(b[offName : offName+le.Uint32(b[offNameLen:])])
	if s.State&StateCreating != 0 && blank(b[offLayout:offEnd]) {
		return s, nil
	}
	var err error
	if s.Layout, err = layout.Decode(b[offLayout:offEnd]); err != nil {
		if layout.IsNewer(err) {
			return nil, fmt.Errorf("%w: %w", ErrNewer, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return s, nil
}

func (c *Config) load(b []byte) {
	c.SparePct = le.Uint32(b[offSpare:])
	c.InvalidPct = le.Uint32(b[offInvalid:])
	c.CkptBlocks = le.Uint64(b[offCkptBlk:])
	c.VerifyReads = le.Uint32(b[offFlags:])&flagVerify != 0
	for i := range c.Limits {
		c.Limits[i] = Limit{FreeBands: le.Uint32(b[offLimits+8*i:]), SharePct: le.Uint32(b[offLimits+8*i+4:])}
	}
}

// check verifies what a right checksum does not: that the writer was sane.
func (s *Superblock) check(b []byte) error {
	bad := func(what string, v any) error { return fmt.Errorf("%w: %s is %v", ErrDamaged, what, v) }
	n := le.Uint32(b[offNameLen:])
	flags := le.Uint32(b[offFlags:])
	switch {
	case s.Version == 0:
		return bad("version", s.Version)
	case s.Role != RoleCache && s.Role != RoleBase:
		return bad("role", uint8(s.Role))
	case s.UUID == uuid.Nil:
		return bad("UUID", s.UUID)
	case s.DirSlot > 1:
		return bad("directory slot", s.DirSlot)
	case n > MaxName:
		return bad("length of the name", n)
	case !utf8.Valid(b[offName : offName+n]):
		return bad("name", "not UTF-8")
	case flags&^(flagClean|flagVerify) != 0:
		return bad("flag word", flags)
	case s.State&^stateAll != 0:
		return bad("state word", uint32(s.State))
	case s.Config.SparePct == 0 || s.Config.SparePct >= 100:
		return bad("spare percentage", s.Config.SparePct)
	case s.Config.InvalidPct >= 100:
		return bad("invalid threshold", s.Config.InvalidPct)
	}
	for _, l := range s.Config.Limits {
		if l.SharePct > 100 {
			return bad("share of a limit", l.SharePct)
		}
	}
	return nil
}

func blank(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
