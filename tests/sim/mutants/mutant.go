package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// edit is one change of a source file: old, which must occur exactly once, becomes new.
type edit struct {
	file     string // relative to the root of the repository
	old, new string
}

// mutant is one defect.
type mutant struct {
	rule  string // of ARCHITECTURE.md, rules of power loss; "-" for what they do not speak of
	name  string
	test  string // of tests/sim/ftlsim, or nbdsim, that must find it
	edits []edit
	// hidden says, of a defect in tableHidden, what makes up for it.
	hidden string
}

// The tests that find defects.
const (
	crashes  = "TestFTL"
	restless = "TestFTLRestless"
	faults   = "TestFTLFaults"
	rot      = "TestFTLRot"
	bases    = "TestFTLBases"
	stray    = "TestFTLStray"
	buffered = "TestFTLBuffered"
	gone     = "TestFTLGone"

	bufferedFaults = "TestFTLBufferedFaults"

	clients         = "TestNBD"
	clientsBuffered = "TestNBDBuffered"
)

// simulator is the package of a test.
func simulator(test string) string {
	if strings.HasPrefix(test, "TestNBD") {
		return "./tests/sim/nbdsim"
	}
	return "./tests/sim/ftlsim"
}

// table is all defects that must be found, by rule.
func table() []mutant {
	return slices.Concat(tableMetadata, tableLog, tableSpace, tableCheckpoint, tableLife, tableRest, tableZones, tableBuffers, tableNBD)
}

// mutate returns the changed texts of the files that m changes, by file.
func (m *mutant) mutate(root string) (map[string]string, error) {
	texts := make(map[string]string)
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s: the place to change occurs %d times and not once; look for what became of it:\n%s", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return texts, nil
}

// overlay writes the changed files into dir and returns the file for go build -overlay.
func (m *mutant) overlay(root, dir string) (string, error) {
	texts, err := m.mutate(root)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string, len(texts))
	for file, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = to
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}

// where names the files and functions that m changes.
func (m *mutant) where(root string) (string, error) {
	var files []string
	funcs := make(map[string][]string)
	for _, e := range m.edits {
		text, err := os.ReadFile(filepath.Join(root, e.file))
		if err != nil {
			return "", err
		}
		blank := len(e.old) - len(strings.TrimLeft(e.old, "\n\t "))
		name, err := funcAt(e.file, text, strings.Index(string(text), e.old)+blank)
		if err != nil {
			return "", err
		}
		if funcs[e.file] == nil {
			files = append(files, e.file)
		}
		if !slices.Contains(funcs[e.file], name) {
			funcs[e.file] = append(funcs[e.file], name)
		}
	}
	parts := make([]string, 0, len(files))
	for _, f := range files {
		parts = append(parts, "`"+f+"` "+strings.Join(funcs[f], ", "))
	}
	return strings.Join(parts, "; "), nil
}

// funcAt is the name of the function in which, or in whose comment, offset lies.
func funcAt(file string, text []byte, offset int) (string, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		from := fn.Pos()
		if fn.Doc != nil {
			from = fn.Doc.Pos()
		}
		if offset >= set.Position(from).Offset && offset < set.Position(fn.End()).Offset {
			return fn.Name.Name, nil
		}
	}
	return "", fmt.Errorf("%s: the place to change lies in no function", file)
}
