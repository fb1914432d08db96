package ftlsim

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// spare are the buffers of users whose requests have all ended.
var spare buffers

// buffers keeps memory by size, in powers of two.
type buffers struct {
	mu   sync.Mutex
	free [64][][]byte
}

// take returns n bytes that hold nothing that could be taken for the content of a block.
func (b *buffers) take(n int) []byte {
	class := bits.Len(uint(n - 1))
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.free[class]
	if len(l) == 0 {
		return make([]byte, 1<<class)[:n]
	}
	b.free[class] = l[:len(l)-1]
	return l[len(l)-1][:n]
}

// give keeps what take returned.
func (b *buffers) give(mem []byte) {
	mem = mem[:cap(mem)]
	class := bits.Len(uint(len(mem) - 1))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free[class] = append(b.free[class], mem)
}

// spoil makes the content of blocks invalid: the buffer is the user's again, and what still reads or writes it shows.
func spoil(mem []byte) {
	for at := 0; at < len(mem); at += 512 {
		binary.LittleEndian.PutUint64(mem[at:], 0x5555555555555555)
	}
}
