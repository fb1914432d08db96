package ftl

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/ftl/layout"
	"goftl/ftl/mngt"
	"goftl/ftl/record"
	"goftl/ftl/superblock"
)

// lifecycle is what starting and stopping need.
type lifecycle struct {
	proc    *mngt.Process[*Device] // the one whose step runs
	root    *mngt.Process[*Device] // of the start
	choice  *superblock.Choice
	started func(d *Device, err error)
	stopped func(err error)
	fast    bool
	stopErr error
	history []mngt.StepRecord
	onDrain func(d *Device)
	onQuiet func(d *Device)
	zeroes  devIO
	remake  bool // a creation that was interrupted is begun anew
}

type (
	process = mngt.Process[*Device]
	desc    = mngt.Desc[*Device]
	step    = mngt.Step[*Device]
)

// Start creates or loads a device. It is called on the core thread, where done
// is called too, exactly once, with the device or with the error of the step
// that failed after everything was rolled back. What it returns can end the
// start before that; it is nil when done was called already.
func Start(cfg *Config, done func(d *Device, err error)) *Starting {
	c := *cfg
	if err := c.complete(); err != nil {
		done(nil, err)
		return nil
	}
	d := &Device{cfg: c, th: c.Thread, log: c.Logger}
	d.life.started = done
	d.cache.kind, d.base.kind = devCache, devBase
	d.meta = &d.cache
	if c.Cache == "" {
		d.meta = &d.base
	}
	d.logDev = &d.cache
	if c.NoCache {
		d.logDev = &d.base
	}
	d.life.proc = mngt.Run(d.th, d, startup(), stepLog{d.log}, startDone)
	d.life.root = d.life.proc
	return &Starting{d}
}

// Starting is a start that may still be under way.
type Starting struct{ d *Device }

// Cancel ends a start at the end of the step that runs, long steps in their
// middle: it is rolled back, and its callback gets ErrCancelled. When the start
// is over it does nothing, and returns false. It is called on the core thread.
func (s *Starting) Cancel() bool {
	if s == nil || s.d.life.root == nil || s.d.running {
		return false
	}
	s.d.life.root.Abort(ErrCancelled)
	return true
}

// cancelled says whether whoever started the device does not want it any more.
func (d *Device) cancelled() bool { return d.life.root != nil && d.life.root.Aborted() != nil }

func startDone(d *Device, err error) {
	d.life.history = append(d.life.history, d.life.proc.History()...)
	done := d.life.started
	d.life.started = nil
	d.life.proc, d.life.root = nil, nil
	if err != nil {
		done(nil, err)
		return
	}
	done(d, nil)
}

// stepLog lets steps be logged at the level of details: what fails is returned
// to the caller, who says it.
type stepLog struct{ log *slog.Logger }

func (l stepLog) Debug(msg string, args ...any) { l.log.Debug(msg, args...) }
func (l stepLog) Info(msg string, args ...any)  { l.log.Debug(msg, args...) }
func (l stepLog) Error(msg string, args ...any) { l.log.Debug(msg, args...) }

// History is the account of the steps of starting and stopping, for
// inspection.
func (d *Device) History() []mngt.StepRecord { return d.life.history }

// The tables. A table that refers to itself does not compile as a variable, so
// each is returned by a function.

// startup is the way of every start: the devices, what stands on them, then
// create or load.
func startup() *desc {
	return &desc{Name: "startup", Steps: []step{
		{Name: "open devices", Action: stepOpenDevices, Cleanup: stepCloseDevices},
		{Name: "discover zones", Action: stepDiscover},
		{Name: "superblock buffers", Action: stepSuperblockBuffers, Cleanup: stepFreeSuperblockBuffers},
		// Rule 13: after a kill, reads come from volatile caches.
		{Name: "flush devices", Action: stepFlushBoth},
		{Name: "read superblocks", Action: stepReadSuperblocks},
		{Name: "timers", Action: stepTimers, Cleanup: stepStopTimers},
		{Name: "create or load", Action: stepCreateOrLoad},
		{Name: "run", Action: stepRun},
	}}
}

