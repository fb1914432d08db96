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
	v := &c.d.cache
	if c.part >= 2 {
		v = &c.d.base
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
	if err == nil && c.part < 4 {
		c.read()
		return
	}
	iobuf.Free(c.buf)
	next(c.d, err)
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
