package errinj

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// Action is what happens to an IO.
type Action uint8

// The actions.
const (
	// Fail completes the IO with Rule.Err without doing it, or with Rule.Landed
	// after it was done. ENOMEM makes the layer above try again.
	Fail Action = iota + 1
	// Delay does it Rule.Delay later.
	Delay
	// Corrupt flips Rule.Bits bits of what is read, or of what is written.
	Corrupt
	// Tear writes only a part from the front: some whole blocks, with
	// Rule.Sectors also some 512-byte sectors of the next one. Then the IO
	// fails with Rule.Err; without one it succeeds. Operations that write no
	// data are not done at all.
	Tear
	// Drop answers success without doing anything. Reads leave the buffers as
	// they are.
	Drop
	// Hang does not answer until the IO is aborted, the device is removed or
	// ReleaseHung is called.
	Hang
)

var actionNames = [...]string{"", "fail", "delay", "corrupt", "tear", "drop", "hang"}

func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "unknown"
}

// Rule says what happens to which IOs. An IO matches when its operation and
// its range do. Of the matching ones the conditions that are set must all
// hold; a rule without conditions hits every one.
type Rule struct {
	Action  Action
	Err     unix.Errno // of Fail (0 is EIO) and Tear (0 is success)
	Delay   time.Duration
	Bits    int  // of Corrupt; 0 is 1
	Sectors bool // of Tear
	Landed  bool // of Fail

	Ops      bdev.OpSet // 0: all but abort
	From, To uint64     // blocks that the IO must touch, To exclusive; To 0: all
	After    uint64     // not the first so many matching ones
	Nth      uint64     // only the n-th matching one, counted from 1 behind After; 0: any
	Every    uint64     // every n-th matching one; 0: any
	Prob     float64    // of hitting; 0: always
	Seed     uint64     // of Prob, and of where Corrupt and Tear strike
	Count    uint64     // hit so often at most; 0: no end
	Off      bool       // begin switched off
}

func (r *Rule) check() error {
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("errinj: %s is %v, it must be %s: %w", field, v, want, unix.EINVAL)
	}
	switch {
	case r.Action < Fail || r.Action > Hang:
		return bad("Action", r.Action, "one of fail, delay, corrupt, tear, drop, hang")
	case r.Action == Delay && r.Delay <= 0:
		return bad("Delay", r.Delay, "above 0")
	case r.Bits < 0 || r.Bits > 1<<20:
		return bad("Bits", r.Bits, "between 0 and 1048576")
	case r.To != 0 && r.To <= r.From:
		return bad("To", r.To, "above From")
	case !(r.Prob >= 0 && r.Prob <= 1):
		return bad("Prob", r.Prob, "between 0 and 1")
	}
	return nil
}

// Active is a rule of a device. Its methods may be called on any thread.
type Active struct {
	d       *Driver
	r       Rule
	on      atomic.Bool
	matched atomic.Uint64
	hits    atomic.Uint64
}

// Rule returns the rule as it was added.
func (a *Active) Rule() Rule { return a.r }

// Enable switches the rule on.
func (a *Active) Enable() { a.on.Store(true) }

// Disable switches the rule off; its counts stay.
func (a *Active) Disable() { a.on.Store(false) }

// Matched returns how many IOs the rule was asked about and matched.
func (a *Active) Matched() uint64 { return a.matched.Load() }

// Hits returns how many IOs the rule struck.
func (a *Active) Hits() uint64 { return a.hits.Load() }

// Remove takes the rule away.
func (a *Active) Remove() { a.d.remove(a) }

// strikes says whether the rule hits io, and gives a random number for how.
func (a *Active) strikes(io *bdev.IO) (rnd uint64, hit bool) {
	r := &a.r
	if !a.on.Load() || !r.Ops.Has(io.Op) {
		return 0, false
	}
	if r.To != 0 && (io.LBA >= r.To || io.LBA+io.Count <= r.From) {
		return 0, false
	}
	n := a.matched.Add(1)
	if n <= r.After {
		return 0, false
	}
	n -= r.After
	if r.Nth != 0 && n != r.Nth || r.Every != 0 && n%r.Every != 0 {
		return 0, false
	}
	rnd = mix(r.Seed*0xD1342543DE82EF95 + n)
	if r.Prob != 0 && float64(rnd>>11)/(1<<53) >= r.Prob {
		return 0, false
	}
	for {
		hits := a.hits.Load()
		if r.Count != 0 && hits >= r.Count {
			return 0, false
		}
		if a.hits.CompareAndSwap(hits, hits+1) {
			return mix(rnd), true
		}
	}
}

// mix is splitmix64's output function.
func mix(z uint64) uint64 {
	z += 0x9E3779B97F4A7C15
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}
