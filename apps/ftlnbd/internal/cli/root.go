package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlnbd/internal/stack"
	"goftl/apps/internal/tune"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/superblock"
)

// Exit codes, as --help says.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDamaged = 3
	exitBusy    = 4
)

// errDamaged ends check when it found something wrong.
var errDamaged = errors.New("the device is damaged")

// usageError is an error in the arguments.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// app is what the commands share.
type app struct {
	out, err io.Writer
	place    stack.Place
	size     string
	cache    string
	bufSize  string
	spare    uint32
	tune     tune.Flags
	config   ftl.Config
	conf     map[string]string // what the directory remembers; nil: nothing
	verbose  bool
}

// Main runs the command line and returns the exit code.
func Main(args []string, out, errw io.Writer) int {
	a := &app{out: out, err: errw}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.Execute()
	code := exitCode(err)
	if err != nil && !errors.Is(err, errDamaged) {
		fmt.Fprintf(errw, "ftlnbd: %v\n", err)
		if code == exitUsage {
			fmt.Fprintln(errw, "Try 'ftlnbd --help'.")
		}
	}
	return code
}

func exitCode(err error) int {
	var u usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errDamaged):
		return exitDamaged
	case errors.As(err, &u):
		return exitUsage
	case errors.Is(err, unix.EBUSY):
		return exitBusy
	}
	return exitFailed
}

const rootLong = `ftlnbd makes one crash-safe block device of 4 KiB blocks out of a big device
that likes large sequential writes (the base) and a small fast one (the cache),
and serves it over NBD.

  ftlnbd serve --dir /data/ftl --size 8GiB     make (or load) a device and serve it
  ftlnbd plan --size 8GiB                      what would be made; writes nothing
  ftlnbd inspect --dir /data/ftl               what is there
  ftlnbd check --dir /data/ftl                 verify all of it, offline
  ftlnbd destroy --dir /data/ftl               remove it, after asking

A device is a directory with sparse files, or specs of its devices:

  file:PATH,size=20GiB[,driver=uring|aio][,direct=auto|on|off]
  malloc:5GiB,md=64     memory (gone with the process), with 64 bytes of metadata a block
  null:400GiB           nothing (for measuring)
  zone:SIZE,units=4,persist:SPEC
                        zones of SIZE over another spec, kept across restarts
  delay:..., errinj:... in front of another spec (for testing)

The base may be zoned: a band is then one zone of each parallel unit. There may be
no cache: writes then go to the base, and metadata to the base too, to its
conventional zones, or to a small device of its own.

  ftlnbd serve --dir D --size 8GiB --zones 64MiB,units=4      a zoned base, with a cache
  ftlnbd serve --dir D --size 8GiB --no-cache                 no cache, a conventional base
  ftlnbd serve --dir D --size 8GiB --no-cache --zones 64MiB,units=4,conv=4
  ftlnbd serve --dir D                                        each of them again

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 check found damage, 4 the
device is in use by another process.`

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use: "ftlnbd", Short: "A flash translation layer served over NBD", Long: rootLong,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log every step")
	c.CompletionOptions.DisableDefaultCmd = true
	c.AddCommand(a.serve(), a.plan(), a.inspect(), a.check(), a.destroy())
	return c
}

// placeFlags adds the flags that say where the device is.
func (a *app) placeFlags(c *cobra.Command, sizes bool) {
	f := c.Flags()
	f.StringVar(&a.place.Dir, "dir", "", "directory of the device: "+stack.CacheFile+", "+stack.BaseFile+", "+stack.SocketFile)
	f.StringVar(&a.place.Cache, "cache", "", "`SPEC` of the cache device, in place of the file in --dir")
	f.StringVar(&a.place.Base, "base", "", "`SPEC` of the base device, in place of the file in --dir")
	f.BoolVar(&a.place.NoCache, "no-cache", false, "the device has no cache: what users write goes to the base")
	f.StringVar(&a.place.Metadata, "metadata", "", "with --no-cache: `SPEC` of a small device for the metadata (default: the base, or its conventional zones)")
	f.StringVar(&a.place.Zones, "zones", "", "the base file in --dir is zoned: `SIZE[,units=N][,conv=N][,open=N]...`, what stands behind zone: in a spec")
	if sizes {
		f.StringVar(&a.size, "size", "", "size that clients see, of a new device (default 8GiB; with specs: as much as fits)")
		f.StringVar(&a.cache, "cache-size", "", "size of a new cache file (default: an eighth of --size, 64MiB to 5GiB)")
		a.tune.Register(f)
		f.Uint32Var(&a.spare, "spare", 0, "percent of a new base kept from users; more means less write amplification (default 20)")
	}
}

// bufferFlags adds the flags of the volatile write cache.
func (a *app) bufferFlags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&a.config.VolatileWriteCache, "volatile-write-cache", false,
		"answer writes once they are in memory: until a flush, the end of the process loses them as well as a power loss does")
	f.StringVar(&a.bufSize, "write-buffer", "", "size of the volatile write cache, a multiple of 4KiB (default 6MiB)")
}

// sizes parses the sizes given as text.
func (a *app) sizes() error {
	for _, f := range []struct {
		flag, text string
		v          *uint64
	}{
		{"--size", a.size, &a.place.SizeBytes},
		{"--cache-size", a.cache, &a.place.CacheSize},
		{"--write-buffer", a.bufSize, &a.config.WriteBufferBytes},
	} {
		if f.text == "" {
			continue
		}
		n, err := spec.ParseSize(f.text)
		if err != nil {
			return usageError{fmt.Errorf("%s: %w", f.flag, err)}
		}
		if n == 0 || n%4096 != 0 {
			return usageError{fmt.Errorf("%s %s: must be a positive multiple of 4096 bytes", f.flag, f.text)}
		}
		*f.v = n
	}
	switch {
	case a.bufSize != "" && !a.config.VolatileWriteCache:
		return usageError{errors.New("--write-buffer is the size of the volatile write cache: it needs --volatile-write-cache")}
	case a.config.WriteBufferBytes > ftl.MaxWriteBuffer:
		return usageError{fmt.Errorf("--write-buffer %s: at most %s", a.bufSize, spec.FormatSize(ftl.MaxWriteBuffer))}
	}
	return nil
}

// logger writes to the error output.
func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// quietLogger is for commands whose output is the result.
func (a *app) quietLogger() *slog.Logger {
	level := slog.LevelError
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument %q", c.CommandPath(), args[0])}
	}
	return nil
}

// explain adds the remedy to errors that have one.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w (another ftlnbd has the device open: stop it first)", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (check the owner and the mode of the files)", err)
	case errors.Is(err, ftl.ErrHalfBlank), errors.Is(err, superblock.ErrForeign):
		return fmt.Errorf("%w (nothing was changed; if it is the right device and only its first block was written over, serve it once with --rewrite-superblock)", err)
	}
	return err
}
