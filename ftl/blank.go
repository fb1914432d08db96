package ftl

import (
	"fmt"

	"goftl/bdev"
	"goftl/iobuf"
)

// A new device is made only over devices that look empty: file systems, RAID
// members and volumes have their signatures in the first megabyte or at the
// very end, and not always in the first block.

const (
	blankFront = 256 // blocks looked at in front
	blankBack  = 16  // and at the end
)

// blankCheck reads the front and the end of both devices.
type blankCheck struct {
	d    *Device
	io   devIO
	buf  []byte
	part int
	err  error
}

// stepLookForData refuses devices that hold something, unless Force is set.
func stepLookForData(p *process) {
	d := enter(p)
	if d.cfg.Force || d.life.remake {
		p.Skip()
		return
	}
	c := &blankCheck{d: d, buf: iobuf.Alloc(blankFront * blockSize)}
	c.read()
}

func (c *blankCheck) read() {
	v := c.d.meta
	if c.part >= 2 {
		v = &c.d.base
	}
	if v.info.Zoned {
		c.end(c.lookAtZones())
		return
	}
	n, at := min(blankFront, v.info.Blocks), uint64(0)
	if c.part%2 == 1 {
		n = min(blankBack, v.info.Blocks)
		at = v.info.Blocks - n
	}
	clear(c.buf)
	c.io.prepareOne(v, bdev.OpRead, c.buf[:n*blockSize], at, v.mdSource())
	c.io.call(blankRead, c)
}

func blankRead(x *devIO, err error) {
	c := x.owner.(*blankCheck)
	if err == nil {
		err = c.look()
	}
	c.part++
	if err == nil && c.part < c.d.blankParts() {
		c.read()
		return
	}
	c.end(err)
}

// end goes on with the creation, by message: nothing may have been read.
func (c *blankCheck) end(err error) {
	iobuf.Free(c.buf)
	c.err = err
	c.d.th.Post(blankEnded, c)
}

func blankEnded(arg any) {
	c := arg.(*blankCheck)
	next(c.d, c.err)
}

// blankParts is the number of pieces to look at: front and end of each device.
func (d *Device) blankParts() int { return 2 * len(d.devices()) }

// lookAtZones reports the first zone that was written.
func (c *blankCheck) lookAtZones() error {
	d := c.d
	if i, ok := d.zones.FirstWritten(); ok {
		return fmt.Errorf("%w: zone %d of %s device %s is not empty; reset it first if its data is not needed",
			ErrNotEmpty, i, d.base.kind, d.base.name())
	}
	return nil
}

// look reports the first byte that is not zero.
func (c *blankCheck) look() error {
	for i, b := range c.io.one[0] {
		if b != 0 {
			return fmt.Errorf("%w: %s device %s has data at byte %d; wipe it first if it is not needed",
				ErrNotEmpty, c.io.dev.kind, c.io.dev.name(), c.io.lba*blockSize+uint64(i))
		}
	}
	return nil
}
