//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mapped is an extent as nbdinfo (offset, type) and qemu-img (start, zero, data) print it.
type mapped struct {
	Offset, Start, Length int64
	Type                  *uint32
	Zero, Data            bool
}

// holesOf makes of a printed map what is a hole, by blocks. The map must have no gaps.
func holesOf(t *testing.T, text string, blocks int64) []bool {
	t.Helper()
	var list []mapped
	require.NoError(t, json.Unmarshal([]byte(text), &list), "%s", text)
	holes, at := []bool{}, int64(0)
	for _, m := range list {
		begin, hole := m.Start, m.Zero && !m.Data
		if m.Type != nil {
			require.Contains(t, []uint32{0, 3}, *m.Type)
			begin, hole = m.Offset, *m.Type == 3
		}
		require.Equal(t, at, begin)
		require.Zero(t, m.Length%4096)
		for range m.Length / 4096 {
			holes = append(holes, hole)
		}
		at += m.Length
	}
	require.EqualValues(t, blocks, len(holes))
	return holes
}

// TestSparse: clients that ask for the status of blocks see exactly what is not stored, copy nothing else, and get the
// same content; after trims and a restart too.
func TestSparse(t *testing.T) {
	needOurs(t)
	for _, k := range kinds() {
		t.Run(k.slug(), func(t *testing.T) { testSparse(t, k) })
	}
}

func testSparse(t *testing.T, k kind) {
	need(t, "nbdcopy", "nbdinfo", "qemu-img", "qemu-io")
	dir := shortDir(t)
	src, back := image(t, dir), filepath.Join(dir, "back.img")
	s := k.serve(t, "256MiB")
	const blocks = imageBytes / 4096
	compare := func(want []bool) {
		t.Helper()
		require.Equal(t, want, holesOf(t, run(t, "nbdinfo", "--map", "--json", s.uri()), blocks))
		require.Equal(t, want, holesOf(t, run(t, "qemu-img", "map", "--output=json", "-f", "raw", s.uri()), blocks))
	}
	want := make([]bool, blocks)
	for i := range want {
		want[i] = true
	}
	require.Contains(t, run(t, "nbdinfo", "--list", s.uri()), "base:allocation")
	compare(want)

	run(t, "nbdcopy", "--flush", src, s.uri())
	data, err := os.ReadFile(src)
	require.NoError(t, err)
	zero := make([]byte, 4096)
	holes := int64(0)
	for i := range want {
		want[i] = bytes.Equal(data[i*4096:(i+1)*4096], zero)
		if want[i] {
			holes++
		}
	}
	require.True(t, holes > blocks/8 && holes < blocks/2)
	compare(want)

	run(t, "nbdcopy", s.uri(), back)
	sameFiles(t, src, back)
	require.LessOrEqual(t, fileBlocks(t, back), (blocks-holes)*4096+1<<20, "the copy is sparse")
	require.NoError(t, os.Remove(back))
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "0", s.uri(), back)
	sameFiles(t, src, back)

	run(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 1M 64k", "-c", "write -P 9 1100k 4k", "-c", "write -z 5M 1M", "-c", "flush", s.uri())
	for i := range want {
		at := i * 4096
		switch {
		case at == 1100<<10:
			want[i] = false
		case at>>16 == 16, at>>20 == 5:
			want[i] = true
		}
	}
	compare(want)
	s.kill()
	s = s.again()
	compare(want)
	s.stop()
	s.check()
}

// fileBlocks is how much of a file is stored, in bytes.
func fileBlocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}
