package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim/ftlsim"
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

// TestAsked makes sure that a hunt plays every seed of a batch.
func TestAsked(t *testing.T) {
	for i := range ftlsim.Kinds {
		k := &ftlsim.Kinds[i]
		require.Equal(t, batch, asked(k.Test, batch)/k.Scale, k.Name)
	}
	for _, m := range append(table(), tableHidden...) {
		require.GreaterOrEqual(t, asked(m.test, batch), batch, m.name)
	}
}
