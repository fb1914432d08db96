package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlnbd/internal/stack"
	"goftl/apps/internal/tune"
	"goftl/bdev/spec"
)

// A device in a directory that is more than two plain files is described by a
// file beside them, with the flags that it was made with, so that it can be
// served again by --dir alone. Lines are NAME = VALUE.

// confDevice are the flags that say what a device is made of: later ones must
// not contradict them. confSpecs of them hold paths.
var (
	confDevice = []string{"no-cache", "zones", "cache", "metadata", "base"}
	confSpecs  = []string{"cache", "metadata", "base"}
	// confMade are about the making alone; they count when it is resumed.
	confMade = []string{"size", "cache-size", "spare", "chunk-size", "band-size", "zone-units", "zone-stripe"}
)

const confHead = `# What this device is made of and how it is tuned: flags of ftlnbd serve, which it reads here when it is
# given --dir. Limits and the like may be changed; flags on the command line come first.
`

// confNames are all flags that are remembered.
func confNames() []string {
	return slices.Concat(confDevice, []string{"size", "cache-size", "spare"}, tune.Names())
}

// settle completes the flags of a command by what the directory remembers, and
// checks them.
func (a *app) settle(c *cobra.Command) error {
	if a.place.Dir != "" {
		if err := a.recall(c); err != nil {
			return err
		}
	} else if c.Name() == "plan" && a.place.Base == "" && a.place.Cache == "" {
		a.place.Dir, a.place.Imaginary = "DIR", true
	}
	if err := a.sizes(); err != nil {
		return err
	}
	if err := a.place.Check(); err != nil {
		return usageError{err}
	}
	a.config.SparePct = a.spare
	if c.Flags().Lookup("limit-user") == nil {
		return nil
	}
	if err := a.tune.Apply(&a.config); err != nil {
		return usageError{err}
	}
	return nil
}

func (a *app) confPath() string { return filepath.Join(a.place.Dir, stack.ConfFile) }

// readConf reads the file; nil when there is none.
func readConf(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	conf := map[string]string{}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !ok || !slices.Contains(confNames(), name) {
			return nil, fmt.Errorf("%s: line %d: %q is not NAME = VALUE with one of %s: %w", path, i+1, line,
				strings.Join(confNames(), ", "), unix.EINVAL)
		}
		conf[name] = strings.TrimSpace(value)
	}
	return conf, nil
}

// recall gives flags that were not given the values that the directory
// remembers.
func (a *app) recall(c *cobra.Command) error {
	path := a.confPath()
	conf, err := readConf(path)
	if err != nil || conf == nil {
		return err
	}
	a.conf = conf
	f := c.Flags()
	// Who names all devices means these, whatever the directory remembers: the
	// same files behind another device, for example.
	other := f.Changed("base") && (f.Changed("cache") || f.Changed("no-cache"))
	for _, name := range confDevice {
		was, known := conf[name]
		if other || !known && !f.Changed(name) {
			continue
		}
		if known && slices.Contains(confSpecs, name) {
			if was, err = mapPath(was, func(p string) string { return inDir(a.place.Dir, p) }); err != nil {
				return fmt.Errorf("%s: %s: %w", path, name, err)
			}
		}
		if f.Changed(name) {
			now := f.Lookup(name).Value.String()
			if now == "false" {
				now = ""
			}
			if !same(was, now) {
				return usageError{fmt.Errorf("--%s %s: the device in %s was made with %s (%s); leave the flag out, or destroy the device first",
					name, now, a.place.Dir, orNone(name, was), path)}
			}
			continue
		}
		if err := f.Set(name, was); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	for name, value := range conf {
		if slices.Contains(confDevice, name) || f.Lookup(name) == nil || f.Changed(name) {
			continue
		}
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	return nil
}

// same compares two values of a device flag; paths may be written differently.
func same(was, now string) bool {
	abs := func(p string) string {
		if q, err := filepath.Abs(p); err == nil {
			return q
		}
		return p
	}
	x, err1 := mapPath(was, abs)
	y, err2 := mapPath(now, abs)
	return was == now || err1 == nil && err2 == nil && x == y
}

func orNone(name, value string) string {
	if value == "" {
		return "no --" + name
	}
	return "--" + name + "=" + value
}

// mapPath changes the path of the file that a spec stands on.
func mapPath(text string, f func(string) string) (string, error) {
	sp, err := spec.Parse(text)
	if err != nil {
		return "", err
	}
	leaf := sp
	for leaf.Base != nil {
		leaf = leaf.Base
	}
	if leaf.Kind == "malloc" || leaf.Kind == "null" {
		return text, nil
	}
	leaf.Main = f(leaf.Main)
	return sp.String(), nil
}

func inDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// remember returns functions that write the file for a device that is about to
// be made, and remove it when that failed. A device of two plain files needs
// none, and one that is there already is left alone.
func (a *app) remember(c *cobra.Command) (write func() error, forget func()) {
	if a.place.Dir == "" || a.conf != nil {
		return nil, nil
	}
	var text strings.Builder
	text.WriteString(confHead)
	worth := false
	var failed error
	for _, name := range confNames() {
		v := c.Flags().Lookup(name)
		if v == nil || !v.Changed {
			continue
		}
		value := v.Value.String()
		if slices.Contains(confSpecs, name) {
			var err error
			if value, err = mapPath(value, func(p string) string { return outOfDir(a.place.Dir, p) }); err != nil {
				failed = err
			}
		}
		worth = worth || !slices.Contains(confMade, name)
		fmt.Fprintf(&text, "%s = %s\n", name, value)
	}
	if !worth {
		return nil, nil
	}
	path := a.confPath()
	return func() error {
			if failed != nil {
				return failed
			}
			return writeFile(path, text.String())
		},
		func() { os.Remove(path) }
}

// outOfDir makes a path relative to dir when it lies in it, so that the
// directory can be moved, else absolute.
func outOfDir(dir, path string) string {
	d, err1 := filepath.Abs(dir)
	p, err2 := filepath.Abs(path)
	if err1 != nil || err2 != nil {
		return path
	}
	if rel, err := filepath.Rel(d, p); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return p
}

// writeFile writes a file such that after a power loss it is there whole or not
// at all.
func writeFile(path, text string) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// filesInDir are the files of the device that lie in its directory.
func (a *app) filesInDir() []string {
	list := []string{stack.SocketFile, stack.ConfFile}
	if a.place.Cache == "" {
		list = append(list, stack.CacheFile)
	}
	if a.place.Base == "" {
		list = append(list, stack.BaseFile)
	}
	for _, text := range []string{a.place.Cache, a.place.Metadata, a.place.Base} {
		if text == "" || a.conf == nil {
			continue
		}
		_, _ = mapPath(text, func(p string) string {
			if rel := outOfDir(a.place.Dir, p); !filepath.IsAbs(rel) {
				list = append(list, rel)
			}
			return p
		})
	}
	return list
}
