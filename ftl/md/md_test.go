package md

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/iobuf"
)

// The tests below carry the numbers of the inventory of behaviour; MNUMBERS.md
// has the table.

func TestM01Create(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	for name, change := range map[string]func(c *Config){
		"no thread":      func(c *Config) { c.Thread = nil },
		"no size":        func(c *Config) { c.Region, c.Mirror = nil, nil },
		"huge":           func(c *Config) { c.Blocks = maxBlocks + 1 },
		"small":          func(c *Config) { c.Blocks = 3 },
		"no buffer":      func(c *Config) { c.Alloc = func(int) []byte { return nil } },
		"VSS":            func(c *Config) { c.VSS = 4 },
		"mirror only":    func(c *Config) { c.Region, c.Blocks = nil, 4 },
		"flags":          func(c *Config) { c.Flags = FlagShm | FlagNoMem },
		"new without":    func(c *Config) { c.Flags = FlagShmNew },
		"mirror's size":  func(c *Config) { m := *c.Mirror; m.Blocks = 3; c.Mirror = &m },
		"mirror's entry": func(c *Config) { m := *c.Mirror; m.EntryBlocks = 2; c.Mirror = &m },
		"entries":        func(c *Config) { g := *c.Region; g.EntryBlocks = 3; c.Region, c.Mirror = &g, nil },
		"no version":     func(c *Config) { g := *c.Region; g.Version = 0; c.Region, c.Mirror = &g, nil },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := r.config()
			balance := 0
			cfg.Alloc = func(n int) []byte { balance++; return iobuf.Alloc(n) }
			cfg.Free = func(b []byte) { balance--; iobuf.Free(b) }
			change(&cfg)
			o, err := New(cfg)
			require.Nil(t, o)
			var errno unix.Errno
			require.ErrorAs(t, err, &errno)
			require.Zero(t, balance, "memory is given back")
		})
	}
}

func TestM02Heap(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 5, entry: 1, md: 64})
	o := r.object(t, func(c *Config) { c.VSS, c.Blocks = 64, 7 })
	require.Len(t, o.Buffer(), 7*BlockSize)
	require.Len(t, o.VSS(), 7*64)
	require.Equal(t, make([]byte, 7*BlockSize), o.Buffer(), "zeroed")
	o.Destroy(false)
}

func TestM03NoMemory(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 6, entry: 1})
	o := r.object(t, func(c *Config) { c.Flags = FlagNoMem })
	require.Nil(t, o.Buffer())
	require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.Clear('k', nil, d, a) }))
	require.ErrorIs(t, r.do(t, o.Restore), unix.EINVAL)
	data := bytes.Repeat([]byte{'q'}, BlockSize)
	require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntryOrdered(&EntryOp{Done: d, Arg: a, Data: data}, 2, 1) }))
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, 2, 1) }), unix.EINVAL)
	buf := make([]byte, 2*BlockSize)
	require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.ReadEntry(&EntryOp{Done: d, Arg: a}, 1, 2, buf) }))
	require.Equal(t, "kq", letters(2, func(i uint64) []byte { return buf[i*BlockSize:] }))
}

// TestM09Destroy: by kind, twice, and of nil; a busy object is a programmer's
// error.
func TestM09Destroy(t *testing.T) {
	var none *Object
	none.Destroy(true)
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	o.Persist(func(any, error) {}, nil)
	require.Panics(t, func() { o.Destroy(false) })
	r.settle()
	o.Destroy(false)
	o.Destroy(true)
	require.ErrorIs(t, r.do(t, o.Persist), unix.EINVAL, "a destroyed object refuses")
}

// TestM10MirrorSharesMemory: the mirror has no buffer of its own but while it
// is compared.
func TestM10MirrorSharesMemory(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	allocs := 0
	o := r.object(t, func(c *Config) {
		c.Alloc = func(n int) []byte { allocs++; return iobuf.Alloc(n) }
		c.Free = func(b []byte) { allocs--; iobuf.Free(b) }
	})
	require.Equal(t, 1, allocs)
	require.NoError(t, r.do(t, o.Persist))
	require.NoError(t, r.do(t, o.Restore))
	require.Equal(t, 1, allocs, "what the mirror is read into is given back")
	o.Destroy(false)
}

