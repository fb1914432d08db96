package zoned

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/malloc"
	emulated "goftl/bdev/zone"
	"goftl/ftl/layout"
	"goftl/iobuf"
	"goftl/thread"
)

// bench is a zoned device with a Base over it.
type bench struct {
	t    *testing.T
	th   *thread.Thread
	now  int64
	inj  *errinj.Driver // below the zones
	top  *errinj.Driver // above them
	zone *emulated.Driver
	ch   *bdev.Channel
	b    *Base
	lay  *layout.Layout
}

func newBench(t *testing.T, o emulated.Options, zones uint64, appends bool, stripe ...uint64) *bench {
	t.Helper()
	return newBenchWith(t, bdev.DefaultPoolMax, o, zones, appends, stripe...)
}

// newBenchWith is newBench with pool IOs for each device.
func newBenchWith(t *testing.T, pool int, o emulated.Options, zones uint64, appends bool, stripe ...uint64) *bench {
	t.Helper()
	sys := thread.NewSystem()
	x := &bench{t: t, th: sys.NewThread("core")}
	mgr := bdev.NewManager(sys, nil)
	require.NoError(t, mgr.SetPool(pool, min(pool, 64)))
	m, err := malloc.New(malloc.Options{Name: "raw", Blocks: zones * o.ZoneBlocks})
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	_, err = mgr.Register(m)
	require.NoError(t, err)
	e, err := errinj.Create(mgr, x.th, errinj.Options{Name: "inj", Base: "raw"})
	require.NoError(t, err)
	x.inj = e.Driver().(*errinj.Driver)
	o.Name, o.Base = "zones", "inj"
	z, err := emulated.Create(mgr, x.th, o)
	require.NoError(t, err)
	x.zone = z.Driver().(*emulated.Driver)
	top, err := errinj.Create(mgr, x.th, errinj.Options{Name: "top", Base: "zones"})
	require.NoError(t, err)
	x.top = top.Driver().(*errinj.Driver)
	desc, err := mgr.Open("top", true, nil, nil, x.th)
	require.NoError(t, err)
	x.ch, err = desc.Channel(x.th)
	require.NoError(t, err)
	cfg := Config{Thread: x.th, Channel: x.ch, Info: z.Info(), Append: appends}
	for _, cfg.Stripe = range stripe {
	}
	x.b, err = New(cfg)
	require.NoError(t, err)
	x.wait(func(done func(any, error)) { x.b.Discover(done, nil) })
	x.lay, err = layout.Compute(layout.Params{
		CacheBlocks: 4096, NoCache: true, BaseBlocks: z.Info().Blocks, Zones: x.b.Shape(),
	})
	require.NoError(t, err)
	require.NoError(t, x.b.Lay(x.lay))
	return x
}

func (x *bench) turn() {
	x.now += 1000
	x.th.Poll(64, x.now)
}

func (x *bench) turns(n int) {
	for range n {
		x.turn()
	}
}

// wait runs an operation to its end, which must be a good one.
func (x *bench) wait(f func(done func(any, error))) {
	x.t.Helper()
	require.NoError(x.t, x.result(f))
}

func (x *bench) result(f func(done func(any, error))) (failed error) {
	x.t.Helper()
	over, inside := false, true
	f(func(_ any, err error) {
		require.False(x.t, inside, "a callback inside the call")
		require.False(x.t, over, "two callbacks")
		over, failed = true, err
	})
	inside = false
	for i := 0; !over; i++ {
		require.Less(x.t, i, 100_000, "no callback")
		x.turn()
	}
	return failed
}

func (x *bench) addr(band uint64, slot uint32) uint64 {
	return x.b.First() + band*x.lay.BandBlocks + uint64(slot)
}

func fill(n int, seed byte) []byte {
	buf := iobuf.Alloc(n * blockSize)
	for i := range buf {
		buf[i] = seed + byte(i/blockSize)
	}
	return buf
}

