package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlnbd/internal/stack"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/nbd"
	"goftl/reactor"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	socket     string
	listen     string
	export     string
	shm        string
	cpu        int
	mode       string
	readOnly   bool
	acceptLoss bool
	rewriteSB  bool
	noVerify   bool
	fastStop   bool
}

const serveLong = `serve makes a device on first use, loads it after that, and serves it over NBD
until SIGINT or SIGTERM: then it lets clients finish what is under way, writes a
checkpoint and stops. A second signal stops at once; the next start then replays
the log, and nothing that was flushed is lost.

  ftlnbd serve --dir /data/ftl --size 100GiB
  ftlnbd serve --dir /data/ftl                               load it again
  ftlnbd serve --cache file:/nvme/c.img,size=10GiB --base file:/dev/sdb --socket /tmp/s
  ftlnbd serve --cache malloc:1GiB,md=64 --base file:/hdd/b.img,size=100GiB --socket /tmp/s
  ftlnbd serve --dir /data/z --zones 64MiB,units=4,open=16 --zone-append
  ftlnbd serve --no-cache --metadata file:/ssd/meta.img,size=1GiB --base zone:256MiB,persist:file:/hdd/b.img \
      --socket /tmp/s

What a device in --dir is made of and how it is tuned is remembered in
DIR/` + stack.ConfFile + `, unless it is two plain files: then the names of the files say it all.

Sockets: a unix socket (default DIR/` + stack.SocketFile + `), and TCP with --listen. There is no
encryption or authentication: listen on loopback, or on networks that you trust.

Promises: a write that was answered is kept if the process dies; a write that was
flushed (or sent with FUA) is kept if power is lost. With --volatile-write-cache
only what was flushed is kept in either case. See README.md.`

func (a *app) serve() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve", Short: "Make or load a device and serve it over NBD", Long: serveLong, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.runServe(c, &f) },
	}
	a.placeFlags(c, true)
	a.bufferFlags(c)
	fl := c.Flags()
	fl.StringVar(&f.socket, "socket", "", "unix socket to listen on (default DIR/"+stack.SocketFile+")")
	fl.StringVar(&f.listen, "listen", "", "TCP address to listen on as well, such as 127.0.0.1:10809")
	fl.StringVar(&f.export, "export", "ftl0", "name of the export; the empty name reaches it too")
	fl.StringVar(&f.shm, "shm", "auto", "keep the mapping in shared memory for a fast restart after a crash of the process: auto, off, or a directory")
	fl.IntVar(&f.cpu, "cpu", -1, "CPU to pin the device's thread to (-1: any)")
	fl.StringVar(&f.mode, "mode", "adaptive", "when the device's thread sleeps: adaptive, interrupt (never spins) or poll (never sleeps)")
	fl.BoolVar(&f.readOnly, "read-only", false, "serve an existing device without writing anything to it")
	fl.BoolVar(&f.acceptLoss, "accept-loss", false, "take writes again although records that were durable cannot be read")
	fl.BoolVar(&f.rewriteSB, "rewrite-superblock", false, "where something else wrote over the first block of one device, write the superblock anew from the other device's copy")
	fl.BoolVar(&f.noVerify, "no-verify", false, "do not verify checksums on reads (for measuring only)")
	fl.BoolVar(&f.fastStop, "fast-stop", false, "stop without a checkpoint; the next start uses shared memory or replays the log")
	return c
}

func (a *app) runServe(c *cobra.Command, f *serveFlags) error {
	if err := a.settle(c); err != nil {
		return err
	}
	mode, ok := map[string]reactor.Mode{"adaptive": reactor.Adaptive, "interrupt": reactor.Interrupt, "poll": reactor.Poll}[f.mode]
	if !ok {
		return usageError{fmt.Errorf("--mode %s: use adaptive, interrupt or poll", f.mode)}
	}
	listen, err := a.listenAddrs(f)
	if err != nil {
		return err
	}
	if a.place.Dir != "" {
		_, missing := os.Stat(a.place.Dir)
		if err := os.MkdirAll(a.place.Dir, 0o700); err != nil {
			return err
		}
		if missing != nil {
			defer os.Remove(a.place.Dir) // it goes only if nothing came to be in it
		}
	}
	// Signals count from here on: one while the device starts ends the start.
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(sig)
	cancel, ready := make(chan struct{}), make(chan struct{})
	go func() {
		select {
		case s := <-sig:
			close(cancel)
			sig <- s // it may have come too late for that
		case <-ready:
		}
	}()

	log := a.logger()
	bar := newProgress(a.err)
	remember, forget := a.remember(c)
	st, err := stack.Open(stack.Options{
		Place: a.place, Config: a.config, Remember: remember, Forget: forget, Name: f.export, Create: !f.readOnly, ReadOnly: f.readOnly, AcceptLoss: f.acceptLoss,
		RewriteSuperblock: f.rewriteSB, NoVerify: f.noVerify, Shm: f.shm, CPU: f.cpu, Mode: mode, Logger: log, Progress: bar.update,
		OnHealth: func(h ftl.Health, err error) {
			log.Error("the device serves less now", "health", h.String(), "err", err)
		},
		Cancel: cancel,
	})
	close(ready)
	bar.end()
	if errors.Is(err, ftl.ErrCancelled) {
		log.Info("stopped before the device was ready; nothing was changed")
		return nil
	}
	if err != nil {
		return explain(err)
	}
	size := st.Device.Blocks() * 4096
	what := "loaded"
	if st.Created {
		what = "created"
	}
	// Before anybody can connect, and also where listening fails: the device is there.
	fmt.Fprintf(a.out, "%s %s (%s) in %s\n", what, f.export, spec.FormatSize(size), st.Took.Round(time.Millisecond))
	if a.place.SizeBytes != 0 && size != a.place.SizeBytes {
		log.Warn("--size is for a new device; this one has another size", "size", spec.FormatSize(size), "asked", a.size)
	}
	if err := st.Export(f.export); err != nil {
		return errors.Join(err, st.Close(false))
	}
	srv, err := a.startServer(st, f, listen, log)
	if err != nil {
		return errors.Join(explain(err), st.Close(false))
	}
	a.hello(f, listen)
	a.waitStop(sig, log)
	return a.stop(st, srv, f, log)
}

