package ftl

import (
	"errors"
	"fmt"

	"goftl/ftl/mngt"
	"goftl/poller"
)

// Stop ends the device and calls done on the core thread. Requests under way
// are finished, new ones are refused with ENODEV.
//
// A clean stop writes a checkpoint and marks the superblock clean, so that the
// next load replays nothing (Rule 20). A fast stop only finishes what is under
// way: with shared memory the next load takes the mapping from there, without
// it the next load replays the log. A device that takes no writes, because of
// Config.ReadOnly or after an error, is always stopped fast, and done gets nil if
// that went well: that there is no checkpoint is told by Health. done gets the
// first error; the device is gone in any case. A second Stop gets ErrBusy.
func (d *Device) Stop(fast bool, done func(err error)) {
	if d.stopping {
		done(ErrBusy)
		return
	}
	d.stopping = true
	d.channels.count.Or(stopMark)
	d.life.stopped, d.life.fast = done, fast
	mngt.Run(d.th, d, shutdown(fast || d.health != HealthOK), stepLog{d.log}, stopDone)
}

func stopDone(d *Device, err error) {
	d.halted = true
	done := d.life.stopped
	d.life.stopped = nil
	done(errors.Join(err, d.life.stopErr))
}

func shutdown(fast bool) *desc {
	steps := []step{
		{Name: "finish requests", Action: stepDrain},
		{Name: "close channels", Action: stepCloseChannels},
		{Name: "stop background work", Action: stepQuiesce},
	}
	if !fast {
		steps = append(steps,
			step{Name: "close segments", Action: stepCloseSegments},
			step{Name: "checkpoint", Action: stepLastCheckpoint},
			step{Name: "mark clean", Action: stepMarkClean},
		)
	}
	steps = append(steps, step{Name: "release", Action: func(p *process) { stepRelease(p, fast) }})
	return &desc{Name: map[bool]string{false: "shutdown", true: "fast shutdown"}[fast], Steps: steps}
}

// unclean notes an error of a stop and goes on: what follows releases things.
func unclean(d *Device, err error) {
	if err != nil {
		err = fmt.Errorf("shutdown: %s: %w", d.life.proc.StepName(), err)
		d.life.stopErr = errors.Join(d.life.stopErr, err)
	}
	d.life.proc.Next()
}

func stepDrain(p *process) {
	d := enter(p)
	if d.inUse == 0 {
		p.Next()
		return
	}
	d.life.onDrain = func(d *Device) { d.life.proc.Next() }
	d.wakeUser()
	d.wake()
}

// drained is called when the last request of a stopping device completed.
func (d *Device) drained() {
	f := d.life.onDrain
	d.life.onDrain = nil
	if f != nil {
		f(d)
	}
}

// stepQuiesce lets moves, flushes and checkpoints finish and starts no more.
func stepQuiesce(p *process) {
	d := enter(p)
	d.quiesce, d.abandonMoves = true, true
	d.quiet = d.th.RegisterPoller("ftl stop", quietTick, d, quietPeriod)
	d.life.onQuiet = func(d *Device) { d.life.proc.Next() }
	d.gc.writeWaiting()
	d.compaction.writeWaiting()
	d.wake()
}

// quiesced goes on with a stop when nothing is under way any more.
func (d *Device) quiesced() {
	f := d.life.onQuiet
	if f == nil {
		return
	}
	quiet := d.gc.under == 0 && d.compaction.under == 0 && !d.ckpt.active && !d.flusher.under &&
		d.log_.under == 0 && d.reader.under == 0 && d.sbw.stage == sbIdle &&
		d.chunks[segOpening]+d.bands[segOpening] == 0 && d.closing() == 0 && d.drainsLoading() == 0
	if !quiet {
		return // the timer looks again
	}
	d.life.onQuiet = nil
	f(d)
}

func quietTick(arg any) poller.Result {
	arg.(*Device).quiesced()
	return poller.Busy
}

// quietPeriod is how often a stopping device looks whether all is done.
const quietPeriod = 1e6

// closing counts segments whose closing is under way. One that a load found
// open and could not close, because the device takes no writes, stays as it is.
func (d *Device) closing() (n int) {
	for i := range d.segs {
		if s := &d.segs[i]; s.state == segClosing && s.closing != closeHeld {
			n++
		}
	}
	return n
}

func (d *Device) drainsLoading() (n int) {
	for _, m := range []*mover{&d.gc, &d.compaction} {
		for _, dr := range m.drains {
			if !dr.ready {
				n++
			}
		}
	}
	return n
}

// stepCloseSegments closes what is open, so that the next load scans nothing.
func stepCloseSegments(p *process) {
	d := enter(p)
	for i := range d.segs {
		if d.segs[i].state == segOpen {
			d.seal(&d.segs[i])
		}
	}
	d.life.onQuiet = func(d *Device) { d.life.proc.Next() }
	d.wake()
}

func stepLastCheckpoint(p *process) {
	d := enter(p)
	if d.health != HealthOK {
		unclean(d, errIncomplete)
		return
	}
	d.checkpoint(0, unclean)
}

// stepMarkClean sets the clean flag by a write of its own (Rule 20).
func stepMarkClean(p *process) {
	d := enter(p)
	if d.life.stopErr != nil || d.health != HealthOK {
		p.Skip()
		return
	}
	nsb := d.sb
	nsb.Clean = true
	d.writeSuperblock(nsb, unclean)
}

// stepRelease gives everything back.
func stepRelease(p *process, fast bool) {
	d := enter(p)
	d.running, d.halted = false, true
	d.quiet.Unregister()
	d.stopTimers()
	for _, m := range []*mover{&d.gc, &d.compaction} {
		for _, dr := range m.drains {
			if !dr.own {
				d.returnSummary(dr.seg.band, dr.sum)
			}
		}
		m.drains = nil
	}
	d.freeMetadata()
	d.closeTable(fast && d.health == HealthOK)
	d.freeMemory()
	d.freeSuperblock()
	d.closeDevices()
	p.Next()
}
