package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goftl/bdev/spec"
	"goftl/ftl/layout"
)

// Names of the files in a directory that ftlnbd manages.
const (
	CacheFile  = "cache.img"
	BaseFile   = "base.img"
	SocketFile = "nbd.sock"
)

// Place says where an FTL lives: a directory with its two files, or two specs.
type Place struct {
	Dir       string
	Cache     string // spec; empty: the file in Dir
	Base      string
	SizeBytes uint64 // user-visible, of a new one
	CacheSize uint64 // of a new cache file; 0: chosen
	SparePct  uint32
}

// ErrHalf says that one of the two devices is missing.
var ErrHalf = fmt.Errorf("one of the two devices is missing: %w", unix.ENOENT)

const (
	defaultSize  = 8 << 30
	minCacheFile = 64 << 20
	maxCacheFile = 5 << 30
	fileRound    = 1 << 20
)

// Specs are the two devices as text, and whether files of them may be made.
type Specs struct {
	Cache, Base string
	Create      bool
}

// Resolve decides which specs to open. Files in Dir are made only when none of
// them has data: one alone means that something is wrong, and a new file in
// its place would hide that.
func (p *Place) Resolve(mayCreate bool) (Specs, error) {
	if (p.Cache == "") != (p.Base == "") {
		return Specs{}, fmt.Errorf("--cache and --base go together: give both, or neither and --dir: %w", unix.EINVAL)
	}
	if p.Cache != "" {
		return p.resolveSpecs(mayCreate)
	}
	if p.Dir == "" {
		return Specs{}, fmt.Errorf("say where the device lives: --dir DIR, or --cache SPEC and --base SPEC: %w", unix.EINVAL)
	}
	cache, base := filepath.Join(p.Dir, CacheFile), filepath.Join(p.Dir, BaseFile)
	s := Specs{Cache: fileSpec(cache, 0), Base: fileSpec(base, 0)}
	hasCache, err := contentOf(cache)
	if err != nil {
		return s, err
	}
	hasBase, err := contentOf(base)
	switch {
	case err != nil:
		return s, err
	case hasCache > noFile && hasBase > noFile:
		return s, nil
	case hasCache == someData || hasBase == someData:
		missing := cache
		if hasCache == someData {
			missing = base
		}
		return s, fmt.Errorf("%s is gone or empty but the other file of the device is there; bring it back, or remove both: %w", missing, ErrHalf)
	case !mayCreate:
		return s, fmt.Errorf("no device in %s (ftlnbd serve --dir %s makes one): %w", p.Dir, p.Dir, unix.ENOENT)
	}
	cacheBytes, baseBytes, err := p.FileSizes()
	if err != nil {
		return s, err
	}
	if hasCache == noData {
		cacheBytes = 0 // what it is
	}
	if hasBase == noData {
		baseBytes = 0
	}
	return Specs{Cache: fileSpec(cache, cacheBytes), Base: fileSpec(base, baseBytes), Create: true}, nil
}

// resolveSpecs allows files to be made only when every file that the specs
// name is missing.
func (p *Place) resolveSpecs(mayCreate bool) (Specs, error) {
	s := Specs{Cache: p.Cache, Base: p.Base}
	if p.Cache == p.Base {
		return s, fmt.Errorf("--cache and --base are both %s: two devices are needed: %w", p.Cache, unix.EINVAL)
	}
	var have, missing []string
	for _, text := range []string{p.Cache, p.Base} {
		sp, err := spec.Parse(text)
		if err != nil {
			return s, err
		}
		for ; sp != nil; sp = sp.Base {
			if sp.Kind != "file" {
				continue
			}
			// What an error says is said when the file is opened.
			switch has, err := contentOf(sp.Main); {
			case err == nil && has == noFile:
				missing = append(missing, sp.Main)
			case has == someData:
				have = append(have, sp.Main)
			}
		}
	}
	if len(have) > 0 && len(missing) > 0 {
		return s, fmt.Errorf("%s is there and %s is not: %w", strings.Join(have, ", "), strings.Join(missing, ", "), ErrHalf)
	}
	s.Create = mayCreate && len(missing) > 0
	return s, nil
}

// content says what stands in a file.
type content uint8

const (
	noFile   content = iota // none, or an empty one
	noData                  // nothing but a hole, or no regular file
	someData                // anything else
)

// contentOf looks at a file. A file without data is no half of a device: the
// process that made it was killed before it came to the other one.
func contentOf(path string) (content, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return noFile, nil
	}
	if err != nil {
		return someData, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return someData, err
	case !st.Mode().IsRegular():
		// A block device is always there: whether it is new is told by what it
		// holds.
		return noData, nil
	case st.Size() == 0:
		return noFile, nil
	}
	if _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
		return noData, nil
	}
	return someData, nil
}

var specQuote = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `;`, `\;`)

func fileSpec(path string, size uint64) string {
	s := "file:" + specQuote.Replace(path)
	if size > 0 {
		s += fmt.Sprintf(",size=%d", size)
	}
	return s
}

// FileSizes chooses the sizes of the two files for the user-visible size.
func (p *Place) FileSizes() (cache, base uint64, err error) {
	size := p.SizeBytes
	if size == 0 {
		size = defaultSize
	}
	if size%layout.BlockSize != 0 {
		return 0, 0, fmt.Errorf("--size %d is not a multiple of 4096: %w", size, unix.EINVAL)
	}
	if p.SparePct >= 100 {
		return 0, 0, fmt.Errorf("--spare %d: must be below 100: %w", p.SparePct, unix.EINVAL)
	}
	spare := uint64(p.SparePct)
	if spare == 0 {
		spare = layout.DefaultSparePct
	}
	// The mapping takes 8 bytes a block in two slots: 1/512 of the size; twice
	// that when block numbers do not fit in 32 bits.
	mapping := size / 500
	if size/layout.BlockSize > 1<<31 {
		mapping = size / 240
	}
	cache = p.CacheSize
	if cache == 0 {
		cache = min(max(size/8, minCacheFile), maxCacheFile) + mapping
	}
	cache = roundUp(cache, fileRound)
	base = roundUp(max(size/(100-spare)*100, 256<<20), fileRound)
	for range 200 {
		_, err = layout.Compute(layout.Params{
			CacheBlocks: cache / layout.BlockSize, BaseBlocks: base / layout.BlockSize,
			SparePct: p.SparePct, SizeBlocks: size / layout.BlockSize,
		})
		if err == nil {
			return cache, base, nil
		}
		if !errors.Is(err, layout.ErrNoSpace) {
			return 0, 0, err
		}
		base = roundUp(base+base/64+fileRound, fileRound)
	}
	return 0, 0, err
}

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }

// UserSize is the size to make a new device with: what was asked for, or the
// default when the files are ours.
func (p *Place) UserSize() uint64 {
	if p.SizeBytes == 0 && p.Cache == "" {
		return defaultSize
	}
	return p.SizeBytes
}
