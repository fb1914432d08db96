package superblock

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
)

var testUUID = uuid.MustParse("6f1d3f5e-9c5b-4b6f-9d0a-1b2c3d4e5f60")

func sample(t testing.TB) *Superblock {
	l, err := layout.Compute(layout.Params{CacheBlocks: 1 << 14, BaseBlocks: 1 << 16})
	require.NoError(t, err)
	return &Superblock{
		Version: Version, Role: RoleCache, UUID: testUUID, Name: "tank/ä", Seq: 7, Clean: true, State: StateDegraded,
		Inc: 3, CkptK: 12, DirSlot: 1, CU: 1000, CM: 2000, Created: 1_700_000_000_000_000_000,
		CacheUUID: uuid.UUID{1}, BaseUUID: uuid.UUID{2},
		Config: Config{
			SparePct: 20, Limits: [NumLimits]Limit{{5, 0}, {10, 5}, {20, 40}, {40, 100}}, InvalidPct: 10,
			CkptBlocks: 4096, VerifyReads: true,
		},
		Layout: l,
	}
}

func block(s *Superblock, role Role, seq uint64) []byte {
	b := make([]byte, layout.BlockSize)
	c := *s
	c.Role, c.Seq = role, seq
	c.Encode(b)
	return b
}

func reseal(b []byte) { le.PutUint64(b[offSum:], xxhash.Sum64(b[offVersion:Size])) }

func TestRoundTrip(t *testing.T) {
	s := sample(t)
	b := bytes.Repeat([]byte{0xaa}, layout.BlockSize)
	s.Encode(b)
	require.Equal(t, bytes.Repeat([]byte{0xaa}, 16), b[Size:], "the trailer is not ours")
	got, err := Decode(b)
	require.NoError(t, err)
	require.Equal(t, s, got)
	Seal(b, RoleBase)
	got, err = Decode(b)
	require.NoError(t, err)
	require.Equal(t, RoleBase, got.Role)
}

