package nbd

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/nbd/proto"
)

// maxIov is the kernel's limit for one sendmsg (UIO_MAXIOV).
const maxIov = 1024

// headerRoom is what one reply may take of the ring of headers.
const headerRoom = proto.MaxReplyHeaderSize

// outq is what a connection has to send: headers of replies, which lie in a
// ring, and data, which lies in the buffers of requests. Headers that follow
// each other are one vector.
type outq struct {
	ring   []byte
	pos    int // where the next header goes
	iov    []unix.Iovec
	meta   []outMeta // for each of iov
	head   int       // entries of iov that were sent
	unsent int       // replies that were not sent completely
}

// outMeta says what is over once a vector was sent.
type outMeta struct {
	r       *request // its buffers are free; nil for none
	replies int      // how many replies end with the vector
	headers bool     // the vector lies in the ring
}

// init makes room for the headers of n replies. The ring cannot overtake
// itself: at most n replies are unsent, each takes at most headerRoom, and less
// than one headerRoom is left over at its end.
func (q *outq) init(n int) { q.ring = make([]byte, (n+2)*headerRoom) }

// header returns room for a header of n bytes. Reply or data must be called
// next.
func (q *outq) header(n int) []byte {
	if q.pos+n > len(q.ring) {
		q.pos = 0
	}
	b := q.ring[q.pos : q.pos+n : q.pos+n]
	q.pos += n
	if last := len(q.iov) - 1; last >= q.head && q.meta[last].headers && vecEnd(&q.iov[last]) == uintptr(unsafe.Pointer(&b[0])) {
		q.iov[last].Len += uint64(n)
		return b
	}
	q.push(b, outMeta{headers: true})
	return b
}

// replied says that a reply ends with the header that was just made.
func (q *outq) replied() {
	q.meta[len(q.meta)-1].replies++
	q.unsent++
}

// data queues data behind the header that was just made; the last piece of a
// reply comes with its request.
func (q *outq) data(b []byte, r *request) {
	m := outMeta{r: r}
	if r != nil {
		m.replies = 1
		q.unsent++
	}
	q.push(b, m)
}

func (q *outq) push(b []byte, m outMeta) {
	if q.head > 0 && len(q.iov) == cap(q.iov) {
		n := copy(q.iov, q.iov[q.head:])
		copy(q.meta, q.meta[q.head:])
		clear(q.meta[n:])
		q.iov, q.meta, q.head = q.iov[:n], q.meta[:n], 0
	}
	q.iov = append(q.iov, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
	q.meta = append(q.meta, m)
}

// vecEnd returns the address behind the vector: a number, as nothing of ours may lie there.
func vecEnd(v *unix.Iovec) uintptr { return uintptr(unsafe.Pointer(v.Base)) + uintptr(v.Len) }

// batch returns what to send next.
func (q *outq) batch() []unix.Iovec { return q.iov[q.head:min(len(q.iov), q.head+maxIov)] }

func (q *outq) empty() bool { return q.head == len(q.iov) }

// sent drops n bytes from the front and frees what they held.
func (q *outq) sent(n int, s *Session) {
	for n > 0 {
		assert.That(q.head < len(q.iov), "nbd: more was sent than there was")
		v := &q.iov[q.head]
		if uint64(n) < v.Len {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.Len -= uint64(n)
			return
		}
		n -= int(v.Len)
		q.drop(s)
	}
	q.rewind()
}

// discard drops everything: the client is gone.
func (q *outq) discard(s *Session) {
	for q.head < len(q.iov) {
		q.drop(s)
	}
	q.rewind()
}

// drop frees the first vector.
func (q *outq) drop(s *Session) {
	m := &q.meta[q.head]
	q.unsent -= m.replies
	if m.r != nil {
		s.release(m.r)
		m.r = nil
	}
	q.head++
}

func (q *outq) rewind() {
	if q.head == len(q.iov) {
		q.iov, q.meta, q.head = q.iov[:0], q.meta[:0], 0
	}
}
