package iouring

// Names and numbers of include/uapi/linux/io_uring.h. x/sys has the numbers of
// the system calls only.

// Opcodes of a submission entry.
const (
	OpNop       = 0
	OpReadv     = 1
	OpWritev    = 2
	OpFsync     = 3
	OpFallocate = 17
	OpRead      = 22
	OpWrite     = 23
)

// FsyncDatasync makes OpFsync an fdatasync (SQE.OpFlags).
const FsyncDatasync = 1

// Flags of io_uring_setup.
const (
	setupCQSize      = 1 << 3
	setupClamp       = 1 << 4
	setupSubmitAll   = 1 << 7
	setupCoopTaskrun = 1 << 8
	setupTaskrunFlag = 1 << 9
)

// Features that the kernel reports.
const (
	featSingleMmap   = 1 << 0
	featNoDrop       = 1 << 1
	featSubmitStable = 1 << 2
)

// Offsets for mmap.
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)

const (
	enterGetEvents = 1 << 0

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2

	cqEventFDDisabled = 1 << 0
)

// Opcodes of io_uring_register.
const (
	registerEventFD   = 4
	unregisterEventFD = 5
	registerProbe     = 8
	registerIOWQAff   = 17
)

// SQE is a submission entry, as the kernel reads it.
type SQE struct {
	Opcode      uint8
	Flags       uint8
	IOPrio      uint16
	FD          int32
	Off         uint64
	Addr        uint64
	Len         uint32
	OpFlags     uint32
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	SpliceFD    int32
	_           [2]uint64
}

// CQE is a completion entry, as the kernel writes it.
type CQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU uint32
	sqThreadIdle, features, wqFD             uint32
	resv                                     [3]uint32
	sqOff                                    sqOffsets
	cqOff                                    cqOffsets
}

const probeOps = 256

type probeOp struct {
	op, resv uint8
	flags    uint16
	resv2    uint32
}

type probe struct {
	lastOp, opsLen uint8
	resv           uint16
	resv2          [3]uint32
	ops            [probeOps]probeOp
}

const probeSupported = 1 << 0
