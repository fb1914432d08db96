package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

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
