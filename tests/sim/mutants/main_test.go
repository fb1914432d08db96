package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFlags reads flags that the simulator, which is part of this program, has too.
func TestFlags(t *testing.T) {
	o, err := parse([]string{"-seed", "7", "-seeds", "9", "-only", "rule 9"})
	require.NoError(t, err)
	require.Equal(t, 7, o.first)
	require.Equal(t, 9, o.seeds)
	require.True(t, o.only.MatchString("rule 9: freed"))
	_, err = parse([]string{"-only", "("})
	require.Error(t, err)
}