func TestM12Accessors(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1, md: 64})
	o := r.object(t, func(c *Config) { c.VSS = 64 })
	require.Equal(t, uint64(4), o.Blocks())
	require.Same(t, &r.primary, o.Region())
	require.Same(t, &r.mirror, o.Mirror())
	require.Len(t, o.Payload(3), PayloadSize)
	require.True(t, o.Idle())
	require.Nil(t, o.Shm())
	o = r.object(t, func(c *Config) { c.Mirror = nil })
	require.Nil(t, o.Mirror())
}

// TestM13VSSStamp, and of M14: restamped when the region changes.
func TestM13VSSStamp(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1, md: 64})
	o := r.object(t, func(c *Config) { c.VSS = 64 })
	for i := range uint64(4) {
		require.Equal(t, uint64(1), le.Uint64(o.VSS()[i*64:]))
		require.Equal(t, make([]byte, 56), o.VSS()[i*64+8:(i+1)*64])
	}
}

func TestM14SetRegion(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1, md: 64})
	o := r.object(t, func(c *Config) { c.Region, c.Mirror, c.Blocks, c.VSS = nil, nil, 4, 64 })
	require.ErrorIs(t, r.do(t, o.Persist), unix.EINVAL, "no region yet")
	v3, m3 := r.primary, r.mirror
	v3.Version, m3.Version = 3, 3
	require.NoError(t, o.SetRegion(&v3, &m3))
	require.Equal(t, uint64(3), le.Uint64(o.VSS()[3*64:]))
	require.NotNil(t, o.Mirror())
	big := r.primary
	big.Blocks = 5
	require.ErrorIs(t, o.SetRegion(&big, nil), unix.EINVAL)
	require.Same(t, &v3, o.Region(), "a refused region changes nothing")
	require.NoError(t, r.do(t, o.Persist))
}

// TestM15Mirror: it exists when the region names one, and lies where it says.
func TestM15Mirror(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, func(c *Config) { c.Mirror = nil })
	require.NoError(t, r.do(t, o.Persist))
	require.Zero(t, r.stats[1].Writes)
	same := r.mirror
	same.Offset = r.primary.End() + 1
	o = r.object(t, func(c *Config) { c.Mirror, c.MirrorTarget = &same, Target{} })
	require.NoError(t, r.do(t, o.Persist))
	require.Zero(t, r.stats[1].Writes, "without a target of its own it lies beside the primary")
	require.Equal(t, r.cache.media[3*BlockSize:7*BlockSize], r.cache.media[8*BlockSize:12*BlockSize])
}

func TestM16TransferUnit(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 600, entry: 1})
	o := r.object(t, func(c *Config) { c.XferBlocks = 0 })
	require.Equal(t, uint64(256), o.xferBlocks(), "1 MiB where the device does not care")
	r.target[0].Desc.Bdev().Info().WriteUnit = 128 // 512 KiB
	require.Equal(t, uint64(512), o.xferBlocks(), "else 4 write units")
	r.target[0].Desc.Bdev().Info().WriteUnit = 0
	require.NoError(t, r.do(t, o.Persist))
	require.Equal(t, uint64(3), r.stats[0].Writes, "256, 256, 88")
	g := r.primary
	g.EntryBlocks = 5
	o = r.object(t, func(c *Config) { c.XferBlocks, c.Region, c.Mirror = 7, &g, nil })
	require.Equal(t, uint64(5), o.xferBlocks(), "whole entries")
}

// TestM17StartCheck: busy, no region, a region larger than the object, no
// memory, read-only: refused with EINVAL or EROFS, and logged.
func TestM17StartCheck(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	log := &testLog{}
	o := r.object(t, func(c *Config) { c.Logger = log })
	first, second := &result{}, &result{}
	o.Persist(record, first)
	o.Restore(record, second)
	op := &EntryOp{Done: record, Arg: &result{}}
	o.PersistEntryOrdered(op, 0, 1)
	require.Zero(t, second.called, "never inside the call")
	r.settle()
	require.NoError(t, first.err)
	require.ErrorIs(t, second.err, unix.EINVAL)
	require.ErrorIs(t, second.err, ErrBusy)
	require.ErrorIs(t, op.Arg.(*result).err, ErrBusy)
	require.Contains(t, log.String(), "refused")

	o.PersistEntryOrdered(op, 0, 1)
	o.Persist(record, second)
	r.settle()
	require.ErrorIs(t, second.err, ErrBusy, "a bulk operation does not start beside an entry's")

	r.primary.Blocks = 5 // behind the object's back
	require.ErrorIs(t, r.do(t, o.Persist), errTooBig)
	r.primary.Blocks = 4

	o = r.object(t, func(c *Config) { c.ReadOnly = true })
	require.ErrorIs(t, r.do(t, o.Persist), unix.EROFS)
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, 0, 1) }), unix.EROFS)
}

