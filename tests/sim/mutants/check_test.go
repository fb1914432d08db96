package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	require.NoError(t, err)
	return dir
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// compiler type-checks packages of the FTL with files changed. That takes milliseconds a defect, where building the
// simulator takes seconds.
type compiler struct {
	root  string
	set   *token.FileSet
	imp   types.Importer
	byDir map[string]goPackage
	files map[string]*ast.File // unchanged ones
}

func newCompiler(t *testing.T) *compiler {
	t.Helper()
	c := &compiler{root: root(t), set: token.NewFileSet(), byDir: map[string]goPackage{}, files: map[string]*ast.File{}}
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", "./ftl/...", "./nbd/...")
	cmd.Dir = c.root
	out, err := cmd.Output()
	require.NoError(t, err)
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if rel, err := filepath.Rel(c.root, p.Dir); err == nil {
			c.byDir[filepath.ToSlash(rel)] = p
		}
	}
	c.imp = importer.ForCompiler(c.set, "gc", func(pkg string) (io.ReadCloser, error) { return os.Open(exports[pkg]) })
	return c
}

// check compiles the package in dir with changed files; nil compiles it as it is.
func (c *compiler) check(dir string, changed map[string]string) error {
	p, ok := c.byDir[dir]
	if !ok {
		return errors.New(dir + " is no package of the FTL")
	}
	files := make([]*ast.File, 0, len(p.GoFiles))
	for _, name := range p.GoFiles {
		file := path.Join(dir, name)
		text, isChanged := changed[file]
		f := c.files[file]
		if f == nil || isChanged {
			var src any
			if isChanged {
				src = text
			}
			var err error
			if f, err = parser.ParseFile(c.set, filepath.Join(c.root, file), src, parser.SkipObjectResolution); err != nil {
				return err
			}
			if !isChanged {
				c.files[file] = f
			}
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: c.imp, Sizes: types.SizesFor("gc", runtime.GOARCH)}
	_, err := conf.Check(p.ImportPath, c.set, files, nil)
	return err
}

// TestEveryDefectApplies is what fails when the sources that a defect changes have changed themselves.
func TestEveryDefectApplies(t *testing.T) {
	c := newCompiler(t)
	for _, m := range slices.Concat(table(), tableHidden) {
		texts, err := m.mutate(c.root)
		if err != nil {
			t.Errorf("%s: %v", m.title(), err)
			continue
		}
		dirs := map[string]bool{}
		for file := range texts {
			dirs[path.Dir(file)] = true
		}
		for dir := range dirs {
			if err := c.check(dir, texts); err != nil {
				t.Errorf("%s: does not compile: %v", m.title(), err)
			}
		}
	}
}

// TestTheCheckFindsErrors makes sure that TestEveryDefectApplies can fail.
func TestTheCheckFindsErrors(t *testing.T) {
	c := newCompiler(t)
	require.NoError(t, c.check("ftl", nil))
	gone := mutant{edits: []edit{{"ftl/flush.go", "no such text", ""}}}
	_, err := gone.mutate(c.root)
	require.ErrorContains(t, err, "occurs 0 times")
	twice := mutant{edits: []edit{{"ftl/flush.go", "f.under", ""}}}
	_, err = twice.mutate(c.root)
	require.ErrorContains(t, err, "and not once")
	unused := mutant{edits: []edit{{"ftl/flush.go", "f.io.call(flushDone, d)", "unused := 1"}}}
	texts, err := unused.mutate(c.root)
	require.NoError(t, err)
	require.ErrorContains(t, c.check("ftl", texts), "unused")
}

// TestTable checks what a row must have.
func TestTable(t *testing.T) {
	names, texts := map[string]bool{}, map[string]string{}
	tests := testsOfTheSimulator(t)
	require.GreaterOrEqual(t, len(table()), 40)
	for _, m := range table() {
		require.Empty(t, m.hidden, m.name)
	}
	for _, m := range tableHidden {
		require.NotEmpty(t, m.hidden, m.name)
	}
	for _, m := range slices.Concat(table(), tableHidden) {
		require.False(t, names[m.name], "%s: the name occurs twice", m.name)
		names[m.name] = true
		require.NotContains(t, m.name, "|", "it stands in a table")
		require.Contains(t, tests, m.test, m.name)
		require.NotEmpty(t, m.edits, m.name)
		changed, err := m.mutate(root(t))
		require.NoError(t, err)
		all := ""
		for _, file := range slices.Sorted(maps.Keys(changed)) {
			all += changed[file]
		}
		require.Empty(t, texts[all], "%s: the same defect", m.name)
		texts[all] = m.name
	}
}

// testsOfTheSimulator lists the tests that take seeds.
func testsOfTheSimulator(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, file := range []string{"ftlsim/ftl_test.go", "nbdsim/nbdsim_test.go"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		for _, f := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			list = append(list, string(f[1]))
		}
	}
	return list
}

// TestEveryRuleHasDefects compares the rules that have a defect with those that ARCHITECTURE.md says have one.
func TestEveryRuleHasDefects(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	require.NoError(t, err)
	_, rules, ok := strings.Cut(string(text), "## Rules of power loss")
	require.True(t, ok)
	rules, _, _ = strings.Cut(rules, "\n## ")
	var said, have []string
	all := 0
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]*) \|$`).FindAllStringSubmatch(rules, -1) {
		all++
		if regexp.MustCompile(`^sim[^;]*, m\b`).MatchString(row[2]) {
			said = append(said, row[1])
		}
	}
	require.GreaterOrEqual(t, all, 21)
	for _, m := range table() {
		if m.rule != "-" && !slices.Contains(have, m.rule) {
			have = append(have, m.rule)
		}
	}
	slices.Sort(said)
	slices.Sort(have)
	require.Equal(t, said, have, "rules marked m in ARCHITECTURE.md, rules that have a defect here")
}