// create makes a new device. Nothing is scrubbed: a generation, an identity or
// a directory entry invalidates whatever stands in chunks, bands and L2P slots.
func create() *desc {
	return &desc{Name: "create", Steps: []step{
		{Name: "look for other data", Action: stepLookForData},
		{Name: "compute layout", Action: stepComputeLayout},
		{Name: "memory", Action: stepMemory, Cleanup: stepFreeMemory},
		{Name: "mapping", Action: stepNewTable, Cleanup: stepFreeTable},
		{Name: "metadata objects", Action: stepMetadata, Cleanup: stepFreeMetadata},
		// A start that is interrupted from here on leaves a device that says so.
		{Name: "mark as being made", Action: stepMarkCreating},
		{Name: "reserve metadata space", Action: stepReserveSpace},
		{Name: "clear chunk descriptors", Action: stepClearChunks},
		{Name: "clear band descriptors", Action: stepClearBands},
		{Name: "write directory", Action: stepWriteDirectory},
		{Name: "flush devices", Action: stepFlushBoth},
		{Name: "write superblock", Action: stepFirstSuperblock},
		{Name: "free lists", Action: stepListFree},
	}}
}

// load brings an existing device back: after a clean stop, after a crash, or
// after a kill whose shared memory survived.
func load() *desc {
	return &desc{Name: "load", Steps: []step{
		{Name: "memory", Action: stepMemory, Cleanup: stepFreeMemory},
		{Name: "mapping", Action: stepOldTable, Cleanup: stepFreeTable},
		{Name: "metadata objects", Action: stepMetadata, Cleanup: stepFreeMetadata},
		{Name: "repair superblock copy", Action: stepResync},
		{Name: "restore chunk descriptors", Action: stepRestoreChunks},
		{Name: "restore band descriptors", Action: stepRestoreBands},
		{Name: "segment states", Action: stepSegments},
		{Name: "load checkpoint", Action: stepLoadCheckpoint},
		{Name: "redo", Action: stepRedo},
		{Name: "judge losses", Action: stepJudge},
		{Name: "free lists", Action: stepListFree},
		// Rule 14 after a clean stop, Rule 19 after a crash: one durable step
		// to a new incarnation, before any IO and before any segment changes.
		{Name: "begin incarnation", Action: stepIncarnation},
		{Name: "close recovered segments", Action: stepCloseRecovered},
		{Name: "settle zones", Action: stepSettleZones},
	}}
}

// next ends the running step as err says. It has the shape of the callbacks
// that the parts of the device call.
func next(d *Device, err error) {
	p := d.life.proc
	if err != nil {
		p.Fail(err)
		return
	}
	p.Next()
}

// enter notes the running process, so that callbacks find it.
func enter(p *process) *Device {
	d := p.Owner()
	d.life.proc = p
	return d
}

func stepSuperblockBuffers(p *process) {
	enter(p).initSuperblock()
	p.Next()
}

func stepFreeSuperblockBuffers(p *process) {
	enter(p).freeSuperblock()
	p.Next()
}

func stepFlushBoth(p *process) {
	d := enter(p)
	if d.cfg.ReadOnly {
		p.Skip()
		return
	}
	d.flushBoth(next)
}

func stepReadSuperblocks(p *process) { enter(p).readSuperblocks(next) }

// stepCreateOrLoad decides by what the devices hold and what was asked for.
func stepCreateOrLoad(p *process) {
	d := enter(p)
	want := d.cfg.UUID
	if d.cfg.Create {
		d.cfg.UUID = uuid.Nil // whatever is there, is there
	}
	choice, err := d.chooseSuperblock()
	d.cfg.UUID = want
	half := err == nil && choice.SB.State&superblock.StateCreating != 0
	if d.cfg.Create {
		d.life.remake = half
		if refused := d.refuseCreate(err); refused != nil && !half {
			p.Fail(refused)
			return
		}
		p.Call(create())
		return
	}
	if half {
		err = fmt.Errorf("%w: making %q was interrupted before it was complete", superblock.ErrBlank, choice.SB.Name)
	}
	if err != nil {
		p.Fail(err)
		return
	}
	if err := d.refuseBlank(choice); err != nil {
		p.Fail(err)
		return
	}
	d.life.choice = choice
	d.sb = *choice.SB
	d.lay = choice.SB.Layout
	if err := d.checkRoles(); err != nil {
		p.Fail(err)
		return
	}
	if !d.lay.NoCache && d.lay.VSS != (d.cache.info.MDSize >= record.VSSSize) {
		p.Fail(fmt.Errorf("cache device %s: the FTL was made %s metadata per block, the device is %s: %w", d.cache.name(),
			with(d.lay.VSS), with(!d.lay.VSS), unix.EINVAL))
		return
	}
	p.Call(load())
}

