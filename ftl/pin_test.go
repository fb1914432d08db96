package ftl

import (
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/ftl/l2p"
)

// slowTable is a mapping of which nothing is resident: every pin completes
// later, and entries may be touched only while pinned.
type slowTable struct {
	*l2p.Flat
	r    *rig
	pins []uint16
	n    int
}

func (s *slowTable) Pin(p *l2p.PinRequest) bool {
	s.n++
	s.r.th.Post(func(any) {
		for i := range p.Count {
			s.pins[p.LBA+i]++
		}
		p.Done(p)
	}, nil)
	return false
}

func (s *slowTable) Unpin(p *l2p.PinRequest) {
	for i := range p.Count {
		require.NotZero(s.r.t, s.pins[p.LBA+i], "unpinned without a pin")
		s.pins[p.LBA+i]--
	}
}

func (s *slowTable) Get(lba uint64) l2p.Addr {
	require.NotZero(s.r.t, s.pins[lba], "lba %d is used without a pin", lba)
	return s.Flat.Get(lba)
}

func (s *slowTable) Set(lba uint64, a l2p.Addr) {
	require.NotZero(s.r.t, s.pins[lba], "lba %d is used without a pin", lba)
	s.Flat.Set(lba, a)
}

func (s *slowTable) Peek(lba uint64) (l2p.Addr, bool) {
	if lba%3 == 0 {
		return l2p.Unmapped, false
	}
	return s.Flat.Get(lba), true
}

// TestPinMayCompleteLater runs compaction and relocation on a table that keeps
// nothing resident: every use is inside a pin, and every pin is given back.
func TestPinMayCompleteLater(t *testing.T) {
	r := newRig(t, 64, 256, 64)
	r.create()
	flat := r.d.table.(*l2p.Flat)
	slow := &slowTable{Flat: flat, r: r, pins: make([]uint16, r.d.Blocks())}
	r.d.table = slow
	for range 3 {
		r.writes(int(r.d.Blocks())/16, 31, 4)
	}
	r.one(r.trim(10, 1000))
	r.readAll()
	r.until("idle", func() bool { return r.d.Idle() })
	for lba, n := range slow.pins {
		require.Zero(t, n, "lba %d is still pinned", lba)
	}
	var s Stats
	r.d.Stats(&s)
	require.NotZero(t, s.Compacted)
	require.NotZero(t, slow.n)
	r.d.table = flat
	r.settle()
	r.stop(false)
}
