package cli

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// FuzzFlags: a command line, one argument in each line, makes a run or is refused as wrong; nothing is opened.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"--bdev=null:1GiB\n--rw=randrw\n--bs=4k,8k,64k\n--rwmixread=70\n--size=25%\n--runtime=1m", "--cache\nnull:1GiB\n--base\nnull:9GiB\n--verify\n--fill",
		"--nbd=nbd://h/x\n--connections=4\n--numjobs=8", "--bs=0", "--bs=,,", "--cpus=0-3,9\n--threads=5", "--crash-after=10s\n--cache=x\n--base=y",
		"--random_distribution=zoned:1/1\n--bdev=x", "--verify_only\n--verify-state=f\n--bdev=null:1MiB", "--filename=x\n--readwrite=trim\n--direct", "--offset=-1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		var fl flags
		cmd := &cobra.Command{Use: "ftlperf"}
		cmd.SetOut(io.Discard)
		fl.register(cmd)
		if cmd.Flags().Parse(strings.Split(lines, "\n")) != nil {
			return
		}
		c, err := fl.config(cmd.Flags())
		if err != nil {
			var errno unix.Errno
			require.True(t, errors.As(err, &errno), "%v", err)
			return
		}
		require.NotNil(t, c.Open)
		for _, bs := range c.Job.BlockSize {
			require.True(t, bs > 0 && bs <= 64<<20)
		}
		require.True(t, c.NumJobs >= 0 && c.NumJobs <= jobsMax)
		require.True(t, c.Job.MixRead >= 0 && c.Job.MixRead <= 100)
	})
}
