package errinj_test

import (
	"bytes"
	"errors"
	"math/bits"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/malloc"
)

type rig struct {
	*devtest.Env
	below *malloc.Driver
	d     *errinj.Driver
	ch    *bdev.Channel
}

func newRig(t *testing.T, rules ...errinj.Rule) *rig {
	t.Helper()
	e := devtest.New(t)
	below := e.Malloc("m", 64, 8)
	b, err := errinj.Create(e.M, e.Main, errinj.Options{Name: "e", Base: "m", Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	_, ch := e.Open("e", e.Main)
	return &rig{e, below, b.Driver().(*errinj.Driver), ch}
}

func (r *rig) add(t *testing.T, rule errinj.Rule) *errinj.Active {
	t.Helper()
	a, err := r.d.Add(rule)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		name string
		r    errinj.Rule
		want string // x: fails, of ten writes to blocks 0 to 9
	}{
		{"always", errinj.Rule{}, "xxxxxxxxxx"},
		{"third", errinj.Rule{Nth: 3}, "..x......."},
		{"every third", errinj.Rule{Every: 3}, "..x..x..x."},
		{"after", errinj.Rule{After: 6}, "......xxxx"},
		{"after, second", errinj.Rule{After: 6, Nth: 2}, ".......x.."},
		{"count", errinj.Rule{Count: 2}, "xx........"},
		{"range", errinj.Rule{From: 4, To: 6}, "....xx...."},
		{"reads only", errinj.Rule{Ops: bdev.Ops(bdev.OpRead)}, ".........."},
		{"writes", errinj.Rule{Ops: bdev.Ops(bdev.OpWrite), Every: 5}, "....x....x"},
		{"off", errinj.Rule{Off: true}, ".........."},
	} {
		c.r.Action = errinj.Fail
		r := newRig(t, c.r)
		got := ""
		for i := range uint64(10) {
			switch err := r.Write(r.ch, i, 1, 1); {
			case err == nil:
				got += "."
			case errors.Is(err, unix.EIO):
				got += "x"
			default:
				t.Fatal(err)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s instead of %s", c.name, got, c.want)
		}
	}
}

func TestProbabilityAndSeed(t *testing.T) {
	run := func(seed uint64) (pattern []bool, n int) {
		r := newRig(t, errinj.Rule{Action: errinj.Fail, Prob: 0.2, Seed: seed})
		for i := range uint64(1000) {
			bad := r.Write(r.ch, i%64, 1, 1) != nil
			pattern = append(pattern, bad)
			if bad {
				n++
			}
		}
		return pattern, n
	}
	a, n := run(1)
	b, _ := run(1)
	c, _ := run(2)
	same := func(x, y []bool) bool {
		for i := range x {
			if x[i] != y[i] {
				return false
			}
		}
		return true
	}
	if n < 150 || n > 250 || !same(a, b) || same(a, c) {
		t.Fatal(n, same(a, b), same(a, c))
	}
}

func TestSwitchedAtRunTime(t *testing.T) {
	r := newRig(t)
	if err := r.Write(r.ch, 0, 1, 1); err != nil {
		t.Fatal(err)
	}
	a := r.add(t, errinj.Rule{Action: errinj.Fail, Err: unix.ENOSPC})
	if err := r.Write(r.ch, 0, 1, 1); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	a.Disable()
	if err := r.Write(r.ch, 0, 1, 1); err != nil {
		t.Fatal(err)
	}
	a.Enable()
	if r.Write(r.ch, 0, 1, 1) == nil || a.Hits() != 2 || a.Matched() != 2 {
		t.Fatal(a.Hits(), a.Matched())
	}
	a.Remove()
	if err := r.Write(r.ch, 0, 1, 1); err != nil || len(r.d.Rules()) != 0 {
		t.Fatal(err)
	}
}

// TestLanded: an IO that is done and answered with an error.
func TestLanded(t *testing.T) {
	r := newRig(t, errinj.Rule{Action: errinj.Fail, Landed: true, Ops: bdev.Ops(bdev.OpWrite), Count: 1})
	if err := r.Write(r.ch, 3, 1, 9); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	if got := r.below.Data()[3*4096 : 4*4096]; !bytes.Equal(got, bytes.Repeat([]byte{9}, 4096)) {
		t.Fatal("it was not done")
	}
}

func TestNoMemoryIsTriedAgainByTheLayer(t *testing.T) {
	r := newRig(t, errinj.Rule{Action: errinj.Fail, Err: unix.ENOMEM, Count: 5})
	if err := r.Write(r.ch, 3, 1, 9); err != nil {
		t.Fatal(err)
	}
	if h := r.d.Rules()[0].Hits(); h != 5 {
		t.Fatal(h)
	}
}

func TestDelay(t *testing.T) {
	r := newRig(t, errinj.Rule{Action: errinj.Delay, Delay: time.Millisecond, Ops: bdev.Ops(bdev.OpWrite)})
	from := r.Now
	if err := r.Write(r.ch, 0, 1, 1); err != nil {
		t.Fatal(err)
	}
	if d := r.Now - from; d < 1e6 || d > 1.1e6 {
		t.Fatal(d)
	}
	from = r.Now
	if _, err := r.Read(r.ch, 0, 1); err != nil || r.Now-from > 10_000 {
		t.Fatal(err, r.Now-from)
	}
}

func diff(a, b []byte) (n int) {
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

func TestCorrupt(t *testing.T) {
	r := newRig(t)
	if err := r.Write(r.ch, 0, 4, 5); err != nil {
		t.Fatal(err)
	}
	good := bytes.Repeat([]byte{5}, 4*4096)
	a := r.add(t, errinj.Rule{Action: errinj.Corrupt, Bits: 3, Seed: 9, Ops: bdev.Ops(bdev.OpRead)})
	got, err := r.Read(r.ch, 0, 4)
	if err != nil || diff(got, good) == 0 || diff(got, good) > 3 {
		t.Fatal(err, diff(got, good))
	}
	if !bytes.Equal(r.below.Data()[:len(good)], good) {
		t.Fatal("a read changed the device")
	}
	a.Remove()
	r.add(t, errinj.Rule{Action: errinj.Corrupt, Ops: bdev.Ops(bdev.OpWrite)})
	buf := bytes.Repeat([]byte{5}, 4*4096)
	if e := r.Do(func(d bdev.DoneFunc, x any) error {
		return r.ch.Writev([][]byte{buf[:100], buf[100:]}, make([]byte, 32), 0, 4, d, x)
	}).Err; e != nil {
		t.Fatal(e)
	}
	if diff(r.below.Data()[:len(good)], good) != 1 || !bytes.Equal(buf, good) {
		t.Fatal("not one bit, or the caller's buffer was changed")
	}
}

func TestTear(t *testing.T) {
	for _, sectors := range []bool{false, true} {
		for seed := range uint64(40) {
			r := newRig(t)
			if err := r.Write(r.ch, 0, 8, 1); err != nil {
				t.Fatal(err)
			}
			r.add(t, errinj.Rule{Action: errinj.Tear, Err: unix.EIO, Sectors: sectors, Seed: seed})
			if err := r.Write(r.ch, 0, 8, 2); !errors.Is(err, unix.EIO) {
				t.Fatal(err)
			}
			data := r.below.Data()[:8*4096]
			n := bytes.IndexByte(data, 1)
			unit := 4096
			if sectors {
				unit = 512
			}
			if n < 0 || n%unit != 0 || bytes.IndexByte(data[n:], 2) >= 0 {
				t.Fatalf("torn at %d", n)
			}
			if sectors && n%4096 == 0 {
				t.Fatal("torn between blocks")
			}
		}
	}
}

func TestDropAndHang(t *testing.T) {
	r := newRig(t)
	if err := r.Write(r.ch, 0, 1, 1); err != nil {
		t.Fatal(err)
	}
	a := r.add(t, errinj.Rule{Action: errinj.Drop})
	if err := r.Write(r.ch, 0, 1, 2); err != nil || r.below.Data()[0] != 1 {
		t.Fatal(err, "not dropped")
	}
	a.Remove()
	r.add(t, errinj.Rule{Action: errinj.Hang, Ops: bdev.Ops(bdev.OpWrite)})
	var one, two, abort devtest.Result
	buf := make([]byte, 4096)
	if r.ch.Write(buf, 0, 1, devtest.Done, &one) != nil || r.ch.Write(buf, 1, 1, devtest.Done, &two) != nil {
		t.Fatal("refused")
	}
	r.Turn(1000)
	if one.N+two.N != 0 {
		t.Fatal("answered")
	}
	if err := r.ch.Abort(&one, devtest.Done, &abort); err != nil {
		t.Fatal(err)
	}
	r.Turn(5)
	if one.N != 1 || two.N != 0 || abort.N != 1 || abort.Err != nil || !errors.Is(one.Err, unix.ECANCELED) {
		t.Fatal(one, two, abort)
	}
	r.d.ReleaseHung(unix.EIO)
	r.Turn(5)
	if two.N != 1 || !errors.Is(two.Err, unix.EIO) {
		t.Fatal(two)
	}
}

// TestRemovalEndsWhatHangs also has the IO split, so that parts of it hang.
func TestRemovalEndsWhatHangs(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 64, 0)
	b, err := errinj.Create(e.M, e.Main, errinj.Options{Name: "e", Base: "m", Own: true, Rules: []errinj.Rule{{Action: errinj.Hang}}})
	if err != nil {
		t.Fatal(err)
	}
	var d *bdev.Desc
	var ch *bdev.Channel
	if d, err = e.M.Open("e", true, func(any, bdev.Event, *bdev.Bdev, []bdev.MediaExtent) {
		ch.Put()
		d.Close()
	}, nil, e.Main); err != nil {
		t.Fatal(err)
	}
	if ch, err = d.Channel(e.Main); err != nil {
		t.Fatal(err)
	}
	var r, z devtest.Result
	if ch.Write(make([]byte, 4096), 0, 1, devtest.Done, &r) != nil || ch.WriteZeroes(0, 64, devtest.Done, &z) != nil {
		t.Fatal("refused")
	}
	e.Turn(10)
	e.End("e")
	if r.N != 1 || z.N != 1 || !errors.Is(r.Err, unix.ENODEV) || len(e.M.All()) != 0 {
		t.Fatal(r, z, len(e.M.All()))
	}
	_ = b
}

func TestBadRules(t *testing.T) {
	r := newRig(t)
	for _, rule := range []errinj.Rule{
		{},
		{Action: 99},
		{Action: errinj.Delay},
		{Action: errinj.Fail, From: 5, To: 5},
		{Action: errinj.Fail, Prob: 2},
		{Action: errinj.Corrupt, Bits: -1},
	} {
		if _, err := r.d.Add(rule); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", rule, err)
		}
	}
}
