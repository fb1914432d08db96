package ftl

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/zone"
	"goftl/ftl/layout"
)

// The tests of this file carry the numbers of the inventory of what starting,
// channels and stopping have to do; the table is in INUMBERS.md.

// TestI01Defaults: a configuration without limits has those of the original.
func TestI01Defaults(t *testing.T) {
	c := newBed(t, mini).cfg
	require.NoError(t, c.complete())
	require.Equal(t, defaultUser, c.Limits.User)
	require.Equal(t, 10, c.Limits.InvalidPct)
	require.Equal(t, 90, c.BandThresholdPct)
	require.Equal(t, 128, c.MaxIOChannels)
	require.Equal(t, uint32(20), uint32(layout.DefaultSparePct))
	l, err := layout.Compute(layout.Params{CacheBlocks: 5 << 18, BaseBlocks: 400 << 18, NoCache: true})
	require.NoError(t, err)
	lim := limitsFor(l, &c.Limits)
	require.Equal(t, [4]UserLimit{{5, 0}, {10, 5}, {20, 40}, {40, 100}}, lim.user, "400 GiB")
	l, err = layout.Compute(layout.Params{CacheBlocks: 1 << 18, BaseBlocks: 1 << 18, NoCache: true})
	require.NoError(t, err)
	lim = limitsFor(l, &c.Limits)
	require.Equal(t, [4]UserLimit{{2, 0}, {3, 5}, {7, 40}, {15, 100}}, lim.user, "1 GiB: scaled down")
	require.Equal(t, 15, lim.gcStart)
	last := -1
	for free := range 50 {
		pct := lim.userShare(free)
		require.GreaterOrEqual(t, pct, last)
		last = pct
	}
	require.Equal(t, 0, lim.userShare(2))
	require.Equal(t, 5, lim.userShare(3))
	require.Equal(t, 40, lim.userShare(7))
	require.Equal(t, 70, lim.userShare(11))
	require.Equal(t, 100, lim.userShare(15))
}

// TestI02Validation: what is wrong is named, with its value and a remedy.
func TestI02Validation(t *testing.T) {
	b := newBed(t, mini)
	for field, change := range map[string]func(c *Config){
		"Limits.InvalidPct is 100": func(c *Config) { c.Limits.InvalidPct = 100 },
		"Limits.User.Low.Pct": func(c *Config) {
			c.Limits.User = UserLimits{UserLimit{5, 0}, UserLimit{10, 5}, UserLimit{20, 101}, UserLimit{40, 100}}
		},
		"Limits.User.High.Bands": func(c *Config) {
			c.Limits.User = UserLimits{UserLimit{5, 0}, UserLimit{5, 5}, UserLimit{20, 40}, UserLimit{40, 100}}
		},
		"Limits.User.Start.Pct": func(c *Config) {
			c.Limits.User = UserLimits{UserLimit{5, 0}, UserLimit{10, 5}, UserLimit{20, 40}, UserLimit{40, 30}}
		},
		"BandThresholdPct is 101": func(c *Config) { c.BandThresholdPct = 101 },
		"SparePct is 100":         func(c *Config) { c.SparePct = 100 },
		"set NoCache":             func(c *Config) { c.Cache = "" },
	} {
		cfg := b.cfg
		cfg.Create = true
		change(&cfg)
		err := b.start(cfg)
		require.ErrorIs(t, err, unix.EINVAL, field)
		require.ErrorContains(t, err, strings.Replace(field, " is ", ": is ", 1))
	}
}

// TestI03NoBase: a start without a base device is refused, by a callback.
func TestI03NoBase(t *testing.T) {
	b := newBed(t, mini)
	cfg := b.cfg
	cfg.Base = ""
	require.ErrorIs(t, b.start(cfg), unix.EINVAL)
	cfg.Base = "missing"
	require.ErrorIs(t, b.start(cfg), unix.ENODEV)
	b.noChannels()
}

