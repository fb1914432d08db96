// Package proto holds the words of the NBD protocol and the pure functions
// that encode and decode them.
//
// It is shared by the server (goftl/nbd) and the client (goftl/nbd/client).
// Nothing in it owns state, allocates per message, or knows a socket: every
// encoder appends to a slice of the caller, every decoder reads a slice of the
// caller and checks lengths before it looks. A name that the specification
// gives (NBD_CMD_READ) is found in spec.go and nowhere else.
//
// Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
// fixed newstyle negotiation, simple and structured replies.
package proto
