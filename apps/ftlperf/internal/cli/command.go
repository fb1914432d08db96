package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/run"
	"goftl/apps/ftlperf/internal/units"
	"goftl/apps/ftlperf/internal/yardstick"
)

// errFailed is returned when the run ended and found errors, which were reported.
var errFailed = errors.New("the run had errors")

// Main runs the command line and returns the exit status: 0, 1 when a run had
// errors, 2 when it could not be carried out.
func Main(ctx context.Context, version string, args []string, out, errOut io.Writer) int {
	root := command(version, out)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFailed):
		return 1
	}
	_, _ = fmt.Fprintf(errOut, "ftlperf: %v\n", err)
	if errors.Is(err, unix.EINVAL) {
		_, _ = fmt.Fprintln(errOut, "Try \"ftlperf --help\".")
	}
	return 2
}

func command(version string, out io.Writer) *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use: "ftlperf [SPEC] [options]", Short: "Measure block devices, FTLs and NBD servers", Long: longHelp, Example: examples,
		DisableFlagsInUseLine: true, Version: version, SilenceUsage: true, SilenceErrors: true,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if f.bdev != "" {
					return usageError("two devices given: %s and %s", args[0], f.bdev)
				}
				f.bdev = args[0]
			}
			if len(args) == 0 && cmd.Flags().NFlag() == 0 {
				return cmd.Help()
			}
			return f.execute(cmd.Context(), cmd.Flags(), version, out)
		},
	}
	f.register(root)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(yardstickCommand(out), specsTopic())
	return root
}

// execute carries out a run and writes its report.
func (f *flags) execute(ctx context.Context, set *pflag.FlagSet, version string, out io.Writer) error {
	c, err := f.config(set)
	if err != nil {
		return err
	}
	c.Report.Version = version
	c.Report.Options = map[string]string{}
	set.Visit(func(fl *pflag.Flag) { c.Report.Options[fl.Name] = fl.Value.String() })
	if f.output != "" {
		file, err := os.Create(f.output)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // the flush below reports errors
		out = file
	}
	r, err := run.Do(ctx, c)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	if f.outputFormat == "normal" {
		err = r.Text(w)
	} else {
		err = r.JSON(w, f.outputFormat == "json+" || f.histogram)
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	if r.Errors() > 0 {
		return errFailed
	}
	return nil
}

func yardstickCommand(out io.Writer) *cobra.Command {
	var duration, logSize string
	var cpu, runs int
	cmd := &cobra.Command{
		Use:   "yardstick",
		Short: "Measure the machine: 4 KiB random log-writes of one thread, in millions a second",
		Long:  yardstickHelp,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d, err := units.Duration(duration)
			if err != nil {
				return err
			}
			size, err := units.Size(logSize)
			if err != nil {
				return err
			}
			if runs < 1 || d <= 0 || size < 1<<20 || size%4096 != 0 {
				return usageError("--runs and --duration must be positive, --log-size 1 MiB or more")
			}
			r, err := yardstick.Measure(yardstick.Options{CPU: cpu, Duration: d, Runs: runs, LogBytes: int(size)})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "yardstick: %v\n", r)
			return err
		},
	}
	cmd.Flags().StringVar(&duration, "duration", (2 * time.Second).String(), "`TIME` of each run")
	cmd.Flags().IntVar(&runs, "runs", 3, "runs; the median counts")
	cmd.Flags().IntVar(&cpu, "cpu", -1, "CPU to run on (default: where it starts)")
	cmd.Flags().StringVar(&logSize, "log-size", "2g", "`SIZE` of the mapping; figures are compared by 2g")
	return cmd
}

func specsTopic() *cobra.Command {
	return &cobra.Command{Use: "specs", Short: "How devices are named", Long: specsHelp}
}
