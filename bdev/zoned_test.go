package bdev_test

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/thread"
)

// inOrder is a strict driver that takes writes at the write pointer of a zone
// only, as a zoned device does.
type inOrder struct {
	*strict
	wp []uint64
}

func (s *inOrder) NewChannel(*thread.Thread) (bdev.DriverChannel, error) {
	s.chans++
	return &inOrderChannel{s}, nil
}

type inOrderChannel struct{ *inOrder }

func (c *inOrderChannel) Close() { c.chans-- }

func (c *inOrderChannel) Submit(io *bdev.IO) {
	if io.Op == bdev.OpWrite && (c.noMem == 0 || (c.n+1)%c.noMem != 0) {
		z := io.LBA / c.info.ZoneBlocks
		if io.LBA != c.wp[z] {
			c.t.Errorf("a write of %d at %d, the write pointer is at %d", io.Count, io.LBA, c.wp[z])
		}
		c.wp[z] = io.LBA + io.Count
	}
	c.strict.Submit(io)
}

func newInOrder(t *testing.T) *inOrder {
	s := &inOrder{strict: newStrict(t, bdev.Info{
		Blocks: 64, Zoned: true, ZoneBlocks: 16, ZoneCapacity: 16, OptimalBoundary: 16, WriteUnit: 2, MaxTransfer: 4,
	})}
	for z := range uint64(4) {
		s.wp = append(s.wp, z*16)
	}
	return s
}

// answerAll answers until none is open any more.
func (s *strict) answerAll(e *env, open *int) {
	s.t.Helper()
	for i := 0; *open > 0; i++ {
		if i > 1_000_000 {
			s.t.Fatalf("%d never ended", *open)
		}
		e.turn()
		s.answer()
	}
}

func TestIOsKeepToTheirZone(t *testing.T) {
	e := newEnv(t, nil)
	s := newInOrder(t)
	e.register(s)
	_, ch := e.open("strict", e.th)
	no := func(*bdev.IO) { t.Error("called back") }
	buf := make([]byte, 64*512)
	for name, err := range map[string]error{
		"write across zones":     ch.Write(buf[:4*512], 14, 4, no, nil),
		"writev across zones":    ch.Writev([][]byte{buf[:4*512]}, nil, 14, 4, no, nil),
		"FUA across zones":       ch.WritevFUA([][]byte{buf[:4*512]}, nil, 14, 4, no, nil),
		"zeroes across zones":    ch.WriteZeroes(14, 4, no, nil),
		"copy across zones":      ch.Copy(14, 32, 4, no, nil),
		"compare and write":      ch.CompareAndWrite([][]byte{buf[:4*512]}, [][]byte{buf[:4*512]}, 14, 4, no, nil),
		"part of a unit":         ch.Write(buf[:3*512], 0, 3, no, nil),
		"begin inside a unit":    ch.Write(buf[:2*512], 1, 2, no, nil),
		"zeroes, part of a unit": ch.WriteZeroes(0, 3, no, nil),
	} {
		wantErrno(t, fmt.Errorf("%s: %w", name, err), unix.EINVAL)
	}
	// Reads may be of several zones: they are split where zones meet, which the driver checks.
	read := func(d bdev.DoneFunc, x any) error { return ch.Read(buf[:40*512], 5, 40, d, x) }
	if err := e.doStrict(s.strict, read); err != nil {
		t.Fatal(err)
	}
	zeroes := func(d bdev.DoneFunc, x any) error { return ch.WriteZeroes(32, 16, d, x) }
	if err := e.doStrict(s.strict, zeroes); err != nil || s.wp[2] != 48 {
		t.Fatal(err, s.wp)
	}
}

// TestWritesReachAZoneInOrder splits writes, limits their rate, resets the
// device in between and has the driver out of memory: whatever happens, the
// writes of a zone arrive in the order in which they were submitted.
func TestWritesReachAZoneInOrder(t *testing.T) {
	for _, noMem := range []int{0, 2, 3, 7} {
		for _, iops := range []uint64{0, 1_000_000} {
			e := newEnv(t, nil)
			s := newInOrder(t)
			s.noMem = noMem
			b := e.register(s)
			_, ch := e.open("strict", e.th)
			set := false
			b.SetQoS(bdev.QoS{IOPS: iops}, e.th, func(any, error) { set = true }, nil)
			e.until("limits set", func() bool { return set })
			open := 0
			done := func(io *bdev.IO) {
				if io.Err() != nil {
					t.Error(io.Err())
				}
				open--
			}
			for z := range uint64(4) {
				for at, n := uint64(0), uint64(6); at < 16; at, n = at+n, min(8, 16-at-n) {
					if err := ch.Write(make([]byte, n*512), z*16+at, n, done, nil); err != nil {
						t.Fatal(err)
					}
					open++
				}
				if z == 2 {
					if err := ch.Flush(done, nil); err != nil {
						t.Fatal(err)
					}
					open++
				}
			}
			s.answerAll(e, &open)
			for z, wp := range s.wp {
				if wp != uint64(z+1)*16 {
					t.Errorf("noMem %d: zone %d is written up to %d", noMem, z, wp)
				}
			}
		}
	}
}

