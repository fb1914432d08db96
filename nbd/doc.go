// Package nbd serves block devices over the NBD protocol.
//
// # Who does what
//
// gnet listens, accepts and negotiates (Handshake). When a client enters
// transmission its socket is duplicated and handed, with the bytes that came
// behind the last option, to the thread of the export; gnet's side is closed.
// From then on a Session on that thread parses requests, submits them to the
// bdev channel of the same thread and answers them. No request crosses a
// thread, and nothing is locked.
//
// Handshake and Session know no sockets, no clock and no goroutine: they take
// bytes and give bytes, so that a simulator drives them as a reactor does. A
// Session asks for attention through its Transport; conn is the one that has
// a Socket, which a server gets from the system and a simulator invents.
//
// # The way of a request
//
// Everything that the socket holds, up to 256 KiB, is read at once and parsed
// to the end. Data to write is copied once, or for big requests received
// directly, into 4 KiB-aligned buffers off the Go heap, from which the device
// writes. Replies gather until the completions of the turn have run and leave
// in one sendmsg, data of reads straight from the buffers they were read to.
// In the steady state a request allocates nothing.
//
// Requests that are not whole blocks are served by read-modify-write. A lock
// on the range keeps writes apart that touch the same block while at least one
// of them is a read-modify-write; whole-block writes do not wait for each
// other. The lock spans all connections of an export, which is why an export
// is served by one thread.
//
// # Limits and back-pressure
//
// A connection holds at most Limits.Requests requests that are not answered,
// and Limits.Bytes of data (one request may exceed that while it is alone); a
// thread holds at most Limits.ThreadBytes. At a limit the connection is not
// read any more until something was answered: nothing is dropped and nothing
// grows. A client that sends what the protocol forbids is cut off; requests
// that the device still works on are waited for before their buffers are used
// again.
//
// So that clients that do not read, or do not send the data they announced,
// cannot keep the memory of a thread from the others, one that holds memory and
// moved less than a 32nd of it in Limits.Stall is cut off as soon as another
// one waits for memory. Time that the device takes does not count, and while
// nobody waits nobody is cut.
//
// Memory that a burst took goes back to the system, 32 MiB a second, once it was
// not needed for a second; 32 MiB stay while there are connections, and nothing
// when there are none.
//
// # Lifecycle
//
// NewServer, Start, then Stop: it stops accepting, lets every connection
// finish what it has in flight and closes it. When its context ends first,
// connections are cut. The threads and the descriptors belong to the caller
// and must outlive Stop; AddExport and RemoveExport work at any time.
package nbd
