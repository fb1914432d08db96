package nbd

import (
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/nbd/proto"
	"goftl/thread"
)

// What is advertised, and what is taken from clients that do not care.
const (
	MaxPayload     = 32 << 20  // advertised
	MaxRequest     = 64 << 20  // served: clients that do not ask for limits send this much
	maxSkip        = 256 << 20 // data of a refused write that is read and thrown away; more ends the connection
	preferredBlock = 4096
)

// Limits bound what clients can make the server hold. Zero fields take their
// defaults.
type Limits struct {
	Requests int // of one connection, unanswered; default 1024
	Bytes    int // of one connection, data of unanswered requests; default 64 MiB
	// ThreadBytes is for the data of all connections of a thread; a request
	// that needs more is refused. Default 512 MiB.
	ThreadBytes int
	Conns       int // connections of the server; default 1024
	// HandshakeTicks is how many seconds a client may take to negotiate;
	// default 30.
	HandshakeTicks int
	// Stall is how long a client may leave replies unread, or the data of a
	// write unsent, while it holds memory that another one waits for; then it
	// is cut off. Default 30 s.
	Stall time.Duration
}

// Export is a device to serve under a name.
type Export struct {
	Name, Description string
	// Desc is the opened device. The caller keeps it and closes it only after
	// RemoveExport or Stop.
	Desc *bdev.Desc
	// Thread has the device's channel and serves all connections of the
	// export. Its host must be able to watch file descriptors.
	Thread   *thread.Thread
	ReadOnly bool
	// FastZero says that the device writes zeroes without writing them. If
	// not, requests that insist on it are refused.
	FastZero bool
}

// Config describes a server.
type Config struct {
	Exports []Export
	Default string   // the export that the empty name reaches; the only one when empty
	Listen  []string // "unix:/path", "tcp:127.0.0.1:10809"
	Logger  *slog.Logger
	Limits  Limits
	// MaxConns is Limits.Conns, when set.
	MaxConns int
}

func (l *Limits) complete() error {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Requests, 1024)
	def(&l.Bytes, MaxRequest)
	def(&l.ThreadBytes, 512<<20)
	def(&l.Conns, 1024)
	def(&l.HandshakeTicks, 30)
	if l.Stall == 0 {
		l.Stall = 30 * time.Second
	}
	checks := []struct {
		name        string
		v, min, max int
	}{
		{"Requests", l.Requests, 1, 1 << 16},
		{"Bytes", l.Bytes, 64 << 10, 1 << 40},
		{"ThreadBytes", l.ThreadBytes, 2 * slabSize, 1 << 40},
		{"Conns", l.Conns, 1, 1 << 20},
		{"HandshakeTicks", l.HandshakeTicks, 1, 1 << 20},
	}
	for _, c := range checks {
		if c.v < c.min || c.v > c.max {
			return fmt.Errorf("nbd: limit %s is %d, it must be between %d and %d: %w", c.name, c.v, c.min, c.max, unix.EINVAL)
		}
	}
	if l.Stall < time.Second || l.Stall > 1000*time.Hour {
		return fmt.Errorf("nbd: limit Stall is %v, it must be between 1s and 1000h: %w", l.Stall, unix.EINVAL)
	}
	return nil
}

// export is what is known of an Export. It is immutable but for its counters.
type export struct {
	Export
	host    *Host
	removed bool // belongs to the thread
	size    uint64
	flags   proto.TransmissionFlags
	info    bdev.Info // when it was added
	gran    uint64    // bytes: what is written whole, a power of two
	stats   exportCounters
}

// newExport checks that e can be served.
func newExport(e Export) (*export, error) {
	bad := func(why string) error {
		return fmt.Errorf("nbd: export %q: %s: %w", e.Name, why, unix.EINVAL)
	}
	switch {
	case len(e.Name) > proto.MaxStringSize || len(e.Description) > proto.MaxStringSize:
		return nil, bad("name or description is longer than 4096 bytes")
	case e.Desc == nil || e.Thread == nil:
		return nil, bad("no device or no thread")
	}
	info := *e.Desc.Bdev().Info()
	gran := uint64(info.BlockSize) * uint64(max(1, info.WriteUnit))
	switch {
	case info.Zoned:
		return nil, bad("zoned devices cannot be served")
	case gran&(gran-1) != 0 || gran > slabUnitMax:
		return nil, bad("the write unit is not a power of two of at most 1 MiB")
	}
	x := &export{Export: e, info: info, gran: gran, size: info.Bytes()}
	x.ReadOnly = e.ReadOnly || info.ReadOnly || !e.Desc.Writable() || !info.Ops.Has(bdev.OpWrite)
	x.flags = transmissionFlags(&info, x.ReadOnly)
	return x, nil
}

func transmissionFlags(info *bdev.Info, readOnly bool) proto.TransmissionFlags {
	f := proto.FlagHasFlags | proto.FlagMultiConn | proto.FlagSendCache
	if readOnly {
		return f | proto.FlagReadOnly
	}
	if info.Ops.Has(bdev.OpFlush) {
		f |= proto.FlagSendFlush | proto.FlagSendFUA
	}
	if info.Ops.Has(bdev.OpUnmap) {
		f |= proto.FlagSendTrim
	}
	// A device that cannot write zeroes gets writes from the layer.
	return f | proto.FlagSendWriteZeroes | proto.FlagSendFastZero
}

// flagsFor returns the transmission flags of a connection.
func (x *export) flagsFor(structured bool) proto.TransmissionFlags {
	if structured {
		return x.flags | proto.FlagSendDF
	}
	return x.flags
}

// Catalog is an immutable set of exports.
type Catalog struct {
	list   []*export
	byName map[string]*export
	def    *export
}

// NewCatalog makes a catalog; def names the export that the empty name
// reaches. It is what a Handshake needs; a Server makes its own.
func NewCatalog(def string, exports ...Export) (*Catalog, error) {
	list := make([]*export, 0, len(exports))
	for _, e := range exports {
		x, err := newExport(e)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return newCatalog(def, list)
}

func newCatalog(def string, list []*export) (*Catalog, error) {
	c := &Catalog{list: list, byName: make(map[string]*export, len(list))}
	for _, x := range list {
		if c.byName[x.Name] != nil {
			return nil, fmt.Errorf("nbd: two exports are named %q: %w", x.Name, unix.EEXIST)
		}
		c.byName[x.Name] = x
	}
	c.def = c.byName[def]
	if c.def == nil && def == "" && len(list) == 1 {
		c.def = list[0]
	}
	return c, nil
}

// find returns the export of that name, nil when there is none.
func (c *Catalog) find(name []byte) *export {
	if len(name) == 0 {
		return c.def
	}
	return c.byName[string(name)]
}
