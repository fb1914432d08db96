package zoned

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/internal/assert"
	"goftl/thread"
)

// Errors that callers tell apart.
var (
	// ErrBroken: an earlier write to the zone failed in this use. EIO.
	ErrBroken error = bdev.NewError(unix.EIO, "zoned: an earlier write to the zone failed")
	// ErrNoBlock: the band has no such slot, or the zone it was in is gone. EIO.
	ErrNoBlock error = bdev.NewError(unix.EIO, "zoned: no such block")
	// ErrNoZone: no zone of the band can be written. EIO.
	ErrNoZone error = bdev.NewError(unix.EIO, "zoned: no zone of the band can be written")
	// ErrShape: the zones are not those that the layout was made for. EINVAL.
	ErrShape error = bdev.NewError(unix.EINVAL, "zoned: other zones than when the device was made")
)

// reportBatch is the number of zones asked for at a time.
const reportBatch = 64

// Stripes in blocks. Unless the config says otherwise it is a 32nd of a zone,
// from smallStripe (64 KiB) to largeStripe (512 KiB): a record makes few device
// writes, and a few records keep all zones of a band busy. MaxStripe is the
// largest that the config can ask for.
const (
	smallStripe = 16
	largeStripe = 128
	MaxStripe   = 1024
)

// Config says what to present.
type Config struct {
	Thread  *thread.Thread
	Channel *bdev.Channel // of a zoned device; its thread is Thread
	Info    *bdev.Info
	Units   uint64 // zones of a band; 0: the device's parallel units
	Stripe  uint64 // blocks aimed at for the stripes of a new device; 0: by the size of zones
	Append  bool   // write by zone append; the device must be able to
	Logger  *slog.Logger
	// Changed, if set, is told that a zone of a band went offline or
	// read-only; the band is given as its number.
	Changed func(arg any, band uint64, state bdev.ZoneState)
	Arg     any
}

// zone is what is known of one zone.
type zone struct {
	cap     uint64 // usable blocks
	wp      uint64 // blocks written or in line, counted from its start
	state   bdev.ZoneState
	conv    bool
	retired bool // a reset failed: not used again in this life
	broken  bool // a write failed in this use
	w       *writer
}

// usable says whether the zone can be written once it was reset.
func (z *zone) usable() bool {
	return !z.conv && !z.retired && z.state != bdev.ZoneOffline && z.state != bdev.ZoneReadOnly && z.cap > 0
}

// band is the present use of one band.
type band struct {
	mask    uint64 // its zones
	cols    []uint8
	rows    uint32 // stripes in each of them
	writing bool   // counts against the limits of the device
	fresh   bool   // its last reset began after its last finish
}

// Base is a zoned device presented as bands.
type Base struct {
	cfg   Config
	info  *bdev.Info
	ch    *bdev.Channel
	zones []zone
	bands []band

	first     uint64 // first zone of the first band
	units     uint64
	stripe    uint64
	span      uint64 // distance of two bands in addresses
	shift     uint
	firstAddr uint64
	limit     int // bands that may be written at a time; 0: no limit
	writing   int

	batch      [reportBatch]bdev.ZoneInfo
	discover   discovery
	free       *op
	freeW      *writer
	flying     int       // device writes under way
	written    uint64    // device writes that have ended
	held       []*writer // whose stripe is not full, in the order of until
	freeF      *flight
	unfinished []uint64 // bands of which zones could not be finished
	refreshes  []uint64 // zones to be looked at
	looking    bool
	shut       bool
	look       [1]bdev.ZoneInfo
}

// discovery is the state of Discover.
type discovery struct {
	next uint64
	done func(arg any, err error)
	arg  any
	wait bdev.IOWait
}

// New prepares to present a zoned device. The error names what is wrong with
// it.
func New(cfg Config) (*Base, error) {
	i := cfg.Info
	assert.That(i.Zoned, "zoned: a zoned device")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Units == 0 {
		cfg.Units = max(uint64(i.ParallelUnits), 1)
	}
	if cfg.Stripe == 0 {
		cfg.Stripe = min(max(i.ZoneCapacity/32, smallStripe), largeStripe)
	}
	b := &Base{cfg: cfg, info: i, ch: cfg.Channel, units: cfg.Units, zones: make([]zone, i.Blocks/i.ZoneBlocks)}
	for _, op := range []bdev.Op{bdev.OpZoneInfo, bdev.OpZoneReset} {
		if !i.Ops.Has(op) && (op == bdev.OpZoneInfo || !i.ReadOnly) {
			return nil, fmt.Errorf("zoned device %s cannot do %s: %w", i.Name, op, unix.ENOTSUP)
		}
	}
	if cfg.Append && !i.Ops.Has(bdev.OpZoneAppend) && !i.ReadOnly {
		return nil, fmt.Errorf("zoned device %s cannot append to zones; write them sequentially: %w", i.Name, unix.ENOTSUP)
	}
	return b, nil
}

