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
		if i%500 == 0 {
			a.keep = rnd.Intn(4)
			a.trim(1 + rnd.Intn(3))
			checkArena(t, &a)
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
	checkArena(t, &a)
	// Nothing is lost to fragmentation: all of it can be had in the largest units.
	us, ok := a.getN(nil, 8*slabSize)
	require.True(t, ok)
	_, ok = a.getN(nil, 1)
	require.False(t, ok)
	a.putAll(us)
	a.close()
	require.Zero(t, a.mapped)
}

// checkArena compares what the arena counts with its slabs.
func checkArena(t *testing.T, a *arena) {
	t.Helper()
	idle := 0
	for i, s := range a.all {
		require.Equal(t, i, s.pos)
		if s.nfree == s.total {
			idle++
		}
	}
	require.Equal(t, idle, a.idle)
	require.Len(t, a.all, a.mapped)
	require.LessOrEqual(t, a.low, a.idle)
	for s := a.spare; s != nil; s = s.next {
		require.Equal(t, s.total, s.nfree)
		require.Same(t, s, a.all[s.pos])
	}
}

// TestArenaTrim: what was idle between two trims goes back, a part at a time
// and down to what is kept; what is taken again and again stays.
func TestArenaTrim(t *testing.T) {
	a := arena{max: 100, keep: 10}
	us, ok := a.getN(nil, 40*slabSize)
	require.True(t, ok)
	require.Equal(t, 40, a.mapped)
	require.Zero(t, a.trim(8), "everything is in use")
	require.False(t, a.excess())
	a.putAll(us)
	require.True(t, a.excess())
	require.Zero(t, a.trim(8), "it was in use a moment ago")
	require.Equal(t, 8, a.trim(8))
	require.Equal(t, 32, a.mapped)
	checkArena(t, &a)

	us, ok = a.getN(us[:0], 20*slabSize)
	require.True(t, ok)
	a.putAll(us)
	require.Equal(t, 2, a.trim(100), "of 32 only 12 were not needed")
	for range 10 {
		us, ok = a.getN(us[:0], 20*slabSize)
		require.True(t, ok)
		a.putAll(us)
		require.Zero(t, a.trim(100))
		require.Equal(t, 30, a.mapped)
	}
	require.Equal(t, 20, a.trim(100))
	require.Zero(t, a.trim(100))
	require.False(t, a.excess())
	require.Equal(t, 10, a.mapped)
	checkArena(t, &a)

	// A slab that is the last of its size is idle too.
	a.keep = 0
	for shift := uint8(unitShiftMin); shift <= unitShiftMax; shift++ {
		u, ok := a.get(shift)
		require.True(t, ok)
		a.put(u)
	}
	a.trim(0)
	require.Equal(t, 10, a.trim(100))
	require.Zero(t, a.mapped)
	checkArena(t, &a)
	us, ok = a.getN(us[:0], 100*slabSize)
	require.True(t, ok)
	a.putAll(us)
	a.close()
	require.Zero(t, a.mapped)
}

func TestUnitSizes(t *testing.T) {
	for n, want := range map[int]int{1: 4096, 4096: 4096, 4097: 8192, 65536: 65536, 1 << 20: 1 << 20, 1<<20 + 1: 2 << 20, 64 << 20: 64 << 20} {
		require.Equal(t, want, arenaBytes(n), "%d", n)
	}
}
