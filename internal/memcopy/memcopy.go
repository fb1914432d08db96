package memcopy

import "unsafe"

// line is what the stores of the processor fill at once.
const line = 64

// Past copies as copy does and returns the number of bytes. The slices must
// not overlap. Fence must follow. What is not aligned to whole cache lines of
// the destination is copied the ordinary way.
func Past(dst, src []byte) int {
	n := min(len(dst), len(src))
	if !hasStream || n < line || uintptr(unsafe.Pointer(unsafe.SliceData(dst)))%line != 0 {
		return copy(dst, src)
	}
	whole := n &^ (line - 1)
	stream(unsafe.SliceData(dst), unsafe.SliceData(src), uintptr(whole))
	if whole < n {
		copy(dst[whole:n], src[whole:n])
	}
	return n
}

// Fence orders what Past copied before everything that the thread stores after it.
func Fence() { fence() }