// countLimit says how many bands the device's limits let be written at a time.
func (b *Base) countLimit() error {
	b.limit = 0
	for _, most := range []uint32{b.info.MaxOpenZones, b.info.MaxActiveZones} {
		if n := int(uint64(most) / b.units); most != 0 && (b.limit == 0 || n < b.limit) {
			if n < MinWriting {
				return fmt.Errorf("zoned device %s allows %d open or active zones; %d bands of %d zones have to be written "+
					"at a time: use fewer parallel units: %w", b.info.Name, most, MinWriting, b.units, unix.EINVAL)
			}
			b.limit = n
		}
	}
	return nil
}

// MinWriting is the number of bands that have to be writable at a time: one for
// what comes in and one for relocation.
const MinWriting = 2

// Discover reads the state of all zones. It is called once, before anything
// else.
func (b *Base) Discover(done func(arg any, err error), arg any) {
	b.discover = discovery{done: done, arg: arg}
	b.discover.wait.Fn, b.discover.wait.Arg = discoverMore, b
	b.report()
}

func discoverMore(arg any) { arg.(*Base).report() }

func (b *Base) report() {
	n := min(reportBatch, uint64(len(b.zones))-b.discover.next)
	err := b.ch.ZoneInfo(b.discover.next*b.info.ZoneBlocks, b.batch[:n], reported, b)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOMEM):
		b.ch.QueueIOWait(&b.discover.wait)
	default:
		b.discover.done(b.discover.arg, fmt.Errorf("zones of %s: %w", b.info.Name, err))
	}
}

func reported(io *bdev.IO) {
	b := io.Ctx.(*Base)
	d := &b.discover
	if err := io.Err(); err != nil {
		d.done(d.arg, fmt.Errorf("zones of %s from zone %d on: %w", b.info.Name, d.next, err))
		return
	}
	for _, zi := range io.Zones {
		z := &b.zones[d.next]
		z.take(&zi, b.info.ZoneBlocks)
		if z.state == bdev.ZoneOffline || z.state == bdev.ZoneReadOnly {
			b.cfg.Logger.Info("zone takes no writes", "device", b.info.Name, "zone", d.next, "state", z.state.String())
		}
		d.next++
	}
	if d.next < uint64(len(b.zones)) {
		b.report()
		return
	}
	for b.first < uint64(len(b.zones)) && b.zones[b.first].conv {
		b.first++
	}
	b.chooseStripe()
	d.done(d.arg, nil)
}

// take notes what the device says of the zone.
func (z *zone) take(zi *bdev.ZoneInfo, size uint64) {
	z.state = zi.State
	z.conv = zi.Conventional
	z.cap = min(zi.Capacity, size)
	z.wp = 0
	if zi.WP > zi.LBA {
		z.wp = min(zi.WP-zi.LBA, z.cap)
	}
	if zi.State == bdev.ZoneFull {
		z.wp = z.cap
	}
}

// chooseStripe takes the largest stripe up to the one aimed at, of a write unit
// times a power of two, that leaves zones a few stripes each.
func (b *Base) chooseStripe() {
	unit := max(uint64(b.info.WriteUnit), 1)
	b.stripe = unit
	for b.stripe*2 <= b.cfg.Stripe && b.stripe*2 <= b.info.ZoneCapacity/4 {
		b.stripe *= 2
	}
}