func TestDecodeRefuses(t *testing.T) {
	good := block(sample(t), RoleCache, 1)
	for name, c := range map[string]struct {
		change func(b []byte)
		seal   bool
		is     error
		says   string
	}{
		"blank":        {func(b []byte) { clear(b) }, false, ErrBlank, "blank"},
		"foreign":      {func(b []byte) { copy(b, "EFI PART") }, false, ErrForeign, "foreign"},
		"torn":         {func(b []byte) { clear(b[512:1024]); b[600] = 1 }, false, ErrDamaged, "checksum"},
		"newer":        {func(b []byte) { le.PutUint32(b[offVersion:], Version+1) }, true, ErrNewer, "version 2"},
		"newer layout": {func(b []byte) { le.PutUint32(b[offLayout:], 99) }, true, ErrNewer, "layout version 99"},
		"version 0":    {func(b []byte) { le.PutUint32(b[offVersion:], 0) }, true, ErrDamaged, "version is 0"},
		"role":         {func(b []byte) { b[offRole] = 9 }, true, ErrDamaged, "role is 9"},
		"uuid":         {func(b []byte) { clear(b[offUUID : offUUID+16]) }, true, ErrDamaged, "UUID"},
		"dir slot":     {func(b []byte) { b[offDirSlot] = 2 }, true, ErrDamaged, "directory slot is 2"},
		"name length":  {func(b []byte) { le.PutUint32(b[offNameLen:], 1<<31) }, true, ErrDamaged, "length of the name"},
		"name":         {func(b []byte) { b[offName] = 0xff }, true, ErrDamaged, "not UTF-8"},
		"flags":        {func(b []byte) { b[offFlags] = 0xff }, true, ErrDamaged, "flag word"},
		"state":        {func(b []byte) { b[offState] = 0xff }, true, ErrDamaged, "state word"},
		"spare":        {func(b []byte) { b[offSpare] = 100 }, true, ErrDamaged, "spare percentage is 100"},
		"invalid":      {func(b []byte) { b[offInvalid] = 100 }, true, ErrDamaged, "invalid threshold is 100"},
		"share":        {func(b []byte) { b[offLimits+4] = 101 }, true, ErrDamaged, "share of a limit is 101"},
		"layout":       {func(b []byte) { b[offLayout+16] = 3 }, true, ErrDamaged, "chunk size"},
	} {
		t.Run(name, func(t *testing.T) {
			b := append([]byte(nil), good...)
			c.change(b)
			if c.seal {
				reseal(b)
			}
			_, err := Decode(b)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := Decode(good[:100])
	require.ErrorIs(t, err, ErrDamaged)
}

// TestEveryBit: no flipped bit goes unnoticed.
func TestEveryBit(t *testing.T) {
	b := block(sample(t), RoleBase, 9)
	for i := range Size * 8 {
		b[i/8] ^= 1 << (i % 8)
		_, err := Decode(b)
		require.Error(t, err, "bit %d", i)
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestChoose(t *testing.T) {
	s := sample(t)
	other := *s
	other.UUID = uuid.MustParse("00000000-0000-4000-8000-000000000001")
	halfA, halfB := *s, other
	halfA.State |= StateCreating
	halfB.State |= StateCreating
	newer := block(s, RoleCache, 99)
	le.PutUint32(newer[offVersion:], Version+1)
	reseal(newer)
	torn := block(s, RoleCache, 8)
	clear(torn[1100:])
	foreign := bytes.Repeat([]byte("ext4"), 1024)
	rotten := block(s, RoleBase, 5)
	rotten[2] ^= 4                 // in the magic
	torn2 := block(s, RoleBase, 5) // one word of ten is left
	for i, left := 0, 0; i < len(torn2); i += 8 {
		if left++; le.Uint64(torn2[i:]) != 0 && left%10 != 0 {
			le.PutUint64(torn2[i:], uint64(i)*0x9e3779b97f4a7c15|1<<63)
		}
	}
	torn1 := block(s, RoleBase, 5)
	for i := range 512 { // its first sector is somebody else's
		torn1[i] = byte(i * 7)
	}
	leave := func(c Copy) Copy { c.Overwrite = true; return c }
	blank := make([]byte, layout.BlockSize)
	at := func(b []byte) Copy { return Copy{Device: "c0", Blocks: s.Layout.CacheBlocks, Block: b} }
	on := func(b []byte) Copy { return Copy{Device: "b0", Blocks: s.Layout.BaseBlocks, Block: b} }
	failing := func(c Copy) Copy { c.Err = unix.EIO; return c }
	shrunk := func(c Copy) Copy { c.Blocks--; return c }

	for name, c := range map[string]struct {
		cache, base            Copy
		want                   uuid.UUID
		seq                    uint64
		rewriteCache, rewriteB bool
		is                     error
		says                   string
	}{
		"two interrupted attempts":      {cache: at(block(&halfA, RoleCache, 1)), base: on(block(&halfB, RoleBase, 1)), seq: 1},
		"one whole, one never finished": {cache: at(block(&halfA, RoleCache, 1)), base: on(block(&other, RoleBase, 9)), is: ErrMismatch, says: "b0 is the base of"},
		"equal":                         {cache: at(block(s, RoleCache, 5)), base: on(block(s, RoleBase, 5)), seq: 5},
		"as asked":                      {cache: at(block(s, RoleCache, 5)), base: on(block(s, RoleBase, 5)), want: s.UUID, seq: 5},
		"mirror newer":                  {cache: at(block(s, RoleCache, 5)), base: on(block(s, RoleBase, 6)), seq: 6, rewriteCache: true},
		"mirror older":                  {cache: at(block(s, RoleCache, 6)), base: on(block(s, RoleBase, 5)), seq: 6, rewriteB: true},
		"primary torn":                  {cache: at(torn), base: on(block(s, RoleBase, 6)), seq: 6, rewriteCache: true},
		"mirror torn":                   {cache: at(block(s, RoleCache, 6)), base: on(torn), seq: 6, rewriteB: true},
		"primary unreadable":            {cache: failing(at(nil)), base: on(block(s, RoleBase, 6)), seq: 6, rewriteCache: true},
		"mirror blank":                  {cache: at(block(s, RoleCache, 6)), base: on(blank), seq: 6, rewriteB: true},
		"both torn":                     {cache: at(torn), base: on(torn), is: ErrDamaged, says: "no usable superblock: c0"},
		"both blank":                    {cache: at(blank), base: on(blank), is: ErrBlank},
		"torn and blank":                {cache: at(blank), base: on(torn), is: ErrDamaged, says: "b0"},
		"both unreadable":               {cache: failing(at(nil)), base: failing(on(nil)), is: unix.EIO},
		"mirror foreign":                {cache: at(block(s, RoleCache, 6)), base: on(foreign), is: ErrForeign, says: "b0"},
		"rotten magic":                  {cache: at(block(s, RoleCache, 6)), base: on(rotten), seq: 6, rewriteB: true},
		"rotten first sector":           {cache: at(block(s, RoleCache, 6)), base: on(torn1), seq: 6, rewriteB: true},
		"foreign, with leave":           {cache: at(block(s, RoleCache, 6)), base: leave(on(foreign)), seq: 6, rewriteB: true},
		"torn twice":                    {cache: at(block(s, RoleCache, 6)), base: on(torn2), seq: 6, rewriteB: true},
		"all ones":                      {cache: at(block(s, RoleCache, 6)), base: on(bytes.Repeat([]byte{1}, 4096)), is: ErrForeign},
		"both foreign":                  {cache: at(foreign), base: on(foreign), is: ErrForeign},
		"newer":                         {cache: at(newer), base: on(block(s, RoleBase, 6)), is: ErrNewer, says: "c0"},
		"another FTL's base":            {cache: at(block(s, RoleCache, 5)), base: on(block(&other, RoleBase, 5)), is: ErrMismatch, says: "b0 is the base of 00000000"},
		"not the one asked":             {cache: at(block(s, RoleCache, 5)), base: on(block(s, RoleBase, 5)), want: other.UUID, is: ErrMismatch, says: "not to 00000000"},
		"swapped":                       {cache: at(block(s, RoleBase, 5)), base: on(block(s, RoleCache, 5)), is: ErrSwapped, says: "c0 is the base and b0 the cache"},
		"base as cache":                 {cache: at(block(s, RoleBase, 5)), base: on(blank), is: ErrSwapped, says: "c0 was given as the cache"},
		"cache as base":                 {cache: at(blank), base: on(block(s, RoleCache, 5)), is: ErrSwapped, says: "b0 was given as the base"},
		"same device twice":             {cache: at(block(s, RoleCache, 5)), base: on(block(s, RoleCache, 5)), is: ErrSwapped, says: "b0 was given as the base"},
		"cache device shrunk":           {cache: shrunk(at(block(s, RoleCache, 5))), base: on(block(s, RoleBase, 5)), is: ErrResized, says: "cache c0"},
		"base device shrunk":            {cache: at(block(s, RoleCache, 5)), base: shrunk(on(block(s, RoleBase, 5))), is: ErrResized, says: "base b0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.cache, c.base, c.want)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.seq, got.SB.Seq)
			require.Equal(t, c.rewriteCache, got.RewriteCache)
			require.Equal(t, c.rewriteB, got.RewriteBase)
		})
	}
}

// TestChooseAny: whatever was done to the two copies, the outcome is the
// content of one of them, as it was written, or an error.
func TestChooseAny(t *testing.T) {
	s := sample(t)
	rng := rand.New(rand.NewPCG(3, 4))
	mangle := func(b []byte) []byte {
		switch rng.IntN(6) {
		case 0:
			return b
		case 1:
			return make([]byte, len(b))
		case 2:
			return b[:rng.IntN(len(b))]
		case 3:
			clear(b[rng.IntN(len(b)):])
		case 4:
			b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		case 5:
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
		return b
	}
	for range 5000 {
		cb, bb := mangle(block(s, RoleCache, 5)), mangle(block(s, RoleBase, 6))
		got, err := Choose(Copy{Block: cb, Blocks: 1 << 14}, Copy{Block: bb, Blocks: 1 << 16}, uuid.Nil)
		if err != nil {
			continue
		}
		want := *s
		want.Role, want.Seq = RoleCache, 5
		if got.From == RoleBase {
			want.Role, want.Seq = RoleBase, 6
		}
		require.Equal(t, &want, got.SB)
	}
}

func TestSealAllocates(t *testing.T) {
	s := sample(t)
	b := make([]byte, layout.BlockSize)
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Encode(b) }))
}

func FuzzDecode(f *testing.F) {
	f.Add(block(sample(f), RoleCache, 1), false)
	f.Add(block(sample(f), RoleBase, 1), true)
	f.Add(make([]byte, layout.BlockSize), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= Size { // reach what stands behind the checksum
			le.PutUint64(b, magic)
			reseal(b)
		}
		s, err := Decode(b)
		if err != nil {
			var errno unix.Errno
			require.ErrorAs(t, err, &errno)
			return
		}
		again := make([]byte, layout.BlockSize)
		s.Encode(again)
		back, err := Decode(again)
		require.NoError(t, err)
		back.Version = s.Version
		if s.State&StateCreating != 0 {
			s.Layout = nil // it is not written before the FTL is made
		}
		require.Equal(t, s, back)
	})
}

// TestMarkOfACreationCannotBeTorn: whatever sectors of the first block arrive on a blank device, it is blank or says
// that an FTL is being made.
func TestMarkOfACreationCannotBeTorn(t *testing.T) {
	s := sample(t)
	s.State, s.Role = StateCreating, RoleBase
	whole := make([]byte, layout.BlockSize)
	s.Encode(whole)
	for sectors := range 1 << (layout.BlockSize / sectorSize) {
		b := make([]byte, layout.BlockSize)
		for i := range layout.BlockSize / sectorSize {
			if sectors>>i&1 != 0 {
				copy(b[i*sectorSize:(i+1)*sectorSize], whole[i*sectorSize:])
			}
		}
		got, err := Decode(b)
		if sectors&1 == 0 {
			require.ErrorIs(t, err, ErrBlank)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, StateCreating, got.State)
		require.Nil(t, got.Layout)
		require.Equal(t, s.UUID, got.UUID)
	}
}

// TestTwoCreationsInterrupted: the marks of two creations say together that there is no FTL; a mark beside an FTL does
// not.
func TestTwoCreationsInterrupted(t *testing.T) {
	s := sample(t)
	other := *s
	other.UUID, other.State = uuid.UUID{9}, StateCreating
	mark := *s
	mark.State = StateCreating
	at := func(s *Superblock, role Role) Copy {
		return Copy{Device: role.String(), Blocks: 1 << 20, Block: block(s, role, 1)}
	}
	c, err := Choose(at(&mark, RoleCache), at(&other, RoleBase), uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, StateCreating, c.SB.State)
	_, err = Choose(at(s, RoleCache), at(&other, RoleBase), uuid.Nil)
	require.ErrorIs(t, err, ErrMismatch)
	_, err = Choose(at(&mark, RoleCache), Copy{Device: "base", Err: unix.EIO}, uuid.Nil)
	require.NoError(t, err)
}
