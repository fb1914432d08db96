package bdev

// ZoneReset empties the zone that begins at lba.
func (c *Channel) ZoneReset(lba uint64, done DoneFunc, ctx any) error {
	return c.zoneOp(OpZoneReset, lba, done, ctx)
}

// ZoneOpen opens the zone that begins at lba explicitly.
func (c *Channel) ZoneOpen(lba uint64, done DoneFunc, ctx any) error {
	return c.zoneOp(OpZoneOpen, lba, done, ctx)
}

// ZoneClose closes the open zone that begins at lba.
func (c *Channel) ZoneClose(lba uint64, done DoneFunc, ctx any) error {
	return c.zoneOp(OpZoneClose, lba, done, ctx)
}

// ZoneFinish makes the zone that begins at lba full.
func (c *Channel) ZoneFinish(lba uint64, done DoneFunc, ctx any) error {
	return c.zoneOp(OpZoneFinish, lba, done, ctx)
}

// ZoneOffline takes the zone that begins at lba out of use.
func (c *Channel) ZoneOffline(lba uint64, done DoneFunc, ctx any) error {
	return c.zoneOp(OpZoneOffline, lba, done, ctx)
}

func (c *Channel) zoneOp(op Op, lba uint64, done DoneFunc, ctx any) error {
	info := c.k.b.Info()
	if !info.Zoned || !info.Ops.Has(op) {
		return ErrUnsupported
	}
	if lba%info.ZoneBlocks != 0 {
		return c.k.limitError(op, lba, info.ZoneBlocks, "not the first block of a zone")
	}
	return c.rangeOp(op, true, lba, info.ZoneBlocks, done, ctx)
}

// ZoneAppendv writes bufs, and md when it is not nil, at the write pointer of
// the zone that begins at lba. The IO's Result is the LBA where they went.
func (c *Channel) ZoneAppendv(bufs [][]byte, md []byte, lba, count uint64, done DoneFunc, ctx any) error {
	info := c.k.b.Info()
	if !info.Zoned || !info.Ops.Has(OpZoneAppend) {
		return ErrUnsupported
	}
	if err := c.checkv(OpZoneAppend, bufs, md, lba, count); err != nil {
		return err
	}
	if lba%info.ZoneBlocks != 0 {
		return c.k.limitError(OpZoneAppend, lba, count, "not the first block of a zone")
	}
	if most := info.MaxAppend; most != 0 && count > uint64(most) {
		return c.k.limitError(OpZoneAppend, lba, count, "more than the device appends at once")
	}
	io := c.prepare(OpZoneAppend, lba, count, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Bufs, io.MD = bufs, md
	return c.k.startAny(io)
}

// ZoneInfo fills in zones with the state of as many zones, from the one that
// begins at lba on. The slice must stay as it is until done.
func (c *Channel) ZoneInfo(lba uint64, zones []ZoneInfo, done DoneFunc, ctx any) error {
	k := c.k
	info := k.b.Info()
	if !info.Zoned || !info.Ops.Has(OpZoneInfo) {
		return ErrUnsupported
	}
	if lba%info.ZoneBlocks != 0 {
		return k.limitError(OpZoneInfo, lba, info.ZoneBlocks, "not the first block of a zone")
	}
	n := uint64(len(zones))
	if n == 0 || lba >= info.Blocks || n > (info.Blocks-lba)/info.ZoneBlocks {
		return k.limitError(OpZoneInfo, lba, n*info.ZoneBlocks, "no such zones")
	}
	io := c.prepare(OpZoneInfo, lba, 0, done, ctx)
	if io == nil {
		return ErrNoMem
	}
	io.Zones = zones
	return k.startAny(io)
}
