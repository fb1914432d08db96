package spec

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// reader takes values out of one group of arguments. The first error stays;
// it names the kind, the option, its value and what would do.
type reader struct {
	kind string
	args []Arg
	err  error
}

func (s *Spec) reader(group int) *reader {
	r := &reader{kind: s.Kind}
	if group < len(s.Groups) {
		r.args = s.Groups[group]
	}
	return r
}

func (r *reader) find(key string) (string, bool) {
	for _, a := range r.args {
		if a.Key == key {
			return a.Value, true
		}
	}
	return "", false
}

func (r *reader) fail(key, value, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s is %q, it must be %s: %w", r.kind, key, value, want, unix.EINVAL)
	}
}

func (r *reader) text(key string) string {
	v, _ := r.find(key)
	return v
}

func (r *reader) number(key string, def, low, high uint64) uint64 {
	v, ok := r.find(key)
	if !ok {
		return def
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n < low || n > high {
		r.fail(key, v, fmt.Sprintf("a number from %d to %d", low, high))
		return def
	}
	return n
}

func (r *reader) size(key string, unit uint64) uint64 {
	v, ok := r.find(key)
	if !ok {
		return 0
	}
	return r.sizeOf(key, v, unit)
}

// sizeOf reads a size that must be a positive multiple of unit.
func (r *reader) sizeOf(key, v string, unit uint64) uint64 {
	n, err := ParseSize(v)
	if err != nil || n == 0 || n%max(unit, 1) != 0 {
		want := "a positive size such as 64MiB"
		if err == nil && n != 0 {
			want = fmt.Sprintf("a multiple of %d bytes, for example %s", unit, FormatSize(max(n/unit, 1)*unit))
		}
		r.fail(key, v, want)
	}
	return n
}

func (r *reader) flag(key string) bool {
	v, ok := r.find(key)
	switch {
	case !ok || v == "off" || v == "no" || v == "false":
		return false
	case v == "" || v == "on" || v == "yes" || v == "true":
		return true
	}
	r.fail(key, v, "on or off")
	return false
}

func (r *reader) duration(key string) time.Duration {
	v, ok := r.find(key)
	if !ok {
		return 0
	}
	return r.durationOf(key, v)
}

func (r *reader) durationOf(key, v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > time.Hour {
		r.fail(key, v, "a time up to an hour such as 100us or 5ms")
	}
	return d
}

func (r *reader) probability(key string, def float64) float64 {
	v, ok := r.find(key)
	if !ok {
		return def
	}
	p, err := strconv.ParseFloat(v, 64)
	if err != nil || !(p >= 0 && p <= 1) {
		r.fail(key, v, "a probability from 0 to 1 such as 0.01")
	}
	return p
}

func (r *reader) uuid(key string) uuid.UUID {
	v, ok := r.find(key)
	if !ok {
		return uuid.Nil
	}
	id, err := uuid.Parse(v)
	if err != nil {
		r.fail(key, v, "a UUID such as 6ba7b811-9dad-11d1-80b4-00c04fd430c8")
	}
	return id
}

// blockSize reads the block size of a device whose blocks may be chosen.
func (r *reader) blockSize() uint32 {
	n := r.number("bs", 4096, 512, 1<<20)
	if r.err == nil && n&(n-1) != 0 {
		r.fail("bs", r.text("bs"), "a power of two from 512 to 1048576")
	}
	return uint32(n)
}

// span reads FROM-TO or one number; to is exclusive, 0 when not given.
func (r *reader) span(key string) (from, to uint64) {
	v, ok := r.find(key)
	if !ok {
		return 0, 0
	}
	a, b, isRange := strings.Cut(v, "-")
	from, err := strconv.ParseUint(a, 10, 62)
	last := from
	if isRange && err == nil {
		last, err = strconv.ParseUint(b, 10, 62)
	}
	if err != nil || last < from {
		r.fail(key, v, "a block, or the first and the last, such as 0-99")
	}
	return from, last + 1
}

// numbers reads numbers joined by plus signs.
func (r *reader) numbers(key string) []uint64 {
	v, ok := r.find(key)
	if !ok {
		return nil
	}
	var list []uint64
	for text := range strings.SplitSeq(v, "+") {
		n, err := strconv.ParseUint(text, 10, 62)
		if err != nil {
			r.fail(key, v, "numbers joined by +, such as 3+7")
			return nil
		}
		list = append(list, n)
	}
	return list
}
