package ftl

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/zone"
	"goftl/ftl/layout"
	"goftl/ftl/record"
)

// bases are the types of base, with and without a cache, small.
func bases() map[string]geometry {
	units := func(g geometry, unit uint32) geometry {
		z := *g.zones
		z.WriteUnit = unit
		g.zones = &z
		return g
	}
	appends := func(g geometry) geometry {
		g.appends = true
		return g
	}
	without := func(g geometry) geometry {
		g.noCache = true
		g.cache = 512
		return g
	}
	alone := func(g geometry) geometry {
		g.noCache, g.alone = true, true
		g.base += 512
		return g
	}
	conv := zonedTiny(tiny)
	z := *conv.zones
	z.ConvZones = 8
	conv.zones = &z
	return map[string]geometry{
		"conventional":            tiny,
		"zoned":                   zonedTiny(tiny),
		"zoned append":            appends(zonedTiny(tiny)),
		"zoned unit 4":            units(zonedTiny(tiny), 4),
		"no cache":                without(tiny),
		"no cache alone":          alone(tiny),
		"no cache zoned":          without(zonedTiny(tiny)),
		"no cache zoned append":   appends(without(zonedTiny(tiny))),
		"no cache zoned unit 8":   units(without(zonedTiny(tiny)), 8),
		"no cache zoned, in conv": alone(conv),
	}
}

func eachBase(t *testing.T, f func(t *testing.T, b *bed)) {
	for name, g := range bases() {
		for _, vol := range []bool{false, true} {
			g.volatile = vol
			t.Run(fmt.Sprintf("%s, volatile %v", name, vol), func(t *testing.T) { f(t, newBed(t, g)) })
		}
	}
}

// TestBases: every type of base is created, filled, overwritten, crashed at any
// moment, stopped and loaded.
func TestBases(t *testing.T) {
	eachBase(t, func(t *testing.T, b *bed) {
		b.create()
		b.fill()
		b.crashEvery(40)
		require.Empty(t, b.churn(600, 6, 8))
		b.good()
		b.settleAll()
		b.stop(false)
		b.load()
		require.Zero(t, b.d.LoadReport().Redone)
		b.good()
		b.trims(3, 40)
		b.restart()
		b.good()
		require.Empty(t, b.churn(200, 6, 8))
		b.good()
		b.stop(false)
	})
}

// TestZoneStatesAtTheStart: offline and read-only zones shrink or drop their
// bands, and what is there is used for what it is.
func TestZoneStatesAtTheStart(t *testing.T) {
	g := zonedTiny(tiny)
	z := *g.zones
	z.Offline, z.ReadOnly = []uint64{4, 10, 11}, []uint64{7}
	g.zones = &z
	b := newBed(t, g)
	b.create()
	whole, half := b.d.segs[b.d.lay.Chunks].slots, b.d.segs[b.d.lay.Chunks+2].slots
	require.Equal(t, uint32(112), whole)
	require.Equal(t, uint32(56), half)
	require.Equal(t, half, b.d.segs[b.d.lay.Chunks+3].slots)
	require.Equal(t, segBad, b.d.segs[b.d.lay.Chunks+5].state)
	require.Equal(t, b.d.lay.Bands-2, b.d.lay.UsableBands)
	b.fill()
	require.Empty(t, b.churn(500, 6, 8))
	b.good()
	b.stop(false)
	b.load()
	b.good()
	bands := b.d.Segments()[b.d.lay.Chunks:]
	for i, s := range bands {
		require.Len(t, s.Zones, 2)
		for u, z := range s.Zones {
			require.Equal(t, uint64(2*i+u), z.Zone, "one zone of every unit makes a band")
			require.LessOrEqual(t, z.Written, z.Capacity)
			require.Equal(t, z.State != "offline" && z.State != "read_only", z.InUse)
			if s.State == "full" && z.InUse {
				require.Equal(t, "full", z.State)
			}
		}
	}
	require.Equal(t, SegmentZone{4, "offline", 0, 56, false}, bands[2].Zones[0])
	b.stop(false)
}

