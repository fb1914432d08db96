package ftl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"goftl/ftl/md"
	"goftl/ftl/record"
	"goftl/iobuf"
)

// FuzzConfig: a configuration is completed, or refused with what is wrong; a complete one stays as it is.
func FuzzConfig(f *testing.F) {
	f.Add("name", "cache", "base", uint64(0), uint32(0), uint64(0), 0, 0, 0, 0, 0, 0, 0, 0, uint8(0))
	f.Add("", "", "", uint64(4096), uint32(20), uint64(1<<20), 10, 20, 5, 50, 6, 90, 128, 10, uint8(255))
	f.Add("n", "same", "same", uint64(1), uint32(100), uint64(1), 100, 1, 2, 0, -1, 101, 5000, -10, uint8(7))
	r := newRig(f, 32, 64, 0)
	f.Fuzz(func(t *testing.T, name, cache, base string, size uint64, spare uint32, redo uint64,
		throttle, ckpt, critical, compact, relocate, band, channels, users int, bits uint8,
	) {
		c := Config{
			Name: name, System: r.sys, Thread: r.th, Manager: r.mgr, Cache: cache, Base: base, SizeBytes: size, SparePct: spare,
			RedoLimitBytes: redo, BandThresholdPct: band, MaxIOChannels: channels, Policy: Policy(bits >> 6),
			Create: bits&1 != 0, ReadOnly: bits&2 != 0, NoCache: bits&4 != 0, UUID: uuid.UUID{bits & 8},
			Limits: Limits{
				ThrottlePct: throttle, CheckpointPct: ckpt, CriticalPct: critical, CompactPct: compact, RelocatePct: relocate,
			},
		}
		if users != 0 {
			c.Limits.User = UserLimits{
				Critical: UserLimit{users, 0}, High: UserLimit{2 * users, 5}, Low: UserLimit{users + 20, users}, Start: UserLimit{users + 40, 100},
			}
		}
		if err := c.complete(); err != nil {
			require.ErrorIs(t, err, unix.EINVAL)
			return
		}
		l := &c.Limits
		for _, pct := range []int{l.ThrottlePct, l.CheckpointPct, l.CriticalPct, l.CompactPct, l.RelocatePct, c.BandThresholdPct} {
			require.True(t, pct > 0 && pct <= 100)
		}
		require.True(t, c.MaxIOChannels > 0 && c.SumCacheBytes > 0 && c.RedoLimitBytes > 0 && c.Logger != nil)
		again := c
		require.NoError(t, again.complete())
		c.alloc, again.alloc = nil, nil // functions cannot be compared
		require.Equal(t, c, again)
	})
}

// FuzzImage: devices whose content somebody has changed, and has corrected the checksums of what was changed. The load
// ends, well or with an error; a device that was loaded answers reads and writes, in whatever way, can be checked, and
// stops. Nothing of it panics or goes on for ever.
func FuzzImage(f *testing.F) {
	beds := hostileBeds(f)
	superblocks := change{pair: true, seal: true, at: 0, off: 96, bytes: []byte{1}}
	f.Add(uint8(0), superblocks.encode(nil))
	for i := range 40 {
		c := change{seal: true, at: uint16(7 * i), off: uint16(8 + 4*i), bytes: []byte{0xff, 1}}
		f.Add(uint8(i), c.encode(superblocks.encode(nil)))
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		beds[int(kind)%len(beds)].hostile(t, kind, data)
	})
}

