package ftl

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/thread"
)

// TestOddGeometries makes, fills in part, overwrites, crashes and checks
// devices of sizes that nothing divides.
func TestOddGeometries(t *testing.T) {
	for _, c := range []struct {
		g    geometry
		size uint64 // blocks; 0: as many as fit
	}{
		{geometry{cache: 64 << 8, base: 256 << 8}, 0}, // the smallest that is promised
		{geometry{cache: 64<<8 + 3, base: 256<<8 + 211}, 0},
		{geometry{cache: 97<<8 - 1, base: 311<<8 - 1}, 5001},
		{geometry{cache: 64 << 8, base: 1000 << 8}, 1},
		{geometry{cache: 800, base: 1500, chunk: 16, band: 16}, 0},
		{geometry{cache: 600, base: 1300, chunk: 64, band: 16}, 333},
		{geometry{cache: 500, base: 16*513 + 7, chunk: 16, band: 512}, 1016}, // one page exactly
		{geometry{cache: 500, base: 16*513 + 7, chunk: 16, band: 512}, 1017},
	} {
		for _, md := range []uint32{0, 64, 128} {
			t.Run(fmt.Sprintf("%d+%d,size=%d,md=%d", c.g.cache, c.g.base, c.size, md), func(t *testing.T) {
				b := newBed(t, c.g.with(md))
				b.cfg.SizeBytes = c.size * 4096
				b.create()
				if c.size != 0 {
					require.Equal(t, c.size, b.d.Blocks())
				}
				last := b.d.Blocks() - 1
				b.put(last, 1)
				for lba := uint64(0); lba < min(last, 2000); {
					n := min(1+b.rnd.Uint64N(200), last-lba)
					b.put(lba, n)
					lba += n
				}
				if last > 10 {
					b.trims(last-7, 3)
					require.Empty(t, b.churn(200, min(8, last), 4))
				}
				b.settleAll()
				b.put(0, 1)
				b.restart()
				b.oddCheck()
				b.stop(false)
				b.load()
				b.oddCheck()
				b.check()
				b.stop(false)
				b.free()
			})
		}
	}
}

// oddCheck compares what was written, and a part of what was not.
func (b *bed) oddCheck() {
	b.t.Helper()
	for lba := range b.d.Blocks() {
		if b.cur[lba]&zeroed != 0 && lba%1000 != 0 {
			continue
		}
		c := b.submit(OpRead, lba, 1, false)
		b.until("read", func() bool { return c.done })
		require.NoError(b.t, c.req.Err)
		require.NoError(b.t, b.judge(lba, c.buf, false))
	}
}

// TestImpossibleGeometries are refused with words that say what would do.
func TestImpossibleGeometries(t *testing.T) {
	for _, c := range []struct {
		g    geometry
		size uint64
		want error
	}{
		{geometry{cache: 100, base: 256 << 8}, 0, unix.EINVAL},
		{geometry{cache: 64 << 8, base: 100}, 0, unix.EINVAL},
		{geometry{cache: 64 << 8, base: 256 << 8, chunk: 100}, 0, unix.EINVAL},
		{geometry{cache: 64 << 8, base: 256 << 8, band: 8}, 0, unix.EINVAL},
		{geometry{cache: 64 << 8, base: 256 << 8}, 256 << 8, unix.ENOSPC},
		{geometry{cache: 64 << 8, base: 256 << 8, md: 8}, 0, unix.EINVAL},
	} {
		b := newBed(t, c.g)
		cfg := b.cfg
		cfg.Create, cfg.SizeBytes = true, c.size*4096
		err := b.start(cfg)
		require.ErrorIs(t, err, c.want, "%+v", c)
		require.Greater(t, len(err.Error()), 40, err.Error())
		b.noChannels()
		b.free()
	}
}