// listenAddrs says where to listen.
func (a *app) listenAddrs(f *serveFlags) ([]string, error) {
	var out []string
	sock := f.socket
	if sock == "" && a.place.Dir != "" {
		sock = filepath.Join(a.place.Dir, stack.SocketFile)
	}
	if sock != "" {
		abs, err := filepath.Abs(sock)
		if err != nil {
			return nil, err
		}
		if len(abs) > 107 {
			return nil, usageError{fmt.Errorf("the socket's path %s is longer than the system allows (107 bytes): use --socket", abs)}
		}
		out = append(out, "unix:"+abs)
	}
	if f.listen != "" {
		out = append(out, "tcp:"+f.listen)
	}
	if len(out) == 0 {
		return nil, usageError{errors.New("nowhere to listen: give --dir, --socket or --listen")}
	}
	return out, nil
}

func (a *app) startServer(st *stack.Stack, f *serveFlags, listen []string, log *slog.Logger) (*nbd.Server, error) {
	srv, err := nbd.NewServer(nbd.Config{
		Exports: []nbd.Export{{
			Name: f.export, Description: "goftl " + st.Device.Name(), Desc: st.Desc, Thread: st.Core,
			ReadOnly: f.readOnly, FastZero: true,
		}},
		Default: f.export, Listen: listen, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return srv, srv.Start()
}

// hello says where the export is served, now that it is, and what to type next.
func (a *app) hello(f *serveFlags, listen []string) {
	for _, l := range listen {
		uri := nbdURI(l, f.export)
		fmt.Fprintf(a.out, "\nserving %s\n\n", uri)
		fmt.Fprintf(a.out, "  copy in     nbdcopy FILE '%s'\n", uri)
		fmt.Fprintf(a.out, "  look        nbdinfo '%s'\n", uri)
		fmt.Fprintf(a.out, "  QEMU        qemu-system-x86_64 -drive file='%s',format=raw,if=virtio\n", uri)
		fmt.Fprintf(a.out, "  as a file   nbdfuse MOUNTPOINT/%s.img '%s'\n", f.export, uri)
		if path, ok := strings.CutPrefix(l, "unix:"); ok {
			fmt.Fprintf(a.out, "  as /dev/nbd0 (root)  nbd-client -unix %s -N %s -b 4096 /dev/nbd0\n", path, f.export)
		} else {
			host, port, _ := strings.Cut(strings.TrimPrefix(l, "tcp:"), ":")
			fmt.Fprintf(a.out, "  as /dev/nbd0 (root)  nbd-client %s %s -N %s -b 4096 /dev/nbd0\n", host, port, f.export)
		}
	}
	fmt.Fprintln(a.out, "\nSIGINT or SIGTERM stops cleanly; a second one at once, still crash-safe.")
}

func nbdURI(listen, export string) string {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		// In a query & and + mean something; slashes need not be escaped, and are easier to read.
		socket := strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(path))
		return "nbd+unix:///" + url.PathEscape(export) + "?socket=" + socket
	}
	return "nbd://" + strings.TrimPrefix(listen, "tcp:") + "/" + url.PathEscape(export)
}

// sameSignal is how long further signals count as the first one.
const sameSignal = 200 * time.Millisecond

// waitStop returns at the first signal; another one ends the process at once.
func (a *app) waitStop(sig chan os.Signal, log *slog.Logger) {
	s := <-sig
	log.Info("stopping; a second signal stops at once", "signal", s.String())
	go func() {
		// Tools that signal a process and its group send two at once.
		time.Sleep(sameSignal)
		for len(sig) > 0 {
			<-sig
		}
		<-sig
		log.Warn("stopped at once; the next start replays the log")
		os.Exit(exitFailed)
	}()
}

// drainTime is how long clients may take to finish what is under way.
const drainTime = 30 * time.Second

func (a *app) stop(st *stack.Stack, srv *nbd.Server, f *serveFlags, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := srv.Stop(ctx); err != nil {
		log.Warn("connections were cut", "err", err)
	}
	var s ftl.Stats
	var health ftl.Health
	var failure error
	_ = st.OnCore(func() error {
		st.Device.Stats(&s)
		health, failure = st.Device.Health()
		return nil
	})
	if err := st.Close(f.fastStop); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	log.Info("stopped", "clean", !f.fastStop && health == ftl.HealthOK, "user_blocks_written", s.User.Write.Blocks,
		"waf", fmt.Sprintf("%.2f", s.WAF()))
	if health != ftl.HealthOK && !f.readOnly {
		return fmt.Errorf("the device was %s when it stopped, and is not clean: %w", health, failure)
	}
	return nil
}