// TestHostileImages does the same with changes at random.
func TestHostileImages(t *testing.T) {
	beds := hostileBeds(t)
	seeds := 200
	if testing.Short() {
		seeds = 30
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			var data []byte
			for range 1 + r.IntN(4) {
				c := change{
					raw: r.IntN(8) == 0, base: r.IntN(2) == 0, pair: r.IntN(4) == 0, seal: r.IntN(16) != 0,
					at: uint16(r.Uint32()), off: uint16(r.Uint32()), bytes: make([]byte, 1+r.IntN(8)),
				}
				if r.IntN(2) == 0 {
					c.off = uint16(r.IntN(128))
				}
				if r.IntN(2) == 0 {
					c.off &^= 3
				}
				for i := range c.bytes {
					c.bytes[i] = []byte{0, 1, 0xff, byte(r.Uint32())}[r.IntN(4)]
				}
				data = c.encode(data)
			}
			kind := uint8(r.Uint32())
			beds[int(kind)%len(beds)].hostile(t, kind, data)
		})
	}
}

func hostileBeds(t testing.TB) (beds []*bed) {
	for _, g := range []geometry{mini, mini.with(64)} {
		b := newBed(t, g)
		b.create()
		b.fillTo(300)
		b.trims(40, 25)
		b.checkpoint()
		b.put(10, 20)
		b.sync()
		b.image()
		beds = append(beds, b)
	}
	return beds
}

// hostile changes an image of the device and uses what comes of it.
func (b *bed) hostile(t *testing.T, kind uint8, data []byte) {
	t.Helper()
	b.t = t
	tw := b.image()
	tw.change(data)
	for range 2 { // as it was left, and as the first load has left it
		if tw.start(tw.cfg) != nil {
			tw.noChannels()
			return
		}
		tw.use(kind)
	}
}

// change is one change of the media.
type change struct {
	raw, base bool   // at is a block of a device; else the number of one that means something
	pair      bool   // both superblocks
	seal      bool   // the checksum is corrected
	at, off   uint16 // block, byte in it
	bytes     []byte // at most 8
}

const (
	changeRaw = 1 << iota
	changeBase
	changePair
	changeSeal
)

func (c *change) encode(b []byte) []byte {
	flags := byte(0)
	for i, on := range []bool{c.raw, c.base, c.pair, c.seal} {
		if on {
			flags |= 1 << i
		}
	}
	b = append(b, flags, byte(len(c.bytes)-1))
	b = binary.LittleEndian.AppendUint16(b, c.at)
	b = binary.LittleEndian.AppendUint16(b, c.off)
	return append(b, c.bytes...)
}

// decodeChange takes a change off data; false when there is none.
func decodeChange(data []byte) (c change, rest []byte, ok bool) {
	if len(data) < 6 {
		return c, nil, false
	}
	flags, n := data[0], int(data[1]&7)+1
	c = change{
		raw: flags&changeRaw != 0, base: flags&changeBase != 0, pair: flags&changePair != 0, seal: flags&changeSeal != 0,
		at: binary.LittleEndian.Uint16(data[2:]), off: binary.LittleEndian.Uint16(data[4:]),
	}
	rest = data[6:]
	n = min(n, len(rest))
	c.bytes = rest[:n]
	return c, rest[n:], true
}

// change makes the changes that data describes, at most 16.
func (b *bed) change(data []byte) {
	telling := b.telling()
	for range 16 {
		c, rest, ok := decodeChange(data)
		if !ok {
			return
		}
		data = rest
		dev := onCache
		if c.base {
			dev = onBase
		}
		at := uint64(c.at) % (uint64(len(b.mem[dev].Data())) / 4096)
		switch {
		case c.pair:
			b.patch(onCache, 0, &c)
			dev, at = onBase, 0
		case !c.raw:
			p := telling[int(c.at)%len(telling)]
			dev, at = p.dev, p.block
		}
		b.patch(dev, at, &c)
	}
}

// spot is a block of a device.
type spot struct {
	dev   int
	block uint64
}

// telling are the blocks that say where data is, or what it is.
func (b *bed) telling() (list []spot) {
	for dev, m := range b.mem {
		for block := range uint64(len(m.Data())) / 4096 {
			if sealOf(m.Data()[block*4096:(block+1)*4096]) != nil {
				list = append(list, spot{dev, block})
			}
		}
	}
	return list
}

