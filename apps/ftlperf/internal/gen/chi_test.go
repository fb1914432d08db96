package gen

import (
	"fmt"
	"math"
	"testing"
)

// chiSquare returns the statistic and its p-value for counts against expected
// probabilities; cells with fewer than ten expected hits are pooled.
func chiSquare(counts []uint64, probability []float64) (stat, p float64) {
	total := uint64(0)
	for _, c := range counts {
		total += c
	}
	cells, poolCount, poolExpected := 0, 0.0, 0.0
	for i, c := range counts {
		e := probability[i] * float64(total)
		if e < 10 {
			poolCount += float64(c)
			poolExpected += e
			continue
		}
		stat += (float64(c) - e) * (float64(c) - e) / e
		cells++
	}
	if poolExpected >= 10 {
		stat += (poolCount - poolExpected) * (poolCount - poolExpected) / poolExpected
		cells++
	}
	return stat, upperGamma(float64(cells-1)/2, stat/2)
}

// upperGamma is the regularised incomplete gamma function Q(a, x): series
// below a+1, continued fraction (Lentz) above.
func upperGamma(a, x float64) float64 {
	if x <= 0 {
		return 1
	}
	lg, _ := math.Lgamma(a)
	scale := math.Exp(-x + a*math.Log(x) - lg)
	if x < a+1 {
		term, sum := 1/a, 1/a
		for n := 1; n < 100000; n++ {
			term *= x / (a + float64(n))
			if sum += term; term < sum*1e-15 {
				break
			}
		}
		return 1 - sum*scale
	}
	b := x + 1 - a
	c, d := 1e300, 1/b
	h := d
	for n := 1; n < 100000; n++ {
		an := -float64(n) * (float64(n) - a)
		b += 2
		d = 1 / (an*d + b)
		c = b + an/c
		h *= d * c
		if math.Abs(d*c-1) < 1e-15 {
			break
		}
	}
	return h * scale
}

func TestUpperGammaAgainstTables(t *testing.T) {
	for _, c := range []struct{ df, x, p float64 }{
		{1, 3.841459, 0.05}, {10, 18.307038, 0.05}, {100, 124.342113, 0.05}, {10, 3.940299, 0.95}, {50, 76.153891, 0.01},
	} {
		if got := upperGamma(c.df/2, c.x/2); math.Abs(got-c.p) > 1e-6 {
			t.Errorf("Q(df=%v, x=%v) = %v, want %v", c.df, c.x, got, c.p)
		}
	}
}

// mustFit fails when the counts are either too far from the probabilities or
// closer than chance allows.
func mustFit(t *testing.T, name string, counts []uint64, probability []float64) {
	t.Helper()
	stat, p := chiSquare(counts, probability)
	if p < 1e-4 || p > 1-1e-4 {
		t.Errorf("%s: chi-square %.1f, p = %.2g", name, stat, p)
	}
}

func uniformly(n int) []float64 {
	p := make([]float64, n)
	for i := range p {
		p[i] = 1 / float64(n)
	}
	return p
}

func zipfProbabilities(n int, theta float64) []float64 {
	p, total := make([]float64, n), 0.0
	for i := range p {
		p[i] = math.Pow(float64(i+1), -theta)
		total += p[i]
	}
	for i := range p {
		p[i] /= total
	}
	return p
}

func draw(s *Source, n, draws int) []uint64 {
	counts := make([]uint64, n)
	for range draws {
		counts[s.Next()]++
	}
	return counts
}

func TestUniformIsUniform(t *testing.T) {
	for _, n := range []int{2, 3, 10, 1000, 4096, 50000} {
		s := NewSource(Options{Blocks: uint64(n), Seed: uint64(n)})
		mustFit(t, fmt.Sprint("uniform ", n), draw(s, n, 1_000_000), uniformly(n))
	}
}

// Pairs of successive draws are independent: a 64 x 64 table of both.
func TestUniformHasNoSerialDependence(t *testing.T) {
	s := NewSource(Options{Blocks: 64, Seed: 7})
	counts := make([]uint64, 64*64)
	for range 1_000_000 {
		a := s.Next()
		counts[a*64+s.Next()]++
	}
	mustFit(t, "pairs", counts, uniformly(64*64))
}

func TestZipfIsZipf(t *testing.T) {
	const n = 3000
	for _, theta := range []float64{0, 0.5, 0.8, 0.99, 1, 1.2, 2, 3} {
		z := NewZipf(n, theta)
		r := NewRand(uint64(theta * 1000))
		counts := make([]uint64, n)
		for range 1_500_000 {
			counts[z.Next(&r)]++
		}
		mustFit(t, fmt.Sprint("zipf ", theta), counts, zipfProbabilities(n, theta))
	}
}

// Over a million ranks, binned by eighths of an octave, against exact sums.
func TestZipfOverManyRanks(t *testing.T) {
	const n = 1_000_003
	bin := func(rank int) int { return int(8 * math.Log2(float64(rank+1))) }
	for _, theta := range []float64{0.8, 1, 1.2} {
		want := make([]float64, bin(n-1)+1)
		for i, p := range zipfProbabilities(n, theta) {
			want[bin(i)] += p
		}
		z, r := NewZipf(n, theta), NewRand(99)
		counts := make([]uint64, len(want))
		for range 1_500_000 {
			counts[bin(int(z.Next(&r)))]++
		}
		mustFit(t, fmt.Sprint("zipf of a million ", theta), counts, want)
	}
}

