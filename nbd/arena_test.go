package nbd

import (
	"math/rand"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestArena takes and returns units of all sizes at random: they are aligned,
// do not overlap, and the limit holds; in the end everything is back.
func TestArena(t *testing.T) {
	a := arena{max: 8}
	rnd := rand.New(rand.NewSource(1))
	type lease struct {
		us  []unit
		tag byte
	}
	var out []lease
	refused := 0
	for i := range 20_000 {
		if len(out) > 0 && rnd.Intn(100) < 48 {
			k := rnd.Intn(len(out))
			for _, u := range out[k].us {
				b := u.bytes()
				require.Equal(t, out[k].tag, b[0])
				require.Equal(t, out[k].tag, b[len(b)-1])
			}
			a.putAll(out[k].us)
			out[k] = out[len(out)-1]
			out = out[:len(out)-1]
			continue
		}
		n := 1 + rnd.Intn(1<<(8+rnd.Intn(15)))
		before := a.used
		us, ok := a.getN(nil, n)
		if !ok {
			refused++
			require.Equal(t, before, a.used, "all or nothing")
			continue
		}
		total := 0
		for _, u := range us {
			b := u.bytes()
			require.Zero(t, uintptr(unsafe.Pointer(&b[0]))%4096)
			b[0], b[len(b)-1] = byte(i), byte(i)
			total += len(b)
		}
		require.GreaterOrEqual(t, total, n)
		require.Equal(t, arenaBytes(n), total)
		out = append(out, lease{us, byte(i)})
		require.LessOrEqual(t, a.mapped, 8)
	}
	require.Positive(t, refused)
	for _, l := range out {
		a.putAll(l.us)
	}
	require.Zero(t, a.used)
	// Nothing is lost to fragmentation: all of it can be had in the largest units.
	us, ok := a.getN(nil, 8*slabSize)
	require.True(t, ok)
	_, ok = a.getN(nil, 1)
	require.False(t, ok)
	a.putAll(us)
	a.close()
	require.Zero(t, a.mapped)
}

func TestUnitSizes(t *testing.T) {
	for n, want := range map[int]int{1: 4096, 4096: 4096, 4097: 8192, 65536: 65536, 1 << 20: 1 << 20, 1<<20 + 1: 2 << 20, 64 << 20: 64 << 20} {
		require.Equal(t, want, arenaBytes(n), "%d", n)
	}
}
