package record

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

var id = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// TestHostIsLittleEndian: U32s and U64s view the bytes as they are stored.
func TestHostIsLittleEndian(t *testing.T) {
	x := uint32(1)
	require.Equal(t, byte(1), *(*byte)(unsafe.Pointer(&x)))
	b := make([]byte, BlockSize)
	le.PutUint32(b[PageHeaderSize+8:], 0x01020304)
	require.Equal(t, uint32(0x01020304), U32s(b)[2])
	le.PutUint64(b[PageHeaderSize+16:], 0x0102030405060708)
	require.Equal(t, uint64(0x0102030405060708), U64s(b)[2])
}

// sampleHeader returns a header block of a kind, with its entries.
func sampleHeader(k Kind, n int) ([]byte, Header) {
	b := make([]byte, BlockSize)
	h := Header{UUID: id, Seg: 7, Slot: 99, Gen: 3, Inc: 4, Kind: k, Count: uint16(n), G: 1 << 40, U: 1<<40 + 1, D: 1<<40 - 1}
	for i := range h.entries() {
		PutEntry(b, i, Entry{LBA: uint64(i) * 3, U: uint64(i) * 5, Sum: uint64(i) * 7})
	}
	h.Seal(b)
	return b, h
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, c := range []struct {
		k  Kind
		n  int
		ok bool
	}{
		{KindData, 1, true},
		{KindData, MaxBlocks, true},
		{KindData, 0, false},
		{KindData, MaxBlocks + 1, false},
		{KindMove, 1, true},
		{KindMove, MaxBlocks, true},
		{KindMove, 0, false},
		{KindTrim, 1, true},
		{KindTrim, MaxTrims, true},
		{KindTrim, 0, false},
		{KindVoid, 1, true},
		{KindVoid, 65535, true},
		{KindVoid, 0, false},
		{KindPad, 0, true},
		{KindPad, 1, false},
		{0, 1, false},
		{6, 1, false},
		{255, 1, false},
	} {
		b, want := sampleHeader(c.k, c.n)
		var got Header
		err := got.Decode(b)
		if !c.ok {
			require.ErrorIs(t, err, ErrInvalid, "%v of %d", c.k, c.n)
			continue
		}
		require.NoError(t, err, "%v of %d", c.k, c.n)
		require.Equal(t, want, got)
		for i := range want.entries() {
			require.Equal(t, Entry{LBA: uint64(i) * 3, U: uint64(i) * 5, Sum: uint64(i) * 7}, EntryAt(b, i))
		}
		require.Equal(t, c.k == KindData || c.k == KindTrim || c.k == KindVoid, got.Kind.IsUser())
		require.NotEqual(t, "unknown", got.Kind.String())
	}
	var h Header
	require.ErrorIs(t, h.Decode(nil), ErrInvalid)
	require.ErrorIs(t, h.Decode(make([]byte, BlockSize-1)), ErrInvalid)
	require.ErrorIs(t, h.Decode(make([]byte, BlockSize)), ErrInvalid)
	require.Equal(t, "unknown", Kind(0).String())
}

// flips calls f for every bit of b[from:to], flipped.
func flips(b []byte, from, to int, f func(bit int)) {
	for i := from * 8; i < to*8; i++ {
		b[i/8] ^= 1 << (i % 8)
		f(i)
		b[i/8] ^= 1 << (i % 8)
	}
}

// TestEveryBitOfAHeaderCounts; what stands behind the entries does not.
func TestEveryBitOfAHeaderCounts(t *testing.T) {
	for _, k := range []Kind{KindData, KindTrim, KindVoid, KindPad} {
		n := 3
		if k == KindPad {
			n = 0
		}
		b, h := sampleHeader(k, n)
		end := HeaderSize + h.entries()*EntrySize
		var got Header
		flips(b, 0, end, func(bit int) { require.ErrorIs(t, got.Decode(b), ErrInvalid, "%v bit %d", k, bit) })
		flips(b, end, end+64, func(int) { require.NoError(t, got.Decode(b)) })
	}
}

