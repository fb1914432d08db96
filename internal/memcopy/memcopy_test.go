package memcopy_test

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"goftl/internal/memcopy"
	"goftl/iobuf"
)

func TestPastCopiesWhatCopyCopies(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	from, to := make([]byte, 4096), iobuf.Alloc(4096)
	defer iobuf.Free(to)
	rnd.Read(from)
	for range 20000 {
		d, s := rnd.Intn(200), rnd.Intn(200)
		if rnd.Intn(2) == 0 {
			d &^= 63
		}
		dn, sn := rnd.Intn(3000), rnd.Intn(3000)
		want := bytes.Repeat([]byte{0xee}, len(to))
		copy(to, want)
		n := copy(want[d:d+dn], from[s:s+sn])
		if got := memcopy.Past(to[d:d+dn], from[s:s+sn]); got != n {
			t.Fatalf("to %d+%d from %d+%d: %d bytes, not %d", d, dn, s, sn, got, n)
		}
		memcopy.Fence()
		if !bytes.Equal(to, want) {
			t.Fatalf("to %d+%d from %d+%d: wrong bytes", d, dn, s, sn)
		}
	}
	if memcopy.Past(nil, from) != 0 || memcopy.Past(to, nil) != 0 {
		t.Fatal("copied nothing into something")
	}
}

// BenchmarkPast copies 4 KiB from a cached source to the next place of 1 GiB,
// and to one place that is always cached.
func BenchmarkPast(b *testing.B) {
	log, src := iobuf.Alloc(1<<30), iobuf.Alloc(4096)
	if err := iobuf.Populate(log); err != nil {
		b.Skip(err)
	}
	defer iobuf.Free(log)
	defer iobuf.Free(src)
	past := func(d, s []byte) int { n := memcopy.Past(d, s); memcopy.Fence(); return n }
	for _, size := range []int{len(log), 4096} {
		for name, f := range map[string]func(d, s []byte) int{"copy": func(d, s []byte) int { return copy(d, s) }, "past": past} {
			b.Run(fmt.Sprintf("of=%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(4096)
				for i := 0; b.Loop(); i++ {
					pos := i * 4096 % size
					f(log[pos:pos+4096], src)
				}
			})
		}
	}
}
