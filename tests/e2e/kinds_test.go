//go:build e2e

package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kind is a type of device: with or without a cache, over a conventional base or zones.
type kind struct {
	name    string
	noCache bool
	meta    bool     // without a cache: the metadata has a device of its own
	zones   string   // of the base, as behind zone:
	base    string   // size of the base file of a small device
	more    []string // other flags
}

// plain is what a device is unless something else is said.
var plain = kind{name: "plain", base: smallBase}

// others are the other types. Zones have limits, units that are larger than a block, capacities below their size.
var others = []kind{
	{name: "zoned", zones: "2MiB,units=2,open=8,active=8", base: "232MiB"},
	{name: "zoned append", zones: "2MiB,cap=1792KiB,units=4,unit=16KiB,open=20", base: "272MiB", more: []string{"--zone-append"}},
	{name: "no cache", noCache: true, base: smallBase},
	{name: "no cache, zoned, conventional zones", noCache: true, zones: "2MiB,units=2,conv=3,open=8", base: "240MiB"},
	{name: "no cache, zoned append, metadata device", noCache: true, meta: true, zones: "2MiB,units=2,active=12", base: "232MiB", more: []string{"--zone-append"}},
}

func kinds() []kind { return append([]kind{plain}, others...) }

// small are the arguments for a device of that kind, by specs, so small that compaction and relocation are always at
// work. wrap stands in front of its files.
func (k kind) small(dir, wrap string, more ...string) []string {
	file := func(name, size string) string { return wrap + "file:" + dir + "/" + name + ",size=" + size }
	var args []string
	switch {
	case !k.noCache:
		args = []string{"--cache", file("cache.img", smallCache)}
	case k.meta:
		args = []string{"--no-cache", "--metadata", file("meta.img", "4MiB")}
	default:
		args = []string{"--no-cache"}
	}
	base := file("base.img", k.base)
	if k.zones != "" {
		base = "zone:" + k.zones + ",persist:" + base
	}
	args = append(args, "--base", base)
	return append(append(args, k.more...), more...)
}

// inDir are the arguments for a device of that kind whose files, but for that of metadata, are chosen by ftlnbd.
func (k kind) inDir(dir string, more ...string) []string {
	var args []string
	if k.noCache {
		args = append(args, "--no-cache")
	}
	if k.meta {
		args = append(args, "--metadata", "file:"+filepath.Join(dir, "meta.img")+",size=16MiB")
	}
	if k.zones != "" {
		args = append(args, "--zones", k.zones)
	}
	return append(append(args, k.more...), more...)
}

// serve starts a server with a device of that kind in a new folder.
func (k kind) serve(t *testing.T, size string, more ...string) *server {
	t.Helper()
	dir := shortDir(t)
	return serveIn(t, dir, size, k.inDir(dir, more...)...)
}

// only skips kinds other than the plain one for a peer's server, which knows none.
func (k kind) only(t *testing.T) {
	t.Helper()
	if k.name != plain.name {
		needOurs(t)
	}
}

var wrapper = regexp.MustCompile(`(delay|errinj):[^:]*:`)

// unwrapped makes the server's next start one on the plain files.
func (s *server) unwrapped() *server {
	for i, a := range s.args {
		s.args[i] = wrapper.ReplaceAllString(a, "")
	}
	return s
}

// specs are the arguments of the server that name its devices.
func (s *server) specs() []string {
	var list []string
	for i, a := range s.args {
		switch a {
		case "--cache", "--base", "--metadata", "--zones":
			list = append(list, a, s.args[i+1])
		case "--no-cache":
			list = append(list, a)
		}
	}
	return list
}

// bare makes the server's next start one that is told nothing but the folder.
func (s *server) bare() *server {
	s.args = []string{"serve", "--dir", s.dir}
	return s
}

// slug is a name for a subtest.
func (k kind) slug() string { return strings.ReplaceAll(strings.ReplaceAll(k.name, ",", ""), " ", "-") }
