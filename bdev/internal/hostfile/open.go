package hostfile

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BlockSize is the block size of every file bdev.
const BlockSize = 4096

// Direct says whether to bypass the page cache.
type Direct uint8

const (
	// DirectAuto bypasses it where the file system can.
	DirectAuto Direct = iota
	// DirectOn fails where the file system cannot.
	DirectOn
	// DirectOff never bypasses it.
	DirectOff
)

// ParseDirect reads "auto", "on" or "off"; the empty text is auto.
func ParseDirect(s string) (Direct, error) {
	switch s {
	case "", "auto":
		return DirectAuto, nil
	case "on":
		return DirectOn, nil
	case "off":
		return DirectOff, nil
	}
	return 0, fmt.Errorf("direct=%s is not one of auto, on, off: %w", s, unix.EINVAL)
}

// Options say how to open a file.
type Options struct {
	// Size is what the file must have, in bytes; 0 takes it as it is.
	Size uint64
	// Create makes a sparse file of Size bytes when there is none, or an empty one.
	Create   bool
	Direct   Direct
	ReadOnly bool
	// Zoned allows a zoned block device; whoever opens one keeps its rules.
	Zoned bool
}

// sizeMax leaves room for every offset in an int64.
const sizeMax = math.MaxInt64 &^ (BlockSize - 1)

// Open opens path, which must be a regular file or a block device, and locks it
// against a second writer. Errors wrap the errno and say what would do.
func Open(path string, o Options) (*File, error) {
	f, err := open(path, o)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", path, err)
	}
	return f, nil
}

func open(path string, o Options) (*File, error) {
	if path == "" {
		return nil, fmt.Errorf("no path given: %w", unix.EINVAL)
	}
	if o.Size%BlockSize != 0 || o.Size > sizeMax {
		return nil, fmt.Errorf("size %d is not a multiple of %d below 8 EiB: %w", o.Size, BlockSize, unix.EINVAL)
	}
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return create(path, o)
	case err != nil:
		return nil, err
	}
	if err := checkType(st.Mode); err != nil {
		return nil, err
	}
	flags := unix.O_RDWR
	if o.ReadOnly {
		flags = unix.O_RDONLY
	} else if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		flags |= unix.O_EXCL // refused while it is mounted or part of something else
	}
	f, err := openFD(path, flags)
	if err != nil {
		return nil, err
	}
	return f.finishOpen(o, false)
}

func create(path string, o Options) (*File, error) {
	if !o.Create || o.ReadOnly {
		return nil, fmt.Errorf("it does not exist (give a size to have it created): %w", unix.ENOENT)
	}
	if o.Size == 0 {
		return nil, fmt.Errorf("it does not exist and there is no size to create it with: %w", unix.EINVAL)
	}
	f, err := openFD(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("cannot create it: %w", err)
	}
	f, err = f.finishOpen(o, true)
	if err != nil {
		return nil, errors.Join(err, unix.Unlink(path))
	}
	return f, nil
}

func openFD(path string, flags int) (*File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		switch {
		case err == nil:
			return &File{fd: fd, path: path}, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
			return nil, fmt.Errorf("no permission to write to it (it can be opened read-only, perhaps): %w", err)
		case errors.Is(err, unix.EBUSY):
			return nil, fmt.Errorf("in use by another process or mounted: %w", err)
		}
		return nil, err
	}
}

func checkType(mode uint32) error {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK:
		return nil
	case unix.S_IFDIR:
		return fmt.Errorf("a file or block device is needed: %w", unix.EISDIR)
	}
	return fmt.Errorf("it is neither a file nor a block device: %w", unix.EINVAL)
}

// finishOpen does everything that needs the descriptor, and closes it on error.
func (f *File) finishOpen(o Options, created bool) (*File, error) {
	if err := f.prepare(o, created); err != nil {
		return nil, errors.Join(err, unix.Close(f.fd))
	}
	return f, nil
}

func (f *File) prepare(o Options, created bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	if err := checkType(st.Mode); err != nil {
		return err
	}
	f.readOnly = o.ReadOnly
	f.block = st.Mode&unix.S_IFMT == unix.S_IFBLK
	f.id = identity(&st, f.block)
	if err := f.lock(); err != nil {
		return err
	}
	if err := f.findSize(&st); err != nil {
		return err
	}
	if f.block && !o.Zoned && zoned(f.fd) {
		return fmt.Errorf("it is a zoned block device (zbd:%s serves it): %w", f.path, unix.EINVAL)
	}
	if err := f.fitSize(o, created); err != nil {
		return err
	}
	if err := f.probeFileSystem(); err != nil {
		return err
	}
	return f.setDirect(o.Direct)
}