// TestSlotsGoRoundTheZones: every slot is where the stripes say, whatever the
// sizes, buffers and number of writes under way, sequentially and by append.
func TestSlotsGoRoundTheZones(t *testing.T) {
	for _, c := range []struct {
		o       emulated.Options
		appends bool
		aim     uint64
		stripe  int
	}{
		{emulated.Options{ZoneBlocks: 64, Units: 1}, false, 0, 16},
		{emulated.Options{ZoneBlocks: 64, Units: 3, Capacity: 50}, false, 0, 8},
		{emulated.Options{ZoneBlocks: 128, Units: 4, WriteUnit: 4}, false, 0, 16},
		{emulated.Options{ZoneBlocks: 128, Units: 4, MaxAppend: 8}, true, 0, 16},
		{emulated.Options{ZoneBlocks: 256, Units: 2}, true, 0, 16},
		{emulated.Options{ZoneBlocks: 256, Units: 2}, false, 64, 64},
		{emulated.Options{ZoneBlocks: 128, Units: 2}, false, 64, 32},
		{emulated.Options{ZoneBlocks: 128, Units: 4, WriteUnit: 4}, false, 1, 4},
		{emulated.Options{ZoneBlocks: 128, Units: 3}, false, 1, 1},
		{emulated.Options{ZoneBlocks: 1024, Units: 2}, false, 0, 32},
		{emulated.Options{ZoneBlocks: 4096, Units: 1}, true, 0, 128},
	} {
		x := newBench(t, c.o, 64, c.appends, c.aim)
		require.EqualValues(t, c.stripe, x.b.Stripe())
		rnd := rand.New(rand.NewPCG(1, 2))
		unit := int(max(c.o.WriteUnit, 1))
		x.wait(func(done func(any, error)) { x.b.Reset(2, done, nil) })
		slots := x.b.Slots(2)
		under, next := 0, uint32(0)
		want := make([]byte, slots)
		for next < slots || under > 0 {
			if next < slots && under < 6 {
				n := min(uint32((1+rnd.IntN(40/unit))*unit), slots-next)
				buf := fill(int(n), byte(next))
				cut := rnd.IntN(int(n)) * blockSize
				for i := range n {
					want[next+i] = byte(next) + byte(i)
				}
				under++
				x.b.Write([][]byte{buf[:cut], buf[cut:]}, x.addr(2, next), uint64(n), func(_ any, err error) {
					require.NoError(t, err)
					under--
				}, nil)
				next += n
				continue
			}
			x.turn()
		}
		require.True(t, x.b.At(2, slots))
		for slot := uint32(0); slot < slots; {
			n := min(uint32(1+rnd.IntN(60)), slots-slot)
			buf := fill(int(n), 77)
			x.wait(func(done func(any, error)) { x.b.Read([][]byte{buf}, x.addr(2, slot), uint64(n), done, nil) })
			for i := range n {
				require.Equal(t, want[slot+i], buf[i*blockSize], "slot %d", slot+i)
				require.Equal(t, want[slot+i], buf[(i+1)*blockSize-1])
			}
			slot += n
		}
		// The zones themselves: stripe s of a band is in zone s mod units.
		stripe, units := uint32(x.b.Stripe()), uint32(x.b.units)
		for slot := uint32(0); slot < slots; slot += stripe {
			row := slot / stripe
			lba := (x.b.first+2*uint64(units)+uint64(row%units))*c.o.ZoneBlocks + uint64(row/units*stripe)
			buf := fill(1, 77)
			x.wait(func(done func(any, error)) {
				require.NoError(t, x.ch.Readv([][]byte{buf}, nil, lba, 1, func(io *bdev.IO) { done(nil, io.Err()) }, nil))
			})
			require.Equal(t, want[slot], buf[0], "slot %d", slot)
			for _, n := range []uint64{1, uint64(stripe)} {
				direct, ok := x.b.Direct(x.addr(2, slot), n)
				require.True(t, ok)
				require.Equal(t, lba, direct)
			}
			if stripe > 1 {
				_, ok := x.b.Direct(x.addr(2, slot+1), uint64(stripe))
				require.False(t, ok, "in two zones")
			}
		}
		_, ok := x.b.Direct(x.addr(2, slots), 1)
		require.False(t, ok, "behind the band")
	}
}