// Through the Source, each block has the probability of exactly one rank.
func TestZipfScatterKeepsTheLaw(t *testing.T) {
	const n, theta = 1000, 1.2
	s := NewSource(Options{Blocks: n, Seed: 5, Dist: Distribution{Kind: ZipfLaw, Param: theta}})
	counts := draw(s, n, 1_500_000)
	want, byRank := make([]float64, n), zipfProbabilities(n, theta)
	for rank, p := range byRank {
		want[s.perm.At(uint64(rank))] = p
	}
	mustFit(t, "zipf scattered", counts, want)
}

func TestParetoIsPareto(t *testing.T) {
	const n = 1000
	for _, h := range []float64{0.1, 0.2, 0.5} {
		s := NewSource(Options{Blocks: n, Seed: 3, Dist: Distribution{Kind: ParetoLaw, Param: h}})
		counts := draw(s, n, 1_000_000)
		want := make([]float64, n)
		exponent := math.Log(1-h) / math.Log(h)
		below := 0.0
		for rank := range n {
			cumulative := math.Pow(float64(rank+1)/n, exponent)
			want[s.perm.At(uint64(rank))] = cumulative - below
			below = cumulative
		}
		mustFit(t, fmt.Sprint("pareto ", h), counts, want)
	}
}

// The h of pareto means what the users of fio expect: 0.2 is 80/20.
func TestParetoMeansWhatItSays(t *testing.T) {
	const n, draws = 100000, 1_000_000
	s := NewSource(Options{Blocks: n, Seed: 3, Dist: Distribution{Kind: ParetoLaw, Param: 0.2}})
	counts := draw(s, n, draws)
	hot := uint64(0)
	for rank := range uint64(n / 5) {
		hot += counts[s.perm.At(rank)]
	}
	if share := float64(hot) / draws; math.Abs(share-0.8) > 0.005 {
		t.Errorf("the hottest fifth gets %.3f of the accesses, want 0.8", share)
	}
}

func TestZonedIsZoned(t *testing.T) {
	const n = 1000
	d, err := ParseDistribution("zoned:80/20:15/30:5/50")
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float64, n)
	for i := range want {
		switch {
		case i < 200:
			want[i] = 0.8 / 200
		case i < 500:
			want[i] = 0.15 / 300
		default:
			want[i] = 0.05 / 500
		}
	}
	s := NewSource(Options{Blocks: n, Seed: 11, Dist: d})
	mustFit(t, "zoned", draw(s, n, 1_000_000), want)
}

func TestPermIsABijection(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 4, 5, 7, 8, 100, 1000, 4097, 65536, 100003} {
		for seed := range uint64(3) {
			p, seen := NewPerm(n, seed), make([]bool, n)
			for i := range n {
				at := p.At(i)
				if at >= n || seen[at] {
					t.Fatalf("n=%d seed=%d: %d hit twice or out of range", n, seed, at)
				}
				seen[at] = true
			}
		}
	}
}

// A pass visits every block once, and its order looks random: positions of
// neighbours are unrelated, the first half is spread evenly.
func TestOnceVisitsAllInRandomOrder(t *testing.T) {
	const n, groups = 1 << 18, 64
	for _, blocks := range []uint64{n, n - 1234} {
		s := NewSource(Options{Blocks: blocks, Seed: 17, Once: true})
		for pass := range 3 {
			seen := make([]bool, blocks)
			jumps, places := make([]uint64, groups), make([]uint64, groups*groups)
			previous := uint64(0)
			for i := range blocks {
				b := s.Next()
				if seen[b] {
					t.Fatalf("pass %d: block %d twice", pass, b)
				}
				seen[b] = true
				jumps[(b-previous+blocks)%blocks*groups/blocks]++
				if i%4 == 0 {
					places[i*groups/blocks*groups+b*groups/blocks]++
				}
				previous = b
			}
			mustFit(t, fmt.Sprintf("jumps of pass %d of %d", pass, blocks), jumps, uniformly(groups))
			mustFit(t, fmt.Sprintf("time by place of pass %d of %d", pass, blocks), places, uniformly(groups*groups))
		}
	}
}

func TestSameSeedSameSequence(t *testing.T) {
	for _, text := range []string{"uniform", "zipf:1.1", "pareto:0.3", "zoned:90/10:10/90"} {
		d, err := ParseDistribution(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, once := range []bool{false, true} {
			a := NewSource(Options{Blocks: 1000, Seed: 42, Dist: d, Once: once})
			b := NewSource(Options{Blocks: 1000, Seed: 42, Dist: d, Once: once})
			for range 3000 {
				if a.Next() != b.Next() {
					t.Fatalf("%s: sequences differ", text)
				}
			}
		}
	}
}

func TestBadDistributionsAreRefused(t *testing.T) {
	for _, text := range []string{
		"zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:NaN", "pareto:0", "pareto:1", "pareto:inf",
		"zoned:", "zoned:80/20", "zoned:80/20:20", "zoned:120/50:-20/50", "gauss:1",
	} {
		if d, err := ParseDistribution(text); err == nil {
			t.Errorf("%q accepted as %+v", text, d)
		}
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	for _, text := range []string{"uniform", "zipf:1.1", "pareto:0.3", "zoned:90/10:10/90"} {
		d, _ := ParseDistribution(text)
		s := NewSource(Options{Blocks: 100, Seed: 42, Dist: d, Once: true})
		if a := testing.AllocsPerRun(1000, func() { s.Next() }); a != 0 {
			t.Errorf("%s: %v allocations a draw", text, a)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, text := range []string{"uniform", "once", "zipf:0.8", "zipf:1.2", "pareto:0.2", "zoned:80/20:20/80"} {
		b.Run(text, func(b *testing.B) {
			o := Options{Blocks: 100_000_000, Seed: 1, Once: text == "once"}
			if !o.Once {
				o.Dist, _ = ParseDistribution(text)
			}
			s := NewSource(o)
			for b.Loop() {
				s.Next()
			}
		})
	}
}