// lock keeps a second writer away. The lock belongs to the open file, so that a
// second open in this process is refused as well.
func (f *File) lock() error {
	if f.readOnly {
		return nil
	}
	for {
		err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			f.locked = true
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("in use by another process: %w", unix.EBUSY)
		}
		return fmt.Errorf("cannot lock it: %w", err)
	}
}

// zoned asks with BLKGETZONESZ, which is 0 or an error on other devices.
func zoned(fd int) bool {
	const blkGetZoneSz = 0x80041284 // include/uapi/linux/blkzoned.h
	var sectors uint32
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), blkGetZoneSz, uintptr(unsafe.Pointer(&sectors)))
	return e == 0 && sectors > 0
}

func (f *File) findSize(st *unix.Stat_t) error {
	if !f.block {
		f.size = uint64(st.Size)
		return nil
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&f.size)))
	if e != 0 {
		return fmt.Errorf("size of the block device: %w", e)
	}
	sector, err := unix.IoctlGetInt(f.fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("sector size of the block device: %w", err)
	}
	if sector > BlockSize {
		return fmt.Errorf("sectors of %d bytes are larger than the %d that can be served: %w", sector, BlockSize, unix.EINVAL)
	}
	return nil
}

// fitSize compares the size with what was asked for. A file that holds data is
// never grown or cut.
func (f *File) fitSize(o Options, created bool) error {
	if created || (f.size == 0 && o.Create && o.Size > 0 && !f.block && !o.ReadOnly) {
		return f.makeSparse(o.Size)
	}
	switch {
	case f.size < BlockSize:
		return fmt.Errorf("too small: %d bytes, at least %d are needed: %w", f.size, BlockSize, unix.EINVAL)
	case o.Size > f.size:
		return fmt.Errorf("too small: %d bytes, size=%d was asked for: %w", f.size, o.Size, unix.EINVAL)
	case o.Size != 0 && o.Size < f.size:
		return fmt.Errorf("it has %d bytes, size=%d was asked for (leave size out to use all of it): %w",
			f.size, o.Size, unix.EINVAL)
	case f.size%BlockSize != 0 && !f.block:
		return fmt.Errorf("%d bytes are not a multiple of %d (truncate -s %d would make it one): %w",
			f.size, BlockSize, (f.size+BlockSize-1)&^(BlockSize-1), unix.EINVAL)
	}
	f.size &^= BlockSize - 1 // the end of a block device that is not a whole block is not served
	return nil
}

// makeSparse gives the file its size and makes it and its name durable: what a
// later flush promises is worth nothing in a file that cannot be found.
func (f *File) makeSparse(size uint64) error {
	if err := unix.Ftruncate(f.fd, int64(size)); err != nil {
		return fmt.Errorf("cannot make it %d bytes long: %w", size, err)
	}
	f.size = size
	if err := unix.Fsync(f.fd); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, unix.EINVAL) {
		err = nil // a file system that cannot sync directories
	}
	return errors.Join(err, dir.Close())
}

// probeFileSystem finds out whether the file lives in memory: there io_uring
// hands every call to a worker thread, which costs more than the call.
func (f *File) probeFileSystem() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &fs); err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	f.memory = !f.block && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
	return nil
}

// setDirect turns the page cache off, after making sure that 4 KiB transfers
// work without it.
func (f *File) setDirect(d Direct) error {
	f.bufAlign = 1
	if d == DirectOff || (d == DirectAuto && f.memory) {
		return nil
	}
	err := f.tryDirect()
	if err == nil || d == DirectAuto {
		return nil
	}
	return fmt.Errorf("direct=on: the file system cannot bypass the page cache: %w", err)
}

func (f *File) tryDirect() error {
	memAlign := uint32(BlockSize) // for kernels that do not tell
	var sx unix.Statx_t
	err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx)
	if err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 {
		if sx.Dio_mem_align == 0 || sx.Dio_offset_align == 0 || sx.Dio_offset_align > BlockSize || sx.Dio_mem_align > BlockSize {
			return unix.EINVAL
		}
		// The length of a buffer must suit the offset's alignment, its address the memory's.
		memAlign = max(sx.Dio_mem_align, sx.Dio_offset_align)
	}
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	// Any other error than EINVAL is the media's affair, and that of who reads it.
	_, err = unix.Pread(f.fd, page, 0)
	if e := unix.Munmap(page); e != nil {
		return e
	}
	if errors.Is(err, unix.EINVAL) {
		_, e := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
		return errors.Join(err, e)
	}
	f.direct, f.bufAlign = true, int(memAlign)
	return nil
}
