package reactor_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/reactor"
	"goftl/thread"
)

// TestExitFindsThreadsOnTheirWay: threads that move while the group is told to let all of them exit, exit too.
func TestExitFindsThreadsOnTheirWay(t *testing.T) {
	for range 200 {
		g, err := reactor.NewGroup(reactor.GroupOptions{Count: 2})
		require.NoError(t, err)
		g.Start()
		sys := thread.NewSystem()
		threads := make([]*thread.Thread, 8)
		for i := range threads {
			threads[i] = sys.NewThread(fmt.Sprint(i))
			g.Add(threads[i])
		}
		for i := range 4 {
			for k, th := range threads {
				require.NoError(t, g.Move(th, g.Reactors()[(i+k)%2]))
			}
		}
		require.NoError(t, g.ExitThreads())
		for _, th := range threads {
			require.True(t, th.Exited(), "thread %s", th.Name())
		}
		g.Stop()
	}
}
