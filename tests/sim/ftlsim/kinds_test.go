package ftlsim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim"
)

// nbdShare is what the tests of nbdsim have of all seeds.
const nbdShare = 4

// TestShares: what the kinds of worlds have of all seeds makes up the whole.
func TestShares(t *testing.T) {
	sum := nbdShare
	for i := range Kinds {
		sum += sim.Share(Kinds[i].Scale)
	}
	require.Equal(t, sim.Weights, sum)
}