// TestWhatWasNotWrittenReadsAsZeroes: behind the write pointer nothing is asked
// of the device.
func TestWhatWasNotWrittenReadsAsZeroes(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
	x.wait(func(done func(any, error)) { x.b.Reset(0, done, nil) })
	x.wait(func(done func(any, error)) { x.b.Write([][]byte{fill(20, 1)}, x.addr(0, 0), 20, done, nil) })
	reads, err := x.inj.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpRead), From: 68, To: 1 << 40, Action: errinj.Fail}) // zone 0 has 16 of the blocks, zone 1 four
	require.NoError(t, err)
	buf := fill(40, 9)
	x.wait(func(done func(any, error)) {
		x.b.Read([][]byte{buf[:3*blockSize], buf[3*blockSize:]}, x.addr(0, 0), 40, done, nil)
	})
	for slot, written := range map[uint32]bool{0: true, 15: true, 16: true, 19: true, 20: false, 31: false, 32: false} {
		_, ok := x.b.Direct(x.addr(0, slot), 1)
		require.Equal(t, written, ok, "slot %d", slot)
	}
	for i := range 40 {
		want := byte(0)
		if i < 20 {
			want = byte(1 + i)
		}
		require.Equal(t, want, buf[i*blockSize], "slot %d", i)
	}
	require.Zero(t, reads.Hits())
	require.ErrorIs(t, x.result(func(done func(any, error)) { x.b.Read([][]byte{buf}, x.addr(0, x.b.Slots(0)-5), 40, done, nil) }), ErrNoBlock)
	require.ErrorIs(t, x.result(func(done func(any, error)) { x.b.Read([][]byte{buf}, x.addr(x.lay.Bands, 0), 40, done, nil) }), ErrNoBlock)
}

// oneAtATime takes the device for one that does not keep the order of writes.
func (x *bench) oneAtATime() {
	info := *x.b.info
	info.ZoneOrder = false
	x.b.info = &info
}

// TestAFailedWriteBreaksTheZone: what is in line behind it fails too, until the
// zone is reset, and what is under way may succeed; the other zones go on.
func TestAFailedWriteBreaksTheZone(t *testing.T) {
	for _, several := range []bool{false, true} {
		x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
		want := 1
		if !several {
			x.oneAtATime()
			want = 2
		}
		x.failedWrite(want)
	}
}

func (x *bench) failedWrite(want int) {
	t := x.t
	x.wait(func(done func(any, error)) { x.b.Reset(1, done, nil) })
	stripe := uint32(x.b.Stripe())
	r, err := x.inj.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Fail, Nth: 1})
	require.NoError(t, err)
	var errs []error
	for i := range uint32(4) {
		x.b.Write([][]byte{fill(int(stripe), 1)}, x.addr(1, i*stripe), uint64(stripe), func(_ any, err error) { errs = append(errs, err) }, nil)
	}
	x.turns(100)
	require.Len(t, errs, 4)
	failed := 0
	for _, err := range errs {
		if err != nil {
			require.ErrorIs(t, err, unix.EIO)
			failed++
		}
	}
	require.Equal(t, want, failed, "those in line in one zone")
	require.False(t, x.b.At(1, 4*stripe))
	require.ErrorIs(t, x.result(func(done func(any, error)) {
		x.b.Write([][]byte{fill(int(stripe), 1)}, x.addr(1, 4*stripe), uint64(stripe), done, nil)
	}), unix.EIO)
	r.Remove()
	x.wait(func(done func(any, error)) { x.b.Reset(1, done, nil) })
	require.True(t, x.b.At(1, 0))
	x.wait(func(done func(any, error)) { x.b.Write([][]byte{fill(5, 1)}, x.addr(1, 0), 5, done, nil) })
}

