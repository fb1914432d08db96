package ftlsim

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMissingStatesAreReported: a run of enough seeds that did not reach a required state says so, a shorter one does
// not, and every state is required somewhere.
func TestMissingStatesAreReported(t *testing.T) {
	known := make(map[string]bool)
	for i := range Kinds {
		known[Kinds[i].Name] = true
	}
	for _, s := range States() {
		require.NotEmpty(t, s.Seeds, s.Name)
		for kind, n := range s.Seeds {
			require.True(t, known[kind], "%s: there is no kind of world %q", s.Name, kind)
			all := make(map[string]uint64)
			for _, o := range States() {
				all[o.Name] = 1
			}
			_, missing := Report(States(), kind, n, all)
			require.Empty(t, missing)
			delete(all, s.Name)
			table, missing := Report(States(), kind, n, all)
			require.Equal(t, []string{s.Name}, missing)
			require.Contains(t, strings.Join(table, "\n"), s.Name)
			_, missing = Report(States(), kind, n-1, all)
			require.Empty(t, missing)
		}
	}
}