// TestReadOnlyRestore repairs nothing and brings no mirror up to date.
func TestReadOnlyRestore(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	setBlock(o, 2, 'x')
	require.NoError(t, r.do(t, o.Persist))
	r.copyOf(0, 2)[7]++
	r.clean = false
	wrote := r.stats
	o = r.object(t, func(c *Config) { c.ReadOnly = true })
	require.NoError(t, r.do(t, o.Restore))
	require.Equal(t, "..x.", letters(4, func(i uint64) []byte { return o.Payload(i)[:PayloadSize] }))
	require.Equal(t, wrote[0].Writes, r.stats[0].Writes)
	require.Equal(t, wrote[1].Writes, r.stats[1].Writes)
}

// TestM18Staging: of an object without memory, data and VSS; what was got is
// given back when the rest cannot be had.
func TestM18Staging(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 8, entry: 1, md: 64})
	for failAt := range 6 {
		have, n := 0, 0
		o := r.object(t, func(c *Config) {
			c.Flags, c.VSS, c.Depth = FlagNoMem, 64, 3
			c.Alloc = func(size int) []byte {
				if n++; n == failAt+1 {
					return nil
				}
				have++
				return iobuf.Alloc(size)
			}
			c.Free = func(b []byte) { have--; iobuf.Free(b) }
		})
		clearIt := func(d DoneFunc, a any) { o.Clear('s', nil, d, a) }
		require.ErrorIs(t, r.do(t, clearIt), unix.ENOMEM)
		require.Zero(t, have)
		require.True(t, o.Idle())
		require.NoError(t, r.do(t, clearIt), "and it works when there is memory again")
		require.Zero(t, have, "staging lives as long as the operation")
	}
	o := r.object(t, func(c *Config) {
		c.Free = iobuf.Free
		n := 0
		c.Alloc = func(size int) []byte {
			if n++; n == 2 {
				return nil
			}
			return iobuf.Alloc(size)
		}
	})
	ordered := func(d DoneFunc, a any) { o.PersistEntryOrdered(&EntryOp{Done: d, Arg: a}, 0, 1) }
	require.ErrorIs(t, r.do(t, ordered), unix.ENOMEM)
	require.NoError(t, r.do(t, ordered))
}

// TestM19NeverInline: neither success nor refusal is reported inside the call
// (rig.do asserts it), nor from inside a submission of a device that completes
// at once.
func TestM19NeverInline(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	for _, start := range []func(DoneFunc, any){
		o.Persist, o.Restore,
		func(d DoneFunc, a any) { o.Clear(0, nil, d, a) },
		func(d DoneFunc, a any) { o.Clear(0, []byte{1}, d, a) },
		func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, 0, 1) },
		func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, 4, 1) },
		func(d DoneFunc, a any) { o.PersistEntryOrdered(&EntryOp{Done: d, Arg: a}, 0, 2) },
		func(d DoneFunc, a any) { o.ReadEntry(&EntryOp{Done: d, Arg: a}, 0, 1, make([]byte, BlockSize)) },
		func(d DoneFunc, a any) { o.ReadEntry(&EntryOp{Done: d, Arg: a}, 0, 1, nil) },
	} {
		_ = r.do(t, start)
	}
}

// TestM20DestroyInCallback: everything is put away before the owner is told.
func TestM20DestroyInCallback(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	for _, which := range []string{"persist", "restore", "clear", "entry", "ordered", "read"} {
		o := r.object(t, nil)
		done := func(any, error) { o.Destroy(false) }
		op := &EntryOp{Done: done}
		switch which {
		case "persist":
			o.Persist(done, nil)
		case "restore":
			o.Restore(done, nil)
		case "clear":
			o.Clear(1, nil, done, nil)
		case "entry":
			o.PersistEntry(op, 0, 1)
		case "ordered":
			o.PersistEntryOrdered(op, 0, 1)
		case "read":
			o.ReadEntry(op, 0, 1, make([]byte, BlockSize))
		}
		r.settle()
		require.True(t, o.destroyed, which)
	}
}

