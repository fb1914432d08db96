package delay_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/delay"
	"goftl/bdev/internal/devtest"
)

func TestReadsAndWritesAreHeldBack(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 64, 0)
	b, err := delay.Create(e.M, e.Main, delay.Options{
		Name: "d", Base: "m", Own: true, Times: delay.Times{Read: 100 * time.Microsecond, Write: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, ch := e.Open("d", e.Main)
	took := func(f func()) int64 {
		from := e.Now
		f()
		return e.Now - from
	}
	w := func() {
		if err := e.Write(ch, 1, 1, 7); err != nil {
			t.Fatal(err)
		}
	}
	r := func() {
		if buf, err := e.Read(ch, 1, 1); err != nil || buf[0] != 7 {
			t.Fatal(err, buf[0])
		}
	}
	if n := took(w); n < 1e6 || n > 1.1e6 {
		t.Fatal(n)
	}
	if n := took(r); n < 1e5 || n > 1.2e5 {
		t.Fatal(n)
	}
	b.Driver().(*delay.Driver).SetTimes(delay.Times{})
	if n := took(w); n > 10_000 {
		t.Fatal(n)
	}
	b.Driver().(*delay.Driver).SetTimes(delay.Times{Read: 10 * time.Microsecond, ReadP99: time.Millisecond})
	slow := 0
	for range 2000 {
		if took(r) >= 1e6 {
			slow++
		}
	}
	if slow < 5 || slow > 50 {
		t.Fatalf("%d of 2000 were slow", slow)
	}
	ch.Put()
	d.Close()
	e.End("d")
	if len(e.M.All()) != 0 {
		t.Fatal("the base is still there")
	}
}

func TestAbortOfWhatIsHeld(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 64, 0)
	if _, err := delay.Create(e.M, e.Main, delay.Options{Name: "d", Base: "m", Times: delay.Times{Read: time.Second}}); err != nil {
		t.Fatal(err)
	}
	_, ch := e.Open("d", e.Main)
	var r, a devtest.Result
	if err := ch.Read(make([]byte, 4096), 0, 1, devtest.Done, &r); err != nil {
		t.Fatal(err)
	}
	e.Turn(10)
	if err := ch.Abort(&r, devtest.Done, &a); err != nil {
		t.Fatal(err)
	}
	e.Turn(10)
	if r.N != 1 || a.N != 1 || a.Err != nil || !errors.Is(r.Err, unix.ECANCELED) {
		t.Fatal(r, a)
	}
}

func TestManyKeepTheirOrder(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 64, 0)
	if _, err := delay.Create(e.M, e.Main, delay.Options{Name: "d", Base: "m", Times: delay.Times{Read: 50 * time.Microsecond}}); err != nil {
		t.Fatal(err)
	}
	_, ch := e.Open("d", e.Main)
	buf := make([]byte, 4096)
	var order []int
	for i := range 200 {
		if err := ch.Read(buf, 0, 1, func(*bdev.IO) { order = append(order, i) }, nil); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			e.Turn(1)
		}
	}
	e.Turn(200)
	if len(order) != 200 {
		t.Fatal(len(order))
	}
	for i, v := range order {
		if i != v {
			t.Fatalf("%d came at place %d", v, i)
		}
	}
}