// refuseBlank says which device is blank although the other belongs to an FTL.
func (d *Device) refuseBlank(c *superblock.Choice) error {
	v, other := &d.cache, &d.base
	if d.mirrorDev() == d.meta || d.cfg.RewriteSuperblock {
		return nil // one copy is damaged
	}
	switch {
	case errors.Is(c.CacheErr, superblock.ErrBlank):
	case errors.Is(c.BaseErr, superblock.ErrBlank):
		v, other = other, v
	default:
		return nil
	}
	return fmt.Errorf("%w: %s device %s holds nothing, %s device %s belongs to FTL %s (%q); was the wrong device given?",
		ErrHalfBlank, v.kind, v.name(), other.kind, other.name(), c.SB.UUID, c.SB.Name)
}

// checkRoles refuses devices that do not fit the way in which the FTL was made.
func (d *Device) checkRoles() error {
	l := d.lay
	switch {
	case l.CacheBlocks == 0 && d.cfg.Cache != "":
		return fmt.Errorf("the FTL on %s was made without a cache; %s does not belong to it: %w", d.base.name(), d.cache.name(), unix.EINVAL)
	case l.CacheBlocks != 0 && d.cfg.Cache == "":
		return d.lacksCache()
	}
	d.logDev = &d.cache
	if l.NoCache {
		d.logDev = &d.base
	}
	return nil
}

func (d *Device) lacksCache() error {
	return fmt.Errorf("the FTL on %s has a cache device too; name it: %w", d.base.name(), unix.EINVAL)
}

func with(yes bool) string {
	if yes {
		return "with"
	}
	return "without"
}

// refuseCreate says why a new device may not be made over what is there.
func (d *Device) refuseCreate(found error) error {
	switch {
	case d.cfg.Force, errors.Is(found, superblock.ErrBlank):
		return nil
	case errors.Is(found, superblock.ErrForeign):
		return fmt.Errorf("%w: %w", ErrNotEmpty, found)
	case found == nil:
		return ErrExists
	case d.sbErrs[0] != nil || d.sbErrs[1] != nil:
		return fmt.Errorf("what the devices hold cannot be read, and may be of value: %w", found)
	}
	return fmt.Errorf("%w: %w", ErrExists, found)
}

func stepComputeLayout(p *process) {
	d := enter(p)
	params := layout.Params{
		BaseBlocks: d.base.info.Blocks, NoCache: d.cfg.NoCache,
		SparePct: d.cfg.SparePct, SizeBlocks: d.cfg.SizeBytes / blockSize,
		ChunkBlocks: d.cfg.ChunkBlocks, BandBlocks: d.cfg.BandBlocks,
	}
	if d.cfg.Cache != "" {
		params.CacheBlocks, params.CacheMD = d.cache.info.Blocks, d.cache.info.MDSize
	}
	if d.zones != nil {
		params.Zones = d.zones.Shape()
	}
	l, err := layout.Compute(params)
	if err != nil {
		p.Fail(err)
		return
	}
	d.lay = l
	d.sb = superblock.Superblock{
		Version: superblock.Version, UUID: d.cfg.UUID, Name: d.cfg.Name, Inc: 1, CkptK: 1,
		Created: d.cfg.CreatedNs, CacheUUID: d.meta.info.UUID, BaseUUID: d.base.info.UUID,
		Config: superblock.Config{SparePct: l.SparePct, VerifyReads: true}, Layout: l,
	}
	p.Next()
}