// TestWritesUnderWayInAZone: several where the device keeps their order, else one;
// the others wait and are joined.
func TestWritesUnderWayInAZone(t *testing.T) {
	for _, c := range []struct {
		several, appends bool
		first, all       uint64
	}{
		{true, false, maxFlights, maxFlights + 1},
		{true, true, maxFlights, maxFlights + 1},
		{false, false, 1, 2},
		{false, true, 1, 2},
	} {
		x := newBench(t, emulated.Options{ZoneBlocks: 512, Units: 1}, 64, c.appends)
		if !c.several {
			x.oneAtATime()
		}
		x.wait(func(done func(any, error)) { x.b.Reset(0, done, nil) })
		r, err := x.inj.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Delay, Delay: time.Millisecond})
		require.NoError(t, err)
		buf, left := fill(12*16, 1), 12
		for i := range 12 {
			x.b.Write([][]byte{buf[i*16*blockSize : (i+1)*16*blockSize]}, x.addr(0, uint32(i*16)), 16, func(_ any, err error) {
				require.NoError(t, err)
				left--
			}, nil)
		}
		for range 100 {
			x.turn()
		}
		require.Equal(t, c.first, r.Matched(), "%+v", c)
		for left > 0 {
			x.turn()
		}
		require.Equal(t, c.all, r.Matched(), "%+v", c)
		back := fill(12*16, 0)
		x.wait(func(done func(any, error)) { x.b.Read([][]byte{back}, x.addr(0, 0), 12*16, done, nil) })
		require.Equal(t, buf, back)
	}
}

// TestAStripeWaitsForItsRest while the device has enough to do: the rest comes,
// or less is under way, or enough writes have ended.
func TestAStripeWaitsForItsRest(t *testing.T) {
	const stripe = 16
	start := func() (*bench, *errinj.Active, func(band uint64, slot uint32, n int, done func())) {
		x := newBench(t, emulated.Options{ZoneBlocks: 512, Units: 8}, 128, false)
		require.EqualValues(t, stripe, x.b.Stripe())
		for band := range uint64(2) {
			x.wait(func(done func(any, error)) { x.b.Reset(band, done, nil) })
		}
		r, err := x.inj.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Delay, Delay: time.Millisecond})
		require.NoError(t, err)
		return x, r, func(band uint64, slot uint32, n int, done func()) {
			x.b.Write([][]byte{fill(n, byte(slot))}, x.addr(band, slot), uint64(n), func(_ any, err error) {
				require.NoError(t, err)
				done()
			}, nil)
		}
	}

	x, r, write := start()
	left := holdFrom + 2
	done := func() { left-- }
	for i := range uint32(holdFrom) {
		write(0, i*stripe, stripe, done)
	}
	write(0, holdFrom*stripe, stripe/2, done)
	x.turns(10)
	require.EqualValues(t, holdFrom, r.Matched(), "half a stripe waits")
	write(0, holdFrom*stripe+stripe/2, stripe/2, done)
	x.turns(10)
	require.EqualValues(t, holdFrom+1, r.Matched(), "and goes with its rest")
	for left > 0 {
		x.turn()
	}

	x, r, write = start()
	left = holdFrom + 1
	for i := range uint32(holdFrom) {
		write(0, i*stripe, stripe, done)
	}
	write(0, holdFrom*stripe, stripe/2, done)
	for i := 0; left > 0; i++ {
		require.Less(t, i, 10_000, "nothing else comes")
		x.turn()
	}
	require.EqualValues(t, holdFrom+1, r.Matched())

	x, _, write = start()
	slot, ended, half := uint32(0), 0, false
	var feed func()
	feed = func() {
		ended++
		if !half {
			write(0, slot, stripe, feed)
			slot += stripe
		}
	}
	for range holdFrom + 2 {
		write(0, slot, stripe, feed)
		slot += stripe
		x.turn()
	}
	write(1, 0, stripe/2, func() { half = true })
	for i := 0; !half; i++ {
		require.Less(t, i, 20_000, "others always have more")
		x.turn()
	}
	require.GreaterOrEqual(t, ended, holdFor)
	x.turns(2000)
	require.Empty(t, x.b.held)
	require.Zero(t, x.b.flying)
}