// TestZonesTurnWhileRunning: a zone that goes read-only is emptied; one that
// goes offline takes what it held with it, and nothing else; both leave smaller
// bands.
func TestZonesTurnWhileRunning(t *testing.T) {
	for _, state := range []bdev.ZoneState{bdev.ZoneReadOnly, bdev.ZoneOffline} {
		t.Run(state.String(), func(t *testing.T) {
			b := newBed(t, zonedTiny(tiny))
			b.create()
			b.fill()
			b.settleAll()
			var s *segment
			for i := range b.d.segs {
				if c := &b.d.segs[i]; c.band && c.state == segFull && b.d.valid[i] > 20 {
					s = c
					break
				}
			}
			require.NotNil(t, s)
			first := uint64(s.id) * 2
			held := map[uint64]bool{} // what is in the band, and can be lost with one of its zones
			for lba := range b.d.Blocks() {
				if a := b.d.table.Get(lba); a >= 2 {
					if idx, _ := b.d.segOf(a); idx == s.idx {
						held[lba] = true
					}
				}
			}
			require.NoError(t, b.zoned.SetZoneState(first+1, state))
			b.until("band emptied", func() bool { return s.state == segFull || s.state == segFree || s.state == segQuarantine })
			b.until("put away", func() bool { return !s.evacuate || s.unreadable > 0 })
			if state == bdev.ZoneOffline {
				for lba := range held {
					b.gone[lba] = true
				}
			}
			bad := b.verify(false)
			if state == bdev.ZoneReadOnly {
				require.Empty(t, bad)
			} else {
				require.NotEmpty(t, bad)
				require.Less(t, len(bad), len(held)*4/5, "what is in the other zone")
			}
			require.Empty(t, b.churn(600, 6, 8))
			b.verify(false)
			b.settleAll()
			require.Equal(t, HealthOK, b.d.health)
		})
	}
}

// TestFailingResets: a zone whose reset fails is retired, its band goes on with
// the others.
func TestFailingResets(t *testing.T) {
	b := newBed(t, zonedTiny(tiny))
	b.create()
	b.fill()
	b.zoned.FailReset(2)
	require.Empty(t, b.churn(1500, 6, 8))
	b.good()
	smaller := 0
	for i := range b.d.segs {
		if s := &b.d.segs[i]; s.band && s.slots == 56 {
			smaller++
		}
	}
	require.Equal(t, 1, smaller)
	b.stop(false)
	b.load()
	b.good()
	b.stop(false)
}

// TestZonesAgainstLimits: the limits of open and active zones are respected.
func TestZonesAgainstLimits(t *testing.T) {
	for _, cached := range []bool{true, false} {
		for _, limit := range []uint32{4, 5, 6, 8} {
			t.Run(fmt.Sprintf("cache %v, limit %d", cached, limit), func(t *testing.T) {
				g := zonedTiny(tiny)
				z := *g.zones
				z.MaxOpen, z.MaxActive = limit, limit
				g.zones = &z
				if !cached {
					g.noCache, g.cache = true, 512
				}
				b := newBed(t, g)
				b.create()
				b.fill()
				require.Empty(t, b.churn(800, 6, 8))
				b.good()
				require.Zero(t, b.stats().Rehomed, "a write that the limits refused")
				b.restart()
				require.Empty(t, b.churn(300, 6, 8))
				b.good()
				b.stop(false)
			})
		}
	}
	g := zonedTiny(tiny)
	g.zones = &zone.Options{ZoneBlocks: 64, Units: 2, MaxOpen: 3}
	b := newBed(t, g)
	cfg := b.cfg
	cfg.Create = true
	require.ErrorContains(t, b.start(cfg), "use fewer parallel units")
}

