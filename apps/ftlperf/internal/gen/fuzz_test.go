package gen

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDistribution: a distribution is read or refused, and one that was read yields blocks of the range only.
func FuzzDistribution(f *testing.F) {
	for _, s := range []string{"random", "zipf:1.2", "zipf:0", "zipf:1", "zipf:99.99", "pareto:0.2", "pareto:0.999999", "zoned:80/20:20/80", "zoned:100/100", "zoned:0/50:100/50", "zipf:1e-300", "zoned:NaN/1"} {
		f.Add(s, uint64(1000), uint64(1), true)
		f.Add(s, uint64(1), uint64(7), false)
	}
	f.Fuzz(func(t *testing.T, text string, blocks, seed uint64, once bool) {
		d, err := ParseDistribution(text)
		if err != nil {
			require.ErrorIs(t, err, ErrDistribution)
			return
		}
		blocks = 1 + blocks%(1<<36)
		s := NewSource(Options{Blocks: blocks, Seed: seed, Dist: d, Once: once && d.Kind == Uniform})
		for range 200 {
			require.Less(t, s.Next(), blocks)
		}
	})
}
