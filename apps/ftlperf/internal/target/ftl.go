package target

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/report"
	"goftl/bdev"
	"goftl/bdev/ftlbdev"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/superblock"
	"goftl/thread"
)

// FTLOptions say which FTL to run on.
type FTLOptions struct {
	Cache, Base string     // specs; Cache may be empty with Config.NoCache, or hold metadata only
	Config      ftl.Config // how it is tuned, and NoCache
	SizeBytes   uint64     // 0: as much as the base allows
	SparePct    uint32
	ShmDir      string
	Keep        bool // load what is there; create only on blank devices
	Force       bool // create over what is there
	FastStop    bool
	NoVerify    bool
	Buffered    bool   // a volatile write cache
	BufferBytes uint64 // of each IO channel; 0: the default
	Apart       bool   // the FTL has the first thread for itself
	Crash       bool   // Crash will be called
	Logger      *slog.Logger
	OnHealth    func(h ftl.Health, err error)
}

// FTLTarget is an FTL on two devices, used through the bdev layer like any
// other device. Its core thread is the first lane, unless it is kept apart.
type FTLTarget struct {
	*machine
	o       FTLOptions
	core    *thread.Thread
	lanes   []*thread.Thread
	names   [2]string // of the devices below: cache ("" if there is none), base
	outlets [2]*outlet
	plugs   []*plug
	dev     *ftl.Device
	bdev    *bdev.Bdev
	desc    *bdev.Desc
	info    Info
	created bool
	crashed bool
	took    time.Duration // of the last start
	starts  int
	marked  ftl.Stats
}

// OpenFTL makes the two devices and starts an FTL on them.
func OpenFTL(o FTLOptions, p Placement) (*FTLTarget, error) {
	if o.Apart && len(p.CPUs) == 0 && p.Threads < 2 {
		p.Threads = 2
	}
	m, err := newMachine(p)
	if err != nil {
		return nil, err
	}
	f := &FTLTarget{machine: m, o: o, core: m.threads[0], lanes: m.threads}
	if o.Apart {
		if f.lanes = m.threads[1:]; len(f.lanes) == 0 {
			return nil, errors.Join(fmt.Errorf("an FTL on a core of its own needs two CPUs: %w", unix.EINVAL), m.close())
		}
		m.where += ", the first for the FTL alone"
	}
	if err := f.open(p.Prefault); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return f, nil
}

func (f *FTLTarget) open(prefault bool) error {
	if err := f.on(f.core, f.makeDevices); err != nil {
		return err
	}
	for _, name := range f.names {
		if !prefault || name == "" {
			continue
		}
		if err := f.touch(name, f.core); err != nil {
			return err
		}
	}
	if f.o.Crash {
		if err := f.on(f.core, f.makeOutlets); err != nil {
			return err
		}
	}
	return f.startOver(!f.o.Keep)
}

// makeDevices runs on the core thread.
func (f *FTLTarget) makeDevices() error {
	for i, text := range []string{f.o.Cache, f.o.Base} {
		role := [2]string{"cache", "base"}[i]
		if text == "" {
			continue
		}
		b, err := spec.Create(f.manager, f.core, text, spec.Options{Create: true, Name: role})
		if err != nil {
			return fmt.Errorf("--%s: %w", role, err)
		}
		f.names[i] = b.Name()
	}
	return nil
}

// makeOutlets runs on the core thread.
func (f *FTLTarget) makeOutlets() (err error) {
	for i, name := range f.names {
		if name == "" {
			continue
		}
		if f.outlets[i], err = newOutlet(f.manager, name, f.core); err != nil {
			return err
		}
	}
	return nil
}

// startOver starts an FTL on the devices: a new one, or the one that is there;
// with Keep, a new one when the devices are blank.
func (f *FTLTarget) startOver(create bool) error {
	err := f.start(create)
	if f.o.Keep && !f.crashed && errors.Is(err, superblock.ErrBlank) {
		create = true
		err = f.start(create)
	}
	if err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w (--keep loads it, --force makes a new one in its place)", err)
		}
		return err
	}
	f.created = create
	return f.on(f.core, f.export)
}

