package zone_test

import (
	"encoding/binary"
	"testing"

	"github.com/cespare/xxhash/v2"

	"goftl/bdev"
	"goftl/bdev/zone"
)

// FuzzTable: tables of zones that somebody has changed, and whose checksums he has corrected or not. The device says
// why it does not start, or what it says of its zones makes sense, and they can be read, written, reset and found again.
func FuzzTable(f *testing.F) {
	o := zone.Options{ZoneBlocks: 16, Capacity: 12, ConvZones: 1, WriteUnit: 2, Persist: true}
	r := newRig(f, o)
	for lba := uint64(16); lba < 80; lba += 16 {
		if err := r.Write(r.ch, lba, 4, byte(lba)); err != nil {
			f.Fatal(err)
		}
	}
	r.stop()
	image := append([]byte(nil), r.below.Data()...)

	f.Add(false, true, uint16(64+16), []byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1}) // more than a zone is durable
	f.Add(true, true, uint16(64+16), []byte{3, 0, 0, 0, 1, 0, 0, 0, 0xff})           // half a unit, and every flag
	f.Add(false, true, uint16(8), []byte{9})                                         // version
	f.Add(true, true, uint16(16), []byte{0, 0, 0, 0, 0, 0, 0, 0})                    // zones of nothing
	f.Add(true, true, uint16(48), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(false, false, uint16(0), make([]byte, 64))
	f.Fuzz(func(t *testing.T, both, seal bool, at uint16, with []byte) {
		r.T = t
		data := r.below.Data()
		copy(data, image)
		const size = 4096
		table := data[len(data)-2*size:]
		for i := range 2 {
			slot := table[i*size : (i+1)*size]
			if both || i == int(at)%2 {
				copy(slot[int(at)%size:], with)
			}
			if seal {
				binary.LittleEndian.PutUint64(slot[size-8:], xxhash.Sum64(slot[:size-8]))
			}
		}
		for range 2 { // as it was left, and as the first start has left it
			r.start(o)
			r.useZones()
			r.stop()
		}
	})
}

// useZones looks at every zone, reads it, writes to it if that is allowed, and resets it.
func (r *rig) useZones() {
	r.T.Helper()
	z := make([]bdev.ZoneInfo, 1)
	for lba := uint64(0); lba+16 <= r.desc.Bdev().Info().Blocks; lba += 16 {
		info := func() bool {
			return r.Do(func(d bdev.DoneFunc, x any) error { return r.ch.ZoneInfo(lba, z, d, x) }).Err == nil
		}
		if !info() {
			continue // it was not understood
		}
		capacity := uint64(12)
		if z[0].Conventional {
			capacity = 16
		}
		if z[0].LBA != lba || z[0].Capacity != capacity || z[0].WP < lba || z[0].WP > lba+capacity || z[0].State > bdev.ZoneNotWP {
			r.T.Fatalf("%+v", z[0])
		}
		_, _ = r.Read(r.ch, lba, 4)
		wp := z[0].WP
		open := z[0].State == bdev.ZoneEmpty || z[0].State == bdev.ZoneClosed || z[0].State == bdev.ZoneImplicitOpen
		if open && r.Write(r.ch, wp, 2, 7) == nil {
			if buf, err := r.Read(r.ch, wp, 2); err != nil || buf[0] != 7 {
				r.T.Fatal(err, buf[0])
			}
		}
		if r.op(r.ch.ZoneReset, lba) == nil && (!info() || z[0].State != bdev.ZoneEmpty || z[0].WP != lba) {
			r.T.Fatalf("after a reset: %+v", z[0])
		}
	}
}
