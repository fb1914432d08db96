package malloc_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/internal/devtest"
	"goftl/bdev/malloc"
)

func TestUnmappedBlocksAndTheirMetadataReadAsZeroes(t *testing.T) {
	e := devtest.New(t)
	e.Malloc("m", 2048, 8)
	_, ch := e.Open("m", e.Main)
	buf, md := make([]byte, 2048*4096), make([]byte, 2048*8)
	for i := range buf {
		buf[i] = 1
	}
	for i := range md {
		md[i] = 1
	}
	do := func(f func(bdev.DoneFunc, any) error) {
		t.Helper()
		if err := e.Do(f).Err; err != nil {
			t.Fatal(err)
		}
	}
	do(func(d bdev.DoneFunc, x any) error { return ch.Writev([][]byte{buf}, md, 0, 2048, d, x) })
	do(func(d bdev.DoneFunc, x any) error { return ch.Unmap(3, 2000, d, x) })
	do(func(d bdev.DoneFunc, x any) error { return ch.WriteZeroes(2040, 1, d, x) })
	do(func(d bdev.DoneFunc, x any) error { return ch.Readv([][]byte{buf}, md, 0, 2048, d, x) })
	for b := range 2048 {
		want := byte(1)
		if b >= 3 && b < 2003 || b == 2040 {
			want = 0
		}
		if buf[b*4096] != want || buf[b*4096+4095] != want || md[b*8] != want || md[b*8+7] != want {
			t.Fatalf("block %d", b)
		}
	}
}

func TestSizesThatCannotBe(t *testing.T) {
	for _, o := range []malloc.Options{{Blocks: 0}, {Blocks: 1 << 60}, {Blocks: 1 << 62, BlockSize: 512, MDSize: 4096}} {
		if _, err := malloc.New(o); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOMEM) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestLargeDevicesReturnWhatWasWritten(t *testing.T) {
	e := devtest.New(t)
	const blocks = 512 << 20 / 4096 // from here on writes go past the caches
	e.Malloc("m", blocks, 24)
	_, ch := e.Open("m", e.Main)
	pattern := func(n int, seed byte) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i>>8) ^ byte(i)*5 ^ seed
		}
		return b
	}
	for i, lba := range []uint64{0, 1, 777, blocks - 7} {
		data, md := pattern(7*4096, byte(i)), pattern(7*24, byte(i))
		bufs := [][]byte{data[:100], data[100:8192], data[8192:]}
		io := e.Do(func(d bdev.DoneFunc, x any) error { return ch.Writev(bufs, md, lba, 7, d, x) })
		if io.Err != nil {
			t.Fatal(io.Err)
		}
		back, backMD := make([]byte, len(data)), make([]byte, len(md))
		io = e.Do(func(d bdev.DoneFunc, x any) error { return ch.Readv([][]byte{back}, backMD, lba, 7, d, x) })
		if io.Err != nil || !bytes.Equal(back, data) || !bytes.Equal(backMD, md) {
			t.Fatalf("block %d: not what was written (%v)", lba, io.Err)
		}
	}
}