// TestWritesThatWaitForAnIOKeepTheirOrder: those of one zone, when the device has
// fewer IOs than there are writes; also when a write in front of them fails.
func TestWritesThatWaitForAnIOKeepTheirOrder(t *testing.T) {
	for _, fails := range []bool{false, true} {
		x := newBenchWith(t, 2, emulated.Options{ZoneBlocks: 512, Units: 2}, 64, true)
		x.wait(func(done func(any, error)) { x.b.Reset(0, done, nil) })
		if fails {
			_, err := x.inj.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Action: errinj.Fail, Nth: 3})
			require.NoError(t, err)
		}
		left, failed := 40, 0
		for i := range uint32(40) {
			x.b.Write([][]byte{fill(4, byte(i))}, x.addr(0, i*4), 4, func(_ any, err error) {
				left--
				if err != nil {
					failed++
				}
			}, nil)
		}
		for i := 0; left > 0; i++ {
			require.Less(t, i, 10_000)
			x.turn()
		}
		if fails {
			require.Positive(t, failed)
			require.Less(t, failed, 40, "the other zone goes on")
			continue
		}
		require.Zero(t, failed)
		for i := range uint32(40) {
			buf := fill(4, 0)
			x.wait(func(done func(any, error)) { x.b.Read([][]byte{buf}, x.addr(0, i*4), 4, done, nil) })
			require.Equal(t, fill(4, byte(i)), buf)
		}
	}
}

// TestUseRefusesWhatCannotBe: a descriptor that names zones or slots that the
// band cannot have is refused.
func TestUseRefusesWhatCannotBe(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
	require.NoError(t, x.b.Use(3, 2, uint32(x.b.Stripe())*2))
	require.Equal(t, uint32(x.b.Stripe())*2, x.b.Slots(3))
	for _, c := range []struct {
		mask  uint64
		slots uint32
	}{{0, 16}, {4, 16}, {3, 0}, {3, 17}, {3, 1 << 20}, {^uint64(0), 64}} {
		require.ErrorIs(t, x.b.Use(3, c.mask, c.slots), ErrShape, "%+v", c)
	}
}

// TestOtherZonesAreRefused: a layout that was made for other zones.
func TestOtherZonesAreRefused(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
	for name, change := range map[string]func(l *layout.Layout){
		"zone size": func(l *layout.Layout) { l.Zones.ZoneBlocks = 32 },
		"number":    func(l *layout.Layout) { l.Bands = 33 },
	} {
		l := *x.lay
		change(&l)
		require.ErrorIs(t, x.b.Lay(&l), ErrShape, name)
	}
}

// TestWritesDoNotAllocate, nor do reads.
func TestWritesDoNotAllocate(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 8192, Units: 2}, 32, false)
	x.wait(func(done func(any, error)) { x.b.Reset(0, done, nil) })
	bufs, next, over := [][]byte{fill(8, 1)}, uint32(0), false
	done := func(any, error) { over = true }
	do := func() {
		over = false
		x.b.Write(bufs, x.addr(0, next), 8, done, nil)
		for !over {
			x.turn()
		}
		over = false
		x.b.Read(bufs, x.addr(0, next), 8, done, nil)
		for !over {
			x.turn()
		}
		next += 8
	}
	for range 100 {
		do()
	}
	require.Zero(t, testing.AllocsPerRun(500, do))
}