// TestZoneUnitsAreRemembered: a device whose bands are made of fewer zones than
// the base has parallel units is loaded without saying so again, and the limits
// of the device are counted in these bands.
func TestZoneUnitsAreRemembered(t *testing.T) {
	g := zonedTiny(tiny)
	z := *g.zones
	z.Units, z.MaxOpen, z.MaxActive = 4, 6, 6
	g.zones = &z
	b := newBed(t, g)
	cfg := b.cfg
	cfg.Create = true
	require.ErrorContains(t, b.start(cfg), "use fewer parallel units")
	cfg.ZoneUnits = 2
	require.NoError(t, b.start(cfg))
	b.blank()
	b.fill()
	b.stop(false)
	b.load()
	require.Equal(t, uint64(2), b.d.lay.Zones.Units)
	require.Equal(t, 3, b.d.zones.Limit())
	require.Empty(t, b.churn(400, 6, 8))
	b.good()
	b.stop(false)
}

// TestStopWhileZonesAreRetried: a zone that could not be finished is tried again;
// a stop does not wait for that, and what comes of it afterwards finds nobody.
func TestStopWhileZonesAreRetried(t *testing.T) {
	for _, fast := range []bool{false, true} {
		for _, answer := range []error{nil, unix.EIO} {
			t.Run(fmt.Sprintf("fast %v, %v", fast, answer), func(t *testing.T) {
				b := newBed(t, zonedTiny(tiny))
				top := b.faultyZones()
				b.create()
				b.fill()
				refused, err := top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneFinish), Action: errinj.Fail})
				require.NoError(t, err)
				for !b.d.zones.Unfinished() {
					require.Empty(t, b.churn(20, 6, 8))
				}
				hangs, err := top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneFinish), Action: errinj.Hang, Count: 1})
				require.NoError(t, err)
				refused.Remove()
				b.until("tried again", func() bool { return hangs.Hits() > 0 })
				b.settleAll()
				ended := false
				b.d.Stop(fast, func(error) { ended = true })
				b.until("stop", func() bool { return ended })
				hangs.Remove()
				top.ReleaseHung(answer)
				for range 100 {
					b.turn()
				}
				require.Len(t, b.th.Stats().Channels, b.rest, "channels that were not given back")
				b.load()
				b.good()
			})
		}
	}
}

// faultyZones puts a device that injects errors between the zones and the FTL.
func (b *bed) faultyZones() *errinj.Driver {
	b.t.Helper()
	dev, err := errinj.Create(b.mgr, b.th, errinj.Options{Name: "top", Base: "zones"})
	require.NoError(b.t, err)
	b.cfg.Base = "top"
	b.rest = len(b.th.Stats().Channels)
	return dev.Driver().(*errinj.Driver)
}

// TestZonesThatALoadCannotFinish: zones that a life left open are finished by the
// next load. Those for which that fails count as open; it is tried again, and
// writes go on.
func TestZonesThatALoadCannotFinish(t *testing.T) {
	g := zonedTiny(tiny)
	z := *g.zones
	z.MaxOpen, z.MaxActive = 4, 4
	g.zones = &z
	g.noCache, g.cache = true, 512
	b := newBed(t, g)
	top := b.faultyZones()
	b.create()
	b.fillTo(30)
	refused, err := top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneFinish), Action: errinj.Fail})
	require.NoError(t, err)
	b.d.Stop(false, func(error) {})
	b.until("stop", func() bool { return len(b.th.Stats().Channels) <= b.rest })
	b.load()
	require.False(t, b.d.zones.MayWrite(1), "there is no room for users and relocation")
	refused.Remove()
	require.Empty(t, b.churn(300, 6, 8))
	b.good()
}

// TestZonedWriteErrors: a write that fails seals its band; nothing is lost.
func TestZonedWriteErrors(t *testing.T) {
	for name, g := range bases() {
		if g.zones == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			b.fillTo(b.d.Blocks() / 2)
			for range 5 {
				a := b.fault(onBase, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Fail, After: 10, Count: 1, From: b.bandsFrom(), To: 1 << 40})
				require.Empty(t, b.churn(150, 6, 8))
				a.Remove()
			}
			b.good()
			b.crashed()
			b.settleAll()
			b.restart()
			b.good()
			b.stop(false)
		})
	}
}