// TestI05Geometry: a base that does not fit is refused, and closed again.
func TestI05Geometry(t *testing.T) {
	start := func(o zone.Options, change func(c *Config)) error {
		g := zonedTiny(tiny)
		g.zones = &o
		b := newBed(t, g)
		cfg := b.cfg
		cfg.Create = true
		if change != nil {
			change(&cfg)
		}
		err := b.start(cfg)
		if err == nil {
			b.stop(false)
		}
		b.noChannels()
		return err
	}
	z := zone.Options{ZoneBlocks: 64, Units: 2}
	require.NoError(t, start(z, func(c *Config) { c.ZoneAppend = true }))
	require.ErrorContains(t, start(z, func(c *Config) { c.ZoneUnits = 65 }), "number of zones in a band is 65")
	require.ErrorContains(t, start(z, func(c *Config) { c.BandBlocks = 64 }), "leave band blocks")
	require.ErrorContains(t, start(zone.Options{ZoneBlocks: 1024}, nil), "smaller zones")
	require.ErrorContains(t, start(z, func(c *Config) { c.NoCache, c.Cache = true, "" }), "name a small conventional device")
	z.WriteUnit, z.ConvZones = 4, 8
	require.ErrorContains(t, start(z, func(c *Config) { c.NoCache, c.Cache = true, "" }), "metadata needs 1")
}

// TestI05AppendMustBePossible: append where the device cannot is refused.
func TestI05AppendMustBePossible(t *testing.T) {
	b := newBed(t, zonedTiny(tiny))
	_, err := b.mgr.Register(noAppend{b.zoned})
	require.NoError(t, err)
	cfg := b.cfg
	cfg.Create, cfg.Base, cfg.ZoneAppend = true, "no append", true
	require.ErrorContains(t, b.start(cfg), "write them sequentially")
}

// noAppend is a zoned device without append.
type noAppend struct{ *zone.Driver }

func (n noAppend) Info() bdev.Info {
	i := n.Driver.Info()
	i.Name = "no append"
	i.Ops = i.Ops.Without(bdev.OpZoneAppend)
	return i
}

// TestI09Bands: bands begin unused and are opened in the order of their numbers.
func TestI09Bands(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			for _, s := range b.d.Segments() {
				require.Equal(t, "free", s.State)
			}
			b.fill()
			last := uint64(0)
			for _, s := range b.d.Segments() {
				if s.Kind == "band" && s.Gen == 1 {
					require.GreaterOrEqual(t, s.Opened, last, "band %d", s.ID)
					last = s.Opened
				}
			}
			b.stop(false)
		})
	}
}

// TestI15Batches: zones are read 64 at a time.
func TestI15Batches(t *testing.T) {
	g := zonedTiny(tiny)
	g.base = 64 * 150
	b := newBed(t, g)
	e, err := errinj.Create(b.mgr, b.th, errinj.Options{Name: "watched", Base: "zones"})
	require.NoError(t, err)
	seen, err := e.Driver().(*errinj.Driver).Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneInfo), Action: errinj.Delay, Delay: 1})
	require.NoError(t, err)
	cfg := b.cfg
	cfg.Create, cfg.Base = true, "watched"
	require.NoError(t, b.start(cfg))
	zones := b.zoned.Info().Blocks / 64
	require.Equal(t, (zones+63)/64, seen.Hits())
	b.stop(false)
}

// TestI18Create: the size is what is usable less the spare.
func TestI18Create(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			l := b.d.Layout()
			per := layout.DataBlocks(l.BandSlots)
			require.Equal(t, min(l.UsableBands*per/100*80, (l.UsableBands-layout.ReserveBands)*per), b.d.Blocks())
			require.Equal(t, testUUID, b.d.UUID())
			b.stop(false)
		})
	}
}

// TestI20NoBandLeft: when zones fail until no band is left to write to, the
// device says so and becomes read-only; what can be read stays readable, and
// nobody waits for ever.
func TestI20NoBandLeft(t *testing.T) {
	for name, g := range bases() {
		if g.zones == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			b.fill()
			b.settleAll()
			zones := b.zoned.Info().Blocks / 64
			for i := g.zones.ConvZones; i < zones; i++ {
				if i%5 != 0 {
					require.NoError(t, b.zoned.SetZoneState(i, bdev.ZoneReadOnly))
				}
			}
			failed := b.churn(4000, 6, 8)
			require.NotEmpty(t, failed)
			h, err := b.d.Health()
			require.Equal(t, HealthReadOnly, h)
			require.ErrorIs(t, err, unix.ENOSPC)
			b.verify(false)
			_ = b.halted(false)
		})
	}
}

