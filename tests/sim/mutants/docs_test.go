package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const document = "docs/mutants.md"

// noSeedYet are defects for which the document has no seed: no hunt for them has come to its end.
var noSeedYet = []string{
	"superblock: no flush of the primary",
	"FULL written before the summary is durable",
	"a record of which a block's LBA is unknown counts as whole",
}

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
		switch open := slices.Contains(noSeedYet, m.name); {
		case known[m.name].seed == 0 && !open:
			t.Errorf("%s: no seed is noted; hunt for it with -only and -docs %s", m.title(), document)
		case known[m.name].seed != 0 && open:
			t.Errorf("%s: was found; take it from the list", m.title())
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