// TestAFailedResetCountsUntilFinished: a zone that is still active because its
// reset failed counts against the limits until it could be finished.
func TestAFailedResetCountsUntilFinished(t *testing.T) {
	for _, units := range []uint32{1, 2} { // all zones of the band, or one of two
		x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: units, MaxOpen: 3 * units, MaxActive: 3 * units}, 64, false)
		x.wait(func(done func(any, error)) { x.b.Reset(0, done, nil) })
		stripe := int(x.b.Stripe())
		x.wait(func(done func(any, error)) {
			x.b.Write([][]byte{fill(stripe, 1)}, x.addr(0, 0), uint64(stripe), done, nil)
		})
		require.True(t, x.b.MayWrite(1))
		refused, err := x.top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneReset, bdev.OpZoneFinish), To: 64, Action: errinj.Fail})
		require.NoError(t, err)
		if err := x.result(func(done func(any, error)) { x.b.Reset(0, done, nil) }); units == 1 {
			require.ErrorIs(t, err, ErrNoZone)
		} else {
			require.NoError(t, err)
			x.b.Release(0)
		}
		x.b.Release(0) // as often as one likes
		for range 3 {
			require.False(t, x.b.MayWrite(2), "the device counts a zone of band 0")
			require.True(t, x.b.MayWrite(1))
			require.True(t, x.b.Unfinished())
			x.b.Retry(func(any, error) {}, nil)
			x.turns(100)
		}
		refused.Remove()
		x.b.Retry(func(any, error) {}, nil)
		x.turns(100)
		require.False(t, x.b.Unfinished())
		require.True(t, x.b.MayWrite(2))
	}
}

// TestAZoneIsLookedAtOnce: however many writes fail, a zone waits for a look only
// once.
func TestAZoneIsLookedAtOnce(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
	for range 100 {
		x.b.Refresh(0)
		x.b.Refresh(64)
	}
	require.Equal(t, []uint64{0, 1, 0}, x.b.refreshes, "the first look is already under way")
	x.turns(100)
	require.Empty(t, x.b.refreshes)
	require.False(t, x.b.looking)
}

// TestZonesLostWhileEmpty: a band that is empty is not taken for one that can be
// written before the device has said so. A descriptor that says OPEN of zones that
// are gone would look like lost records after a crash.
func TestZonesLostWhileEmpty(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2}, 64, false)
	reset := func(band uint64) error {
		return x.result(func(done func(any, error)) { x.b.Reset(band, done, nil) })
	}
	require.NoError(t, reset(0))
	require.NoError(t, reset(1))
	whole := x.b.Slots(1)
	for _, zone := range []uint64{0, 1, 3} {
		require.NoError(t, x.zone.SetZoneState(zone, bdev.ZoneOffline))
	}
	require.ErrorIs(t, reset(0), ErrNoZone)
	require.NoError(t, reset(1))
	require.Less(t, x.b.Slots(1), whole)
	x.b.TakeBack(0)
	require.ErrorIs(t, reset(0), ErrNoZone, "they are gone, not only retired")
}

// TestRetiredZonesAreTakenBack: zones whose reset failed are left alone until they
// are asked for again; those that are offline stay away.
func TestRetiredZonesAreTakenBack(t *testing.T) {
	x := newBench(t, emulated.Options{ZoneBlocks: 64, Units: 2, Offline: []uint64{3}}, 64, false)
	reset := func(band uint64) error {
		return x.result(func(done func(any, error)) { x.b.Reset(band, done, nil) })
	}
	write := func(band uint64, units int) {
		n := units * int(x.b.Stripe())
		x.wait(func(done func(any, error)) { x.b.Write([][]byte{fill(n, 1)}, x.addr(band, 0), uint64(n), done, nil) })
	}
	require.NoError(t, reset(0))
	require.NoError(t, reset(1))
	whole, half := x.b.Slots(0), x.b.Slots(1)
	write(0, 2)
	write(1, 1)
	refused, err := x.top.Add(errinj.Rule{Ops: bdev.Ops(bdev.OpZoneReset), Action: errinj.Fail})
	require.NoError(t, err)
	require.ErrorIs(t, reset(0), ErrNoZone)
	require.ErrorIs(t, reset(1), ErrNoZone)
	refused.Remove()
	require.ErrorIs(t, reset(0), ErrNoZone, "they are not tried by themselves")
	require.True(t, x.b.TakeBack(0))
	require.True(t, x.b.TakeBack(1))
	require.False(t, x.b.TakeBack(0))
	require.NoError(t, reset(0))
	require.NoError(t, reset(1))
	require.Equal(t, whole, x.b.Slots(0))
	require.Equal(t, half, x.b.Slots(1))
}
