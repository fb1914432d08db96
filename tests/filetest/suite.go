package filetest

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goftl/bdev"
)

// Options are what the drivers' own Options have in common.
type Options struct {
	Size                  uint64
	Create, Direct, Cache bool // Direct: on, Cache: off, neither: auto
	ReadOnly              bool
	Depth                 int
}

// OpenFunc makes a driver.
type OpenFunc func(path string, o Options) (bdev.Driver, error)

const mib = 1 << 20

// Run runs every test on files on disk and in memory, with and without the page
// cache.
func Run(t *testing.T, open OpenFunc) {
	for _, dir := range Dirs(t) {
		for _, cache := range []bool{false, true} {
			name := dir.Name
			if cache {
				name += "/cached"
			}
			s := suite{open: open, dir: dir, cache: cache}
			for _, c := range []struct {
				name string
				test func(t *testing.T)
			}{
				{"RoundTrips", s.roundTrips},
				{"VectorsAndStrangeBuffers", s.vectors},
				{"DataOutlivesTheDriver", s.reopen},
				{"WriteZeroesAllocates", s.writeZeroes},
				{"UnmapFrees", s.unmap},
				{"MoreThanTheDepth", s.overflow},
				{"ReadOnly", s.readOnly},
				{"CutFileIsAnError", s.cut},
				{"FUA", s.fua},
				{"Model", s.model},
				{"NoAllocations", s.allocations},
			} {
				t.Run(name+"/"+c.name, c.test)
			}
		}
	}
}

type suite struct {
	open  OpenFunc
	dir   Dir
	cache bool
}

func (s *suite) file(t *testing.T) string {
	f, err := os.CreateTemp(s.dir.Path, "f")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return f.Name()
}

func (s *suite) new(t *testing.T, size uint64) (*Harness, string) {
	path := s.file(t)
	return s.openFile(t, path, Options{Size: size, Create: true}), path
}

func (s *suite) openFile(t *testing.T, path string, o Options) *Harness {
	o.Cache = s.cache
	d, err := s.open(path, o)
	require.NoError(t, err)
	return Open(t, d)
}

func (s *suite) roundTrips(t *testing.T) {
	h, _ := s.new(t, 64*mib)
	for i, size := range []int{4096, 8192, 128 << 10, mib, 20 * mib} {
		lba := uint64(i * 100)
		want, got := Buffer(t, size, byte(i+1)), Buffer(t, size, 0)
		require.NoError(t, h.Write(want, lba))
		require.NoError(t, h.Flush())
		require.NoError(t, h.Read(got, lba))
		require.True(t, bytes.Equal(want, got), size)
	}
	got := Buffer(t, 4096, 1)
	require.NoError(t, h.Read(got, 64*mib/4096-1))
	require.Equal(t, make([]byte, 4096), got, "the end of a sparse file")
}

// Go's heap, odd addresses and more segments than the kernel takes at once.
func (s *suite) vectors(t *testing.T) {
	h, _ := s.new(t, 16*mib)
	const blocks = 600
	mem := make([]byte, blocks*4096+1)
	var bufs [][]byte
	for i := blocks - 1; i >= 0; i-- {
		b := mem[1+i*4096:][:4096]
		for j := range b {
			b[j] = byte(i + j)
		}
		bufs = append(bufs, b[:1000], b[1000:])
	}
	require.NoError(t, h.Do(func(done bdev.DoneFunc) error { return h.Ch.Writev(bufs, nil, 7, blocks, done, nil) }))
	want := bytes.Join(bufs, nil)
	clear(mem)
	require.NoError(t, h.Do(func(done bdev.DoneFunc) error { return h.Ch.Readv(bufs, nil, 7, blocks, done, nil) }))
	require.True(t, bytes.Equal(want, bytes.Join(bufs, nil)))
}

func (s *suite) reopen(t *testing.T) {
	path := s.file(t)
	buf := Buffer(t, 4096, 0x5a)
	t.Run("write", func(t *testing.T) {
		h := s.openFile(t, path, Options{Size: mib, Create: true})
		require.NoError(t, h.Write(buf, 17))
		require.NoError(t, h.Flush())
		_, err := s.open(path, Options{})
		require.ErrorIs(t, err, unix.EBUSY)
	})
	h := s.openFile(t, path, Options{})
	got := Buffer(t, 4096, 0)
	require.NoError(t, h.Read(got, 17))
	require.Equal(t, buf, got)
}

