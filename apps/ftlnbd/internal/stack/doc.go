// Package stack builds what ftlnbd works on: a reactor with the core thread,
// the two devices from their specs, and the FTL over them. Its functions are
// called from an ordinary goroutine and wait for the core thread.
package stack
