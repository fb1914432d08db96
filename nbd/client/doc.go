// Package client is a lean NBD client that generates load without being the
// bottleneck: many requests leave in one system call, replies are read in big
// pieces, and a request allocates nothing.
//
// A Conn belongs to one goroutine; none of its methods may run concurrently
// with another one. The caller owns its Ops and their buffers: from Submit
// until Wait or Poll hands an Op back, neither may be touched. Data is sent
// from Op.Buf and received into it; large replies arrive there without a copy.
//
// ReadAt, WriteAt, Flush, Trim and WriteZeroes wait for their own request.
// They may be mixed with requests that were submitted earlier; what completes
// meanwhile is kept for the next Wait.
//
// A violation of the protocol by the server, or a lost connection, breaks the
// Conn: every later call returns the same error, and requests in flight are
// not handed back.
package client
