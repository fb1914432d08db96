//go:build !amd64

package memcopy

const hasStream = false

func stream(_, _ *byte, _ uintptr) {}

func fence() {}
