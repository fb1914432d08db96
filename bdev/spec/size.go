package spec

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var units = map[string]uint64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
	"p": 1 << 50, "pib": 1 << 50, "pb": 1e15,
}

// ParseSize reads a number of bytes such as 4096, 5GiB or 1.5T. K, M, G, T, P
// alone or as KiB, ... are powers of 1024, KB, ... powers of 1000; case does
// not matter. The result must be whole and below 8 EiB.
func ParseSize(s string) (uint64, error) {
	text := strings.TrimSpace(s)
	i := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		i = len(text)
	}
	number, unit := text[:i], strings.ToLower(strings.TrimSpace(text[i:]))
	scale, known := units[unit]
	if number == "" || len(number) > 30 || !known {
		return 0, fmt.Errorf("size %q: not a number with a unit such as 4096, 64KiB or 5GiB: %w", s, unix.EINVAL)
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil {
		if n > math.MaxInt64/scale {
			return 0, fmt.Errorf("size %q: 8 EiB or more: %w", s, unix.ERANGE)
		}
		return n * scale, nil
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("size %q: not a number with a unit such as 4096, 64KiB or 5GiB: %w", s, unix.EINVAL)
	}
	r.Mul(r, new(big.Rat).SetUint64(scale))
	switch {
	case !r.IsInt():
		return 0, fmt.Errorf("size %q: not a whole number of bytes: %w", s, unix.EINVAL)
	case !r.Num().IsInt64():
		return 0, fmt.Errorf("size %q: 8 EiB or more: %w", s, unix.ERANGE)
	}
	return r.Num().Uint64(), nil
}

// FormatSize writes a number of bytes in the largest unit of which it is a
// whole multiple. ParseSize reads it back.
func FormatSize(n uint64) string {
	names := [...]string{"", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n != 0 && n%1024 == 0 && i < len(names)-1 {
		n /= 1024
		i++
	}
	return strconv.FormatUint(n, 10) + names[i]
}
