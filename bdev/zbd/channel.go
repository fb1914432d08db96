package zbd

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/internal/assert"
	"goftl/thread"
)

const (
	workers = 4  // zone operations and reports of a channel that are at the device
	jobsMax = 64 // and those handed to the workers
)

// channel is one thread's way to the device.
type channel struct {
	d      *Driver
	th     *thread.Thread
	base   *bdev.Channel
	zones  map[uint64]*lane // with a write under way
	idle   []*lane
	jobs   chan *job // room for jobsMax
	given  int       // jobs with the workers
	queued []*job    // the rest
	spare  []*job
}

// lane is the writes of a zone that is written in order: one under way, the
// others behind it.
type lane struct {
	zone    uint64
	waiting []*bdev.IO
}

// job is what a worker does.
type job struct {
	c   *channel
	io  *bdev.IO
	err error // of a write or read that failed, whose zone is looked at
}

func newChannel(d *Driver, t *thread.Thread, base *bdev.Channel) *channel {
	c := &channel{d: d, th: t, base: base, zones: make(map[uint64]*lane), jobs: make(chan *job, jobsMax)}
	for range workers {
		go c.work()
	}
	return c
}

// Close implements bdev.DriverChannel.
func (c *channel) Close() {
	assert.That(c.given == 0 && len(c.zones) == 0, "zbd: channel closed with IO in flight")
	close(c.jobs)
	c.base.Put()
}

// Submit implements bdev.DriverChannel.
func (c *channel) Submit(io *bdev.IO) {
	switch io.Op {
	case bdev.OpRead:
		io.Driver = c
		c.base.Forward(io, io.LBA, freeDone)
	case bdev.OpWrite:
		c.write(io)
	case bdev.OpZoneReset, bdev.OpZoneOpen, bdev.OpZoneClose, bdev.OpZoneFinish, bdev.OpZoneInfo:
		c.give(io, nil)
	case bdev.OpAbort:
		c.abort(io)
	default:
		c.base.Forward(io, io.LBA, bdev.ForwardDone)
	}
}

// write sends a write to the device, or queues it behind the one of its zone
// that is under way.
func (c *channel) write(io *bdev.IO) {
	zone := io.LBA / c.d.g.zoneBlocks
	if zone < c.d.g.conv {
		io.Driver = c
		c.base.Forward(io, io.LBA, freeDone)
		return
	}
	if l := c.zones[zone]; l != nil {
		l.waiting = append(l.waiting, io)
		return
	}
	l := &lane{}
	if n := len(c.idle); n > 0 {
		l, c.idle = c.idle[n-1], c.idle[:n-1]
	}
	l.zone = zone
	c.zones[zone] = l
	io.Driver = c
	c.base.Forward(io, io.LBA, writeDone)
}

func freeDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	io.Driver.(*channel).ended(io, inner.Err())
}

// writeDone sends the next write of the zone. Behind one that failed the others
// fail as well: the device refuses them.
func writeDone(inner *bdev.IO) {
	io := inner.Ctx.(*bdev.IO)
	c := io.Driver.(*channel)
	zone := io.LBA / c.d.g.zoneBlocks
	l := c.zones[zone]
	if len(l.waiting) == 0 {
		delete(c.zones, zone)
		c.idle = append(c.idle, l)
	} else {
		next := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		next.Driver = c
		c.base.Forward(next, next.LBA, writeDone)
	}
	c.ended(io, inner.Err())
}

// ended completes a read or write. After one that failed in the device the zone
// is looked at first: it may have turned read-only or offline.
func (c *channel) ended(io *bdev.IO, err error) {
	if err == nil || !errors.Is(err, unix.EIO) {
		io.Complete(err)
		return
	}
	c.give(io, err)
}

// abort ends a write that was not sent yet.
func (c *channel) abort(io *bdev.IO) {
	t := io.Target
	if l := c.zones[t.LBA/c.d.g.zoneBlocks]; l != nil && t.Op == bdev.OpWrite {
		if i := slices.Index(l.waiting, t); i >= 0 {
			l.waiting = slices.Delete(l.waiting, i, i+1)
			t.Complete(bdev.ErrAborted)
			io.Complete(nil)
			return
		}
	}
	c.base.Forward(io, 0, bdev.ForwardDone)
}

// give hands an IO to the workers.
func (c *channel) give(io *bdev.IO, err error) {
	j := &job{}
	if n := len(c.spare); n > 0 {
		j, c.spare = c.spare[n-1], c.spare[:n-1]
	}
	*j = job{c: c, io: io, err: err}
	if c.given == jobsMax {
		c.queued = append(c.queued, j)
		return
	}
	c.given++
	c.jobs <- j
}

// work is one worker's life.
func (c *channel) work() {
	buf := make([]byte, reportHeader+batch*zoneBytes)
	for j := range c.jobs {
		j.run(buf)
		c.th.Send(jobDone, j)
	}
}

// run makes the calls of a job, on a worker.
func (j *job) run(buf []byte) {
	d, io := j.c.d, j.io
	zone := io.LBA / d.g.zoneBlocks
	switch io.Op {
	case bdev.OpZoneInfo:
		j.err = d.reportZones(buf, zone, io.Zones)
		return
	case bdev.OpRead, bdev.OpWrite: // its own error is what counts
		_ = d.reportZones(buf, zone, make([]bdev.ZoneInfo, 1))
		return
	default:
	}
	j.err = manage(d.ctl, io.Op, zone*d.g.zoneBlocks*blockSectors, d.g.zoneBlocks*blockSectors)
	if j.err != nil {
		_ = d.reportZones(buf, zone, make([]bdev.ZoneInfo, 1))
	}
}

// jobDone brings a job back to the thread.
func jobDone(arg any) {
	j := arg.(*job)
	c, io, err := j.c, j.io, j.err
	*j = job{}
	c.spare = append(c.spare, j)
	if len(c.queued) > 0 {
		next := c.queued[0]
		c.queued = slices.Delete(c.queued, 0, 1)
		c.jobs <- next
	} else {
		c.given--
	}
	io.Complete(err)
}
