package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// endpoint is an address to listen on.
type endpoint struct {
	network string // "unix" or "tcp"
	address string
}

// parseEndpoint understands "unix:/path" and "tcp:host:port".
func parseEndpoint(s string) (endpoint, error) {
	network, address, ok := strings.Cut(s, ":")
	switch {
	case !ok || address == "" || strings.ContainsRune(address, 0):
	case network == "unix":
		// The kernel's limit for sun_path is 108 bytes with the final zero.
		if len(address) > 107 {
			return endpoint{}, fmt.Errorf("nbd: socket path %q is longer than 107 bytes: %w", address, unix.ENAMETOOLONG)
		}
		if strings.ContainsAny(address, "%?#") {
			return endpoint{}, fmt.Errorf("nbd: socket path %q has one of %%?# in it: %w", address, unix.EINVAL)
		}
		return endpoint{network, address}, nil
	case network == "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return endpoint{}, fmt.Errorf("nbd: listen address %q: %w: %w", s, err, unix.EINVAL)
		}
		return endpoint{network, address}, nil
	}
	return endpoint{}, fmt.Errorf("nbd: listen address %q is neither unix:PATH nor tcp:HOST:PORT: %w", s, unix.EINVAL)
}

// url is the address in gnet's words.
func (e endpoint) url() string { return e.network + "://" + e.address }

// prepare makes way for a listener. A socket that nobody listens on is
// removed; anything else that is in the way stays and is an error. (gnet would
// remove whatever it finds at the path, directories included.)
func (e endpoint) prepare() error {
	if e.network != "unix" {
		return nil
	}
	fi, err := os.Lstat(e.address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("nbd: listen on %s: %w", e.address, err)
	case fi.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("nbd: listen on %s: it exists and is not a socket: %w", e.address, unix.EEXIST)
	}
	err = probe(e.address)
	if !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			err = unix.EADDRINUSE
		}
		return fmt.Errorf("nbd: listen on %s: a server is there: %w", e.address, err)
	}
	if err := os.Remove(e.address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("nbd: remove the stale socket %s: %w", e.address, err)
	}
	return nil
}

// probe connects without waiting: a full backlog means that somebody listens.
func probe(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written to it
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}
