package job

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/gen"
	"goftl/apps/ftlperf/internal/verify"
)

// Dir is what an IO counts as in the statistics.
type Dir uint8

// The three directions of fio.
const (
	Read Dir = iota
	Write
	Trim
	NumDirs
)

// String returns fio's name.
func (d Dir) String() string { return [...]string{"read", "write", "trim"}[d] }

// Mode is --rw.
type Mode struct {
	Name      string
	Random    bool
	Dirs      [NumDirs]bool
	TrimFirst bool // each block is trimmed, then written
	Verify    bool // reads everything that the table knows, once
}

var modes = []Mode{
	{Name: "read", Dirs: [NumDirs]bool{Read: true}},
	{Name: "write", Dirs: [NumDirs]bool{Write: true}},
	{Name: "rw", Dirs: [NumDirs]bool{Read: true, Write: true}},
	{Name: "readwrite", Dirs: [NumDirs]bool{Read: true, Write: true}},
	{Name: "trim", Dirs: [NumDirs]bool{Trim: true}},
	{Name: "trimwrite", Dirs: [NumDirs]bool{Write: true, Trim: true}, TrimFirst: true},
	{Name: "randread", Random: true, Dirs: [NumDirs]bool{Read: true}},
	{Name: "randwrite", Random: true, Dirs: [NumDirs]bool{Write: true}},
	{Name: "randrw", Random: true, Dirs: [NumDirs]bool{Read: true, Write: true}},
	{Name: "randtrim", Random: true, Dirs: [NumDirs]bool{Trim: true}},
	{Name: "randtrimwrite", Random: true, Dirs: [NumDirs]bool{Write: true, Trim: true}, TrimFirst: true},
}

// VerifyMode reads back what earlier jobs wrote.
var VerifyMode = Mode{Name: "verify", Dirs: [NumDirs]bool{Read: true}, Verify: true}

// ParseMode reads --rw.
func ParseMode(name string) (Mode, error) {
	names := ""
	for _, m := range modes {
		if m.Name == name {
			return m, nil
		}
		names += " " + m.Name
	}
	return Mode{}, fmt.Errorf("--rw=%s is not known; there are%s: %w", name, names, unix.EINVAL)
}

// Spec describes a job. Sizes are in bytes.
type Spec struct {
	Name      string
	Mode      Mode
	BlockSize [NumDirs]uint64
	Depth     int
	MixRead   int // per cent of reads where Mode mixes them with writes

	Offset, Size uint64 // the range
	Bytes        uint64 // how much to do before stopping; 0: Size
	Count        uint64 // stop after so many IOs; 0: no limit
	Runtime      time.Duration
	TimeBased    bool // go on until Runtime is over
	Ramp         time.Duration

	Distribution gen.Distribution
	Once         bool // uniform: every block once a pass
	Seed         uint64

	FlushEvery uint64 // a flush after so many writes; 0: none
	EndFlush   bool
	FUA        bool
	Precise    bool // read the clock for every IO
	Table      *verify.Table

	ContinueOnError bool
	AbandonAfter    uint64 // the job abandons itself after so many IOs; 0: never
}

// ErrAgain is what Channel.Submit returns when it has no room.
var ErrAgain = errors.New("no room for another IO: try later")

func (s *Spec) check() error {
	if s.Depth < 1 || s.Depth > 1<<20 {
		return fmt.Errorf("an IO depth of %d: it must be 1 to 1048576: %w", s.Depth, unix.EINVAL)
	}
	for d := range NumDirs {
		if !s.Mode.Dirs[d] {
			continue
		}
		switch b := s.BlockSize[d]; {
		case b == 0 || b > 1<<30:
			return fmt.Errorf("a block size of %d bytes: it must be at most 1 GiB: %w", b, unix.EINVAL)
		case b > s.Size:
			return fmt.Errorf("a block size of %d bytes does not fit into a range of %d: %w", b, s.Size, unix.EINVAL)
		}
	}
	if s.Mode.TrimFirst && s.BlockSize[Write] != s.BlockSize[Trim] {
		return fmt.Errorf("--rw=%s needs the same block size for trims and writes: %w", s.Mode.Name, unix.EINVAL)
	}
	if s.Table != nil && s.Offset+s.Size > s.Table.Units()*s.Table.Unit() {
		return fmt.Errorf("the verify table is smaller than the range: %w", unix.EINVAL)
	}
	return nil
}

// maxBlock returns the size of the buffer that an IO needs.
func (s *Spec) maxBlock() uint64 {
	size := uint64(0)
	for d := range NumDirs {
		if s.Mode.Dirs[d] {
			size = max(size, s.BlockSize[d])
		}
	}
	return size
}
