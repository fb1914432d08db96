package ftl

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// TestHotRemoval removes a device under load: requests end with clean errors,
// reads that need only the other device go on, the stop works, and with the
// device back nothing that was acknowledged is missing.
func TestHotRemoval(t *testing.T) {
	for dev, name := range []string{"cache", "base"} {
		for _, md := range mdSizes {
			for _, vol := range []bool{false, true} {
				for _, at := range []int{1, 150, 333} {
					t.Run(fmt.Sprintf("%s,md=%d,volatile=%v,at=%d", name, md, vol, at), func(t *testing.T) {
						hotRemoval(t, dev, name, md, vol, at)
					})
				}
			}
		}
	}
}

func hotRemoval(t *testing.T, dev int, name string, md uint32, vol bool, at int) {
	g := mini.with(md)
	g.volatile, g.lag = vol, 30*time.Microsecond
	b := newBed(t, g)
	b.create()
	b.fillTo(500)
	var gone bool
	var heard []Health
	b.d.cfg.OnHealth = func(h Health, _ error) { heard = append(heard, h) }
	// The injecting device goes, the medium stays.
	b.step = func(i int) {
		if i == at {
			b.mgr.Lookup(name).Unregister(b.th, func(_ any, err error) {
				require.NoError(t, err)
				gone = true
			}, nil)
		}
		if i%7 == 0 {
			b.submit(OpFlush, 0, 0, false)
		}
		if i%3 == 0 {
			b.submit(OpRead, b.rnd.Uint64N(b.d.Blocks()-8), 8, false)
		}
	}
	failed := b.churn(400, 8, 8)
	b.step = nil
	require.NotEmpty(t, failed)
	for e := range failed {
		require.True(t, errors.Is(e, unix.EIO) || errors.Is(e, unix.EROFS) || errors.Is(e, unix.ENODEV), "%v", e)
	}
	require.ErrorIs(t, b.health(HealthReadOnly), unix.ENODEV)
	require.Equal(t, []Health{HealthReadOnly}, heard)
	require.Equal(t, unix.EROFS, b.do(OpWrite, 0, 1))
	require.Equal(t, unix.EROFS, b.do(OpTrim, 0, 1))
	readable, unreadable := 0, 0
	for lba := range b.d.Blocks() {
		c := b.submit(OpRead, lba, 1, false)
		b.until("read", func() bool { return c.done })
		if a := b.d.table.Get(lba); a < 2 {
			require.NoError(t, c.req.Err)
			continue
		}
		on, _, _, _ := b.place(lba)
		if on == dev {
			require.Equal(t, unix.EIO, c.req.Err)
			unreadable++
		} else {
			require.NoError(t, c.req.Err)
			require.NoError(t, b.judge(lba, c.buf, false))
			readable++
		}
	}
	require.NotZero(t, readable)
	require.NotZero(t, unreadable)
	require.False(t, gone, "the FTL holds the device until it stops")
	_ = b.halted(false)
	b.until("the removal", func() bool { return gone })
	// The medium comes back.
	tw := b.crash()
	tw.mustBe(HealthOK)
	tw.verify(true)
	tw.end()
}

// TestRemovalOfBoth leaves nothing to serve, and stops.
func TestRemovalOfBoth(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.fillTo(300)
	ended := 0
	for _, name := range []string{"cache", "base"} {
		b.mgr.Lookup(name).Unregister(b.th, func(any, error) { ended++ }, nil)
	}
	c := b.submit(OpWrite, 0, 8, false)
	r := b.submit(OpRead, 0, 8, false)
	b.drainAll()
	require.Error(t, c.req.Err)
	require.Error(t, r.req.Err)
	h, _ := b.d.Health()
	require.NotEqual(t, HealthOK, h)
	_ = b.halted(false)
	b.until("the removal", func() bool { return ended == 2 })
}

// TestRemovalWhileStarting removes a device at every turn of a load.
func TestRemovalWhileStarting(t *testing.T) {
	b := written(t, mini, false)
	for at := 0; ; at++ {
		require.Less(t, at, 10_000)
		// A device each time: it is gone afterwards.
		tw := newBed(t, b.geo)
		b.twin = tw
		b.image()
		var d *Device
		var failed error
		ended, removed := false, false
		cfg := tw.cfg
		Start(&cfg, func(x *Device, err error) { d, failed, ended = x, err, true })
		for range at {
			tw.turn()
		}
		if ended {
			require.NoError(t, failed)
			tw.d = d
			tw.end()
			break
		}
		tw.mgr.Lookup([]string{"cache", "base"}[at%2]).Unregister(tw.th, func(any, error) { removed = true }, nil)
		tw.until("the end of the start", func() bool { return ended })
		if failed == nil {
			tw.d = d
			_ = tw.halted(true)
		} else {
			require.ErrorIs(t, failed, unix.ENODEV)
		}
		tw.until("the removal", func() bool { return removed })
		tw.noChannels()
		tw.free()
	}
}

// TestRemovalWhileStopping removes a device at many turns of a stop.
func TestRemovalWhileStopping(t *testing.T) {
	for at := 0; ; at += 1 + at/8 {
		require.Less(t, at, 10_000)
		b := newBed(t, mini)
		b.create()
		b.fillTo(300)
		b.sync()
		ended, removed := false, false
		b.d.Stop(false, func(error) { ended = true })
		for range at {
			b.turn()
		}
		if ended {
			break
		}
		b.mgr.Lookup([]string{"cache", "base"}[at%2]).Unregister(b.th, func(any, error) { removed = true }, nil)
		b.until("the stop", func() bool { return ended })
		b.until("the removal", func() bool { return removed })
		b.noChannels()
		tw := b.crash()
		tw.verify(false)
		tw.end()
		tw.free()
		b.free()
	}
}

// TestEventsOfOthers: a resize or media event changes nothing.
func TestEventsOfOthers(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	devEvent(b.d, bdev.Resize, b.mgr.Lookup("cache"), nil)
	devEvent(b.d, bdev.MediaManagement, b.mgr.Lookup("base"), []bdev.MediaExtent{{}})
	b.mustBe(HealthOK)
	b.put(0, 1)
	b.stop(false)
}
