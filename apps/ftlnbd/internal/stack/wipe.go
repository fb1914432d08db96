package stack

import (
	"errors"
	"fmt"

	"goftl/bdev"
)

// Wipe overwrites both superblocks and what surrounds them with zeroes, and
// resets all zones, so that the devices count as empty.
func Wipe(o Options) error {
	s := &Stack{o: o}
	var err error
	if s.Specs, err = o.Place.Resolve(false, &o.Config); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	err = s.OnCore(s.openDevices)
	for _, b := range []*bdev.Bdev{s.Cache, s.Base} {
		if err == nil && b != nil {
			err = s.withChannel(b, true, func(ch *bdev.Channel) error { return s.wipe(b.Info(), ch) })
		}
	}
	return errors.Join(err, s.Close(true))
}

// wipeFront and wipeBack are the blocks in which a new device looks for data of
// somebody else, see ftl.
const (
	wipeFront = 256
	wipeBack  = 16
)

// wipe empties one device.
func (s *Stack) wipe(i *bdev.Info, ch *bdev.Channel) error {
	end := i.Blocks
	if i.Zoned {
		conv, err := s.wipeZones(i, ch)
		if err != nil {
			return err
		}
		end = conv
	}
	if end > 0 {
		for _, part := range [2][2]uint64{{0, min(wipeFront, end)}, {end - min(wipeBack, end), min(wipeBack, end)}} {
			if err := s.do(func(done bdev.DoneFunc) error { return ch.WriteZeroes(part[0], part[1], done, nil) }); err != nil {
				return err
			}
		}
	}
	return s.do(func(done bdev.DoneFunc) error { return ch.Flush(done, nil) })
}

// wipeZones resets every zone that is not empty and can be reset, and returns
// the blocks of the conventional ones in front.
func (s *Stack) wipeZones(i *bdev.Info, ch *bdev.Channel) (conv uint64, err error) {
	const batch = 64
	zones := make([]bdev.ZoneInfo, batch)
	n := i.Blocks / i.ZoneBlocks
	leading := true
	for at := uint64(0); at < n; at += batch {
		list := zones[:min(batch, n-at)]
		if err := s.do(func(done bdev.DoneFunc) error { return ch.ZoneInfo(at*i.ZoneBlocks, list, done, nil) }); err != nil {
			return 0, err
		}
		for k := range list {
			z := list[k]
			if leading = leading && z.Conventional; leading {
				conv += i.ZoneBlocks
			}
			if z.Conventional || z.State == bdev.ZoneEmpty || z.State == bdev.ZoneReadOnly || z.State == bdev.ZoneOffline {
				continue
			}
			if err := s.do(func(done bdev.DoneFunc) error { return ch.ZoneReset(z.LBA, done, nil) }); err != nil {
				return 0, fmt.Errorf("resetting zone %d of %s: %w", at+uint64(k), i.Name, err)
			}
		}
	}
	return conv, nil
}

// do submits one IO on the core thread and waits for its end.
func (s *Stack) do(submit func(done bdev.DoneFunc) error) error {
	return s.await(func(done func(error)) {
		if err := submit(func(io *bdev.IO) { done(io.Err()) }); err != nil {
			done(err)
		}
	})
}