func (f *FTLTarget) start(create bool) error {
	c := f.o.Config
	cfg := &c
	cfg.Name, cfg.System, cfg.Thread, cfg.Manager, cfg.Cache, cfg.Base = "ftlperf", f.system, f.core, f.manager, f.names[0], f.names[1]
	cfg.Create, cfg.Force, cfg.SizeBytes, cfg.SparePct, cfg.ShmDir = create, f.o.Force, f.o.SizeBytes, f.o.SparePct, f.o.ShmDir
	cfg.VolatileWriteCache, cfg.WriteBufferBytes, cfg.NoVerify = f.o.Buffered, f.o.BufferBytes, f.o.NoVerify
	cfg.Logger, cfg.CreatedNs, cfg.OnHealth = f.o.Logger, time.Now().UnixNano(), f.o.OnHealth
	if create {
		cfg.UUID = uuid.New()
	}
	if f.o.Crash {
		if err := f.on(f.core, func() error { return f.plugIn(cfg) }); err != nil {
			return err
		}
	}
	began := time.Now()
	err := f.await(f.core, func(done func(error)) {
		ftl.Start(cfg, func(d *ftl.Device, err error) {
			f.dev = d
			done(err)
		})
	})
	f.took = time.Since(began)
	return err
}

// plugIn has the FTL use the devices through fresh plugs.
func (f *FTLTarget) plugIn(cfg *ftl.Config) error {
	f.plugs = f.plugs[:0]
	for i, name := range []*string{&cfg.Cache, &cfg.Base} {
		if *name == "" {
			continue
		}
		p, err := f.outlets[i].plug()
		if err != nil {
			return err
		}
		f.plugs = append(f.plugs, p)
		*name = p.info.Name
	}
	return nil
}

// export makes a block device of the FTL and opens it; on the core thread.
func (f *FTLTarget) export() error {
	f.starts++
	b, err := f.manager.Register(ftlbdev.New(fmt.Sprintf("ftl%d", f.starts), f.dev))
	if err != nil {
		return err
	}
	f.bdev = b
	f.info = bdevInfo(b.Info())
	f.info.Trims, f.info.TrimZeroes = true, true
	switch {
	case !f.o.Config.NoCache:
		f.info.Name = fmt.Sprintf("FTL on cache %s and base %s", f.o.Cache, f.o.Base)
	case f.o.Cache == "":
		f.info.Name = fmt.Sprintf("FTL without a cache on base %s", f.o.Base)
	default:
		f.info.Name = fmt.Sprintf("FTL without a cache on base %s, metadata on %s", f.o.Base, f.o.Cache)
	}
	f.info.Forgets = f.forgets()
	f.desc, err = f.manager.Open(b.Name(), true, nil, nil, f.core)
	return err
}

// forgets reports whether one of the devices does not return what was written.
func (f *FTLTarget) forgets() bool {
	for _, name := range f.names {
		if b := f.manager.Lookup(name); b != nil && bdevInfo(b.Info()).Forgets {
			return true
		}
	}
	return false
}

// Info implements Target.
func (f *FTLTarget) Info() Info { return f.info }

// Lanes implements Target.
func (f *FTLTarget) Lanes() []*thread.Thread { return f.lanes }

// On implements Target.
func (f *FTLTarget) On(int) job.Target { return &bdevTarget{f.desc} }

// Where implements Target.
func (f *FTLTarget) Where() string { return f.where }

// Crash implements run.Crasher.
func (f *FTLTarget) Crash(after string) (*report.Recovery, error) {
	if err := f.cut(f.core, f.plugs); err != nil {
		return nil, err
	}
	f.crashed = true
	if err := f.startOver(false); err != nil {
		return nil, fmt.Errorf("recovery after a crash: %w", err)
	}
	rec := &report.Recovery{After: after, Elapsed: f.took}
	return rec, f.on(f.core, func() error {
		for _, s := range f.dev.History() {
			if !s.Cleanup && s.Depth > 0 {
				rec.Phases = append(rec.Phases, report.Phase{Name: s.Name, Elapsed: s.Duration})
			}
		}
		l := f.dev.LoadReport()
		rec.Redone, rec.Gaps, rec.RottenPages, rec.FromMemory = uint64(l.Redone), l.Gaps, l.RottenPages, l.FromShm
		return nil
	})
}