// TestM23ClearVSS: the given pattern, or zeroes with the version; a pattern of
// another version is refused.
func TestM23ClearVSS(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1, md: 64})
	for _, flags := range []Flags{0, FlagNoMem} {
		o := r.object(t, func(c *Config) { c.VSS, c.Flags = 64, flags })
		pattern := bytes.Repeat([]byte{9}, 64)
		putVersion(pattern, 1)
		require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.Clear('p', pattern, d, a) }))
		at := (3 + 2) * r.cache.stride
		require.Equal(t, pattern, r.cache.media[at+BlockSize:at+r.cache.stride])
		require.Equal(t, byte('p'), r.cache.media[at])
		require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.Clear('p', nil, d, a) }))
		putVersion(pattern, 1)
		clear(pattern[8:])
		require.Equal(t, pattern, r.cache.media[at+BlockSize:at+r.cache.stride])
		putVersion(pattern, 2)
		require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.Clear('p', pattern, d, a) }), ErrVersion)
		require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.Clear('p', pattern[:8], d, a) }), unix.EINVAL)
	}
}

// TestM24Entries: bounds, a region without entries, the caller's VSS.
func TestM24Entries(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 8, entry: 2, md: 64})
	o := r.object(t, func(c *Config) { c.VSS = 64 })
	for _, bad := range [][2]uint64{{4, 1}, {0, 5}, {3, 2}, {0, 0}, {^uint64(0), 2}, {1, ^uint64(0)}} {
		err := r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, bad[0], bad[1]) })
		require.ErrorIs(t, err, unix.EINVAL, "%v", bad)
	}
	vss := bytes.Repeat([]byte{5}, 2*64)
	setBlock(o, 2, 'e')
	require.NoError(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a, VSS: vss}, 1, 1) }))
	at := (3 + 2) * r.cache.stride
	require.Equal(t, vss[:64], r.cache.media[at+BlockSize:at+r.cache.stride])
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a, VSS: vss[:64]}, 1, 1) }), unix.EINVAL)
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a, Data: vss}, 1, 1) }), unix.EINVAL)

	r.primary.EntryBlocks, r.mirror.EntryBlocks = 0, 0
	require.Panics(t, func() { o.PersistEntry(&EntryOp{Done: record}, 0, 1) }, "a region without entries")
}

// TestM25ReadStatus: a read that the mirror saved is a success, also when the
// operation is used again after a failure.
func TestM25ReadStatus(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	require.NoError(t, r.do(t, o.Persist))
	r.cache.faults = []*fault{{op: bdev.OpRead, any: true, err: unix.EIO}}
	r.base.faults = []*fault{{op: bdev.OpRead, any: true, times: 1, err: unix.ENODEV}}
	res := &result{}
	op := &EntryOp{Done: record, Arg: res}
	buf := make([]byte, BlockSize)
	o.ReadEntry(op, 1, 1, buf)
	r.settle()
	require.ErrorIs(t, res.err, unix.EIO)
	o.ReadEntry(op, 1, 1, buf)
	r.settle()
	require.NoError(t, res.err)
	require.Equal(t, 2, res.called)
}

// TestM26Retry: both copies again, with the operation that failed.
func TestM26Retry(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	res := &result{}
	op := &EntryOp{Done: record, Arg: res}
	for _, persist := range []func(*EntryOp, uint64, uint64){o.PersistEntry, o.PersistEntryOrdered} {
		r.base.faults = []*fault{{op: bdev.OpWrite, any: true, times: 1, err: unix.EIO}}
		setBlock(o, 2, 'r')
		persist(op, 2, 1)
		r.settle()
		require.ErrorIs(t, res.err, unix.EIO)
		before := r.stats
		o.RetryEntry(op)
		r.settle()
		require.NoError(t, res.err)
		require.Equal(t, before[0].Writes+1, r.stats[0].Writes)
		require.Equal(t, before[1].Writes+1, r.stats[1].Writes)
	}
}

