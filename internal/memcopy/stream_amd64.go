package memcopy

const hasStream = true

// stream copies n bytes, a multiple of 64 and not zero, to an aligned dst.
//
//go:noescape
func stream(dst, src *byte, n uintptr)

//go:noescape
func fence()