// TestConfigErrors name the field.
func TestConfigErrors(t *testing.T) {
	b := newBed(t, mini)
	for field, change := range map[string]func(c *Config){
		"System":                func(c *Config) { c.System = nil },
		"Manager":               func(c *Config) { c.Manager = nil },
		"Cache":                 func(c *Config) { c.Cache = "" },
		"Base":                  func(c *Config) { c.Base = c.Cache },
		"Name":                  func(c *Config) { c.Name = string(make([]byte, 129)) },
		"SparePct":              func(c *Config) { c.SparePct = 100 },
		"SizeBytes":             func(c *Config) { c.SizeBytes = 4097 },
		"UUID":                  func(c *Config) { c.Create, c.UUID = true, [16]byte{} },
		"ReadOnly":              func(c *Config) { c.Create, c.ReadOnly = true, true },
		"Policy":                func(c *Config) { c.Policy = 9 },
		"RedoLimitBytes":        func(c *Config) { c.RedoLimitBytes = 1 },
		"Limits.ThrottlePct":    func(c *Config) { c.Limits.ThrottlePct = 100 },
		"Limits.CriticalPct":    func(c *Config) { c.Limits.CriticalPct = 50 },
		"Limits.CheckpointPct":  func(c *Config) { c.Limits.CheckpointPct = 90 },
		"Limits.RelocatePct":    func(c *Config) { c.Limits.RelocatePct = -1 },
		"Limits.CompactPct":     func(c *Config) { c.Limits.CompactPct = 101 },
		"must be set":           func(c *Config) { c.Thread = nil },
		"must be another devic": func(c *Config) { c.Base = c.Cache },
	} {
		cfg := b.cfg
		change(&cfg)
		var got error
		Start(&cfg, func(d *Device, err error) { require.Nil(t, d); got = err })
		require.ErrorIs(t, got, unix.EINVAL, field)
		require.Contains(t, got.Error(), field)
	}
}

// sparse is a device of any size whose written blocks are kept in a map.
type sparse struct {
	info   bdev.Info
	blocks map[uint64][]byte
}

func (s *sparse) Info() bdev.Info { return s.info }
func (s *sparse) Close() error    { return nil }

func (s *sparse) NewChannel(*thread.Thread) (bdev.DriverChannel, error) { return sparseChannel{s}, nil }

type sparseChannel struct{ s *sparse }

func (c sparseChannel) Close() {}

func (c sparseChannel) Submit(io *bdev.IO) {
	lba := io.LBA
	for _, b := range io.Bufs {
		for ; len(b) > 0; b = b[4096:] {
			switch io.Op {
			case bdev.OpRead:
				clear(b[:4096])
				copy(b, c.s.blocks[lba])
			case bdev.OpWrite:
				c.s.blocks[lba] = append([]byte(nil), b[:4096]...)
			default:
			}
			lba++
		}
	}
	switch io.Op {
	case bdev.OpRead, bdev.OpWrite, bdev.OpFlush:
		io.Complete(nil)
	default:
		io.Complete(unix.ENOTSUP)
	}
}

// TestEightByteEntries: a base of 17 TiB has more slots than 4 bytes can name.
// Everything works with addresses beyond 32 bits, in shared memory too.
func TestEightByteEntries(t *testing.T) {
	b := newBed(t, geometry{cache: 16<<8 + 9500, base: 4096, chunk: 256, band: 1 << 12})
	huge := &sparse{
		info: bdev.Info{
			Name: "huge", Product: "sparse", BlockSize: 4096, Blocks: 17 << 28,
			Ops: bdev.Ops(bdev.OpRead, bdev.OpWrite, bdev.OpFlush),
		},
		blocks: map[uint64][]byte{},
	}
	_, err := b.mgr.Register(huge)
	require.NoError(t, err)
	b.cfg.Base, b.cfg.SizeBytes, b.cfg.BandBlocks = "huge", 3000*4096, 1<<20
	b.cfg.ShmDir = t.TempDir()
	b.create()
	require.Equal(t, uint32(8), b.d.Layout().L2PEntryBytes)
	require.Greater(t, b.d.span, uint64(1)<<32)
	// Move the log of moves behind the addresses of 32 bits.
	far := b.d.segs[len(b.d.segs)-5:]
	b.d.freeBands = fifo{q: make([]uint32, b.d.lay.Bands)}
	for i := range far {
		b.d.freeBands.push(far[i].idx)
	}
	b.fill()
	require.Empty(t, b.churn(1500, 8, 8))
	beyond := 0
	for lba := range b.d.Blocks() {
		if b.d.table.Get(lba) > 1<<32 {
			beyond++
		}
	}
	require.NotZero(t, beyond)
	b.good()
	b.stop(true) // shared memory
	b.load()
	require.True(t, b.d.LoadReport().FromShm)
	b.good()
	b.stop(false)
	b.load()
	b.good()
	b.put(7, 5)
	b.cfg.ShmDir = ""
	b.stop(true)
	b.load()
	require.False(t, b.d.LoadReport().FromShm)
	b.good()
	require.NoError(t, b.d.CheckInvariants())
	b.stop(false)
}
