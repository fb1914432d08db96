package sim

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLimitOfRun: the limit is one of steps without progress, however long all of it takes.
func TestLimitOfRun(t *testing.T) {
	const limit, parts = 20, 100
	play := func(tell bool) (done int, err error) {
		w := NewWorld(NewRand(1), nil, WorldOptions{})
		var next func(any)
		next = func(any) {
			if done++; tell {
				w.Progress()
			}
			w.After(1, next, nil)
		}
		w.After(0, next, nil)
		err = w.Run(limit, func() bool { return done == parts })
		return done, err
	}
	done, err := play(true)
	require.NoError(t, err)
	require.Equal(t, parts, done)
	done, err = play(false)
	require.ErrorIs(t, err, ErrSteps)
	require.Less(t, done, parts)
}
