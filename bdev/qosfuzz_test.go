package bdev_test

import (
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/malloc"
)

// FuzzQoS: limits are refused or kept as they are; under any of them IOs come through in the time that the limits
// allow, and without them at once.
func FuzzQoS(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0), uint64(0))
	f.Add(uint64(1), uint64(1), uint64(1), uint64(1))
	f.Add(uint64(10_000), uint64(40_960_000), uint64(0), uint64(4096))
	f.Add(uint64(1)<<50, uint64(1)<<50, uint64(1)<<50, uint64(1)<<50)
	f.Add(uint64(math.MaxUint64), uint64(1)<<51, uint64(1)<<63, uint64(7))
	f.Fuzz(func(t *testing.T, iops, all, reads, writes uint64) {
		e := newEnv(t, nil)
		b := e.malloc(malloc.Options{Name: "m", Blocks: 64})
		_, ch := e.open("m", e.th)
		q := bdev.QoS{IOPS: iops, BytesPS: all, ReadBytes: reads, WriteBytes: writes}
		set := func(q bdev.QoS) error {
			var result error
			over := false
			b.SetQoS(q, e.th, func(_ any, err error) { result, over = err, true }, nil)
			e.until("limits set", func() bool { return over })
			return result
		}
		if err := set(q); err != nil {
			if !errors.Is(err, unix.EINVAL) || b.QoS() != (bdev.QoS{}) {
				t.Fatal(err, b.QoS())
			}
			return
		}
		if b.QoS() != q {
			t.Fatalf("%+v became %+v", q, b.QoS())
		}
		const ios = 6
		left, buf := ios, make([]byte, 4096)
		done := func(io *bdev.IO) {
			if io.Err() != nil {
				t.Error(io.Err())
			}
			left--
		}
		for i := range uint64(ios / 2) {
			if err := errors.Join(ch.Write(buf, i, 1, done, nil), ch.Read(make([]byte, 4096), 60, 1, done, nil)); err != nil {
				t.Fatal(err)
			}
		}
		// The slowest rate, for everything one after the other, and twice that.
		least := int64(0)
		for i, v := range []uint64{iops, all, reads, writes} {
			cost := int64(4096 * ios)
			if i == 0 {
				cost = ios
			}
			if v != 0 {
				least = max(least, cost*int64(1e9)/int64(min(v, 1<<50)))
			}
		}
		const steps = 400
		for range 2 * steps {
			if left == 0 {
				break
			}
			e.now += least/steps + 1_000_000
			e.turns(3)
		}
		if left != 0 {
			t.Fatalf("%d of %d IOs are held after %d s under %+v", left, ios, 2*least/1e9, q)
		}
		left = 1
		if err := errors.Join(set(bdev.QoS{}), ch.Read(buf, 0, 1, done, nil)); err != nil {
			t.Fatal(err)
		}
		e.until("IO without limits", func() bool { return left == 0 })
	})
}