// TestAManyfoldSplitWriteIsNotOvertaken has a write of more parts than others
// may have under way, and a small one behind it.
func TestAManyfoldSplitWriteIsNotOvertaken(t *testing.T) {
	e := newEnv(t, nil)
	s := &inOrder{strict: newStrict(t, bdev.Info{
		Blocks: 256, Zoned: true, ZoneBlocks: 256, ZoneCapacity: 256, OptimalBoundary: 256, MaxTransfer: 2,
	}), wp: []uint64{0}}
	e.register(s)
	_, ch := e.open("strict", e.th)
	var small result
	if err := ch.Write(make([]byte, 200*512), 0, 200, func(*bdev.IO) {}, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Write(make([]byte, 512), 200, 1, finished, &small); err != nil {
		t.Fatal(err)
	}
	for i := 0; small.n == 0 && i < 10_000; i++ {
		e.turn()
		s.answer()
	}
	if small.n != 1 || small.err != nil || s.wp[0] != 201 {
		t.Fatal(small, s.wp)
	}
}

// TestWritesOfMorePartsThanThereAreStayInOrder uses up all parts that a channel
// has: the small writes behind wait, though they need none.
func TestWritesOfMorePartsThanThereAreStayInOrder(t *testing.T) {
	const blocks = 20_000
	e := newEnv(t, nil)
	s := &inOrder{strict: newStrict(t, bdev.Info{
		Blocks: blocks, Zoned: true, ZoneBlocks: blocks, ZoneCapacity: blocks, OptimalBoundary: blocks, MaxTransfer: 2,
	}), wp: []uint64{0}}
	e.register(s)
	_, ch := e.open("strict", e.th)
	open := 0
	done := func(io *bdev.IO) {
		if io.Err() != nil {
			t.Error(io.Err())
		}
		open--
	}
	at := uint64(0)
	for _, n := range []uint64{9000, 1, 9000, 2, 7, 1} {
		if err := ch.Write(make([]byte, n*512), at, n, done, nil); err != nil {
			t.Fatal(err)
		}
		at += n
		open++
	}
	s.answerAll(e, &open)
	if s.wp[0] != at {
		t.Fatal(s.wp)
	}
}

// TestMisalignedWritesOfAZoneStayInOrder has writes that must go through
// buffers of the layer, more than there are, in front of others that need none.
func TestMisalignedWritesOfAZoneStayInOrder(t *testing.T) {
	pool, err := iobuf.NewPool(iobuf.Options{SmallCount: 2, LargeCount: 1, LargeSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	e := newEnv(t, pool)
	s := &inOrder{strict: newStrict(t, bdev.Info{
		Blocks: 256, Zoned: true, ZoneBlocks: 256, ZoneCapacity: 256, OptimalBoundary: 256, BufAlign: 512,
	}), wp: []uint64{0}}
	e.register(s)
	_, ch := e.open("strict", e.th)
	open := 0
	done := func(io *bdev.IO) {
		if io.Err() != nil {
			t.Error(io.Err())
		}
		open--
	}
	want := make([]byte, 0, 200*512)
	at := uint64(0)
	for i := 0; at < 200; i++ {
		n := min(uint64(1+i%20), 200-at)
		buf := iobuf.Alloc(64 << 10)
		defer iobuf.Free(buf)
		buf = buf[i%3 : uint64(i%3)+n*512] // two of three are misaligned
		for j := range buf {
			buf[j] = byte(i + 1)
		}
		want = append(want, buf...)
		if err := ch.Write(buf, at, n, done, nil); err != nil {
			t.Fatal(err)
		}
		at += n
		open++
	}
	s.answerAll(e, &open)
	if s.wp[0] != at || !bytes.Equal(s.data[:len(want)], want) {
		t.Fatal("other data than was written", s.wp)
	}
}

// TestManySplitIOs has more parents than there are parts for: each of them is
// done, whole.
func TestManySplitIOs(t *testing.T) {
	const each, parents = 64, 200
	e := newEnv(t, nil)
	s := newStrict(t, bdev.Info{Blocks: each * parents, MaxTransfer: 1})
	e.register(s)
	_, ch := e.open("strict", e.th)
	open := 0
	for p := range uint64(parents) {
		buf := bytes.Repeat([]byte{byte(p + 1)}, each*512)
		if err := ch.Write(buf, p*each, each, func(io *bdev.IO) {
			if io.Err() != nil || !bytes.Equal(s.data[p*each*512:][:each*512], buf) {
				t.Errorf("parent %d is not written: %v", p, io.Err())
			}
			open--
		}, nil); err != nil {
			t.Fatal(err)
		}
		open++
	}
	s.answerAll(e, &open)
}