func TestDataSumBindsPlace(t *testing.T) {
	b := bytes.Repeat([]byte("data"), 1024)
	s := DataSum(b, 5)
	require.Equal(t, s, DataSum(b, 5))
	require.NotEqual(t, s, DataSum(b, 6))
	flips(b, 0, BlockSize, func(bit int) {
		if bit%97 == 0 {
			require.NotEqual(t, s, DataSum(b, 5))
		}
	})
}

func TestMetaRoundTrip(t *testing.T) {
	b := make([]byte, VSSSize+8)
	m := Meta{LBA: 1, U: 2, G: 3, D: 4, Sum: 5, Gen: 6, Inc: 7, Index: 8, Count: 9, Kind: KindData}
	place := Place(id, 1234)
	m.Put(b, place)
	require.Equal(t, make([]byte, 8), b[VSSSize:])
	var got Meta
	require.NoError(t, got.Decode(b, place))
	require.Equal(t, m, got)
	require.ErrorIs(t, got.Decode(b, Place(id, 1235)), ErrInvalid, "of another block")
	other := id
	other[0]++
	require.ErrorIs(t, got.Decode(b, Place(other, 1234)), ErrInvalid, "of another device")
	other = id
	other[9]++
	require.ErrorIs(t, got.Decode(b, Place(other, 1234)), ErrInvalid, "of another device")
	flips(b, 0, VSSSize, func(bit int) { require.ErrorIs(t, got.Decode(b, place), ErrInvalid, "bit %d", bit) })
	require.ErrorIs(t, got.Decode(b[:VSSSize-1], place), ErrInvalid)
	for _, bad := range []Meta{{Count: 0}, {Count: MaxBlocks + 2}, {Count: 3, Index: 3}} {
		bad.Put(b, place)
		require.ErrorIs(t, got.Decode(b, place), ErrInvalid, "%+v", bad)
	}
}

func TestSummaryRoundTrip(t *testing.T) {
	const body = 400
	blocks := SummaryBlocks(body)
	require.Equal(t, uint64(3), blocks)
	require.Equal(t, uint64(1), SummaryBlocks(1))
	require.Equal(t, uint64(1), SummaryBlocks(SummaryEntries))
	require.Equal(t, uint64(2), SummaryBlocks(SummaryEntries+1))
	s := Summary(make([]byte, blocks*BlockSize))
	for i := range uint32(body) {
		s.Put(i, Entry{LBA: uint64(i) + 1, U: uint64(i) * 2, Sum: uint64(i) * 3})
	}
	s.Clear(300, body)
	me := SummaryID{UUID: id, Seg: 5, Gen: 6}
	s.Seal(me)
	require.NoError(t, s.Check(me))
	for i := range uint32(300) {
		require.Equal(t, Entry{LBA: uint64(i) + 1, U: uint64(i) * 2, Sum: uint64(i) * 3}, s.At(i))
		require.Equal(t, uint64(i)+1, s.LBAAt(i))
		require.Equal(t, uint64(i)*3, s.SumAt(i))
	}
	for i := uint32(300); i < body; i++ {
		require.Equal(t, Entry{LBA: MarkUnused}, s.At(i))
	}
	sums := make([]uint64, SummaryEntries)
	ExtractSums(s[BlockSize:2*BlockSize], sums)
	for i := range sums {
		require.Equal(t, s.SumAt(uint32(i)+SummaryEntries), sums[i])
	}
	for _, other := range []SummaryID{{id, 5, 7}, {id, 4, 6}, {[16]byte{}, 5, 6}} {
		require.ErrorIs(t, s.Check(other), ErrInvalid)
	}
	// A block in another block's place is not taken.
	require.ErrorIs(t, CheckSummaryBlock(s[:BlockSize], 1, me), ErrInvalid)
	flips(s, 0, len(s), func(bit int) {
		if bit%31 == 0 || bit < SummaryHeaderSize*8 {
			require.ErrorIs(t, s.Check(me), ErrInvalid, "bit %d", bit)
		}
	})
	for _, m := range []uint64{MarkUnused, MarkHeader, MarkTrim, MarkPad, MarkVoid, ^uint64(0)} {
		require.True(t, IsMark(m))
	}
	require.False(t, IsMark(MarkBase-1))
}

