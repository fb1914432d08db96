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
	"descriptors: a repaired one is not flushed before its mirror is written",
	"superblock: a copy that is older or torn is not repaired at a load",
	"D counts what was acknowledged during a checkpoint",
	"FULL written before the summary is durable",
	"reads do not hold what they read",
	"rotten pages and lost records do not stop the writing",
	"a load flushes neither before it reads nor before it writes second copies of descriptors",
	"the clean flag stays set",
	"segments found open are closed before recovery's checkpoint",
	"chunks found open stay OPEN, and records of an earlier incarnation in them count",
	"a record of which a block's LBA is unknown counts as whole",
	"no pad when the log goes idle",
	"records that the checkpoint covers are redone",
	"recovery begins no incarnation",
	"a clean stop without a checkpoint",
	"the clean flag is set before the last checkpoint",
	"a stop does not wait for what is under way",
	"shared memory of another incarnation is taken",
	"pages of an interrupted checkpoint stay clean in shared memory",
	"valid blocks of a moved block are counted twice",
	"the last slot is missing in the summary",
	"trims end a block early",
	"the number of a failed record is used again, without a void record",
	"what stands behind a failed write stays in its segment",
	"records that are written again go out of order",
	"the cache of checksums does not know generations",
	"a block in flight is found after it was answered",
	"zones are reset when their band becomes empty, and no checkpoint says so",
	"without a cache a flush goes to the device of the metadata",
	"user records in full bands are not redone",
	"without a cache the last free bands go to users",
	"a load takes the zones that a band has now for those it was opened with",
	"on zones the summary is taken from where it would be on a conventional base",
	"a summary is written behind records that zones do not end with",
	"records are not padded to write units",
	"stripes of a band go round its zones one too few",
	"the second superblock of a zoned base lies over the first",
	"a flush does not wait for what is in write buffers",
	"a flush waits for one block less than was answered",
	"an older write hides one that was answered",
	"a write is answered before it can be read",
	"entries are used again before the log is done with them",
	"what was answered and given up reads as older content",
	"flushes succeed although answered writes were given up",
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
