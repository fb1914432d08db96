package md

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ShmFlags say how shared memory is opened.
type ShmFlags uint32

// ShmNew removes what was there and makes it anew, zeroed.
const ShmNew ShmFlags = 1

// DefaultShmDir is a tmpfs on any Linux.
const DefaultShmDir = "/dev/shm"

const (
	shmMode         = 0o600
	hugetlbfsMagic  = 0x958458f6
	maxShmBytes     = 1 << 46
	pageSize        = 4096
	mountsPath      = "/proc/mounts"
	hugetlbfsMounts = "hugetlbfs"
)

// Shm is a file in a memory file system, mapped and shared: its content
// outlives the process that made it, not the machine.
type Shm struct {
	path    string
	mem     []byte // the whole mapping
	size    uint64
	lockErr error
}

// ShmPath returns the path of the shared memory of an FTL by a name.
func ShmPath(dir string, id uuid.UUID, name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("shared memory: name %q: %w", name, unix.EINVAL)
	}
	if dir == "" {
		dir = DefaultShmDir
	}
	return filepath.Join(dir, "ftl_"+id.String()+"_"+name), nil
}

// OpenShm opens the shared memory of an FTL by its name, or makes it (ShmNew).
// What exists is taken only if it is a plain file of this user with mode 0600
// and the right size, and has no other name; anything else is removed and
// refused. Whether the content may be used is for the caller to say. The size
// is reserved when it is made, so that the memory cannot run out later. dir
// "" is DefaultShmDir.
func OpenShm(dir string, id uuid.UUID, name string, size uint64, flags ShmFlags) (*Shm, error) {
	path, err := ShmPath(dir, id, name)
	if err != nil {
		return nil, err
	}
	if size == 0 || size > maxShmBytes {
		return nil, fmt.Errorf("shared memory %s: %d bytes: %w", path, size, unix.EINVAL)
	}
	s := &Shm{path: path, size: size}
	if err := s.open(flags&ShmNew != 0); err != nil {
		return nil, fmt.Errorf("shared memory %s: %w", path, err)
	}
	return s, nil
}

// open maps the file; every error leaves neither descriptor nor mapping.
func (s *Shm) open(create bool) error {
	of := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if create {
		if err := unix.Unlink(s.path); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the old one: %w", err)
		}
		of |= unix.O_CREAT | unix.O_EXCL
	}
	fd, err := unix.Open(s.path, of, shmMode)
	if err != nil {
		if !errors.Is(err, unix.ENOENT) {
			_ = unix.Unlink(s.path)
		}
		return fmt.Errorf("open: %w", err)
	}
	// The mapping stays when the descriptor is closed.
	defer func() { _ = unix.Close(fd) }()
	if err := s.mapFile(fd, create); err != nil {
		_ = unix.Unlink(s.path)
		return err
	}
	s.lockErr = unix.Mlock(s.mem)
	return nil
}

func (s *Shm) mapFile(fd int, create bool) error {
	if create {
		// The umask may have taken bits away.
		if err := unix.Fchmod(fd, shmMode); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	n := roundUp(s.size, max(uint64(st.Blksize), pageSize))
	if create {
		if err := unix.Fallocate(fd, 0, 0, int64(n)); err != nil {
			return fmt.Errorf("reserve %d bytes: %w", n, err)
		}
	} else if err := checkShm(&st, n); err != nil {
		return err
	}
	mem, err := unix.Mmap(fd, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %d bytes: %w", n, err)
	}
	s.mem = mem
	return nil
}

func checkShm(st *unix.Stat_t, size uint64) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("not a plain file: %w", unix.EINVAL)
	case st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("belongs to user %d: %w", st.Uid, unix.EPERM)
	case st.Mode&0o7777 != shmMode:
		return fmt.Errorf("mode is %04o, not %04o: %w", st.Mode&0o7777, shmMode, unix.EPERM)
	case st.Nlink != 1:
		return fmt.Errorf("has %d names: %w", st.Nlink, unix.EPERM)
	case uint64(st.Size) != size:
		return fmt.Errorf("size is %d, not %d: %w", st.Size, size, unix.EINVAL)
	}
	return nil
}

// Bytes returns the memory, as many bytes as were asked for, aligned to a page.
// It must not be used after Close.
func (s *Shm) Bytes() []byte { return s.mem[:s.size:s.size] }

// Path returns the file's path.
func (s *Shm) Path() string { return s.path }

// LockErr says why the memory is not locked; nil: it is. Without the lock it
// works all the same, but may be swapped out.
func (s *Shm) LockErr() error { return s.lockErr }

// Close ends the mapping. Unless keep is set, the file is removed too. Closing
// nil, or twice, does nothing.
func (s *Shm) Close(keep bool) {
	if s == nil || s.mem == nil {
		return
	}
	_ = unix.Munmap(s.mem)
	s.mem = nil
	if !keep {
		_ = unix.Unlink(s.path)
	}
}

// UnlinkShm removes shared memory by its name; that there is none is an error
// that wraps ENOENT.
func UnlinkShm(dir string, id uuid.UUID, name string) error {
	path, err := ShmPath(dir, id, name)
	if err != nil {
		return err
	}
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("remove shared memory %s: %w", path, err)
	}
	return nil
}

// ShmDir chooses where shared memory of the given size goes: the configured
// directory, else a writable hugetlbfs with enough free pages, else
// DefaultShmDir.
func ShmDir(configured string, need uint64) string {
	if configured != "" {
		return configured
	}
	mounts, err := os.ReadFile(mountsPath)
	if err != nil {
		return DefaultShmDir
	}
	return chooseShmDir(string(mounts), need, hugetlbfsFree)
}

func chooseShmDir(mounts string, need uint64, free func(dir string) uint64) string {
	for _, line := range strings.Split(mounts, "\n") {
		f := strings.Fields(line)
		if len(f) > 2 && f[2] == hugetlbfsMounts && free(f[1]) >= need {
			return f[1]
		}
	}
	return DefaultShmDir
}

// hugetlbfsFree returns the free bytes of a hugetlbfs that this process may
// write to, else 0.
func hugetlbfsFree(dir string) uint64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type != hugetlbfsMagic || unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return 0
	}
	return st.Bfree * uint64(st.Bsize)
}
