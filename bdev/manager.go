package bdev

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/internal/assert"
	"goftl/iobuf"
	"goftl/thread"
)

// Defaults of the pool of IOs that every channel has.
const (
	DefaultPoolMax  = 4096
	DefaultPoolStep = 64
)

// zeroBytes is the size of the shared buffer that zeroes are written from.
const zeroBytes = 1 << 20

// Manager is the registry of block devices. Its methods may be called on any
// thread.
type Manager struct {
	sys  *thread.System
	pool *iobuf.Pool
	list atomic.Pointer[[]*Bdev] // immutable, replaced as a whole
	zero atomic.Pointer[[]byte]

	poolMax, poolStep int
}

// NewManager makes an empty registry. The layer takes buffers for bouncing
// from pool, or maps its own when pool is nil.
func NewManager(sys *thread.System, pool *iobuf.Pool) *Manager {
	m := &Manager{sys: sys, pool: pool, poolMax: DefaultPoolMax, poolStep: DefaultPoolStep}
	m.list.Store(&[]*Bdev{})
	return m
}

// System returns the threads that the manager's devices are used on.
func (m *Manager) System() *thread.System { return m.sys }

// Pool returns the pool that buffers come from; it may be nil.
func (m *Manager) Pool() *iobuf.Pool { return m.pool }

// SetPool sets how many IOs a channel may have in flight, and how many are
// made at once when more are needed. It must be called before any channel is
// made.
func (m *Manager) SetPool(most, step int) error {
	if most < 1 || most > maxPool || step < 1 {
		return fmt.Errorf("bdev: a pool of %d IOs made %d at a time; 1 to %d are possible: %w", most, step, maxPool, unix.EINVAL)
	}
	m.poolStep = min(step, most)
	m.poolMax = roundUp(most, m.poolStep)
	return nil
}

// maxPool bounds the IOs that a thread has in flight on a device.
const maxPool = 1 << 20

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// Lookup returns the device with this name or UUID, nil when there is none.
func (m *Manager) Lookup(name string) *Bdev {
	list := *m.list.Load()
	for _, b := range list {
		if b.Name() == name {
			return b
		}
	}
	if id, err := uuid.Parse(name); err == nil && id != uuid.Nil {
		for _, b := range list {
			if b.Info().UUID == id {
				return b
			}
		}
	}
	return nil
}

// All returns the devices in the order in which they were registered.
func (m *Manager) All() []*Bdev { return slices.Clone(*m.list.Load()) }

// Register adds a device. It takes d over: d is closed when the device is
// unregistered. When it returns an error, d is still the caller's.
func (m *Manager) Register(d Driver) (*Bdev, error) {
	info := d.Info()
	if info.UUID == uuid.Nil {
		info.UUID = uuid.NewSHA1(uuid.NameSpaceOID, []byte("goftl bdev "+info.Name))
	}
	if info.ReadOnly {
		info.Ops &^= modifying
	}
	if err := info.check(); err != nil {
		return nil, err
	}
	b := &Bdev{m: m, d: d}
	b.info.Store(&info)
	b.blocks.Store(info.Blocks)
	b.state.Store(&bstate{})
	for {
		old := m.list.Load()
		for _, o := range *old {
			if o.Name() == info.Name {
				return nil, fmt.Errorf("bdev %q: the name is in use: %w", info.Name, unix.EEXIST)
			}
		}
		if b.dev == nil {
			dev, err := m.sys.RegisterIODevice("bdev_"+info.Name, b, thread.ChannelFuncs{Create: createCore, Destroy: destroyCore})
			if err != nil {
				return nil, fmt.Errorf("bdev %q: register: %w", info.Name, err)
			}
			b.dev = dev
		}
		list := append(slices.Clone(*old), b)
		if m.list.CompareAndSwap(old, &list) {
			return b, nil
		}
	}
}

func createCore(dev *thread.IODevice, t *thread.Thread) (any, error) {
	return newCore(dev.Owner().(*Bdev), t)
}

func destroyCore(ctx any, _ *thread.Thread) { ctx.(*core).destroy() }

func (m *Manager) forget(b *Bdev) {
	for {
		old := m.list.Load()
		list := slices.DeleteFunc(slices.Clone(*old), func(o *Bdev) bool { return o == b })
		if m.list.CompareAndSwap(old, &list) {
			return
		}
	}
}

// zeroes returns a buffer of zeroes that all threads share.
func (m *Manager) zeroes() []byte {
	if z := m.zero.Load(); z != nil {
		return *z
	}
	z := iobuf.Alloc(zeroBytes)
	assert.That(z != nil, "bdev: no memory for 1 MiB of zeroes")
	if !m.zero.CompareAndSwap(nil, &z) {
		iobuf.Free(z)
	}
	return *m.zero.Load()
}
