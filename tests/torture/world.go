package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// world says what a campaign's devices are made of, and what may happen to them.
type world struct {
	name     string
	volatile bool // what is not flushed is dropped when the server is killed
	zoned    bool // the base is a zoned device; some campaigns are not volatile then
	mayFill  bool // the disk is smaller than the files on it
	alone    bool // there is no cache device; some campaigns are zoned, some are not volatile
}

var worlds = []world{
	{name: "kill"},
	{name: "power", volatile: true},
	{name: "zoned", volatile: true, zoned: true},
	{name: "power", volatile: true}, // the one that finds most has two seeds of six
	{name: "full", mayFill: true},
	{name: "alone", volatile: true, alone: true},
}

func worldNamed(name string) *world {
	for i := range worlds {
		if worlds[i].name == name {
			return &worlds[i]
		}
	}
	return nil
}

// worldOf is the world of a seed.
func (r *run) worldOf(seed uint64) *world {
	if r.world != "" {
		return worldNamed(r.world)
	}
	return &worlds[seed%uint64(len(worlds))]
}

// shape is what stays the same for all lives of a device.
type shape struct {
	cacheMiB, baseMiB, sizeMiB int
	memory                     bool // the files are in memory
	volatile                   bool
	alone                      bool   // there is no cache
	zones                      string // what stands in front of the base's file
}

func drawShape(r *rand.Rand, w *world) shape {
	s := shape{
		cacheMiB: []int{64, 64, 96}[r.IntN(3)], baseMiB: []int{256, 256, 320}[r.IntN(3)], sizeMiB: []int{32, 64, 128, 160}[r.IntN(4)],
		memory: r.IntN(3) == 0, volatile: w.volatile,
	}
	switch {
	case w.mayFill:
		s.sizeMiB = 160 // its files come to more than the disk has
	case w.alone:
		s.alone, s.volatile = true, r.IntN(3) != 0
		s.baseMiB *= 2
		if r.IntN(2) == 0 { // metadata goes to the conventional zones
			s.zones = fmt.Sprintf("zone:2MiB,persist=on,units=%d,conv=%d:", 1<<r.IntN(3), 4+r.IntN(4))
		}
	case w.zoned:
		s.volatile = r.IntN(4) != 0
		s.baseMiB *= 2
		s.zones = fmt.Sprintf("zone:%dMiB,persist=on,units=%d", 2<<r.IntN(3), 1<<r.IntN(3))
		if r.IntN(2) == 0 {
			s.zones += fmt.Sprintf(",unit=%dKiB", 8<<r.IntN(3))
		}
		s.zones += ":"
	}
	return s
}

func (s shape) String() string {
	text := fmt.Sprintf("%d MiB over %d + %d", s.sizeMiB, s.cacheMiB, s.baseMiB)
	if s.alone {
		text = fmt.Sprintf("%d MiB over %d", s.sizeMiB, s.baseMiB)
	}
	if s.zones != "" {
		text += " " + strings.TrimSuffix(s.zones, ":")
	}
	if s.volatile {
		text += " volatile"
	}
	if s.memory {
		text += " in memory"
	}
	return text
}

// spot is where a campaign has its files.
type spot struct {
	aux  string // socket, log, shared memory
	disk string // the devices
	undo []func()
	grow func() error // makes the disk as large as the files
}

// newSpot makes the folders, and the disk where it is to be small.
func (c *campaign) newSpot() (err error) {
	c.spot.aux, err = os.MkdirTemp(c.run.dir, "")
	if err != nil {
		return err
	}
	c.spot.disk = c.spot.aux
	if err := os.Mkdir(c.shm(), 0o700); err != nil {
		return err
	}
	if c.world.mayFill {
		return c.smallDisk()
	}
	if c.shape.memory {
		dir, err := os.MkdirTemp("/dev/shm", "torture-")
		if err != nil {
			return nil // no such thing here: then on disk
		}
		c.spot.disk = dir
		c.spot.undo = append(c.spot.undo, func() { _ = os.RemoveAll(dir) })
	}
	return nil
}

// leave unmounts and removes what newSpot made, unless it is to be kept.
func (s *spot) leave(keep bool) {
	if keep {
		return
	}
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	_ = os.RemoveAll(s.aux) // in the run's own folder, which goes as a whole
}

// args are the arguments of a server's life.
func (c *campaign) args() []string {
	driver := ""
	if c.rnd.IntN(4) == 0 {
		driver = ",driver=aio"
	}
	c.dies = c.mortal && c.shape.volatile && c.rnd.IntN(2) == 0
	args := append(c.specs(c.lag()+c.shim(), c.lag()+c.shim(), driver), "--size", fmt.Sprintf("%dMiB", c.shape.sizeMiB))
	if c.fast = c.rnd.IntN(5) == 0; c.fast {
		args = append(args, "--fast-stop")
	}
	if c.buffered = c.rnd.IntN(5) == 0 && !c.world.mayFill; c.buffered {
		args = append(args, "--volatile-write-cache", "--write-buffer", fmt.Sprintf("%dMiB", 1<<c.rnd.IntN(4)))
	}
	args = append(args, "--shm")
	if c.shape.volatile || c.rnd.IntN(3) == 0 {
		return append(args, "off")
	}
	return append(args, c.shm())
}

// shm is the folder for shared memory.
func (c *campaign) shm() string { return filepath.Join(c.spot.aux, "shm") }

// specs are the arguments for the devices: with what stands in front of the files, and with options of the files.
func (c *campaign) specs(frontCache, frontBase, options string) []string {
	file := func(front, name string, mib int) string {
		return fmt.Sprintf("%sfile:%s,size=%dMiB%s", front, filepath.Join(c.spot.disk, name), mib, options)
	}
	base := file(c.shape.zones+frontBase, "base.img", c.shape.baseMiB)
	if c.shape.alone {
		return []string{"--no-cache", "--base", base}
	}
	return []string{"--cache", file(frontCache, "cache.img", c.shape.cacheMiB), "--base", base}
}

// lag is something that answers one IO of a hundred late, so that others overtake it; or nothing.
func (c *campaign) lag() string {
	if c.rnd.IntN(3) != 0 {
		return ""
	}
	return fmt.Sprintf("delay:p99-write=%dms,p99-read=%dms,seed=%d:", 1+c.rnd.IntN(20), 1+c.rnd.IntN(5), c.rnd.Uint32())
}

// shim is a volatile cache, another one for each device and life, where there is to be one.
func (c *campaign) shim() string {
	if !c.shape.volatile {
		return ""
	}
	sizes := []string{"512KiB", "4MiB", "32MiB"}
	early := []float64{0, 0, 0.001, 0.05, 0.5}
	s := fmt.Sprintf("volatile:size=%s,early=%v,seed=%d", sizes[c.rnd.IntN(len(sizes))], early[c.rnd.IntN(len(early))], c.rnd.Uint32())
	if c.dies {
		chances := []float64{0.0003, 0.001, 0.003, 0.01, 0.03}
		if !c.made { // a creation writes little
			chances = []float64{0.01, 0.03, 0.1, 0.3}
		}
		s += fmt.Sprintf(",die=%v", chances[c.rnd.IntN(len(chances))])
	}
	if c.run.lie {
		s += ",lie"
	}
	return s + ":"
}
