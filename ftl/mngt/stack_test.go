package mngt

import "runtime"

func stackDepth() int {
	var pcs [256]uintptr
	return runtime.Callers(1, pcs[:])
}
