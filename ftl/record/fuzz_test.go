package record

import (
	"bytes"
	"testing"
)

// Every decoder takes hostile bytes: it must not panic, and what it accepts
// must be what it would have written.

// block makes a block of data, cut or filled up with zeroes.
func block(data []byte) []byte {
	b := make([]byte, BlockSize)
	copy(b, data)
	return b
}

// reseal corrects the checksum of a header, so that the fuzzer gets behind it.
func reseal(b []byte) {
	n := int(le.Uint16(b[22:]))
	if k := Kind(b[20]); k == KindVoid || k == KindPad || n > MaxTrims {
		n = 0
	}
	le.PutUint64(b[8:], headerSum(b, n))
}

func FuzzHeader(f *testing.F) {
	for _, k := range []Kind{KindData, KindTrim, KindVoid, KindPad, KindMove} {
		for _, n := range []int{0, 1, 3, MaxBlocks, MaxTrims, 65535} {
			if n > MaxTrims && k != KindVoid {
				continue
			}
			b, _ := sampleHeader(k, n)
			f.Add(b, false)
			f.Add(b, true)
		}
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		var h Header
		_ = h.Decode(data)
		b := block(data)
		if seal {
			reseal(b)
		}
		if h.Decode(b) != nil {
			return
		}
		if n := h.entries(); n > MaxTrims {
			t.Fatal("more entries than fit")
		}
		again := bytes.Clone(b)
		h.Seal(again)
		var h2 Header
		if err := h2.Decode(again); err != nil || h2 != h {
			t.Fatalf("%+v became %+v (%v)", h, h2, err)
		}
	})
}

func FuzzMeta(f *testing.F) {
	b := make([]byte, VSSSize)
	for _, m := range []Meta{{Count: 1}, {LBA: MarkTrim, Count: 1, Kind: KindTrim}, {Count: 128, Index: 127, Kind: KindData}, {}} {
		m.Put(b, 7)
		f.Add(bytes.Clone(b), uint64(7))
	}
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, place uint64) {
		var m Meta
		if m.Decode(data, place) != nil {
			return
		}
		if m.Count == 0 || m.Index >= m.Count {
			t.Fatalf("%+v", m)
		}
		b := make([]byte, VSSSize)
		m.Put(b, place)
		if !bytes.Equal(b, data[:VSSSize]) {
			t.Fatal("it would be written differently")
		}
	})
}

func FuzzSummary(f *testing.F) {
	s := Summary(make([]byte, BlockSize))
	s.Put(0, Entry{LBA: MarkHeader, U: 1, Sum: 2})
	s.Put(1, Entry{LBA: 5, U: 1, Sum: 3})
	s.Clear(2, SummaryEntries)
	me := SummaryID{UUID: id, Seg: 1, Gen: 2}
	s.Seal(me)
	f.Add([]byte(s), uint32(0), uint32(1), uint32(2))
	f.Add(make([]byte, BlockSize), uint32(0), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, i, seg, gen uint32) {
		b := block(data)
		err := CheckSummaryBlock(b, i, SummaryID{UUID: id, Seg: seg, Gen: gen})
		v := Summary(b)
		for slot := range uint32(SummaryEntries) {
			e := v.At(slot)
			if e.LBA != v.LBAAt(slot) || e.Sum != v.SumAt(slot) {
				t.Fatal("views differ")
			}
		}
		var sums [SummaryEntries]uint64
		ExtractSums(b, sums[:])
		if err == nil && i == 0 {
			again := Summary(bytes.Clone(b))
			again.Seal(SummaryID{UUID: id, Seg: seg, Gen: gen})
			if again.Check(SummaryID{UUID: id, Seg: seg, Gen: gen}) != nil {
				t.Fatal("sealed again it does not check")
			}
		}
	})
}

func FuzzDescriptor(f *testing.F) {
	b := make([]byte, DescriptorSize)
	f.Add(bytes.Clone(b), uint32(0))
	for _, st := range []State{StateFree, StateOpen, StateFull, 9} {
		d := Descriptor{State: st, Seg: 3, Gen: 4, Inc: 5, Slots: 6, FirstU: 7, LastU: 8, MaxG: 9, MaxD: 10, Opened: 11}
		d.Put(b)
		f.Add(bytes.Clone(b), uint32(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, seg uint32) {
		b := block(data)
		var d Descriptor
		if d.Decode(b, seg) != nil {
			return
		}
		if d.Seg != seg || d.State > StateFull {
			t.Fatalf("%+v", d)
		}
		again := make([]byte, DescriptorSize)
		d.Put(again)
		var d2 Descriptor
		if err := d2.Decode(again, seg); err != nil || d2 != d {
			t.Fatalf("%+v became %+v (%v)", d, d2, err)
		}
	})
}

func FuzzPage(f *testing.F) {
	b := make([]byte, BlockSize)
	U32s(b)[0] = 17
	SealPage(b, 2, 3, 4)
	f.Add(bytes.Clone(b), uint64(2), uint64(3), uint64(4))
	SealDir(b, 0, 3, 4)
	f.Add(bytes.Clone(b), uint64(0), uint64(3), uint64(4))
	f.Add([]byte{}, uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, p, k, seed uint64) {
		b := block(data)
		page, dir := CheckPage(b, p, k, seed) == nil, CheckDir(b, p, k, seed) == nil
		if page && dir {
			t.Fatal("a page and a directory")
		}
		n, ok := DirNumber(b, p, seed)
		if ok && CheckDir(b, p, n, seed) != nil || dir && (!ok || n != k) {
			t.Fatal("the number of a directory")
		}
		if page {
			again := bytes.Clone(b)
			SealPage(again, p, k, seed)
			if !bytes.Equal(again, b) {
				t.Fatal("it would be written differently")
			}
		}
	})
}
