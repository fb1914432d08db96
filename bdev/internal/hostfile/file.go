package hostfile

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// Limits of one IO, in blocks. Files in memory are served inside Submit, so
// their IOs are kept short; the others are bounded so that no single call to the
// kernel takes for ever.
const (
	segmentsMax        = 256
	transferMax        = 16 << 20 / BlockSize
	fallocateMax       = 1 << 30 / BlockSize
	memoryTransferMax  = 1 << 20 / BlockSize
	memoryFallocateMax = 4 << 20 / BlockSize
)

// File is an open file or block device. It may be used by any thread.
type File struct {
	fd       int
	path     string
	size     uint64
	bufAlign int
	id       uuid.UUID
	readOnly bool
	block    bool
	direct   bool
	memory   bool
	locked   bool

	zeroHow    atomic.Uint32 // zeroMethod that is known to work, or not known not to
	flushErrno atomic.Uint32 // of the last failed flush
	flushFails atomic.Uint64
}

// FD is the file descriptor.
func (f *File) FD() int { return f.fd }

// Path is the path that was opened.
func (f *File) Path() string { return f.path }

// Size is the capacity in bytes, a multiple of BlockSize.
func (f *File) Size() uint64 { return f.size }

// Direct says whether the page cache is bypassed.
func (f *File) Direct() bool { return f.direct }

// InMemory says whether calls on the file never wait for a device, so that they
// are best made on the spot.
func (f *File) InMemory() bool { return f.memory }

// Info describes the file as a bdev. An empty name becomes the file's.
func (f *File) Info(name, product string) bdev.Info {
	if name == "" {
		name = filepath.Base(f.path)
	}
	info := bdev.Info{
		Name: name, Product: product, UUID: f.id,
		BlockSize: BlockSize, Blocks: f.size / BlockSize,
		MaxTransfer: transferMax, MaxUnmap: fallocateMax, MaxWriteZeroes: fallocateMax,
		MaxSegments: segmentsMax, BufAlign: f.bufAlign,
		VolatileCache: true, FUA: true, ReadOnly: f.readOnly,
		Ops: bdev.Ops(bdev.OpRead, bdev.OpFlush),
	}
	if f.memory {
		info.MaxTransfer, info.MaxUnmap, info.MaxWriteZeroes = memoryTransferMax, memoryFallocateMax, memoryFallocateMax
	}
	if !f.readOnly {
		info.Ops = info.Ops.With(bdev.OpWrite, bdev.OpUnmap, bdev.OpWriteZeroes)
	}
	return info
}

// Close unlocks and closes the file. No call on it may be in flight.
func (f *File) Close() error {
	var err error
	if f.locked {
		// A descriptor that a child process inherited must not keep the lock.
		err = unix.Flock(f.fd, unix.LOCK_UN)
	}
	return errors.Join(err, unix.Close(f.fd))
}

var idSpace = uuid.MustParse("5d7b8f0e-3c52-4d0f-9a7e-0b6c1f5e9a21")

// identity derives a UUID that stays the same while the file is the same.
func identity(st *unix.Stat_t, block bool) uuid.UUID {
	var b [16]byte
	if block {
		binary.LittleEndian.PutUint64(b[:8], st.Rdev)
	} else {
		binary.LittleEndian.PutUint64(b[:8], st.Dev)
		binary.LittleEndian.PutUint64(b[8:], st.Ino)
	}
	return uuid.NewSHA1(idSpace, b[:])
}
