package zone_test

import (
	"bytes"
	"fmt"
	"testing"

	"goftl/bdev/internal/devtest"
	"goftl/bdev/malloc"
	"goftl/bdev/zone"
)

// TestResetUnmaps: a reset gives the blocks back where it is to, and what is
// behind the write pointer reads as zeroes either way.
func TestResetUnmaps(t *testing.T) {
	for _, c := range []struct {
		how       zone.Unmap
		populated bool
		gives     bool
	}{
		{zone.UnmapAuto, false, true},
		{zone.UnmapAuto, true, false},
		{zone.UnmapOn, false, true},
		{zone.UnmapOn, true, true},
		{zone.UnmapOff, false, false},
		{zone.UnmapOff, true, false},
	} {
		t.Run(fmt.Sprintf("%d populated=%t", c.how, c.populated), func(t *testing.T) {
			e := devtest.New(t)
			m, err := malloc.New(malloc.Options{Name: "m", Blocks: 128, Populate: c.populated})
			want(t, err, 0)
			_, err = e.M.Register(m)
			want(t, err, 0)
			r := &rig{Env: e, below: m}
			r.start(zone.Options{ZoneBlocks: 16, Unmap: c.how})
			want(t, r.Write(r.ch, 16, 3, 7), 0)
			want(t, r.op(r.ch.ZoneReset, 16), 0)
			below := m.Data()[16*4096 : 19*4096]
			if gone := bytes.Equal(below, make([]byte, len(below))); gone != c.gives {
				t.Fatalf("the blocks are gone: %t", gone)
			}
			buf, err := r.Read(r.ch, 16, 3)
			want(t, err, 0)
			if !bytes.Equal(buf, make([]byte, len(buf))) {
				t.Fatal("what was there before the reset can be read")
			}
			r.stop()
		})
	}
}
