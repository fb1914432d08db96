package bdev_test

import (
	"bytes"
	"testing"

	"goftl/bdev"
	"goftl/bdev/malloc"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	e := newEnv(t, nil)
	e.malloc(malloc.Options{Name: "m", Blocks: 64, MDSize: 16})
	_, ch := e.open("m", e.th)
	data := bytes.Repeat([]byte("0123456789abcdef"), 256*3)
	md := bytes.Repeat([]byte{7}, 48)
	if err := e.do(func(d bdev.DoneFunc, c any) error {
		return ch.Writev([][]byte{data[:100], data[100:]}, md, 5, 3, d, c)
	}); err != nil {
		t.Fatal(err)
	}
	got, gotMD := make([]byte, len(data)), make([]byte, 48)
	if err := e.do(func(d bdev.DoneFunc, c any) error {
		return ch.Readv([][]byte{got}, gotMD, 5, 3, d, c)
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, got) || !bytes.Equal(md, gotMD) {
		t.Fatal("read something else")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	e := newEnv(t, nil)
	e.malloc(malloc.Options{Name: "m", Blocks: 64})
	_, ch := e.open("m", e.th)
	buf := make([]byte, 4096)
	r := &result{}
	n := testing.AllocsPerRun(1000, func() {
		if ch.Write(buf, 3, 1, finished, r) != nil || ch.Read(buf, 3, 1, finished, r) != nil {
			t.Fatal("refused")
		}
		e.turn()
	})
	if n != 0 || r.n != 2002 {
		t.Fatalf("%v allocations, %d completions", n, r.n)
	}
}
