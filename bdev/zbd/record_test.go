package zbd

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// recorded answers ioctls and reads of attributes from a text, one thing a line:
//
//	attr NAME VALUE         an attribute; others are missing
//	zonesz N | ERRNO        BLKGETZONESZ
//	nrzones N | ERRNO       BLKGETNRZONES
//	nocap                   the kernel does not report capacities
//	most N                  zones in one report
//	fail REQUEST ERRNO      of manage or report, until it is taken away
//	zone START LEN WP TYPE COND CAP
//
// It keeps what was asked.
type recorded struct {
	mu     sync.Mutex
	attrs  map[string]string
	zonesz string
	nr     string
	nocap  bool
	most   int
	fails  map[string]unix.Errno
	zones  []rawZone
	asked  []string
	closed bool
}

func record(t *testing.T, text string) *recorded {
	t.Helper()
	r := &recorded{attrs: map[string]string{}, fails: map[string]unix.Errno{}, most: 1 << 30}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch f[0] {
		case "attr":
			r.attrs[f[1]] = f[2]
		case "zonesz":
			r.zonesz = f[1]
		case "nrzones":
			r.nr = f[1]
		case "nocap":
			r.nocap = true
		case "most":
			r.most = int(num(t, f[1]))
		case "fail":
			r.fails[f[1]] = errnoNamed(f[2])
		case "zone":
			r.zones = append(r.zones, rawZone{
				start: num(t, f[1]), size: num(t, f[2]), wp: num(t, f[3]), kind: uint8(num(t, f[4])),
				cond: uint8(num(t, f[5])), capacity: num(t, f[6]),
			})
		default:
			t.Fatal(line)
		}
	}
	return r
}

func num(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func errnoNamed(s string) unix.Errno {
	for e := unix.Errno(1); e < 134; e++ {
		if unix.ErrnoName(e) == s {
			return e
		}
	}
	return 0
}

func (r *recorded) attribute(name string) (string, error) {
	v, ok := r.attrs[name]
	if !ok {
		return "", fmt.Errorf("open %s: %w", name, unix.ENOENT)
	}
	return v, nil
}

func (r *recorded) close() error { r.closed = true; return nil }

var requests = map[uint]string{
	blkResetZone: "reset", blkOpenZone: "open", blkCloseZone: "close", blkFinishZone: "finish", blkReportZone: "report",
}

func (r *recorded) ioctl(request uint, arg []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ne := binary.NativeEndian
	switch request {
	case blkGetZoneSz, blkGetNrZones:
		text := r.zonesz
		if request == blkGetNrZones {
			text = r.nr
		}
		if e := errnoNamed(text); e != 0 {
			return e
		}
		n, err := strconv.ParseUint(text, 10, 32)
		ne.PutUint32(arg, uint32(n))
		return err
	}
	name := requests[request]
	at, n := ne.Uint64(arg), uint64(ne.Uint32(arg[8:]))
	if name != "report" {
		n = ne.Uint64(arg[8:])
	}
	r.asked = append(r.asked, fmt.Sprintf("%s %d %d", name, at, n))
	if e := r.fails[name]; e != 0 {
		return e
	}
	if name != "report" {
		return r.manage(name, at, n)
	}
	if len(arg) != reportHeader+int(n)*zoneBytes {
		return unix.EFAULT
	}
	clear(arg[8:])
	if !r.nocap {
		ne.PutUint32(arg[12:], reportCapacity)
	}
	i := 0
	for _, z := range r.zones {
		if z.start+z.size <= at || i == r.most || i == int(n) {
			continue
		}
		b := arg[reportHeader+i*zoneBytes:]
		ne.PutUint64(b, z.start)
		ne.PutUint64(b[8:], z.size)
		ne.PutUint64(b[16:], z.wp)
		b[24], b[25] = z.kind, z.cond
		if !r.nocap {
			ne.PutUint64(b[32:], z.capacity)
		}
		i++
	}
	ne.PutUint32(arg[8:], uint32(i))
	return nil
}

// manage does to the zones what a device does.
func (r *recorded) manage(name string, at, n uint64) error {
	for i := range r.zones {
		z := &r.zones[i]
		if z.start != at || z.size != n {
			continue
		}
		switch {
		case z.kind == typeConventional || z.cond == condOffline || z.cond == condReadOnly:
			return unix.EIO
		case name == "reset":
			z.cond, z.wp = condEmpty, z.start
		case name == "open":
			z.cond = condExpOpen
		case name == "close":
			z.cond = condClosed
		default:
			z.cond, z.wp = condFull, z.start+z.size
		}
		return nil
	}
	return unix.EINVAL
}

// spoil changes the condition of a zone, as a failing device does.
func (r *recorded) spoil(i int, cond uint8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.zones[i].cond = cond
}

func (r *recorded) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.asked
	r.asked = nil
	return list
}
