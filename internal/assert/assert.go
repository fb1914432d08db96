// Package assert guards invariants that only a bug can break.
//
// Bad input, media errors and bytes read from a device are never asserted:
// they are handled and tested. An assertion that fails stops the program
// before wrong state can reach a device.
package assert

// That panics with msg when cond is false. Pass a literal, so that the check
// costs one branch and no allocation.
func That(cond bool, msg string) {
	if !cond {
		fail(msg)
	}
}

//go:noinline
func fail(msg string) {
	panic("goftl: broken invariant: " + msg)
}
