// Command ftlperf measures block devices, FTLs and NBD servers; its options and
// its JSON are fio's. See ftlperf --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/cli"
)

func main() {
	// The first signal stops the jobs and reports; a second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	os.Exit(cli.Main(ctx, version(), os.Args[1:], os.Stdout, os.Stderr))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