// TestM29Statistics: every completion counts for its device, with errors and
// blocks that were not whole.
func TestM29Statistics(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 10, entry: 1, volatile: true})
	o := r.object(t, nil)
	require.NoError(t, r.do(t, o.Persist))
	require.Equal(t, IOStats{Writes: 3, WriteBlocks: 10, Flushes: 1}, r.stats[0])
	require.Equal(t, IOStats{Writes: 3, WriteBlocks: 10, Flushes: 1}, r.stats[1])
	r.copyOf(0, 9)[1]++
	r.cache.faults = []*fault{{op: bdev.OpRead, lba: 3, times: 1, err: unix.EIO}}
	require.NoError(t, r.do(t, o.Restore))
	require.Equal(t, IOStats{Reads: 7, ReadBlocks: 10, ReadErrors: 1, Writes: 4, WriteBlocks: 11, Flushes: 2, CRC: 1}, r.stats[0])
	require.Equal(t, IOStats{Reads: 3, ReadBlocks: 10, Writes: 3, WriteBlocks: 10, Flushes: 1}, r.stats[1])
}

// TestM30VersionAudit: after restore, before persist, before clear; in the
// trailers and in the blocks' metadata; in every build.
func TestM30VersionAudit(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1, md: 64})
	vss := func(c *Config) { c.VSS = 64 }
	o := r.object(t, vss)
	require.NoError(t, r.do(t, o.Persist))

	putVersion(o.VSS()[2*64:], 7)
	require.ErrorIs(t, r.do(t, o.Persist), ErrVersion, "before persist")
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.Clear(0, nil, d, a) }), ErrVersion, "before clear")

	putVersion(r.cache.media[(3+1)*r.cache.stride+BlockSize:], 7) // on the primary only
	o = r.object(t, vss)
	require.NoError(t, r.do(t, o.Restore), "the mirror is used")
	require.Equal(t, uint64(1), le.Uint64(o.VSS()[64:]))

	o = r.object(t, vss)
	r.copyOf(1, 1)[5]++
	putVersion(r.cache.media[(3+1)*r.cache.stride+BlockSize:], 7)
	var bad *BadError
	err := r.do(t, o.Restore)
	require.ErrorAs(t, err, &bad, "after restore")
	require.Equal(t, []uint64{1}, bad.Entries)

	v2, m2 := r.primary, r.mirror
	v2.Version, m2.Version = 2, 2
	o = r.object(t, func(c *Config) { c.VSS, c.Region, c.Mirror = 64, &v2, &m2 })
	require.ErrorIs(t, r.do(t, o.Restore), ErrVersion, "trailers of another version")
}

// TestUpgrade: blocks of an older version are brought up to date on the way
// in; interrupted or not, a mixture of old and new is read.
func TestUpgrade(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 6, entry: 1})
	o := r.object(t, nil)
	for i := range uint64(6) {
		setBlock(o, i, 'a'+byte(i))
	}
	require.NoError(t, r.do(t, o.Persist))
	v3, m3 := r.primary, r.mirror
	v3.Version, m3.Version = 3, 3
	upgrade := func(from uint32, _ uint64, p []byte) error {
		switch from {
		case 1:
			fill(p, p[0]-'a'+'A')
			return nil
		case 2:
			return nil
		}
		return unix.EINVAL
	}
	next := func(c *Config) { c.Region, c.Mirror, c.Upgrade = &v3, &m3, upgrade }
	o = r.object(t, next)
	require.NoError(t, r.do(t, o.Restore))
	require.Equal(t, uint64(6), o.Upgraded())
	require.Equal(t, "ABCDEF", letters(6, o.Payload))

	// Written in part only: power is lost in the middle of the primary.
	r.cache.faults = []*fault{{op: bdev.OpWrite, lba: 3 + 4, times: 1, err: unix.EIO}}
	require.Error(t, r.do(t, o.Persist))
	o = r.object(t, next)
	r.clean = false
	require.NoError(t, r.do(t, o.Restore))
	require.Equal(t, "ABCDEF", letters(6, o.Payload))
	require.Equal(t, uint64(2), o.Upgraded())
	require.NoError(t, r.do(t, o.Persist))
	o = r.object(t, next)
	require.NoError(t, r.do(t, o.Restore))
	require.Zero(t, o.Upgraded())

	// No way back.
	o = r.object(t, func(c *Config) { c.Upgrade = upgrade })
	require.ErrorIs(t, r.do(t, o.Restore), ErrVersion)
	// A step that fails.
	v4 := v3
	v4.Version = 4
	o = r.object(t, func(c *Config) { c.Region, c.Mirror, c.Upgrade = &v4, nil, upgrade })
	require.ErrorContains(t, r.do(t, o.Restore), "upgrade from version 3")
}

