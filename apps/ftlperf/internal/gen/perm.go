package gen

import "math/bits"

// Perm is a random-looking bijection of [0, n) in constant memory: four
// rounds of multiply, add and shift-xor modulo the next power of two, walked
// until the result is in range (fewer than two rounds on average).
type Perm struct {
	n, mask uint64
	add     [permRounds]uint64
	mul     [permRounds]uint64
	shift   uint
}

const permRounds = 4

// NewPerm returns a bijection of [0, n), n > 0, chosen by seed.
func NewPerm(n, seed uint64) Perm {
	width := bits.Len64(n - 1)
	if width == 0 {
		width = 1
	}
	p := Perm{n: n, mask: 1<<width - 1, shift: uint(width+1) / 2}
	r := NewRand(seed)
	for i := range p.add {
		p.add[i] = r.Uint64()
		p.mul[i] = r.Uint64()&^7 | 5
	}
	return p
}

// At returns the image of i, i < n.
func (p *Perm) At(i uint64) uint64 {
	for {
		for round := range p.mul {
			i = (i*p.mul[round] + p.add[round]) & p.mask
			i ^= i >> p.shift
		}
		if i < p.n {
			return i
		}
	}
}
