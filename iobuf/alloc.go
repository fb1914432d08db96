package iobuf

import (
	"bytes"
	"math"
	"os"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

var pageSize = os.Getpagesize()

// Align is the alignment that every buffer of this package has at least.
const Align = 4096

// Alloc returns size zeroed bytes outside the Go heap, aligned to a page, and
// to 2 MiB when size is 2 MiB or more (transparent hugepages are asked for
// then). The capacity is size rounded up to whole pages, or to whole
// hugepages. It returns nil when size is not positive or the system refuses.
// Any thread may call it. The caller owns the memory until Free.
func Alloc(size int) []byte {
	if size <= 0 || size > 1<<46 {
		return nil
	}
	if size < hugePage {
		n := roundUp(size, pageSize)
		p := mapAnonymous(n)
		if p == nil {
			return nil
		}
		inUse.Add(int64(n))
		return unsafe.Slice((*byte)(p), n)[:size]
	}
	return allocHuge(size)
}

// allocHuge maps more than is needed and unmaps what lies before and after the
// aligned part.
func allocHuge(size int) []byte {
	n := roundUp(size, hugePage)
	p := mapAnonymous(n + hugePage)
	if p == nil {
		return nil
	}
	head := int(-uintptr(p) & (hugePage - 1))
	if head > 0 {
		_ = unix.MunmapPtr(p, uintptr(head))
	}
	start := unsafe.Add(p, head)
	if tail := hugePage - head; tail > 0 {
		_ = unix.MunmapPtr(unsafe.Add(start, n), uintptr(tail))
	}
	buf := unsafe.Slice((*byte)(start), n)
	inUse.Add(int64(n))
	// A kernel without transparent hugepages refuses; small pages do as well.
	_ = unix.Madvise(buf, unix.MADV_HUGEPAGE)
	return buf[:size]
}

func mapAnonymous(n int) unsafe.Pointer {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return p
}

// Free gives memory from Alloc back to the system. buf must begin where
// Alloc's result began and have its capacity; nil is allowed.
func Free(buf []byte) {
	if cap(buf) == 0 {
		return
	}
	p := unsafe.Pointer(unsafe.SliceData(buf))
	_ = unix.MunmapPtr(p, uintptr(cap(buf)))
	inUse.Add(-int64(cap(buf)))
}

var inUse atomic.Int64

// InUse is the number of bytes that Alloc has given out and Free has not got back, in whole pages: the garbage
// collector knows nothing of them, so a leak shows only here.
func InUse() int64 { return inUse.Load() }

// Populate takes the memory of buf, which Alloc returned, from the system now
// and not at the first touch, whose price (up to 0.5 ms for 2 MiB on a virtual
// machine) would be part of the first IO there. Its content stays. It fails
// with ENOMEM when the system has less available than that; then what was
// taken stays taken. Any goroutine may call it; it takes seconds for gigabytes.
func Populate(buf []byte) error {
	if uint64(len(buf)) > available() {
		return unix.ENOMEM
	}
	buf = buf[:cap(buf)]
	for len(buf) > 0 {
		// In parts, so that no system call lasts long.
		n := min(len(buf), populatePart)
		if err := unix.Madvise(buf[:n], unix.MADV_POPULATE_WRITE); err == unix.EINVAL {
			touch(buf[:n]) // a kernel before 5.14
		} else if err != nil {
			return unix.ENOMEM
		}
		buf = buf[n:]
	}
	return nil
}

const populatePart = 64 << 20

// touch writes to every page without changing it.
func touch(buf []byte) {
	for i := 0; i < len(buf); i += pageSize {
		atomic.AddUint32((*uint32)(unsafe.Pointer(&buf[i])), 0)
	}
}

// available returns how many bytes the system says that it could give out
// without swapping; everything when it does not say.
func available() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxUint64
	}
	_, rest, _ := bytes.Cut(text, []byte("MemAvailable:"))
	line, _, ok := bytes.Cut(rest, []byte("kB"))
	kib, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 53)
	if !ok || err != nil {
		return math.MaxUint64
	}
	return kib << 10
}

// Discard sets buf to zero. Whole hugepages inside it are given back to the
// system, which costs the same however many there are.
func Discard(buf []byte) {
	if len(buf) < hugePage {
		clear(buf)
		return
	}
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	head := int(-addr & (hugePage - 1))
	whole := (len(buf) - head) &^ (hugePage - 1)
	if whole <= 0 {
		clear(buf)
		return
	}
	body := buf[head : head+whole]
	if unix.Madvise(body, unix.MADV_DONTNEED) != nil {
		clear(body)
	}
	clear(buf[:head])
	clear(buf[head+whole:])
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
