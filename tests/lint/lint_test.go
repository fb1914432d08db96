//go:build lint

package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// Groups of packages that the table below speaks of.
var groups = map[string][]string{
	"helpers": {"internal/assert", "internal/iouring", "internal/memcopy"},
	"base":    {"poller", "thread"},
	"bufs":    {"iobuf"},
	"reactor": {"reactor"},
	"devices": {"bdev", "bdev/malloc", "bdev/uring", "bdev/zone", "bdev/internal/timeline"},
	"spec":    {"bdev/spec"},
	"ftlbdev": {"bdev/ftlbdev"},
	"formats": {"ftl/layout", "ftl/superblock", "ftl/record"},
	"mngt":    {"ftl/mngt"},
	"ftl":     {"ftl", "ftl/l2p", "ftl/md"},
	"wire":    {"nbd/proto"},
	"nbd":     {"nbd", "nbd/client"},
	"rpc":     {"rpc", "rpc/methods"},
	"web":     {"web"},
	"apps":    {"apps/ftlnbd", "apps/ftlnbd/internal/cli", "apps/ftlperf/internal/job"},
	"tests":   {"tests/sim", "tests/filetest"},
}

// may says what each group may import, beside the rest of itself: the layers of ARCHITECTURE.md. Everything else is to
// be refused. (What the compiler refuses anyway, because it is a cycle, is refused here too or does not matter.)
var may = map[string]string{
	"helpers": "",
	"base":    "helpers",
	"bufs":    "helpers base",
	"reactor": "helpers base bufs",
	"devices": "helpers base bufs spec",
	"spec":    "helpers base bufs devices",
	"ftlbdev": "helpers base bufs devices spec formats mngt ftl",
	"formats": "helpers",
	"mngt":    "helpers base",
	"ftl":     "helpers base bufs devices spec formats mngt",
	"wire":    "helpers",
	"nbd":     "helpers base bufs devices spec wire",
	"rpc":     "helpers base bufs reactor devices spec ftlbdev formats mngt ftl wire nbd",
	"web":     "helpers base bufs reactor devices spec ftlbdev formats mngt ftl wire nbd",
	"apps":    "helpers base bufs reactor devices spec ftlbdev formats mngt ftl wire nbd rpc web",
	"tests":   "helpers base bufs reactor devices spec ftlbdev formats mngt ftl wire nbd rpc web apps",
}

// within are the pairs of one group that are refused all the same.
var within = map[[2]string]bool{
	{"poller", "thread"}:                    true, // poller knows no threads
	{"internal/assert", "internal/memcopy"}: true, // assert imports nothing
	{"internal/assert", "internal/iouring"}: true,
}

func refused(from, fromGroup, to, toGroup string) bool {
	if fromGroup == toGroup {
		return within[[2]string{from, to}]
	}
	for _, g := range strings.Fields(may[fromGroup]) {
		if g == toGroup {
			return false
		}
	}
	return true
}

// site is a file of the copy and whether the linter is to complain about it.
type site struct {
	what   string
	refuse bool
}

type copyOf struct {
	t     *testing.T
	dir   string
	sites map[string]site
}

func (c *copyOf) write(path, text string) {
	full := filepath.Join(c.dir, path)
	require.NoError(c.t, os.MkdirAll(filepath.Dir(full), 0o755))
	require.NoError(c.t, os.WriteFile(full, []byte(text), 0o600))
}

func (c *copyOf) plant(path, text, what string, refuse bool) {
	c.write(path, text)
	c.sites[path] = site{what, refuse}
}

func named(dir string) string { return "package " + filepath.Base(dir) + "\n" }

// TestEveryFolderHasALayer finds a new folder that no rule speaks of.
func TestEveryFolderHasALayer(t *testing.T) {
	list := exec.Command("go", "list", "./...")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	known := map[string]bool{}
	for _, dirs := range groups {
		for _, dir := range dirs {
			top, _, _ := strings.Cut(dir, "/")
			known[top] = true
		}
	}
	for _, pkg := range strings.Fields(string(out)) {
		top, _, _ := strings.Cut(strings.TrimPrefix(pkg, "goftl/"), "/")
		require.True(t, known[top], "%s: say in groups and in .golangci.yml what it may import", pkg)
	}
}

