package iouring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
)

// EntriesMax is the largest number of submission entries that New accepts.
const EntriesMax = 4096

// Ring is a submission and completion ring. See the package for its rules.
type Ring struct {
	fd int

	sqes    []SQE
	sqMask  uint32
	sqTail  uint32 // entries handed out by Next; published by Submit
	kSQHead *uint32
	kSQTail *uint32
	kFlags  *uint32

	cqes    []CQE
	cqMask  uint32
	cqHead  uint32
	kCQHead *uint32
	kCQTail *uint32
	kCQFlag *uint32 // nil on kernels that cannot mute the eventfd

	ringMem, sqeMem []byte
}

// New makes a ring of at least entries submission entries and twice as many
// completion entries, so that completions cannot overflow as long as no more
// than that are in flight. An error that wraps ENOSYS, EPERM or EACCES says
// that io_uring is missing or forbidden here.
func New(entries uint32) (*Ring, error) {
	if entries == 0 || entries > EntriesMax {
		return nil, fmt.Errorf("io_uring of %d entries (1 to %d are possible): %w", entries, EntriesMax, unix.EINVAL)
	}
	var p params
	fd, err := setup(entries, &p)
	if err != nil {
		return nil, fmt.Errorf("io_uring_setup: %w", err)
	}
	r := &Ring{fd: fd}
	const need = featSingleMmap | featNoDrop | featSubmitStable
	if p.features&need != need {
		return nil, errors.Join(fmt.Errorf("the io_uring of this kernel is too old: %w", unix.ENOSYS), unix.Close(fd))
	}
	if err := r.mmap(&p); err != nil {
		return nil, errors.Join(fmt.Errorf("mmap of io_uring: %w", err), r.Close())
	}
	return r, nil
}

// setup tries the flags from the best to the plainest: a kernel answers EINVAL
// to one that it does not know.
func setup(entries uint32, p *params) (fd int, err error) {
	const base = setupClamp | setupCQSize
	variants := [...]uint32{base | setupSubmitAll | setupCoopTaskrun | setupTaskrunFlag, base}
	for _, flags := range variants {
		*p = params{flags: flags, cqEntries: 2 * entries}
		n, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
		if e == 0 {
			return int(n), nil
		}
		if err = e; e != unix.EINVAL {
			break
		}
	}
	return -1, err
}

func (r *Ring) mmap(p *params) (err error) {
	size := max(p.sqOff.array+p.sqEntries*4, p.cqOff.cqes+p.cqEntries*uint32(unsafe.Sizeof(CQE{})))
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.ringMem, err = unix.Mmap(r.fd, offSQRing, int(size), prot, flags); err != nil {
		return err
	}
	sqeSize := int(p.sqEntries) * int(unsafe.Sizeof(SQE{}))
	if r.sqeMem, err = unix.Mmap(r.fd, offSQEs, sqeSize, prot, flags); err != nil {
		return err
	}
	r.kSQHead, r.kSQTail, r.kFlags = r.word(p.sqOff.head), r.word(p.sqOff.tail), r.word(p.sqOff.flags)
	r.kCQHead, r.kCQTail = r.word(p.cqOff.head), r.word(p.cqOff.tail)
	if p.cqOff.flags != 0 {
		r.kCQFlag = r.word(p.cqOff.flags)
	}
	r.sqMask, r.cqMask = *r.word(p.sqOff.ringMask), *r.word(p.cqOff.ringMask)
	r.sqes = unsafe.Slice((*SQE)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*CQE)(unsafe.Pointer(&r.ringMem[p.cqOff.cqes])), p.cqEntries)
	// Entries are used in ring order, so the indirection stays the identity.
	array := unsafe.Slice(r.word(p.sqOff.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	return nil
}

func (r *Ring) word(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ringMem[off])) }

// Entries is the number of submission entries.
func (r *Ring) Entries() uint32 { return uint32(len(r.sqes)) }

// RegisterEventFD makes the kernel signal fd when there are completions, or
// completion work to run (TaskRunDue).
func (r *Ring) RegisterEventFD(fd int) error {
	v := int32(fd)
	return r.register(registerEventFD, unsafe.Pointer(&v), 1)
}

// UnregisterEventFD undoes RegisterEventFD.
func (r *Ring) UnregisterEventFD() error { return r.register(unregisterEventFD, nil, 0) }