// TestForeign: another FTL's metadata, or another region's, is not ours.
func TestForeign(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	o := r.object(t, nil)
	require.NoError(t, r.do(t, o.Persist))
	o = r.object(t, func(c *Config) { c.UUID[3]++ })
	require.ErrorIs(t, r.do(t, o.Restore), ErrSum)
	other := r.primary
	other.Type = layout.RegionBandMD
	o = r.object(t, func(c *Config) { c.Region = &other })
	require.ErrorIs(t, r.do(t, o.Restore), ErrIO)
}

// TestEveryDamage spoils every block of primary, mirror and both, in every way
// and combination: what comes back is what was written, or is named as bad.
func TestEveryDamage(t *testing.T) {
	const n = 3
	ways := []func(b []byte, other []byte){
		func(b, _ []byte) {}, // none
		func(b, _ []byte) { b[1000] ^= 1 },
		func(b, _ []byte) { b[offSum] ^= 0x80 },
		func(b, _ []byte) { clear(b) },
		func(b, _ []byte) { clear(b[2048:]) },
		func(b, other []byte) { copy(b, other) },
		func(b, other []byte) { copy(b[:512], other) },
	}
	for _, entry := range []uint32{0, 1, 3} {
		r := newRig(t, rigOptions{blocks: n, entry: entry})
		o := r.object(t, nil)
		for i := range uint64(n) {
			setBlock(o, i, 'a'+byte(i))
		}
		require.NoError(t, r.do(t, o.Persist))
		images := [2][]byte{bytes.Clone(r.cache.media), bytes.Clone(r.base.media)}
		for block := range uint64(n) {
			for w0 := range ways {
				for w1 := range ways {
					for _, clean := range []bool{true, false} {
						copy(r.cache.media, images[0])
						copy(r.base.media, images[1])
						ways[w0](r.copyOf(0, block), bytes.Clone(r.copyOf(0, (block+1)%n)))
						ways[w1](r.copyOf(1, block), bytes.Clone(r.copyOf(1, (block+1)%n)))
						r.clean = clean
						o.Destroy(false)
						o = r.object(t, nil)
						err := r.do(t, o.Restore)
						if w0 == 0 || w1 == 0 {
							require.NoError(t, err)
							require.Equal(t, "abc", letters(n, o.Payload))
							require.NoError(t, r.do(t, o.Restore), "repaired")
							continue
						}
						var bad *BadError
						require.ErrorAs(t, err, &bad)
						if entry == 1 {
							want := []byte("abc")
							want[block] = '.'
							require.Equal(t, []uint64{block}, bad.Entries)
							require.Equal(t, string(want), letters(n, o.Payload))
						}
					}
				}
			}
		}
	}
}

// TestRemovedDevice: the mirror is used without asking for every entry.
func TestRemovedDevice(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 600, entry: 1})
	o := r.object(t, func(c *Config) { c.XferBlocks, c.ReadOnly = 256, false })
	require.NoError(t, r.do(t, o.Persist))
	r.cache.faults = []*fault{{op: bdev.OpRead, any: true, err: unix.ENODEV}}
	before := r.stats[0].Reads
	o = r.object(t, func(c *Config) { c.ReadOnly = true })
	require.NoError(t, r.do(t, o.Restore))
	require.LessOrEqual(t, r.stats[0].Reads-before, uint64(150))
}

// TestSubmitRefused: a device that refuses a submission is a failure like any
// other; the original aborted.
func TestSubmitRefused(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4, entry: 1})
	far := r.primary
	far.Offset = 1000
	o := r.object(t, func(c *Config) { c.Region = &far })
	require.ErrorIs(t, r.do(t, o.Persist), unix.EIO)
	require.ErrorIs(t, r.do(t, o.Restore), unix.EINVAL, "the mirror is read, the repair fails")
	require.ErrorIs(t, r.do(t, func(d DoneFunc, a any) { o.PersistEntry(&EntryOp{Done: d, Arg: a}, 0, 1) }), unix.EIO)
}