// bandsFrom is the first block of the base that holds bands.
func (b *bed) bandsFrom() uint64 {
	if b.d.zones != nil {
		from, _ := b.d.zones.Extent(0)
		return from
	}
	return b.d.segs[b.d.lay.Chunks].off
}

// TestNoSpaceToFinishZones: zones cannot be finished, because there is no room
// for their states, and the limits let no others be opened. Users are told, a stop
// ends, and after space was made writing goes on.
func TestNoSpaceToFinishZones(t *testing.T) {
	for _, cached := range []bool{true, false} {
		for _, fast := range []bool{false, true} {
			t.Run(fmt.Sprintf("cache %v, fast %v", cached, fast), func(t *testing.T) {
				b, top := limitedZones(t, cached)
				rule := errinj.Rule{Ops: bdev.Ops(bdev.OpZoneFinish), Action: errinj.Fail, Err: unix.ENOSPC}
				full, err := top.Add(rule)
				require.NoError(t, err)
				b.refused(unix.ENOSPC)
				for range 5 {
					b.pass(4 * time.Second) // for many attempts
					onlyErr(t, b.churn(5, 4, 2), unix.ENOSPC)
				}
				b.mustBe(HealthOK)
				b.good()
				full.Remove()
				b.pass(200 * time.Millisecond)
				require.Empty(t, b.churn(600, 6, 8))
				full, err = top.Add(rule)
				require.NoError(t, err)
				b.refused(unix.ENOSPC)
				b.submit(OpWrite, 3, 4, false)
				b.ended(fast)
				full.Remove()
				b.load()
				b.mustBe(HealthOK)
				require.Empty(t, b.churn(300, 6, 8))
				b.good()
				b.settleAll()
				b.check()
				b.ended(false)
			})
		}
	}
}

// TestZonesThatAreNeverFinished: zones cannot be finished ever, and the limits let
// no others be opened. What waits for them does not wait for ever.
func TestZonesThatAreNeverFinished(t *testing.T) {
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprintf("cache %v", cached), func(t *testing.T) {
			b, top := limitedZones(t, cached)
			_, err := top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneFinish), Action: errinj.Fail})
			require.NoError(t, err)
			b.refused(unix.EROFS)
			b.mustBe(HealthReadOnly)
			require.ErrorContains(t, b.d.failure, "zones cannot be finished")
			b.good()
			b.ended(false)
		})
	}
}

// limitedZones makes a bed whose base counts few zones as open, and a device that
// injects errors in front of it.
func limitedZones(t *testing.T, cached bool) (*bed, *errinj.Driver) {
	g := zonedTiny(tiny)
	z := *g.zones
	z.MaxOpen, z.MaxActive = 4, 4
	g.zones = &z
	if !cached {
		g.noCache, g.cache = true, 512
	}
	b := newBed(t, g)
	top := b.faultyZones()
	b.create()
	b.fill()
	return b, top
}

// refused writes until that fails with want. It may take long: zones that records
// fill to the end need not be finished.
func (b *bed) refused(want error) {
	b.t.Helper()
	for range 20 {
		if failed := b.churn(1000, 6, 8); len(failed) > 0 {
			onlyErr(b.t, failed, want)
			return
		}
	}
	b.t.Fatal("no write was refused")
}

// ended stops a device with another one in front of its base.
func (b *bed) ended(fast bool) {
	b.t.Helper()
	var ended bool
	b.d.Stop(fast, func(err error) { require.NoError(b.t, err); ended = true })
	b.until("stop, and all channels back", func() bool { return ended && len(b.th.Stats().Channels) <= b.rest })
}

