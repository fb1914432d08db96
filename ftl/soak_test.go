package ftl

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
)

// TestRandomFaults lives several lives with random faults on both devices:
// writes fail, disks are full for a while, single reads fail, requests are
// answered late and out of order, crashes come at any moment. Whatever was
// acknowledged must be there in the end, and nothing may hang.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomFaults(t, seed, 0) })
	}
}

// randomFaults is one run; with a volatile write cache of so many blocks, if any.
func randomFaults(t *testing.T, seed, buffer uint64) {
	rnd := rand.New(rand.NewPCG(seed, 99))
	g := mini.with(mdSizes[seed%2])
	g.volatile = rnd.IntN(2) == 0
	g.buffer = buffer
	g.base += 64 * rnd.Uint64N(20)
	g.lag = time.Duration(rnd.IntN(3)) * 25 * time.Microsecond
	b := newBed(t, g)
	b.rnd = rnd
	b.create()
	b.fillTo(b.d.Blocks() / 2)
	for range 5 {
		faults := b.drawFaults(rnd)
		load := func(n int) {
			for range n {
				switch lba := rnd.Uint64N(b.d.Blocks() - 16); rnd.IntN(12) {
				case 0:
					b.submit(OpTrim, lba, 1+rnd.Uint64N(16), false)
				case 1:
					b.submit(OpFlush, 0, 0, false)
				case 2, 3:
					b.submit(OpRead, lba, 1+rnd.Uint64N(16), false)
				default:
					b.submit(OpWrite, lba, 1+rnd.Uint64N(8), rnd.IntN(30) == 0)
				}
				b.until("room", func() bool { return len(b.wait) < 8 })
			}
		}
		load(150)
		b.lookAfterCrash()
		load(100 + rnd.IntN(100))
		if rnd.IntN(3) == 0 { // a stop while all of that goes on
			load(6)
			_ = b.halted(rnd.IntN(2) == 0)
			require.Empty(t, b.wait, "requests without an answer")
			for _, f := range faults {
				f.Remove()
			}
			b.load()
			b.verify(true)
			b.adopt()
			continue
		}
		for _, f := range faults {
			f.Remove()
		}
		b.drainAll()
		b.pass(200 * time.Millisecond)
		// Without faults everything must come good, or be read-only with
		// everything there.
		if h, _ := b.d.Health(); h == HealthOK {
			load(100)
			b.drainAll()
			b.adopt()
			b.good()
			b.settleAll()
		}
		require.Zero(t, b.stats().Lost)
		b.lookAfterCrash()
		load(rnd.IntN(6))
		_ = b.halted(rnd.IntN(2) == 0)
		require.Empty(t, b.wait, "requests without an answer")
		b.load()
		b.mustBe(HealthOK)
		b.verify(true)
		b.adopt()
		b.good()
	}
	b.settleAll()
	b.check()
	b.stop(false)
}

// lookAfterCrash verifies what a crash now would leave. A read-only device may
// turn out to be healthy.
func (b *bed) lookAfterCrash() {
	b.t.Helper()
	tw := b.crash()
	tw.mustBe(HealthOK)
	tw.verify(true)
	require.NoError(b.t, tw.d.CheckInvariants())
	tw.end()
}

func (b *bed) drawFaults(rnd *rand.Rand) (list []*errinj.Active) {
	add := func(dev int, r errinj.Rule) {
		r.Seed = rnd.Uint64()
		list = append(list, b.rule(dev, r))
	}
	size := []uint64{b.geo.cache, b.geo.base}
	for dev := range 2 {
		switch rnd.IntN(4) {
		case 0: // writes fail now and then, somewhere or everywhere
			from := rnd.Uint64N(size[dev]-1) + 1
			add(dev, errinj.Rule{Action: errinj.Fail, Ops: writeOps, From: 1 + rnd.Uint64N(from), To: size[dev], Prob: 0.1 * rnd.Float64()})
		case 1: // the disk is full for a while
			add(dev, errinj.Rule{
				Action: errinj.Fail, Err: unix.ENOSPC, Ops: writeOps, From: 1, To: size[dev],
				After: rnd.Uint64N(50), Count: 1 + rnd.Uint64N(100), Prob: 0.2 + 0.8*rnd.Float64(),
			})
		case 2: // single reads fail
			add(dev, errinj.Rule{Action: errinj.Fail, Ops: readOps, Prob: 0.05 * rnd.Float64()})
		}
		if rnd.IntN(3) == 0 {
			add(dev, errinj.Rule{Action: errinj.Tear, Err: unix.EIO, Ops: writeOps, From: 1, To: size[dev], Prob: 0.05 * rnd.Float64()})
		}
		if rnd.IntN(3) == 0 {
			add(dev, errinj.Rule{Action: errinj.Delay, Delay: time.Millisecond, Prob: 0.1})
		}
		if rnd.IntN(3) == 0 {
			add(dev, errinj.Rule{Action: errinj.Fail, Err: unix.ENOMEM, Prob: 0.2})
		}
	}
	return list
}
