package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goftl/bdev/spec"
	"goftl/ftl"
)

// Names of the files in a directory that ftlnbd manages.
const (
	CacheFile  = "cache.img"
	BaseFile   = "base.img"
	SocketFile = "nbd.sock"
	// ConfFile says how a device in a directory was made, if not plainly.
	ConfFile = "ftlnbd.conf"
)

// Place says where an FTL lives: files in a directory, specs, or some of each.
type Place struct {
	Dir      string
	Cache    string // spec; empty: the file in Dir
	Base     string // spec; empty: the file in Dir
	NoCache  bool   // there is no cache: users' records go to the base
	Metadata string // spec of a device for the metadata, without a cache; empty: the base
	Zones    string // the file in Dir is a zoned base: what stands behind "zone:" in its spec

	SizeBytes uint64 // user-visible, of a new one
	CacheSize uint64 // of a new cache file; 0: chosen
	// Imaginary is for plans: no file is looked at.
	Imaginary bool
}

// ErrHalf says that one of the two devices is missing.
var ErrHalf = fmt.Errorf("one of the two devices is missing: %w", unix.ENOENT)

// Specs are the devices as text, and whether files of them may be made.
type Specs struct {
	Cache, Base string // Cache is the device of the metadata without a cache, and may be empty
	NoCache     bool
	Create      bool
	// CacheBytes and BaseBytes are the sizes that were chosen for files in Dir
	// that do not exist yet.
	CacheBytes, BaseBytes uint64
}

// part is one of the devices of a place.
type part struct {
	role  string
	flag  string
	front string // of the spec of a file in Dir, such as zone:64MiB:
	path  string // of the file in Dir; empty: given by its spec
	text  string
}

// Check refuses flags that contradict each other.
func (p *Place) Check() error {
	bad := func(format string, args ...any) error { return fmt.Errorf(format+": %w", append(args, unix.EINVAL)...) }
	switch {
	case p.NoCache && p.Cache != "":
		return bad("--no-cache and --cache %s: there is a cache or there is none; a device that only holds metadata is named by --metadata", p.Cache)
	case !p.NoCache && p.Metadata != "":
		return bad("--metadata %s: metadata lies on the cache; --metadata goes with --no-cache", p.Metadata)
	case p.NoCache && p.CacheSize != 0:
		return bad("--no-cache and --cache-size: there is a cache or there is none")
	case p.Zones != "" && p.Base != "":
		return bad("--zones %s makes a zoned base of the file in --dir, and --base %s names another: give one of them", p.Zones, p.Base)
	case p.Zones != "" && p.Dir == "":
		return bad("--zones %s makes a zoned base of the file in --dir: give --dir, or name the base by --base", p.Zones)
	case p.Dir == "" && p.Base == "" && p.Cache == "":
		return bad("say where the device lives: --dir DIR, or --cache SPEC and --base SPEC (without a cache: --no-cache --base SPEC)")
	case p.Dir == "" && p.Base == "":
		return bad("--cache and --base go together: name the base by --base, or give --dir for both")
	case p.Dir == "" && p.Cache == "" && !p.NoCache:
		return bad("--cache and --base go together: name the cache by --cache, or say --no-cache if there is none")
	}
	return nil
}

// parts are the devices, the base last.
func (p *Place) parts() []part {
	var out []part
	inDir := func(role, flag, text, front, name string) {
		x := part{role: role, flag: flag, text: text}
		if text == "" {
			x.front, x.path = front, filepath.Join(p.Dir, name)
			x.text = front + fileSpec(x.path, 0)
		}
		out = append(out, x)
	}
	switch {
	case !p.NoCache:
		inDir("cache", "--cache", p.Cache, "", CacheFile)
	case p.Metadata != "":
		inDir("metadata", "--metadata", p.Metadata, "", "")
	}
	front := ""
	if p.Zones != "" {
		front = "zone:" + p.Zones + ",persist:"
	}
	inDir("base", "--base", p.Base, front, BaseFile)
	return out
}