// Mark implements run.Reporter.
func (f *FTLTarget) Mark() { f.marked = f.stats() }

func (f *FTLTarget) stats() (s ftl.Stats) {
	_ = f.on(f.core, func() error { f.dev.Stats(&s); return nil }) // Stats does not fail
	return s
}

// Describe implements run.Reporter: what happened since Mark.
func (f *FTLTarget) Describe(r *report.Run) {
	now, then := f.stats(), &f.marked
	out := &report.FTL{
		Bytes: f.info.Bytes, Create: f.took, Created: f.created,
		UserWrites: now.User.Write.Blocks - then.User.Write.Blocks, UserReads: now.User.Read.Blocks - then.User.Read.Blocks,
		Trims: now.TrimBlock - then.TrimBlock, Flushes: now.Flushes - then.Flushes,
		Gauges: map[string]uint64{
			"free_chunks": now.FreeChunks, "full_chunks": now.FullChunks, "quarantined_chunks": now.QuarantinedChunks,
			"free_bands": now.FreeBands, "full_bands": now.FullBands, "quarantined_bands": now.QuarantinedBands,
			"valid_blocks": now.ValidBlocks, "checkpoints": now.Checkpoints - then.Checkpoints,
			"compacted_chunks": now.Compacted - then.Compacted, "relocated_bands": now.Relocated - then.Relocated,
			"throttled": now.Throttled - then.Throttled, "records": now.Records - then.Records,
		},
	}
	for src := range ftl.NumSources {
		c, b := since(&now.Cache[src], &then.Cache[src]), since(&now.Base[src], &then.Base[src])
		out.Sources = append(out.Sources, report.Source{
			Name: src.String(), CacheRead: c.Read.Blocks, CacheWrite: c.Write.Blocks, BaseRead: b.Read.Blocks,
			BaseWrite: b.Write.Blocks, Errors: errorsOf(c, b),
		})
	}
	out.Sum()
	r.FTL = out
}

func since(now, then *ftl.ReadWrite) (d ftl.ReadWrite) {
	d.Read, d.Write = counterSince(&now.Read, &then.Read), counterSince(&now.Write, &then.Write)
	return d
}

func counterSince(now, then *ftl.Counter) ftl.Counter {
	return ftl.Counter{
		IOs: now.IOs - then.IOs, Blocks: now.Blocks - then.Blocks, ErrorsMedia: now.ErrorsMedia - then.ErrorsMedia,
		ErrorsCRC: now.ErrorsCRC - then.ErrorsCRC, ErrorsOther: now.ErrorsOther - then.ErrorsOther,
	}
}

func errorsOf(list ...ftl.ReadWrite) (e report.DeviceErrors) {
	for i := range list {
		for _, c := range []*ftl.Counter{&list[i].Read, &list[i].Write} {
			e.Media += c.ErrorsMedia
			e.Checksum += c.ErrorsCRC
			e.Other += c.ErrorsOther
		}
	}
	return e
}

// Close stops the FTL and releases the devices. After a crash the dropped FTL
// still holds its part of them; that ends with the process.
func (f *FTLTarget) Close() error {
	if f.dev == nil {
		f.group.Stop() // the recovery failed: there is nothing to stop
		return nil
	}
	gone := make(chan error, 1)
	f.core.Send(func(any) {
		f.desc.Close()
		f.bdev.Unregister(f.core, func(_ any, err error) { gone <- err }, nil)
	}, nil)
	err := <-gone
	err = errors.Join(err, f.await(f.core, func(done func(error)) { f.dev.Stop(f.o.FastStop, done) }))
	if f.crashed {
		f.group.Stop()
		return err
	}
	return errors.Join(err, f.close())
}