func TestDescriptorRoundTrip(t *testing.T) {
	b := bytes.Repeat([]byte{0xee}, BlockSize)
	d := Descriptor{State: StateFull, Seg: 3, Gen: 4, Inc: 5, Slots: 6, FirstU: 7, LastU: 8, MaxG: 9, MaxD: 10, Opened: 11}
	d.Put(b)
	require.Equal(t, byte(0xee), b[DescriptorSize])
	var got Descriptor
	require.NoError(t, got.Decode(b, 3))
	require.Equal(t, d, got)
	require.ErrorIs(t, got.Decode(b, 4), ErrInvalid)
	clear(b)
	require.NoError(t, got.Decode(b, 9))
	require.Equal(t, Descriptor{Seg: 9}, got, "zeroes are a free segment")
	for i := range DescriptorSize {
		clear(b)
		b[i] = 1
		require.ErrorIs(t, got.Decode(b, 0), ErrInvalid, "byte %d", i)
	}
	for _, st := range []State{StateFree, StateOpen, StateFull} {
		d.State = st
		d.Put(b)
		require.NoError(t, got.Decode(b, 3))
		require.Equal(t, st, got.State)
		require.NotEqual(t, "unknown", st.String())
	}
	d.State = 3
	d.Put(b)
	require.ErrorIs(t, got.Decode(b, 3), ErrInvalid)
	require.Equal(t, "unknown", State(3).String())
}

func TestPages(t *testing.T) {
	const seed, p, k = 0x1234, 77, 5
	b := make([]byte, BlockSize)
	for i, e := 0, U32s(b); i < len(e); i++ {
		e[i] = rand.New(rand.NewPCG(1, uint64(i))).Uint32()
	}
	page := bytes.Clone(b)
	SealPage(page, p, k, seed)
	require.Equal(t, b[PageHeaderSize:], page[PageHeaderSize:])
	require.NoError(t, CheckPage(page, p, k, seed))
	require.ErrorIs(t, CheckPage(page, p+1, k, seed), ErrInvalid)
	require.ErrorIs(t, CheckPage(page, p, k+1, seed), ErrInvalid)
	require.ErrorIs(t, CheckPage(page, p, k, seed+1), ErrInvalid)
	require.ErrorIs(t, CheckDir(page, p, k, seed), ErrInvalid, "a page is no directory")
	flips(page, 0, BlockSize, func(bit int) {
		if bit%31 == 0 || bit < PageHeaderSize*8 {
			require.ErrorIs(t, CheckPage(page, p, k, seed), ErrInvalid, "bit %d", bit)
		}
	})
	dir := bytes.Clone(b)
	SealDir(dir, 0, k, seed)
	require.NoError(t, CheckDir(dir, 0, k, seed))
	require.ErrorIs(t, CheckPage(dir, 0, k, seed), ErrInvalid)
	n, ok := DirNumber(dir, 0, seed)
	require.Equal(t, uint64(k), n)
	require.True(t, ok)
	_, ok = DirNumber(dir, 1, seed)
	require.False(t, ok)
	_, ok = DirNumber(b, 0, seed)
	require.False(t, ok)
	for _, k := range []uint64{1, 2, MaxK} {
		for slot := range uint32(2) {
			gk, gs := SplitDirEntry(DirEntry(k, slot))
			require.Equal(t, k, gk)
			require.Equal(t, slot, gs)
			require.NotZero(t, DirEntry(k, slot))
		}
	}
}

// TestNoAllocations on the paths that every record takes.
func TestNoAllocations(t *testing.T) {
	b, h := sampleHeader(KindData, 5)
	vss := make([]byte, VSSSize)
	m := Meta{Count: 1, Kind: KindData}
	s := Summary(make([]byte, BlockSize))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h.Seal(b)
		if h.Decode(b) != nil {
			panic("decode")
		}
		m.Put(vss, 1)
		if m.Decode(vss, 1) != nil {
			panic("decode")
		}
		s.Put(3, EntryAt(b, 1))
		s.Seal(SummaryID{})
		SealPage(b, 1, 1, 1)
		DataSum(b, 1)
	}))
}