// TestFreeBandsDisclaim: a band whose last use ended without a summary says FREE
// on the media before it counts as free. Without a cache a load that could not
// read its zones any more would report lost records.
func TestFreeBandsDisclaim(t *testing.T) {
	g := zonedTiny(tiny)
	g.noCache, g.cache = true, 512
	b := newBed(t, g)
	top := b.faultyZones()
	b.create()
	b.fill()
	once, err := top.Add(errinj.Rule{Ops: writeOps, Action: errinj.Fail, Count: 1})
	require.NoError(t, err)
	hurt := func() *segment {
		for i := range b.d.segs {
			if s := &b.d.segs[i]; s.hurt && s.state == segFull {
				return s
			}
		}
		return nil
	}
	var s *segment
	for i := 0; s == nil; i++ {
		require.Less(t, i, 500, "a write fails")
		b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-3), 3, false)
		b.until("room", func() bool {
			if s == nil {
				s = hurt()
			}
			return len(b.wait) < 4
		})
	}
	once.Remove()
	gen := s.gen
	require.True(t, s.claims)
	require.False(t, s.summaryOK)
	desc := func() (ds record.Descriptor) {
		at := b.region(layout.RegionBandMD).Offset + uint64(s.id)
		require.NoError(t, ds.Decode(b.mem[onCache].Data()[at*4096:(at+1)*4096], s.idx))
		return ds
	}
	require.Equal(t, record.StateOpen, desc().State)
	b.drainAll()
	for i := 0; s.state != segFree; i++ {
		require.Less(t, i, 5000, "the band becomes free")
		require.Empty(t, b.churn(1, 6, 8))
	}
	require.Equal(t, gen, s.gen)
	require.False(t, s.claims)
	require.Equal(t, record.StateFree, desc().State)
	require.Equal(t, gen, desc().Gen, "generations go on")
	for u := range uint64(2) {
		require.NoError(t, b.zoned.SetZoneState(uint64(s.id)*2+u, bdev.ZoneOffline))
	}
	b.until("the band is out of use", func() bool { return s.state == segBad })
	tw := b.image()
	tw.cfg.Base = "zones"
	require.NoError(t, tw.start(tw.cfg))
	tw.mustBe(HealthOK)
	tw.verify(true)
	tw.end()
	require.Empty(t, b.churn(200, 6, 8))
	b.good()
	b.ended(false)
}

// TestOpeningDisclaimsFirst: an OPEN descriptor that failed, and landed all the
// same, is taken back before the zones are reset again. A reset that fails takes a
// zone along, and as long as the media say OPEN a load would report lost records.
func TestOpeningDisclaimsFirst(t *testing.T) {
	g := zonedTiny(tiny)
	g.noCache, g.cache = true, 512
	b := newBed(t, g)
	b.create()
	b.fill()
	mirror := b.region(layout.RegionBandMDMirror)
	full := b.fault(onCache, errinj.Rule{
		Action: errinj.Fail, Err: unix.ENOSPC, Landed: true, Ops: writeOps, From: mirror.Offset, To: mirror.End(),
	})
	claiming := func() *segment {
		for i := range b.d.segs {
			if s := &b.d.segs[i]; s.state == segFree && s.claims {
				return s
			}
		}
		return nil
	}
	var s *segment
	for i := 0; s == nil; i++ {
		require.Less(t, i, 500, "a band cannot be opened")
		for err := range b.churn(1, 6, 8) {
			require.ErrorIs(t, err, unix.ENOSPC)
		}
		s = claiming()
	}
	var ds record.Descriptor
	at := mirror.Offset + uint64(s.id)
	require.NoError(t, ds.Decode(b.mem[onCache].Data()[at*4096:(at+1)*4096], s.idx))
	require.Equal(t, record.StateOpen, ds.State)
	full.Remove()
	full = b.fault(onCache, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: mirror.Offset, To: mirror.End()})
	for i, fails := 0, 0; fails < 3 && s.state == segFree; i++ {
		require.Less(t, i, 500, "it is its turn")
		b.zoned.FailReset(0)
		if f := &b.d.freeBands; f.q[f.head] == s.idx {
			b.zoned.FailReset(1)
			fails++
		}
		onlyErr(t, b.churn(1, 1, 1), unix.ENOSPC)
	}
	b.zoned.FailReset(0)
	tw := b.image()
	require.NoError(t, tw.start(tw.cfg))
	tw.mustBe(HealthOK)
	tw.verify(true)
	tw.end()

	full.Remove()
	require.Empty(t, b.churn(1500, 6, 8))
	b.good()
	b.ended(false)
}