func allocated(t *testing.T, path string) int64 {
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func (s *suite) writeZeroes(t *testing.T) {
	h, path := s.new(t, 64*mib)
	require.NoError(t, h.Write(Buffer(t, mib, 0xff), 300))
	require.NoError(t, h.WriteZeroes(1, 10000))
	require.NoError(t, h.Flush())
	require.GreaterOrEqual(t, allocated(t, path), int64(10000*4096))
	got := Buffer(t, 10002*4096, 1)
	require.NoError(t, h.Read(got, 0))
	require.Equal(t, make([]byte, len(got)), got)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	require.EqualValues(t, 64*mib, st.Size)
}

func (s *suite) unmap(t *testing.T) {
	h, path := s.new(t, 64*mib)
	require.NoError(t, h.Write(Buffer(t, 32*mib, 0xff), 0))
	require.NoError(t, h.Flush())
	before := allocated(t, path)
	require.NoError(t, h.Unmap(1, 4096))
	require.NoError(t, h.Flush())
	require.LessOrEqual(t, allocated(t, path), before-15*mib)
	got := Buffer(t, 4098*4096, 1)
	require.NoError(t, h.Read(got, 0))
	require.EqualValues(t, 0xff, got[4095])
	require.Equal(t, make([]byte, 4096*4096), got[4096:4097*4096])
	require.EqualValues(t, 0xff, got[4097*4096])
}

func (s *suite) overflow(t *testing.T) {
	h := s.openFile(t, s.file(t), Options{Size: 4 * mib, Create: true, Depth: 4})
	const n = 1000
	buf := Buffer(t, n*4096, 0)
	left := n
	for i := range n {
		b := buf[i*4096:][:4096]
		b[0], b[1] = byte(i), byte(i>>8)
		require.NoError(t, h.Ch.Write(b, uint64(i), 1, func(io *bdev.IO) {
			left--
			require.NoError(t, io.Err())
		}, nil))
	}
	require.Equal(t, n, left, "a callback ran inside a submit method")
	h.Drive(func() bool { return left == 0 })
	got := Buffer(t, n*4096, 0)
	require.NoError(t, h.Read(got, 0))
	require.True(t, bytes.Equal(buf, got))
}

func (s *suite) readOnly(t *testing.T) {
	_, path := s.new(t, mib)
	h := s.openFile(t, path, Options{ReadOnly: true})
	require.True(t, h.Bdev.Info().ReadOnly)
	require.NoError(t, h.Read(Buffer(t, 4096, 0), 0))
	require.NoError(t, h.Flush())
	_, err := h.Manager.Open(h.Bdev.Name(), true, nil, nil, h.Thread)
	require.Error(t, err)
}

func (s *suite) cut(t *testing.T) {
	h, path := s.new(t, mib)
	require.NoError(t, os.Truncate(path, mib/2))
	require.NoError(t, h.Read(Buffer(t, 4096, 0), 0))
	require.ErrorIs(t, h.Read(Buffer(t, 4096, 0), 200), unix.EIO)
	require.ErrorIs(t, h.Read(Buffer(t, 8192, 0), 127), unix.EIO)
}

func (s *suite) fua(t *testing.T) {
	h, _ := s.new(t, mib)
	buf, got := Buffer(t, 8192, 3), Buffer(t, 8192, 0)
	require.NoError(t, h.Do(func(done bdev.DoneFunc) error {
		return h.Ch.WritevFUA([][]byte{buf[:4096], buf[4096:]}, nil, 5, 2, done, nil)
	}))
	require.NoError(t, h.Read(got, 5))
	require.Equal(t, buf, got)
}

// model compares with an array of bytes: batches of operations that do not
// overlap are in flight together.
func (s *suite) model(t *testing.T) {
	const blocks, lane = 256, 16 // each operation of a batch has a lane of its own
	h := s.openFile(t, s.file(t), Options{Size: blocks * 4096, Create: true, Depth: 8})
	want, got, data := make([]byte, blocks*4096), Buffer(t, blocks*4096, 0), Buffer(t, blocks*4096, 0)
	stamp := byte(0)
	rapid.Check(t, func(rt *rapid.T) {
		require.NoError(t, h.WriteZeroes(0, blocks))
		clear(want)
		left := 0
		done := func(io *bdev.IO) {
			left--
			if io.Err() != nil {
				t.Errorf("%s of %d at %d: %v", io.Op, io.Count, io.LBA, io.Err())
			}
		}
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			var reads [][2]uint64
			for base := uint64(0); base < blocks; base += lane {
				lba := base + rapid.Uint64Range(0, lane-1).Draw(rt, "lba")
				count := rapid.Uint64Range(1, base+lane-lba).Draw(rt, "count")
				from, to := lba*4096, (lba+count)*4096
				var err error
				switch rapid.IntRange(0, 6).Draw(rt, "op") {
				case 0, 1, 2:
					stamp++
					for i := from; i < to; i++ {
						data[i] = stamp + byte(i>>12)
					}
					copy(want[from:to], data[from:to])
					err = h.Ch.Write(data[from:to], lba, count, done, nil)
				case 3, 4:
					reads = append(reads, [2]uint64{from, to})
					clear(got[from:to])
					err = h.Ch.Read(got[from:to], lba, count, done, nil)
				case 5:
					clear(want[from:to])
					err = h.Ch.WriteZeroes(lba, count, done, nil)
				case 6:
					clear(want[from:to])
					err = h.Ch.Unmap(lba, count, done, nil)
				}
				require.NoError(t, err)
				left++
			}
			h.Drive(func() bool { return left == 0 })
			for _, r := range reads {
				if !bytes.Equal(want[r[0]:r[1]], got[r[0]:r[1]]) {
					rt.Fatalf("bytes %d to %d differ from the model", r[0], r[1])
				}
			}
		}
		require.NoError(t, h.Read(got, 0))
		if !bytes.Equal(want, got) {
			rt.Fatal("the content differs from the model")
		}
	})
}

// allocations: the whole way of an IO, in the steady state.
func (s *suite) allocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	h, _ := s.new(t, mib)
	buf := Buffer(t, 8*4096, 1)
	left := 0
	done := func(*bdev.IO) { left-- }
	cond := func() bool { return left == 0 }
	allocs := testing.AllocsPerRun(200, func() {
		for i := range uint64(8) {
			left++
			if i%2 == 0 {
				_ = h.Ch.Write(buf[i*4096:][:4096], i, 1, done, nil)
			} else {
				_ = h.Ch.Read(buf[i*4096:][:4096], i, 1, done, nil)
			}
		}
		left++
		_ = h.Ch.Flush(done, nil)
		h.Drive(cond)
	})
	require.Less(t, allocs, 1.0)
}
