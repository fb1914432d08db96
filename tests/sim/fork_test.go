package sim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShmOfDeadProcessesIsRemoved: a folder in memory goes with the test, and one whose process was killed with the
// next.
func TestShmOfDeadProcessesIsRemoved(t *testing.T) {
	if os.Getenv(shmEnv) != "" {
		t.Skip("the folder of a child belongs to its parent")
	}
	if _, err := os.Stat(shmRoot); err != nil {
		t.Skip("no memory file system")
	}
	cmd := exec.Command("true")
	require.NoError(t, cmd.Run())
	leave := func(pid int) string {
		dir := filepath.Join(shmRoot, fmt.Sprintf("%s%d-test", shmPrefix, pid))
		require.NoError(t, os.Mkdir(dir, 0o700))
		t.Cleanup(func() { os.RemoveAll(dir) })
		require.NoError(t, os.WriteFile(filepath.Join(dir, "l2p"), []byte("x"), 0o600))
		return dir
	}
	dead, alive := leave(cmd.Process.Pid), leave(os.Getpid())
	var mine string
	t.Run("test", func(t *testing.T) {
		mine = ShmDir(t)
		require.DirExists(t, mine)
	})
	require.NoDirExists(t, dead)
	require.DirExists(t, alive)
	require.NoDirExists(t, mine)
}
