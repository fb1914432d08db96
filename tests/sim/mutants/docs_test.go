package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const document = "docs/mutants.md"

// TestDocument keeps the tables of the document true: a row for every defect, with the place that it changes, and a
// seed that found it.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), document))
	require.NoError(t, err)
	want, err := withTable(root(t), string(text), nil)
	require.NoError(t, err)
	have, lines := strings.Split(string(text), "\n"), strings.Split(want, "\n")
	for i := range min(len(have), len(lines)) {
		require.Equal(t, lines[i], have[i], "go run ./tests/sim/mutants -docs "+document+" -redo-docs makes the tables anew")
	}
	require.Len(t, have, len(lines))
	known := readRows(string(text))
	for _, m := range table() {
		if known[m.name].seed == 0 {
			t.Errorf("%s: no seed is noted; hunt for it with -only and -docs %s", m.title(), document)
		}
	}
}

// TestWithTable writes rows and reads them back.
func TestWithTable(t *testing.T) {
	text := "before\n" + tableBegin + tableEnd + "between\n" + hiddenBegin + tableEnd + "after\n"
	results := map[string]record{}
	for i, m := range table() {
		results[m.name] = record{seed: i + 1, sign: "it says [so]"}
	}
	full, err := withTable(root(t), text, results)
	require.NoError(t, err)
	require.Equal(t, results, readRows(full))
	again, err := withTable(root(t), full, map[string]record{table()[3].name: {seed: 4711, sign: "other"}})
	require.NoError(t, err)
	results[table()[3].name] = record{seed: 4711, sign: "other"}
	require.Equal(t, results, readRows(again))
	_, err = withTable(root(t), "no table", nil)
	require.Error(t, err)
}