// Shape is what a layout for the device is computed from.
func (b *Base) Shape() *layout.Zones {
	s := &layout.Zones{ZoneBlocks: b.info.ZoneBlocks, Units: b.units, First: b.first, Stripe: b.stripe}
	most := uint64(0)
	for i := range b.zones {
		if z := &b.zones[i]; uint64(i) >= b.first && !z.conv {
			most = max(most, z.cap/b.stripe*b.stripe)
		}
	}
	s.BandSlots = most * b.units
	for i := range (uint64(len(b.zones)) - b.first) / b.units {
		mask := b.goodMask(i)
		s.Usable += uint64(bits.OnesCount64(mask)) * uint64(b.rowsOf(i, mask)) * b.stripe
	}
	return s
}

// Lay fixes the bands as a layout says, whose shape must be that of the device,
// and whose bands the device's limits of open zones must suffice for.
func (b *Base) Lay(l *layout.Layout) error {
	z := &l.Zones
	first := l.Region(layout.RegionBands).Offset
	switch {
	case z.ZoneBlocks != b.info.ZoneBlocks:
		return fmt.Errorf("%s has zones of %d blocks, they were %d: %w", b.info.Name, b.info.ZoneBlocks, z.ZoneBlocks, ErrShape)
	case first%z.ZoneBlocks != 0 || first/z.ZoneBlocks+l.Bands*z.Units > uint64(len(b.zones)):
		return fmt.Errorf("%s has %d zones, bands need %d: %w", b.info.Name, len(b.zones), first/z.ZoneBlocks+l.Bands*z.Units, ErrShape)
	case z.Stripe%max(uint64(b.info.WriteUnit), 1) != 0:
		return fmt.Errorf("%s has a write unit of %d blocks, the stripe of bands is %d: %w", b.info.Name, b.info.WriteUnit, z.Stripe, ErrShape)
	case first/z.ZoneBlocks < b.first && !l.NoCache:
		return fmt.Errorf("%s: zone %d is conventional, it was not: %w", b.info.Name, first/z.ZoneBlocks, ErrShape)
	}
	b.first, b.units, b.stripe = first/z.ZoneBlocks, z.Units, z.Stripe
	if err := b.countLimit(); err != nil {
		return err
	}
	b.span, b.firstAddr = l.BandBlocks, first
	b.shift = uint(bits.TrailingZeros64(b.span))
	b.bands = make([]band, l.Bands)
	for i := range b.bands {
		b.setMask(uint64(i), b.goodMask(uint64(i)))
	}
	return nil
}

// Stripe returns the blocks that stand side by side in one zone.
func (b *Base) Stripe() uint64 { return b.stripe }

// zoneOf returns zone u of a band.
func (b *Base) zoneOf(band uint64, u uint8) *zone { return &b.zones[b.zoneIndex(band, u)] }

func (b *Base) zoneIndex(band uint64, u uint8) uint64 { return b.first + band*b.units + uint64(u) }

// goodMask has a bit for every zone of the band that can be used.
func (b *Base) goodMask(band uint64) (mask uint64) {
	for u := range uint8(b.units) {
		if b.zoneOf(band, u).usable() {
			mask |= 1 << u
		}
	}
	return mask
}

// rowsOf returns the stripes that every zone of the mask has.
func (b *Base) rowsOf(band, mask uint64) uint32 {
	rows := ^uint64(0)
	for m := mask; m != 0; m &= m - 1 {
		rows = min(rows, b.zoneOf(band, uint8(bits.TrailingZeros64(m))).cap/b.stripe)
	}
	if mask == 0 {
		return 0
	}
	return uint32(rows)
}

func (b *Base) setMask(i, mask uint64) {
	bd := &b.bands[i]
	bd.mask, bd.cols = mask, bd.cols[:0]
	for m := mask; m != 0; m &= m - 1 {
		bd.cols = append(bd.cols, uint8(bits.TrailingZeros64(m)))
	}
	bd.rows = b.rowsOf(i, mask)
}

// Mask returns the zones that the slots of a band go round, a bit for each.
func (b *Base) Mask(band uint64) uint64 { return b.bands[band].mask }

// Slots returns the number of slots of a band in its present use.
func (b *Base) Slots(band uint64) uint32 {
	bd := &b.bands[band]
	return uint32(len(bd.cols)) * bd.rows * uint32(b.stripe)
}

// Usable says whether a band has zones that can be written, as far as is known.
func (b *Base) Usable(band uint64) bool {
	return b.rowsOf(band, b.goodMask(band)) > 0
}