// stepNewTable makes an empty mapping.
func stepNewTable(p *process) {
	d := enter(p)
	d.openTable(false)
	p.Next()
}

// stepOldTable takes the mapping from shared memory when a killed process left
// it there (Rule 21), else makes an empty one to load.
func stepOldTable(p *process) {
	d := enter(p)
	d.openTable(!d.sb.Clean && !d.cfg.ReadOnly)
	d.redoFrom = d.sb.CU
	d.lastG = d.sb.CM
	if d.fromShm {
		d.redoFrom = max(d.shm.acked(), d.sb.CU)
		d.lastG = max(d.lastG, d.shm.lastG())
	}
	p.Next()
}

func stepFreeTable(p *process) {
	enter(p).closeTable(false)
	p.Next()
}

func stepMetadata(p *process) {
	d := enter(p)
	if err := d.buildMetadata(); err != nil {
		p.Fail(err)
		return
	}
	p.Next()
}

func stepFreeMetadata(p *process) {
	enter(p).freeMetadata()
	p.Next()
}

// stepReserveSpace has a sparse cache file allocate its metadata now, so that
// a full file system is met here and not in the middle of a checkpoint.
func stepReserveSpace(p *process) {
	d := enter(p)
	if !d.meta.info.Ops.Has(bdev.OpWriteZeroes) {
		p.Skip()
		return
	}
	x := &d.life.zeroes
	from := d.lay.Region(layout.RegionSB).End() // the superblock says that the device is being made
	x.prepare(d.meta, bdev.OpWriteZeroes, nil, nil, from, d.lay.Region(layout.RegionChunks).Offset-from, SourceMDCache)
	x.call(func(_ *devIO, err error) {
		if err != nil {
			err = fmt.Errorf("reserving %d blocks of metadata on %s: %w", x.n, d.meta.name(), err)
		}
		next(d, err)
	}, d)
}

func stepClearChunks(p *process) {
	d := enter(p)
	if d.mdChunks == nil {
		p.Skip()
		return
	}
	d.mdChunks.Clear(0, nil, mdDone, d)
}

func stepClearBands(p *process) { enter(p).mdBands.Clear(0, nil, mdDone, p.Owner()) }

func mdDone(arg any, err error) { next(arg.(*Device), err) }

// stepWriteDirectory writes the directory of checkpoint 1, which names no page.
func stepWriteDirectory(p *process) {
	d := enter(p)
	c := &d.ckpt
	c.k = 1
	dir := c.dirs[0]
	clear(dir)
	for i := uint64(0); i < d.lay.DirBlocks; i++ {
		record.SealDir(dir[i*blockSize:(i+1)*blockSize], i, 1, d.seed)
	}
	c.io.idx = 0
	c.io.prepareOne(d.meta, bdev.OpWrite, dir, d.dirOffset(0, 0), SourceL2P)
	c.io.call(firstDirDone, d)
}

func firstDirDone(x *devIO, err error) {
	d := x.owner.(*Device)
	if err != nil || x.idx == 1 {
		next(d, err)
		return
	}
	x.idx = 1
	x.prepareOne(d.meta, bdev.OpWrite, d.ckpt.dirs[0], d.dirOffset(0, 1), SourceL2P)
	x.call(firstDirDone, d)
}

// stepMarkCreating writes a superblock that says that nothing behind it counts.
func stepMarkCreating(p *process) {
	d := enter(p)
	nsb := d.sb
	nsb.State |= superblock.StateCreating
	d.writeSuperblock(nsb, next)
}

// stepFirstSuperblock makes the device exist.
func stepFirstSuperblock(p *process) {
	d := enter(p)
	nsb := d.sb
	nsb.State &^= superblock.StateCreating
	d.writeSuperblock(nsb, next)
}

func stepListFree(p *process) {
	d := enter(p)
	d.listFree()
	p.Next()
}

func stepResync(p *process) {
	d := enter(p)
	c := d.life.choice
	if d.cfg.ReadOnly || !c.RewriteBase && !c.RewriteCache {
		p.Skip()
		return
	}
	d.resyncSuperblock(c, next)
}