// TestI23CancelledStart: a start can be ended at any moment. Its callback comes
// once, with the reason, everything is given back, and nothing is lost.
func TestI23CancelledStart(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			g.volatile = true
			b := newBed(t, g)
			b.create()
			b.fillTo(b.d.Blocks() / 2)
			require.Empty(t, b.churn(100, 6, 8))
			b.sync()
			for _, create := range []bool{true, false} {
				cancelled := 0
				for turns := 0; ; turns++ {
					tw := b.image()
					if create {
						tw = newBed(t, g)
					}
					cfg := tw.cfg
					cfg.Create = create
					calls, failed := 0, error(nil)
					s := Start(&cfg, func(d *Device, err error) {
						calls++
						tw.d, failed = d, err
					})
					for range turns {
						tw.turn()
					}
					late := !s.Cancel()
					tw.until("start over", func() bool { return calls > 0 })
					require.False(t, s.Cancel())
					require.Equal(t, late, failed == nil)
					if failed != nil {
						cancelled++
						require.ErrorIs(t, failed, ErrCancelled)
						require.ErrorIs(t, failed, unix.ECANCELED)
						tw.noChannels()
						if create {
							tw.free()
							continue
						}
						require.NoError(t, tw.start(tw.cfg))
					}
					if !create {
						tw.verify(true)
						tw.end()
					} else {
						tw.stop(true)
						tw.free()
					}
					if late {
						break
					}
				}
				require.Greater(t, cancelled, 10, "create %v", create)
			}
		})
	}
}

// TestI25HaltAnywhere: a device stops in the middle of writing, relocation and
// checkpoints; the callback comes once, requests are answered, nothing is lost.
func TestI25HaltAnywhere(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			b.fill()
			for i := range 12 {
				for range 60 {
					b.submit(OpWrite, b.rnd.Uint64N(b.d.Blocks()-6), 1+b.rnd.Uint64N(6), false)
					b.until("room", func() bool { return len(b.wait) < 12 })
				}
				for range i * 3 {
					b.turn()
				}
				require.NoError(t, b.halted(i%2 == 0))
				require.Empty(t, b.wait, "requests without an answer")
				b.load()
				b.good()
			}
			require.Positive(t, b.stats().Relocated+b.stats().Compacted+1)
			b.stop(false)
		})
	}
}

// TestI26SecondHalt: it is refused, and changes nothing.
func TestI26SecondHalt(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	calls, refused := 0, error(nil)
	b.d.Stop(false, func(err error) {
		require.NoError(t, err)
		calls++
	})
	b.d.Stop(false, func(err error) { refused = err })
	require.ErrorIs(t, refused, unix.EBUSY)
	b.until("stop", func() bool { return calls > 0 })
	b.pass(1e6)
	require.Equal(t, 1, calls)
}

// TestI26HaltReportsTheFirstError: a header that cannot be written clean is
// said.
func TestI26HaltReportsTheFirstError(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.fillTo(100)
	b.fault(onCache, errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), To: 1, Action: errinj.Fail})
	require.ErrorIs(t, b.halted(false), unix.EIO)
	b.heal()
	b.load()
	b.good()
	b.stop(false)
}

