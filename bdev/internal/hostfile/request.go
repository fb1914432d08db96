package hostfile

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// Kind is a call to the kernel.
type Kind uint8

// The calls.
const (
	CallReadv Kind = iota
	CallWritev
	CallFdatasync
	CallFallocate
)

// Iovec is the kernel's struct iovec. Base is no pointer, because a segment may
// join buffers that are neighbours in memory but not one object of Go; they stay
// where they are as long as the IO refers to them, which is until it is complete.
type Iovec struct {
	Base uintptr
	Len  uintptr
}

// Call is what to ask of the kernel next. Iov points into the Request and is
// valid until the next Step.
type Call struct {
	Kind   Kind
	Flags  uint32 // RWF_* of Readv and Writev; the mode of Fallocate
	Off    uint64
	Length uint64 // bytes, of all but Fdatasync
	Iov    []Iovec
}

// Ways of writing zeroes so that the blocks are allocated, the best first.
const (
	zeroRange uint32 = iota // one call
	zeroPunch               // a hole, then allocation
	zeroWrite               // plain writes of zeroes
)

const (
	modeZero  = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	modePunch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	modeAlloc = unix.FALLOC_FL_KEEP_SIZE

	// retriesMax bounds how often a call is repeated that the kernel asks to
	// repeat. A turn of the thread lies between two attempts.
	retriesMax = 1 << 20
	// stallsMax bounds how often a transfer is repeated that moved less than one block.
	stallsMax = 8
)

// What a Request ends with when the kernel gave no errno.
var (
	errShortRead  error = bdev.NewError(unix.EIO, "file: it ends before its size: it was cut")
	errShortWrite error = bdev.NewError(unix.EIO, "file: the kernel does not take the data")
)

// Request serves one bdev.IO.
type Request struct {
	IO *bdev.IO
	// Index is the place in the Window's table, for the engine's own use.
	Index uint32
	// Owner is the engine's own.
	Owner any
	// Err is where an engine may keep the result on its way to the thread.
	Err error

	file    *File
	kind    Kind
	flags   uint32
	zero    uint32 // way of writing zeroes that is being tried
	retries uint32
	off     uint64 // of what is left
	left    uint64
	first   int // iov[first:] is what is left
	iov     []Iovec
}

// begin sets the Request up for an IO, or says why it cannot be served.
func (r *Request) begin(f *File, io *bdev.IO) error {
	r.IO, r.file, r.Err = io, f, nil
	r.retries, r.flags, r.first = 0, 0, 0
	r.iov = r.iov[:0]
	r.off, r.left = io.LBA*BlockSize, io.Count*BlockSize
	switch io.Op {
	case bdev.OpRead:
		r.kind = CallReadv
		r.load(io.Bufs)
	case bdev.OpWrite:
		r.kind = CallWritev
		if io.FUA {
			r.flags = unix.RWF_DSYNC
		}
		r.load(io.Bufs)
	case bdev.OpFlush:
		r.kind = CallFdatasync
	case bdev.OpUnmap:
		r.kind, r.flags = CallFallocate, modePunch
	case bdev.OpWriteZeroes:
		r.tryZero(f.zeroHow.Load())
	default:
		return bdev.ErrUnsupported
	}
	return nil
}

// load fills in the iovecs; neighbours in memory become one.
func (r *Request) load(bufs [][]byte) {
	left := r.left
	for _, b := range bufs {
		n := uintptr(min(uint64(len(b)), left))
		if n == 0 {
			continue
		}
		left -= uint64(n)
		base := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		if k := len(r.iov) - 1; k >= 0 && r.iov[k].Base+r.iov[k].Len == base {
			r.iov[k].Len += n
			continue
		}
		r.iov = append(r.iov, Iovec{Base: base, Len: n})
	}
}

func (r *Request) tryZero(how uint32) {
	r.zero = how
	r.off, r.left = r.IO.LBA*BlockSize, r.IO.Count*BlockSize
	switch how {
	case zeroRange:
		r.kind, r.flags = CallFallocate, modeZero
	case zeroPunch:
		r.kind, r.flags = CallFallocate, modePunch
	default:
		r.kind, r.flags = CallWritev, 0
		r.loadZeroes()
	}
}

func (r *Request) loadZeroes() {
	z := zeroes()
	r.first = 0
	r.iov = append(r.iov[:0], Iovec{Base: uintptr(unsafe.Pointer(&z[0])), Len: uintptr(min(r.left, uint64(len(z))))})
}

// Call says what to ask of the kernel.
func (r *Request) Call() Call {
	return Call{Kind: r.kind, Flags: r.flags, Off: r.off, Length: r.left, Iov: r.iov[r.first:]}
}

// Step takes what the kernel answered to Call: a count of bytes, or a negative
// errno. more says that Call has to be asked once more, else err is the result
// of the IO.
func (r *Request) Step(res int) (more bool, err error) {
	if res < 0 {
		return r.fail(unix.Errno(-res))
	}
	switch r.kind {
	case CallFdatasync:
		return false, nil
	case CallFallocate:
		if r.IO.Op == bdev.OpWriteZeroes && r.flags == modePunch {
			r.flags = modeAlloc
			return true, nil
		}
		return false, nil
	default:
		return r.moved(uint64(res))
	}
}

func (r *Request) fail(e unix.Errno) (more bool, err error) {
	switch e {
	case unix.EAGAIN, unix.EINTR, unix.ECANCELED:
		// ECANCELED: the OS thread that had entered the ring ended, and the
		// kernel dropped what it had not begun.
		if r.retries++; r.retries < retriesMax {
			return true, nil
		}
	case unix.EOPNOTSUPP:
		if r.IO.Op == bdev.OpWriteZeroes && r.zero != zeroWrite {
			next := r.zero + 1
			r.file.zeroHow.CompareAndSwap(r.zero, next)
			r.tryZero(next)
			return true, nil
		}
	default:
	}
	return false, e
}

// moved accounts for n bytes read or written.
func (r *Request) moved(n uint64) (more bool, err error) {
	if n >= r.left {
		return false, nil
	}
	if r.file.direct {
		// Go on from a place where direct IO may start; what is repeated is the same data.
		n &^= BlockSize - 1
	}
	if n == 0 {
		if r.retries++; r.retries < stallsMax && r.file.direct && r.kind == CallWritev {
			return true, nil
		}
		if r.kind == CallReadv {
			return false, errShortRead
		}
		return false, errShortWrite
	}
	r.off += n
	r.left -= n
	if r.IO.Op == bdev.OpWriteZeroes {
		r.loadZeroes()
		return true, nil
	}
	skip := uintptr(n)
	for skip >= r.iov[r.first].Len {
		skip -= r.iov[r.first].Len
		r.first++
	}
	v := &r.iov[r.first]
	v.Base += skip
	v.Len -= skip
	return true, nil
}

// drop lets go of the IO's memory.
func (r *Request) drop() {
	r.IO, r.Err = nil, nil
	r.iov = r.iov[:0]
}