// MuteEventFD stops and restarts the signals of the eventfd. While the owner
// polls the ring, they would only cost time. After unmuting it must look at Ready
// and TaskRunDue once more before it sleeps.
func (r *Ring) MuteEventFD(mute bool) {
	if r.kCQFlag == nil {
		return
	}
	var v uint32
	if mute {
		v = cqEventFDDisabled
	}
	atomic.StoreUint32(r.kCQFlag, v)
}

// SpreadWorkers lets the kernel threads that serve what would block (fsync,
// fallocate) run on the CPUs of set. They are made for the OS thread that called New,
// and would inherit it if that is pinned. Kernels before 5.14 answer EINVAL.
func (r *Ring) SpreadWorkers(set *unix.CPUSet) error {
	return r.register(registerIOWQAff, unsafe.Pointer(set), unsafe.Sizeof(*set))
}

// Supports says whether the kernel has all of these opcodes.
func (r *Ring) Supports(ops ...uint8) bool {
	p := new(probe)
	if r.register(registerProbe, unsafe.Pointer(p), probeOps) != nil {
		return false
	}
	for _, op := range ops {
		if op > p.lastOp || p.ops[op].flags&probeSupported == 0 {
			return false
		}
	}
	return true
}

func (r *Ring) register(op uintptr, arg unsafe.Pointer, n uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), n, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// Next hands out a cleared submission entry, or nil when the ring is full. The
// kernel sees it after the next Submit.
func (r *Ring) Next() *SQE {
	if r.Queued() == uint32(len(r.sqes)) {
		return nil
	}
	e := &r.sqes[r.sqTail&r.sqMask]
	*e = SQE{}
	r.sqTail++
	return e
}

// Queued is the number of entries that the kernel has not taken yet.
func (r *Ring) Queued() uint32 { return r.sqTail - atomic.LoadUint32(r.kSQHead) }

// Submit gives up to most of the queued entries to the kernel in one system call,
// which may block briefly (in block allocation, for example). It returns how many were
// taken: fewer than there were means that the rest wants another try. EINTR, EAGAIN
// and EBUSY are passing states.
//
// Fewer are sometimes faster: the kernel gathers the entries of one call and hands
// them to the device together at the end, which until then has nothing to do.
func (r *Ring) Submit(most uint32) (uint32, error) {
	atomic.StoreUint32(r.kSQTail, r.sqTail)
	var flags uintptr
	if r.TaskRunDue() {
		flags = enterGetEvents
	}
	n, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(min(most, r.Queued())), 0, flags, 0, 0)
	if e != 0 {
		return 0, e
	}
	return uint32(n), nil
}

// TaskRunDue says that completion work waits for RunTasks, or for a Submit.
func (r *Ring) TaskRunDue() bool {
	return atomic.LoadUint32(r.kFlags)&(sqTaskrun|sqCQOverflow) != 0
}

// RunTasks enters the kernel to run completion work, without submitting.
func (r *Ring) RunTasks() error {
	_, _, e := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 0, enterGetEvents, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// Wait blocks the OS thread until at least n completions are there. It is for
// set-up and tests; a thread waits in its reactor.
func (r *Ring) Wait(n uint32) error {
	for r.Ready() < n {
		_, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, uintptr(n), enterGetEvents, 0, 0)
		if e != 0 && e != unix.EINTR {
			return e
		}
	}
	return nil
}

// Ready is the number of completions that can be read with At.
func (r *Ring) Ready() uint32 { return atomic.LoadUint32(r.kCQTail) - r.cqHead }

// At is the i-th completion, valid until Advance. Precondition: i < Ready().
func (r *Ring) At(i uint32) *CQE { return &r.cqes[(r.cqHead+i)&r.cqMask] }

// Advance gives n completions back to the kernel.
func (r *Ring) Advance(n uint32) {
	assert.That(n <= r.Ready(), "more completions given back than were there")
	r.cqHead += n
	atomic.StoreUint32(r.kCQHead, r.cqHead)
}

// Close unmaps and closes the ring. Nothing may be in flight: the kernel goes
// on with what is, and writes into its buffers.
func (r *Ring) Close() error {
	var errs [3]error
	if r.ringMem != nil {
		errs[0] = unix.Munmap(r.ringMem)
	}
	if r.sqeMem != nil {
		errs[1] = unix.Munmap(r.sqeMem)
	}
	errs[2] = unix.Close(r.fd)
	*r = Ring{fd: -1}
	return errors.Join(errs[:]...)
}
