package gen

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is the shape of a distribution.
type Kind uint8

// The distributions of --random_distribution.
const (
	Uniform   Kind = iota // every block equally likely
	ZipfLaw               // zipf:THETA
	ParetoLaw             // pareto:H
	Zoned                 // zoned:ACCESS/SIZE:ACCESS/SIZE...
)

// Zone is one part of a zoned distribution, in per cent.
type Zone struct{ AccessPct, SizePct float64 }

// Distribution is a parsed --random_distribution.
type Distribution struct {
	Kind  Kind
	Param float64 // theta or h
	Zones []Zone
}

// ErrDistribution is wrapped by every error of ParseDistribution.
var ErrDistribution = fmt.Errorf("random distribution: %w", unix.EINVAL)

// ParseDistribution reads fio's syntax: random or uniform, zipf:THETA,
// pareto:H, zoned:80/20:20/80.
func ParseDistribution(text string) (Distribution, error) {
	name, rest, _ := strings.Cut(text, ":")
	switch name {
	case "random", "uniform", "":
		return Distribution{Kind: Uniform}, nil
	case "zipf":
		theta, err := parameter(rest, "zipf", "1.2")
		if err != nil {
			return Distribution{}, err
		}
		if theta < 0 || theta > 100 {
			return Distribution{}, fmt.Errorf("%w: zipf needs a theta of 0 to 100, not %v", ErrDistribution, theta)
		}
		return Distribution{Kind: ZipfLaw, Param: theta}, nil
	case "pareto":
		h, err := parameter(rest, "pareto", "0.2")
		if err != nil {
			return Distribution{}, err
		}
		if h <= 0 || h >= 1 {
			return Distribution{}, fmt.Errorf("%w: pareto needs a number between 0 and 1, not %v", ErrDistribution, h)
		}
		return Distribution{Kind: ParetoLaw, Param: h}, nil
	case "zoned":
		zones, err := parseZones(rest)
		return Distribution{Kind: Zoned, Zones: zones}, err
	}
	return Distribution{}, fmt.Errorf("%w: unknown %q; known are random, uniform, zipf:1.2, pareto:0.2, zoned:80/20:20/80",
		ErrDistribution, text)
}

func parameter(text, name, example string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%w: %s needs a number, as in %s:%s", ErrDistribution, name, name, example)
	}
	return v, nil
}

func parseZones(text string) ([]Zone, error) {
	var zones []Zone
	access, size := 0.0, 0.0
	for part := range strings.SplitSeq(text, ":") {
		a, s, _ := strings.Cut(part, "/")
		ap, errA := strconv.ParseFloat(a, 64)
		sp, errS := strconv.ParseFloat(s, 64)
		if errors.Join(errA, errS) != nil || !(ap >= 0) || !(sp > 0) {
			return nil, fmt.Errorf("%w: %q is not ACCESS%%/SIZE%%, as in zoned:80/20:20/80", ErrDistribution, part)
		}
		zones = append(zones, Zone{ap, sp})
		access += ap
		size += sp
	}
	if math.Abs(access-100) > 0.01 || math.Abs(size-100) > 0.01 {
		return nil, fmt.Errorf("%w: the zones make %g%% of the accesses and %g%% of the size; both must be 100",
			ErrDistribution, access, size)
	}
	return zones, nil
}

// Options describe one Source.
type Options struct {
	Blocks uint64 // size of the range, > 0
	Seed   uint64
	Dist   Distribution
	Once   bool // uniform only: every block exactly once a pass (fio's random map)
}

// Source yields block numbers below Options.Blocks.
type Source struct {
	rand  Rand
	kind  sourceKind
	n     uint64
	pos   uint64 // of the pass, for once
	seed  uint64
	perm  Perm // order of a pass, or scatter of ranks
	zipf  *Zipf
	power float64 // of pareto
	zones []zoneRange
}

type sourceKind uint8

const (
	sourceUniform sourceKind = iota
	sourceOnce
	sourceZipf
	sourcePareto
	sourceZoned
)

type zoneRange struct {
	below        uint64 // cumulative probability as a 64-bit fraction
	first, count uint64
}

// NewSource builds a generator; the same options give the same sequence.
func NewSource(o Options) *Source {
	s := &Source{rand: NewRand(o.Seed), n: o.Blocks, seed: o.Seed}
	s.perm = NewPerm(o.Blocks, o.Seed)
	switch o.Dist.Kind {
	case ZipfLaw:
		s.kind, s.zipf = sourceZipf, NewZipf(o.Blocks, o.Dist.Param)
	case ParetoLaw:
		s.kind, s.power = sourcePareto, math.Log(o.Dist.Param)/math.Log(1-o.Dist.Param)
	case Zoned:
		s.kind, s.zones = sourceZoned, zoneRanges(o.Dist.Zones, o.Blocks)
	case Uniform:
		if o.Once {
			s.kind = sourceOnce
		}
	}
	return s
}

// Next returns a block number in [0, Blocks).
func (s *Source) Next() uint64 {
	switch s.kind {
	case sourceUniform:
		hi, _ := bits.Mul64(s.rand.Uint64(), s.n)
		return hi
	case sourceOnce:
		return s.nextOnce()
	case sourceZipf:
		return s.perm.At(s.zipf.Next(&s.rand))
	case sourcePareto:
		rank := uint64(float64(s.n) * math.Pow(s.rand.Float64(), s.power))
		return s.perm.At(min(rank, s.n-1))
	default:
		return s.nextZoned()
	}
}

// nextOnce walks the permutation; a new pass gets a new order.
func (s *Source) nextOnce() uint64 {
	if s.pos == s.n {
		s.pos = 0
		s.seed = Mix(s.seed)
		s.perm = NewPerm(s.n, s.seed)
	}
	s.pos++
	return s.perm.At(s.pos - 1)
}

func (s *Source) nextZoned() uint64 {
	u := s.rand.Uint64()
	for i := range s.zones {
		if z := &s.zones[i]; u < z.below {
			return z.first + s.rand.Below(z.count)
		}
	}
	z := &s.zones[len(s.zones)-1]
	return z.first + s.rand.Below(z.count)
}

// Hottest returns the block of the most popular rank of a Zipf or Pareto
// source, so that tests and reports can look at it.
func (s *Source) Hottest() uint64 { return s.perm.At(0) }

// zoneRanges cuts the range in proportion to the zone sizes; a zone without a
// block of its own shares the last one before it.
func zoneRanges(zones []Zone, blocks uint64) []zoneRange {
	ranges := make([]zoneRange, len(zones))
	size, access := 0.0, 0.0
	for i, z := range zones {
		first := uint64(size / 100 * float64(blocks))
		size += z.SizePct
		access += z.AccessPct
		end := uint64(math.Round(size / 100 * float64(blocks)))
		if i == len(zones)-1 {
			end = blocks
		}
		first = min(first, blocks-1)
		ranges[i] = zoneRange{below: fraction(access / 100), first: first, count: max(min(end, blocks), first+1) - first}
	}
	return ranges
}