// Use brings back the zones that a band was opened with, as its descriptor
// says. rows may be fewer than the zones have now, never more.
func (b *Base) Use(i, mask uint64, slots uint32) error {
	if mask == 0 || mask>>b.units != 0 && b.units < 64 {
		return fmt.Errorf("band %d: zones %#x of %d: %w", i, mask, b.units, ErrShape)
	}
	for m := mask; m != 0; m &= m - 1 {
		if u := uint8(bits.TrailingZeros64(m)); b.zoneOf(i, u).conv {
			return fmt.Errorf("band %d: zone %d is conventional, it was not: %w", i, b.zoneIndex(i, u), ErrShape)
		}
	}
	n := uint32(bits.OnesCount64(mask)) * uint32(b.stripe)
	if slots == 0 || slots%n != 0 || uint64(slots/n)*b.stripe > b.info.ZoneBlocks {
		return fmt.Errorf("band %d: %d slots in %d zones: %w", i, slots, bits.OnesCount64(mask), ErrShape)
	}
	b.setMask(i, mask)
	b.bands[i].rows = slots / n
	if b.active(i) {
		b.begin(i)
	}
	return nil
}

// active says whether the device counts a zone of the band as open or active.
func (b *Base) active(i uint64) bool {
	for u := range uint8(b.units) {
		switch b.zoneOf(i, u).state {
		case bdev.ZoneImplicitOpen, bdev.ZoneExplicitOpen, bdev.ZoneClosed:
			return true
		default:
		}
	}
	return false
}

// MayWrite says whether the device's limits of open and active zones allow one
// more band to be written, and still another n after that.
func (b *Base) MayWrite(n int) bool { return b.limit == 0 || b.writing+n < b.limit }

// Limit is the number of bands that may be written at a time; 0: no limit.
func (b *Base) Limit() int { return b.limit }

func (b *Base) begin(i uint64) {
	if bd := &b.bands[i]; !bd.writing {
		bd.writing = true
		b.writing++
	}
}

func (b *Base) end(i uint64) {
	if bd := &b.bands[i]; bd.writing {
		bd.writing = false
		b.writing--
	}
}

// Release takes a band that was reset and not written out of the count against
// the limits. A zone that could not be reset keeps it in there until Retry has
// finished it or the band is reset again: the device may count it as open.
func (b *Base) Release(i uint64) {
	switch bd := &b.bands[i]; {
	case !bd.writing:
	case b.active(i):
		if bd.fresh {
			bd.fresh = false
			b.unfinished = append(b.unfinished, i)
		}
	default:
		b.end(i)
	}
}

// Extent returns the device blocks [from, to) that a band's zones take.
func (b *Base) Extent(band uint64) (from, to uint64) {
	from = b.zoneIndex(band, 0) * b.info.ZoneBlocks
	return from, from + b.units*b.info.ZoneBlocks
}

// FirstWritten returns the first zone that is not empty, if there is one. What
// is conventional is not looked at.
func (b *Base) FirstWritten() (uint64, bool) {
	for i := range b.zones {
		if z := &b.zones[i]; z.usable() && z.state != bdev.ZoneEmpty {
			return uint64(i), true
		}
	}
	return 0, false
}

// Zones describes the zones of a band as they are known, for inspection.
func (b *Base) Zones(band uint64) []bdev.ZoneInfo {
	out := make([]bdev.ZoneInfo, b.units)
	for u := range out {
		i := b.zoneIndex(band, uint8(u))
		z := &b.zones[i]
		start := i * b.info.ZoneBlocks
		out[u] = bdev.ZoneInfo{LBA: start, Capacity: z.cap, WP: start + z.wp, State: z.state}
		if z.retired {
			out[u].State = bdev.ZoneOffline
		}
	}
	return out
}

// At reports whether the write pointers of a band stand where they must when
// slots [0, next) were written and nothing else: then more can be written
// there.
func (b *Base) At(i uint64, next uint32) bool {
	bd := &b.bands[i]
	n := uint64(len(bd.cols))
	if n == 0 {
		return false
	}
	full, rest := uint64(next)/b.stripe, uint64(next)%b.stripe
	for c, u := range bd.cols {
		z := b.zoneOf(i, u)
		want := full / n * b.stripe
		switch {
		case uint64(c) < full%n:
			want += b.stripe
		case uint64(c) == full%n:
			want += rest
		}
		if !z.usable() || z.broken || z.wp != want {
			return false
		}
	}
	return true
}
