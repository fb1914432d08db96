package reactor

import (
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

func loadsOf(lists ...[]int) [][]load {
	var all [][]load
	for _, list := range lists {
		threads := []load{}
		for _, n := range list {
			if n < 0 {
				threads = append(threads, load{permille: -n, fixed: true})
			} else {
				threads = append(threads, load{permille: n})
			}
		}
		all = append(all, threads)
	}
	return all
}

func TestPolicyMoves(t *testing.T) {
	for _, tc := range []struct {
		name  string
		loads [][]load
		want  []move
	}{
		{"nothing to do", loadsOf([]int{500}, []int{500}), nil},
		{"no reactors", nil, nil},
		{"one busy thread cannot be helped", loadsOf([]int{1000}, []int{}), nil},
		{"two busy threads are spread", loadsOf([]int{500, 500}, []int{}), []move{{0, 0, 1}}},
		{"the best of several", loadsOf([]int{600, 300, 50}, []int{100}), []move{{0, 1, 1}}},
		{"four over three", loadsOf([]int{250, 250, 250, 250}, []int{}, []int{}), []move{{0, 0, 1}}},
		{"fixed threads stay", loadsOf([]int{-500, -500}, []int{}), nil},
		{"idle reactors are emptied", loadsOf([]int{10}, []int{5, 5}, []int{300}), []move{{1, 0, 2}, {1, 1, 2}, {0, 0, 2}}},
		{"two idle ones meet on one", loadsOf([]int{0}, []int{0}), []move{{1, 0, 0}}},
		{"not onto a full one", loadsOf([]int{10}, []int{495}), nil},
		{"a fixed idle thread keeps its reactor", loadsOf([]int{300}, []int{-1, 5}), nil},
	} {
		require.Equal(t, tc.want, DefaultPolicy.plan(tc.loads), tc.name)
	}
}

// Carrying plans out again and again with the same loads comes to rest: no thread goes to and fro.
func TestPolicyComesToRest(t *testing.T) {
	for seed := range int64(2000) {
		rng := rand.New(rand.NewSource(seed))
		loads := make([][]load, 1+rng.Intn(5))
		for i := range loads {
			for range rng.Intn(5) {
				loads[i] = append(loads[i], load{permille: rng.Intn(400) * rng.Intn(2), fixed: rng.Intn(6) == 0})
			}
		}
		for round := 0; ; round++ {
			moves := DefaultPolicy.plan(loads)
			if len(moves) == 0 {
				break
			}
			require.Less(t, round, 30, "seed %d", seed)
			gone := map[[2]int]bool{}
			for _, m := range moves {
				require.NotEqual(t, m.from, m.to)
				require.False(t, loads[m.from][m.thread].fixed)
				gone[[2]int{m.from, m.thread}] = true
			}
			next := make([][]load, len(loads))
			for i, list := range loads {
				for j, l := range list {
					if !gone[[2]int{i, j}] {
						next[i] = append(next[i], l)
					}
				}
			}
			for _, m := range moves {
				next[m.to] = append(next[m.to], loads[m.from][m.thread])
			}
			loads = next
		}
	}
}