// TestBadErrorBounded: the list of what is lost does not grow without bound.
func TestBadErrorBounded(t *testing.T) {
	n := uint64(MaxBadListed + 10)
	r := newRig(t, rigOptions{blocks: n, entry: 1})
	o := r.object(t, func(c *Config) { c.XferBlocks = 512 })
	var bad *BadError
	require.ErrorAs(t, r.do(t, o.Restore), &bad, "never written")
	require.Len(t, bad.Entries, MaxBadListed)
	require.Equal(t, n, bad.Count)
	require.ErrorIs(t, bad, ErrIO)
}

// TestEntryAllocations: in the steady state nothing is allocated.
func TestEntryAllocations(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 64, entry: 1, md: 64, volatile: true})
	o := r.object(t, func(c *Config) { c.VSS = 64 })
	res := &result{}
	op := &EntryOp{Done: record, Arg: res}
	buf := make([]byte, BlockSize)
	require.NoError(t, r.do(t, o.Persist))
	for name, run := range map[string]func(){
		"ordered": func() { o.PersistEntryOrdered(op, 5, 1) },
		"both":    func() { o.PersistEntry(op, 5, 3) },
		"read":    func() { o.ReadEntry(op, 5, 1, buf) },
	} {
		run()
		r.settle()
		n := testing.AllocsPerRun(200, func() {
			run()
			r.settle()
			r.cache.flush(^uint64(0)) // gives the fake's memory back
			r.base.flush(^uint64(0))
		})
		require.Zero(t, n, name)
		require.NoError(t, res.err)
	}
}

type testLog struct{ strings.Builder }

func (l *testLog) add(level, msg string, args ...any) { fmt.Fprintln(l, level, msg, args) }
func (l *testLog) Info(msg string, args ...any)       { l.add("info", msg, args...) }
func (l *testLog) Warn(msg string, args ...any)       { l.add("warn", msg, args...) }
func (l *testLog) Error(msg string, args ...any)      { l.add("error", msg, args...) }

// FuzzCheckBlock: no bytes pass for a block but those that were sealed.
func FuzzCheckBlock(f *testing.F) {
	good := bytes.Repeat([]byte("meta"), BlockSize/4)
	sealBlock(good, placeSeed(testUUID, 3), 7, 1, 9)
	f.Add(good, uint64(7))
	f.Add(make([]byte, BlockSize), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, index uint64) {
		if len(b) < BlockSize {
			b = append(b, make([]byte, BlockSize-len(b))...)
		}
		b = b[:BlockSize]
		seed := placeSeed(testUUID, 3)
		v, n, ok := checkBlock(b, seed, index)
		if !ok {
			return
		}
		again := bytes.Clone(b)
		sealBlock(again, seed, index, v, n)
		require.Equal(t, again, b)
		_, _, ok = checkBlock(b, seed, index+1)
		require.False(t, ok)
	})
}

// FuzzRestore: whatever the devices hold, a restore ends, and what it gives is
// what was written or named as bad.
func FuzzRestore(f *testing.F) {
	f.Add([]byte("garbage"), uint16(3), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff}, 5000), uint16(4000), uint8(1))
	f.Add(make([]byte, 3*BlockSize), uint16(100), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, which uint8) {
		r := newRig(t, rigOptions{blocks: 6, entry: uint32(which>>4) % 3})
		o := r.object(t, nil)
		for i := range uint64(6) {
			setBlock(o, i, 'a'+byte(i))
		}
		require.NoError(t, r.do(t, o.Persist))
		for i, d := range []*fakeDisk{r.cache, r.base} {
			if which>>i&1 == 0 {
				copy(d.media[min(int(at), len(d.media)):], b)
			}
		}
		r.clean = which&4 == 0
		o = r.object(t, nil)
		err := r.do(t, o.Restore)
		var bad *BadError
		if err != nil && !errors.As(err, &bad) {
			t.Fatal(err)
		}
		if err != nil && r.primary.EntryBlocks == 0 {
			return
		}
		for i, c := range letters(6, o.Payload) {
			if c != 'a'+rune(i) {
				require.NotNil(t, bad)
				require.Equal(t, '.', c)
			}
		}
	})
}