func stepRestoreChunks(p *process) {
	d := enter(p)
	if d.mdChunks == nil {
		p.Skip()
		return
	}
	d.mdChunks.Restore(mdDone, d)
}

func stepRestoreBands(p *process) { enter(p).mdBands.Restore(mdDone, p.Owner()) }

func stepSegments(p *process) {
	d := enter(p)
	if err := d.loadDescriptors(); err != nil {
		p.Fail(err)
		return
	}
	p.Next()
}

func stepLoadCheckpoint(p *process) { enter(p).loadCheckpoint(next) }

// stepRedo replays the log. After a clean stop there is nothing to replay, but
// a segment that could not be closed is scanned all the same.
func stepRedo(p *process) { enter(p).redo(next) }

// stepJudge stops a device from taking writes when durable records or pages of
// the mapping are gone, until a person decides (Rules 12 and 17): writing would
// free segments that may hold what is missing.
func stepJudge(p *process) {
	d := enter(p)
	if d.cfg.ReadOnly {
		d.health = HealthReadOnly
		p.Next()
		return
	}
	if d.redoGaps > 0 || d.rottenPages > 0 {
		if !d.cfg.AcceptLoss {
			d.fail(HealthReadOnly, "durable data cannot be read; accept the loss to go on writing", ErrLoss)
			p.Next()
			return
		}
		d.lossAccepted = true
		d.log.Warn("loss of durable data accepted", "records", d.redoGaps, "pages", d.rottenPages)
		d.sb.State |= superblock.StateDegraded
	}
	p.Next()
}

// stepIncarnation begins a new incarnation durably: by recovery's own
// checkpoint after a crash, by clearing the clean flag after a clean stop. A
// clean stop may leave records behind what its checkpoint covers, that failed
// and are there all the same: what was redone needs a checkpoint in any case.
func stepIncarnation(p *process) {
	d := enter(p)
	if d.health != HealthOK {
		p.Skip()
		return
	}
	if d.sb.Clean && d.redoTo == d.sb.CU {
		nsb := d.sb
		nsb.Clean = false
		nsb.Inc++
		d.writeSuperblock(nsb, func(d *Device, err error) {
			if err == nil {
				d.quarantineEmpty(true)
			}
			next(d, err)
		})
		return
	}
	d.quarantineEmpty(false)
	d.checkpoint(1, next)
}

func stepCloseRecovered(p *process) {
	d := enter(p)
	if d.health != HealthOK {
		p.Skip()
		return
	}
	d.closeRecovered(next)
}

func stepSettleZones(p *process) {
	d := enter(p)
	if d.zones == nil || d.health != HealthOK {
		p.Skip()
		return
	}
	d.settleZones(next)
}

func stepTimers(p *process) {
	d := enter(p)
	d.retry = d.th.RegisterPoller("ftl retry", retryTick, d, retryPeriod)
	d.retry.Pause()
	d.idleTimer = d.th.RegisterPoller("ftl idle", idleTick, d, idlePeriod)
	d.idleTimer.Pause()
	p.Next()
}

func stepStopTimers(p *process) {
	enter(p).stopTimers()
	p.Next()
}

func (d *Device) stopTimers() {
	if d.retry != nil {
		d.retry.Unregister()
		d.idleTimer.Unregister()
	}
	d.retry, d.idleTimer = nil, nil
}

// stepRun opens the device for IO.
func stepRun(p *process) {
	d := enter(p)
	if d.shm != nil && d.health == HealthOK {
		// A device that lost something stays read-only (Rule 17): a mapping in
		// shared memory, taken after a kill, would hide that.
		d.shm.begin(d.sb.Inc, d.ackedU, d.lastG)
	}
	d.life.choice = nil
	d.running = true
	d.log.Info("device ready", "name", d.sb.Name, "uuid", d.sb.UUID, "blocks", d.lay.LBAs, "health", d.health.String(),
		"redone", d.redone, "shm", d.fromShm)
	d.wake()
	p.Next()
}
