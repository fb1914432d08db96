package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// record is what the document says of a defect that was found.
type record struct {
	seed int
	sign string
}

const (
	tableBegin  = "<!-- table: made by make sim-mutants MUTANTARGS='-docs docs/mutants.md' -->\n"
	hiddenBegin = "<!-- table of what is hidden -->\n"
	hiddenHead  = "| Rule | Left out | Changed | What makes up for it |\n|---|---|---|---|\n"
	tableEnd    = "<!-- end of table -->\n"
	tableHead   = "| # | Rule | Defect | Changed | Test | Seed | What the simulator said |\n|---|---|---|---|---|---|---|\n"
)

// updateDocs makes the document's table anew: with new results, and with those that it has of other defects.
func updateDocs(root, docs string, results map[string]record) error {
	path := docs
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, docs)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, err := withTable(root, string(text), results)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(out), 0o644) //nolint:gosec // a document that everybody may read
}

// withTable returns the document with a new table.
func withTable(root, text string, results map[string]record) (string, error) {
	head, rest, ok := strings.Cut(text, tableBegin)
	old, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("the document has no lines %q and %q", tableBegin, tableEnd)
	}
	known := readRows(old)
	for name, r := range results {
		known[name] = r
	}
	var b strings.Builder
	b.WriteString(head + tableBegin + tableHead)
	for i, m := range table() {
		where, err := m.where(root)
		if err != nil {
			return "", err
		}
		seed := "none"
		if r := known[m.name]; r.seed != 0 {
			seed = strconv.Itoa(r.seed)
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | `%s` | %s | %s |\n", i+1, m.rule, m.name, where, m.test, seed, known[m.name].sign)
	}
	b.WriteString(tableEnd)
	return withHidden(root, b.String(), tail)
}

// withHidden appends the rest of the document with its second table made anew.
func withHidden(root, done, rest string) (string, error) {
	head, rest, ok := strings.Cut(rest, hiddenBegin)
	_, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("the document has no lines %q and %q", hiddenBegin, tableEnd)
	}
	var b strings.Builder
	b.WriteString(done + head + hiddenBegin + hiddenHead)
	for _, m := range tableHidden {
		where, err := m.where(root)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.rule, m.name, where, m.hidden)
	}
	b.WriteString(tableEnd + tail)
	return b.String(), nil
}

// readRows returns the results that a table holds, by name.
func readRows(text string) map[string]record {
	known := make(map[string]record)
	for line := range strings.Lines(text) {
		cells := strings.Split(line, " | ")
		if len(cells) != 7 {
			continue
		}
		seed, err := strconv.Atoi(cells[5])
		if err != nil {
			continue
		}
		known[cells[2]] = record{seed: seed, sign: strings.TrimSuffix(strings.TrimSpace(cells[6]), " |")}
	}
	return known
}
