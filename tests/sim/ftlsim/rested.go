package ftlsim

import (
	"errors"
	"fmt"

	"goftl/ftl"
)

// Rested checks a device that is idle: nothing holds a segment, every segment is accounted for, a load after a crash
// would read no more of the log than was configured, and buffers take no more memory than planned.
func (f *ftlDevice) Rested(buffers int64) error {
	if f.ReadOnly() || f.d.Cramped() {
		return nil // what it was doing stays as it is
	}
	s := &f.stats
	f.d.Stats(s)
	return errors.Join(f.checkSegments(s), f.checkRedo(s), f.checkMemory(buffers))
}

func (f *ftlDevice) checkSegments(s *ftl.Stats) error {
	states := make(map[string]uint64)
	valid := uint64(0)
	for _, g := range f.d.Segments() {
		states[g.Kind+" "+g.State]++
		valid += uint64(g.Valid)
		if g.Pins != 0 {
			return fmt.Errorf("an idle device: %d pins on %s %d", g.Pins, g.Kind, g.ID)
		}
	}
	for state, n := range map[string]uint64{
		"chunk free": s.FreeChunks, "chunk full": s.FullChunks, "chunk quarantine": s.QuarantinedChunks, "chunk opening": 0, "chunk closing": 0,
		"band free": s.FreeBands, "band full": s.FullBands, "band quarantine": s.QuarantinedBands, "band opening": 0, "band closing": 0,
	} {
		if states[state] != n {
			return fmt.Errorf("an idle device: %d segments are %s, %d are counted", states[state], state, n)
		}
	}
	if valid != s.ValidBlocks {
		return fmt.Errorf("an idle device: %d blocks of segments are valid, %d are counted", valid, s.ValidBlocks)
	}
	return nil
}

// checkRedo allows for what is under way when a checkpoint becomes due, and for attempts that failed.
func (f *ftlDevice) checkRedo(s *ftl.Stats) error {
	l := f.d.Layout()
	log := l.Chunks * l.ChunkBlocks
	if log == 0 {
		log = l.Bands * l.BandSlots
	}
	limit := log / 2
	if b := f.b.Plan.Config.RedoBytes / blockBytes; b > 0 {
		limit = min(limit, b)
	}
	if s.CkptAborted > 0 {
		limit = log
	}
	const beside = 64 * 128 // records under way when it becomes due
	if s.RedoBlocks > limit+beside {
		return fmt.Errorf("an idle device: %d blocks of log since the last checkpoint, %d are allowed", s.RedoBlocks, limit)
	}
	return nil
}

const blockBytes = 4096

// checkMemory allows for pages that are not filled and for reads, whose number is bounded.
func (f *ftlDevice) checkMemory(buffers int64) error {
	m := ftl.MemoryNeed(f.d.Layout(), &ftl.Config{SumCacheBytes: f.b.Plan.Config.SumCacheBytes})
	need := int64(m.Table + m.Fixed)
	if slack := need/10 + 4<<20; buffers > need+slack {
		return fmt.Errorf("an idle device: %d bytes of buffers, %d are planned", buffers, need)
	}
	return nil
}