// patch changes one block, or its metadata.
func (b *bed) patch(dev int, block uint64, c *change) {
	mem, off := b.mem[dev].Data()[block*4096:(block+1)*4096], int(c.off)%4096
	seal := sealOf(mem)
	if vss := b.mem[dev].MD(); len(vss) > 0 && c.raw && c.off >= 4096 {
		mem, off = vss[block*64:(block+1)*64], off%64
		seal = delta(mem, 56, mem[:56], xxhash.Sum64)
	}
	copy(mem[off:], c.bytes)
	if c.seal && seal != nil {
		seal()
	}
}

// delta returns what puts a checksum right that is bound to more than the bytes that it covers.
func delta(b []byte, at int, covered []byte, hash func([]byte) uint64) func() {
	rest := binary.LittleEndian.Uint64(b[at:]) ^ hash(covered)
	return func() { binary.LittleEndian.PutUint64(b[at:], rest^hash(covered)) }
}

// sealOf returns what puts the checksum of a block right after it was changed; nil when the block has none.
func sealOf(b []byte) func() {
	switch {
	case bytes.HasPrefix(b, []byte("RECGOFTL")):
		return func() {
			n := min(int(binary.LittleEndian.Uint16(b[22:])), record.MaxTrims)
			if k := record.Kind(b[20]); k == record.KindPad || k == record.KindVoid {
				n = 0
			}
			binary.LittleEndian.PutUint64(b[8:], xxhash.Sum64(b[16:record.HeaderSize+n*record.EntrySize]))
		}
	case bytes.HasPrefix(b, []byte("goftl-SB")), bytes.HasPrefix(b, []byte("RECGOFSS")):
		return func() { binary.LittleEndian.PutUint64(b[8:], xxhash.Sum64(b[16:])) }
	case bytes.HasPrefix(b, []byte("L2PG")), bytes.HasPrefix(b, []byte("LDIR")):
		return delta(b, 24, b, func(b []byte) uint64 { return xxhash.Sum64(b[:24]) ^ xxhash.Sum64(b[record.PageHeaderSize:]) })
	case bytes.HasPrefix(b, []byte("DESC")) || freeDescriptor(b):
		return delta(b, md.PayloadSize, b[:md.PayloadSize], xxh3.Hash)
	}
	return nil
}

// freeDescriptor says whether a block of metadata holds the descriptor of a segment that was never used.
func freeDescriptor(b []byte) bool {
	for _, x := range b[:md.PayloadSize] {
		if x != 0 {
			return false
		}
	}
	return binary.LittleEndian.Uint64(b[md.PayloadSize:]) != 0
}

// use does with a device all that one can do with it, whatever comes of it, and stops it.
func (b *bed) use(kind uint8) {
	b.t.Helper()
	blocks := b.d.Blocks()
	for lba := uint64(0); lba < blocks; lba += 64 {
		b.raw(OpRead, lba, min(64, blocks-lba), false)
	}
	for i := range uint64(20) {
		b.raw(OpWrite, i*37%blocks, min(1+i%9, blocks-i*37%blocks), i%4 == 0)
	}
	b.raw(OpTrim, 0, min(9, blocks), false)
	b.raw(OpFlush, 0, 0, false)
	checked := false
	b.d.Check(func(*CheckReport, error) { checked = true })
	b.until("check", func() bool { return checked })
	_ = b.halted(kind&16 != 0)
}

// raw runs one request to its end and looks at nothing.
func (b *bed) raw(op Op, lba, n uint64, fua bool) {
	b.t.Helper()
	done := false
	r := &Request{Op: op, LBA: lba, Count: n, FUA: fua, Done: func(*Request) { done = true }}
	var buf []byte
	if op == OpRead || op == OpWrite {
		buf = iobuf.Alloc(int(n) * 4096)
		r.Bufs = [][]byte{buf}
	}
	b.d.Submit(r)
	b.until("request", func() bool { return done })
	if buf != nil {
		iobuf.Free(buf)
	}
}