// TestI27MediaEvents: what a device calls failing is moved away first, from
// bands and from chunks, many extents at once.
func TestI27MediaEvents(t *testing.T) {
	for name, g := range bases() {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, g)
			b.create()
			b.fill()
			b.settleAll()
			dev := b.mgr.Lookup(b.cfg.Base)
			var hit []*segment
			extents := make([]bdev.MediaExtent, 0, 300)
			for i := range b.d.segs {
				s := &b.d.segs[i]
				if !s.band || s.state != segFull || b.d.valid[i] == 0 || len(hit) == 3 {
					continue
				}
				hit = append(hit, s)
				from := s.off
				if b.d.zones != nil {
					from, _ = b.d.zones.Extent(uint64(s.id))
				}
				for k := range uint64(60) {
					extents = append(extents, bdev.MediaExtent{LBA: from + k, Blocks: 1})
				}
			}
			require.Len(t, hit, 3)
			gens := []uint32{hit[0].gen, hit[1].gen, hit[2].gen}
			require.Equal(t, len(extents), dev.NotifyMedia(extents))
			b.until("emptied", func() bool {
				for i, s := range hit {
					if s.gen == gens[i] && s.state == segFull && b.d.valid[s.idx] > 0 {
						return false
					}
				}
				return true
			})
			require.Zero(t, b.d.urgent[1])
			require.EqualValues(t, len(extents), b.stats().MediaEvents)
			b.settleAll()
			b.good()
			b.stop(false)
		})
	}
}

// TestWearChoosesTheVictim: of bands with the same garbage and age the least
// worn one is emptied.
func TestWearChoosesTheVictim(t *testing.T) {
	b := newBed(t, tiny)
	b.create()
	b.fill()
	b.settleAll()
	d := b.d
	d.lim.gcStart = int(d.lay.Bands) // space is wanted
	var full []*segment
	for i := range d.segs {
		if s := &d.segs[i]; s.band && s.state == segFull {
			full = append(full, s)
		}
	}
	require.Greater(t, len(full), 5)
	valid := append([]uint32(nil), d.valid...)
	defer copy(d.valid, valid)
	for i, s := range full {
		d.valid[s.idx], s.opened, s.gen = 60, 1, uint32(20-i%3)
	}
	full[4].gen = 3
	d.maxGen = 20
	require.Same(t, full[4], pickBand(d))
	full[2].evacuate = true
	require.Same(t, full[2], pickBand(d), "what fails comes first")
	full[2].evacuate = false
}

// TestInvalidThreshold: bands with little garbage are left alone while space is
// not short.
func TestInvalidThreshold(t *testing.T) {
	b := newBed(t, tiny)
	b.create()
	b.fill()
	b.settleAll()
	d := b.d
	valid := append([]uint32(nil), d.valid...)
	defer copy(d.valid, valid)
	d.lim.garbage, d.lim.gcStart = 10, d.freeBands.n+d.bands[segQuarantine]+1
	for i := d.lay.Chunks; i < uint64(len(d.segs)); i++ {
		d.valid[i] = d.segs[i].body * 93 / 100
	}
	require.Nil(t, pickBand(d))
	d.lim.gcStart = 2*d.freeBands.n + 2
	require.NotNil(t, pickBand(d), "space is short")
}

var errCode unix.Errno

// TestI23EveryStep: whatever step of a start fails, on every type of base, the
// cause reaches the caller, and the next start finds everything.
func TestI23EveryStep(t *testing.T) {
	for name, g := range bases() {
		if name == "conventional" {
			continue // TestFailingSteps
		}
		t.Run(name, func(t *testing.T) {
			g.volatile = true
			b := newBed(t, g)
			b.create()
			b.fillTo(b.d.Blocks() / 2)
			b.sync()
			failures := 0
			for dev := range 2 {
				for n := uint64(1); n < 400; n++ {
					tw := b.image()
					r := tw.rule(dev, errinj.Rule{Action: errinj.Fail, Nth: n})
					err := tw.start(tw.cfg)
					r.Remove()
					if err != nil {
						failures++
						require.True(t, errors.As(err, &errCode), err.Error())
						tw.noChannels()
						require.NoError(t, tw.start(tw.cfg), fmt.Sprintf("device %d, IO %d", dev, n))
					}
					if h, _ := tw.d.Health(); h == HealthOK {
						tw.verify(true)
					}
					tw.halted(true)
					if err == nil && r.Hits() == 0 {
						break
					}
				}
			}
			require.Greater(t, failures, 5)
		})
	}
}
