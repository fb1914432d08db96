package zbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// The kernel's interface: include/uapi/linux/blkzoned.h, as of Linux 6.12. The
// numbers are those of architectures with the generic _IOC encoding. Sectors are
// 512 bytes there, whatever the device has.
const (
	blkReportZone = 0xC0101282 // _IOWR(0x12, 130, struct blk_zone_report)
	blkResetZone  = 0x40101283 // _IOW(0x12, 131, struct blk_zone_range)
	blkGetZoneSz  = 0x80041284 // _IOR(0x12, 132, __u32)
	blkGetNrZones = 0x80041285 // _IOR(0x12, 133, __u32)
	blkOpenZone   = 0x40101286 // _IOW(0x12, 134, struct blk_zone_range)
	blkCloseZone  = 0x40101287
	blkFinishZone = 0x40101288

	sectorSize     = 512
	reportHeader   = 16 // struct blk_zone_report: sector u64, nr_zones u32, flags u32
	zoneBytes      = 64 // struct blk_zone
	rangeBytes     = 16 // struct blk_zone_range: sector u64, nr_sectors u64
	reportCapacity = 1  // BLK_ZONE_REP_CAPACITY

	typeConventional = 1
	typeSequential   = 2 // required
	typePreferred    = 3

	condNotWP    = 0x0
	condEmpty    = 0x1
	condImpOpen  = 0x2
	condExpOpen  = 0x3
	condClosed   = 0x4
	condReadOnly = 0xD
	condFull     = 0xE
	condOffline  = 0xF
)

// batch is how many zones one report asks for.
const batch = 64

// control is what the driver asks of the kernel beside reading and writing.
// Tests answer from records.
type control interface {
	// ioctl exchanges arg with the device; it returns the bare errno.
	ioctl(request uint, arg []byte) error
	// attribute reads a file of the device's queue in sysfs; ENOENT when the
	// kernel does not have it.
	attribute(name string) (string, error)
	close() error
}

// kernel is the real control.
type kernel struct {
	fd    int
	queue string // folder in sysfs
}

// openKernel opens path, which must be a block device.
func openKernel(path string, readOnly bool) (*kernel, error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("it is no block device (file:%s serves files): %w", path, unix.ENOTBLK)
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// A partition has no queue of its own, but the disk that it is in.
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if _, err := os.Stat(filepath.Join(dir, "queue")); err != nil {
		if dir, err = filepath.EvalSymlinks(dir); err == nil {
			dir = filepath.Dir(dir)
		}
	}
	return &kernel{fd: fd, queue: filepath.Join(dir, "queue")}, nil
}

func (k *kernel) ioctl(request uint, arg []byte) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(k.fd), uintptr(request), uintptr(unsafe.Pointer(&arg[0])))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
			continue
		default:
			return e
		}
	}
}

func (k *kernel) attribute(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(k.queue, name))
	return strings.TrimSpace(string(b)), err
}

func (k *kernel) close() error { return unix.Close(k.fd) }

// number exchanges a u32.
func number(c control, request uint) (uint32, error) {
	var b [4]byte
	err := c.ioctl(request, b[:])
	return binary.NativeEndian.Uint32(b[:]), err
}

// rawZone is struct blk_zone, in sectors.
type rawZone struct {
	start, size, wp, capacity uint64
	kind, cond                uint8
}

// report asks for up to batch zones from the one at a sector on. buf has room
// for them.
func report(c control, buf []byte, sector uint64, most int) ([]rawZone, error) {
	most = min(most, batch)
	arg := buf[:reportHeader+most*zoneBytes]
	clear(arg)
	ne := binary.NativeEndian
	ne.PutUint64(arg, sector)
	ne.PutUint32(arg[8:], uint32(most))
	if err := c.ioctl(blkReportZone, arg); err != nil {
		return nil, err
	}
	n := int(ne.Uint32(arg[8:]))
	if n > most {
		return nil, fmt.Errorf("a report of %d zones instead of at most %d: %w", n, most, unix.EPROTO)
	}
	hasCapacity := ne.Uint32(arg[12:])&reportCapacity != 0
	zones := make([]rawZone, n)
	for i := range zones {
		b := arg[reportHeader+i*zoneBytes:]
		zones[i] = rawZone{
			start: ne.Uint64(b), size: ne.Uint64(b[8:]), wp: ne.Uint64(b[16:]), kind: b[24], cond: b[25], capacity: ne.Uint64(b[32:]),
		}
		if !hasCapacity { // before Linux 5.9 all of a zone is usable
			zones[i].capacity = zones[i].size
		}
	}
	return zones, nil
}

// manage performs a zone operation on the zone at a sector.
func manage(c control, op bdev.Op, sector, sectors uint64) error {
	var request uint
	switch op {
	case bdev.OpZoneReset:
		request = blkResetZone
	case bdev.OpZoneOpen:
		request = blkOpenZone
	case bdev.OpZoneClose:
		request = blkCloseZone
	case bdev.OpZoneFinish:
		request = blkFinishZone
	default:
		return bdev.ErrUnsupported
	}
	var b [rangeBytes]byte
	binary.NativeEndian.PutUint64(b[:], sector)
	binary.NativeEndian.PutUint64(b[8:], sectors)
	return errnoOf(c.ioctl(request, b[:]))
}

// What the kernel means by errnos of zone operations.
var (
	errTarget error = bdev.NewError(unix.EIO, "zbd: the device refused the zone operation (EREMOTEIO)")
	errOld    error = bdev.NewError(unix.ENOTSUP, "zbd: the kernel or the device does not know this zone operation")
)

func errnoOf(err error) error {
	switch {
	case errors.Is(err, unix.EREMOTEIO):
		return errTarget
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		return errOld
	}
	return err
}
