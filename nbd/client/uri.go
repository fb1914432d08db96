package client

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultPort is where NBD servers listen on TCP unless told otherwise.
const DefaultPort = "10809"

// Target is where an export is found.
type Target struct {
	Network string // "unix" or "tcp"
	Address string // a path, or host:port
	Export  string // may be empty: the server's default
}

// ParseURI understands nbd://host[:port]/export and
// nbd+unix:///export?socket=/path. TLS is not spoken.
func ParseURI(uri string) (Target, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Target{}, fmt.Errorf("nbd client: URI %q: %w: %w", uri, err, unix.EINVAL)
	}
	t := Target{Export: strings.TrimPrefix(u.Path, "/")}
	switch u.Scheme {
	case "nbd+unix":
		t.Network, t.Address = "unix", u.Query().Get("socket")
		if t.Address == "" || strings.ContainsRune(t.Address, 0) {
			return Target{}, fmt.Errorf("nbd client: URI %q has no ?socket=PATH: %w", uri, unix.EINVAL)
		}
	case "nbd":
		if u.Hostname() == "" {
			return Target{}, fmt.Errorf("nbd client: URI %q names no host: %w", uri, unix.EINVAL)
		}
		port := u.Port()
		if port == "" {
			port = DefaultPort
		}
		t.Network, t.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
		if _, _, err := net.SplitHostPort(t.Address); err != nil {
			return Target{}, fmt.Errorf("nbd client: URI %q names no host: %w: %w", uri, err, unix.EINVAL)
		}
	default:
		return Target{}, fmt.Errorf("nbd client: URI %q: scheme %q is neither nbd nor nbd+unix: %w",
			uri, u.Scheme, unix.EINVAL)
	}
	return t, nil
}