// ours says whether the files of all devices are those in Dir.
func (p *Place) ours() bool { return p.Cache == "" && p.Base == "" && p.Metadata == "" }

// Resolve decides which specs to open. Files are made only when none of them
// has data: one alone means that something is wrong, and a new file in its
// place would hide that. cfg says how a new device is tuned.
func (p *Place) Resolve(mayCreate bool, cfg *ftl.Config) (Specs, error) {
	s := Specs{NoCache: p.NoCache}
	if err := p.Check(); err != nil {
		return s, err
	}
	parts := p.parts()
	var have, missing []string
	state := make([]content, len(parts))
	for i := range parts {
		files, err := parts[i].files()
		if err != nil {
			return s, err
		}
		for _, path := range files {
			has := noFile
			if !p.Imaginary {
				if has, err = contentOf(path); err != nil && parts[i].path != "" {
					return s, err // what is wrong with others is said when they are opened
				}
			}
			switch state[i] = has; has {
			case noFile:
				missing = append(missing, path)
			case someData:
				have = append(have, path)
			case noData:
			}
		}
	}
	last := len(parts) - 1
	s.Base = parts[last].text
	if last > 0 {
		s.Cache = parts[0].text
	}
	switch {
	case last > 0 && parts[0].text == parts[last].text:
		return s, fmt.Errorf("%s and --base are both %s: two devices are needed: %w", parts[0].flag, s.Base, unix.EINVAL)
	case len(missing) == 0:
		return s, nil
	case len(have) > 0 && p.ours():
		return s, fmt.Errorf("%s is gone or empty but the other file of the device is there; bring it back, or remove both "+
			"(a device made without a cache, whose %s is gone, is served with --no-cache): %w", missing[0], ConfFile, ErrHalf)
	case len(have) > 0:
		return s, fmt.Errorf("%s is there and %s is not: %w", strings.Join(have, ", "), strings.Join(missing, ", "), ErrHalf)
	case !mayCreate && p.ours():
		return s, fmt.Errorf("no device in %s (ftlnbd serve --dir %s makes one): %w", p.Dir, p.Dir, unix.ENOENT)
	case !mayCreate:
		return s, nil
	}
	s.Create = true
	return s, p.chooseSizes(&s, parts, state, cfg)
}

// chooseSizes gives the files in Dir that are to be made their sizes.
func (p *Place) chooseSizes(s *Specs, parts []part, state []content, cfg *ftl.Config) error {
	last := len(parts) - 1
	newCache := last > 0 && parts[0].path != "" && state[0] == noFile
	newBase := parts[last].path != "" && state[last] == noFile
	if !newCache && !newBase {
		return nil
	}
	cache, base, err := p.fileSizes(parts, cfg)
	if err != nil {
		return err
	}
	if newCache {
		s.CacheBytes = cache
		s.Cache = parts[0].front + fileSpec(parts[0].path, cache)
	}
	if newBase {
		s.BaseBytes = base
		s.Base = parts[last].front + fileSpec(parts[last].path, base)
	}
	return nil
}

// files are the files that a device stands on. Zones that are forgotten when
// the process ends are refused over a file that is not.
func (x *part) files() ([]string, error) {
	sp, err := spec.Parse(x.text)
	if err != nil {
		return nil, err
	}
	forgets := false
	for ; sp != nil; sp = sp.Base {
		switch {
		case sp.Kind == "zone" && !persists(sp):
			forgets = true
		case sp.Kind == "file" && forgets:
			return nil, fmt.Errorf("%s %s: without persist the zones are empty again when the process ends, and what was written is lost: write %s: %w",
				x.flag, x.text, strings.Replace(x.text, ":file:", ",persist:file:", 1), unix.EINVAL)
		case sp.Kind == "file":
			return []string{sp.Main}, nil
		}
	}
	return nil, nil
}

func persists(sp *spec.Spec) bool {
	for _, a := range sp.Groups[0] {
		if a.Key == "persist" {
			return a.Value != "off" && a.Value != "no" && a.Value != "false"
		}
	}
	return false
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
