package gen

import "math/bits"

// Rand is a small fast generator (wyrand): one multiplication a draw. It
// passes the usual statistical batteries and is not for cryptography.
type Rand struct{ state uint64 }

// NewRand returns a generator whose sequence is a function of seed; nearby
// seeds give unrelated sequences.
func NewRand(seed uint64) Rand { return Rand{state: Mix(seed)} }

// Uint64 returns 64 random bits.
func (r *Rand) Uint64() uint64 {
	r.state += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(r.state, r.state^0xe7037ed1a0b428db)
	return hi ^ lo
}

// Below returns a number in [0, n), n > 0. Its bias is below n/2^64.
func (r *Rand) Below(n uint64) uint64 {
	hi, _ := bits.Mul64(r.Uint64(), n)
	return hi
}

// Float64 returns a number in [0, 1) with 53 random bits.
func (r *Rand) Float64() float64 { return float64(r.Uint64()>>11) * (1.0 / (1 << 53)) }

// Mix is the finaliser of SplitMix64: a bijection of 64-bit numbers in which
// every input bit changes every output bit with probability one half.
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