// TestLinterRefusesPlantedViolations plants every import of one group's packages in another's.
func TestLinterRefusesPlantedViolations(t *testing.T) {
	// A path with the names of layers in it must not matter.
	c := &copyOf{t: t, dir: filepath.Join(t.TempDir(), "apps", "ftl", "nbd", "goftl"), sites: map[string]site{}}
	c.write("go.mod", "module goftl\n\ngo 1.26.0\n")
	config, err := os.ReadFile(filepath.Join(root, ".golangci.yml"))
	require.NoError(t, err)
	c.write(".golangci.yml", string(config))
	c.plantImports()
	c.plantCalls()

	found := c.lint()
	var wrong []string
	planted := 0
	for path, s := range c.sites {
		if s.refuse {
			planted++
		}
		if s.refuse != (found[path] != "") {
			wrong = append(wrong, fmt.Sprintf("%s: to be refused: %v; the linter says: %q", s.what, s.refuse, found[path]))
		}
		delete(found, path)
	}
	for path, text := range found {
		wrong = append(wrong, path+": "+text)
	}
	sort.Strings(wrong)
	require.Empty(t, wrong, "%d of %d", len(wrong), len(c.sites))
	t.Logf("%d violations planted and refused, %d things that are allowed are not", planted, len(c.sites)-planted)
}

// compiles reports whether the compiler lets dir import an internal package; the linter sees only what compiles.
func compiles(dir, target string) bool {
	parent, _, internal := strings.Cut(target, "internal/")
	return !internal || strings.HasPrefix(dir+"/", parent)
}

func (c *copyOf) plantImports() {
	for _, dirs := range groups {
		for _, dir := range dirs {
			c.write(dir+"/doc.go", "// Package doc is empty.\n"+named(dir))
		}
	}
	for fromGroup, from := range groups {
		for _, dir := range from {
			for toGroup, to := range groups {
				for _, target := range to {
					if dir == target || !compiles(dir, target) {
						continue
					}
					refuse := refused(dir, fromGroup, target, toGroup)
					// In a folder below, which nobody imports, so that there is no cycle for the compiler to complain about.
					name := "imports_" + strings.ReplaceAll(target, "/", "_")
					text := fmt.Sprintf("package planted\n\nimport _ %q\n", "goftl/"+target)
					c.plant(dir+"/planted/"+name+".go", text, dir+" imports "+target, refuse)
				}
			}
			c.plant(dir+"/planted/planted_test.go", "package planted\n\nimport _ \"goftl/tests/sim\"\n", "a test in "+dir, false)
		}
	}
	// And in the packages themselves, along one chain.
	chain := []string{"poller", "thread", "reactor", "bdev", "nbd", "ftl", "bdev/ftlbdev", "rpc", "apps/ftlnbd", "tests/sim"}
	for i, dir := range chain[:len(chain)-1] {
		text := fmt.Sprintf("%s\nimport _ %q\n", named(dir), "goftl/"+chain[i+1])
		c.plant(dir+"/upwards.go", text, dir+" itself imports "+chain[i+1], true)
	}
}

func (c *copyOf) plantCalls() {
	for _, dirs := range groups {
		for _, dir := range dirs {
			top, _, _ := strings.Cut(dir, "/")
			refuse := top != "reactor" && top != "apps" && top != "tests"
			c.plant(dir+"/clock/clock.go", "package clock\n\nimport \"time\"\n\nvar _ = time.Now\n", dir+" reads a clock", refuse)
			c.plant(dir+"/chance/chance.go", "package chance\n\nimport \"math/rand/v2\"\n\nvar _ = rand.IntN\n", dir+" draws a number", refuse)
		}
	}
}

// lint returns what the linter says about each file of the copy.
func (c *copyOf) lint() map[string]string {
	tool := exec.Command("go", "tool", "-n", "-modfile=tools/go.mod", "golangci-lint")
	tool.Dir = root
	path, err := tool.Output()
	require.NoError(c.t, err)
	cmd := exec.Command(strings.TrimSpace(string(path)), "run", "--enable-only", "depguard,forbidigo", "--output.json.path", "stdout",
		"--output.text.path", "stderr", "--show-stats=false", "./...")
	cmd.Dir = c.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	require.True(c.t, errors.As(err, &exit) && exit.ExitCode() == 1, "the linter must find something: %v\n%s", err, &stderr)
	var report struct {
		Issues []struct {
			FromLinter, Text string
			Pos              struct{ Filename string }
		}
	}
	require.NoError(c.t, json.Unmarshal(stdout.Bytes(), &report), "%s", &stdout)
	found := map[string]string{}
	for _, i := range report.Issues {
		require.NotEqual(c.t, "typecheck", i.FromLinter, "%s: %s", i.Pos.Filename, i.Text)
		found[filepath.ToSlash(i.Pos.Filename)] = i.FromLinter + ": " + i.Text
	}
	return found
}
