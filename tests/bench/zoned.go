package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// zonedTarget measures zoned bases and operation without a cache.
func (b *bench) zonedTarget() error {
	return b.parts(part{"sequential", b.zonedSequential}, part{"random", b.zonedRandom}, part{"cached", b.zonedCached}, part{"file", b.zonedCachedFile})
}

// zonedSequential is one pass of large writes to an FTL without a cache, against the zones themselves. What the FTL holds
// for a moment the device does not have: where a device's throughput grows with what is under way, that is a loss at 16
// requests, and none at 32.
func (b *bench) zonedSequential() error {
	file := filepath.Join(b.temp, "zones.img")
	for _, m := range []struct{ name, spec string }{
		{"memory", "malloc:3GiB,populate=on"},
		{"memory that answers in 500 us", "delay:write=500us:malloc:3GiB,populate=on"},
		{"a file", "file:" + file + ",size=3GiB"},
	} {
		for _, depth := range []string{"16", "32"} {
			if err := b.zonedPass(m.name, m.spec, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// zonedPass is a pass of zonedSequential over one kind of media.
func (b *bench) zonedPass(name, media, depth string) error {
	pass := []string{"--rw=write", "--bs=128k", "--iodepth=" + depth, "--size=2GiB"}
	zones := "zone:16MiB,units=4:" + media
	entry := func(what string, args ...string) *entrant {
		return &entrant{name: "write 128K QD" + depth + ", " + what + ", " + name, needGiB: 4, measure: func() (sample, error) {
			return b.load("ftlperf", append(args, pass...)...)
		}}
	}
	alone := []string{"--no-cache", "--metadata", "malloc:64MiB", "--force", "--base", zones}
	below, raw := entry("no zones", "--bdev", media), entry("zones alone", "--bdev", zones)
	list := []*entrant{below, raw, entry("without a cache", alone...), entry("the same, append", append(alone, "--zone-append")...)}
	if err := b.contest(0.3, list); err != nil {
		return err
	}
	command := strings.Join(pass, " ")
	b.table.add(b.ofOther(raw, below, "what is below", goal{}, "ftlperf --bdev "+zones+" "+command))
	for _, e := range list[2:] {
		b.table.add(b.ofOther(e, raw, "zones alone", least(0.9, ""), "ftlperf --no-cache --metadata malloc:64MiB --base "+zones+" "+command))
	}
	return nil
}

// zonedRandom is random writes without a cache over zones that forget, beside the yardstick.
func (b *bench) zonedRandom() error {
	y := &entrant{name: "yardstick", needGiB: 3, measure: func() (sample, error) { return b.yardstick(time.Second) }}
	const base = "zone:64MiB,units=4:null:400GiB"
	args := []string{
		"--no-cache", "--metadata", "malloc:2GiB", "--base", base, "--rw=randwrite", "--bs=4k", "--iodepth=128", "--norandommap",
		"--time_based", "--ramp_time=1s", b.seconds(2 * time.Second),
	}
	entry := func(name string, more ...string) *entrant {
		return &entrant{name: name, needGiB: 3, measure: func() (sample, error) { return b.load("ftlperf", append(args, more...)...) }}
	}
	list := []*entrant{entry("randwrite 4K QD128, no cache, zones over null"), entry("the same, append", "--zone-append")}
	if err := b.contest(0.45, []*entrant{y, list[0], list[1]}); err != nil {
		return err
	}
	for _, e := range list {
		b.table.add(b.ofYardstick(e, y, least(0.15, ""), "ftlperf --no-cache --metadata malloc:2GiB --base "+base+" --rw=randwrite --bs=4k --iodepth=128"))
	}
	return nil
}

// zonedCached is random writes through a cache, with relocation at work, to zones and to a conventional base of the same
// memory, with bands of the same size. A conventional base behind one more layer of block devices stands beside it: what
// emulates zones is such a layer, and no part of what is compared.
func (b *bench) zonedCached() error {
	const media = "malloc:4GiB,populate=on"
	c := b.cachedOn("memory", 6, "malloc:1GiB,md=64,populate=on", "2560MiB", 3*time.Second)
	conv := c.entry("conventional", "--base", media, "--band-size=32MiB")
	layer := c.entry("conventional behind a passthru", "--base", "passthru:"+media, "--band-size=32MiB")
	zones := c.entry("zones", "--base", "zone:8MiB,units=4:"+media)
	appends := c.entry("zones by append", "--base", "zone:8MiB,units=4:"+media, "--zone-append")
	if err := b.contest(0.75, []*entrant{conv, zones, appends, layer}); err != nil {
		return err
	}
	const command = "ftlperf --cache malloc:1GiB,md=64 --base zone:8MiB,units=4:malloc:4GiB --ftl-size=2560MiB --fill --rw=randwrite --bs=4k --iodepth=128"
	for _, e := range []*entrant{zones, appends} {
		b.table.add(b.ofOther(e, conv, "conventional", least(0.95, ""), command))
	}
	for _, e := range []*entrant{zones, appends} {
		b.table.add(b.ofOther(e, layer, "conventional behind a passthru", goal{}, command))
	}
	return nil
}

// zonedCachedFile is the same on a file, where the media count for more than the CPU. The zones keep the blocks of the file,
// as the conventional base does.
func (b *bench) zonedCachedFile() error {
	media := "file:" + filepath.Join(b.temp, "cached.img") + ",size=2GiB"
	c := b.cachedOn("a file", 3, "malloc:512MiB,md=64,populate=on", "1280MiB", 4*time.Second)
	conv := c.entry("conventional", "--force", "--base", media, "--band-size=32MiB")
	zones := c.entry("zones", "--force", "--base", "zone:8MiB,units=4,unmap=off:"+media)
	appends := c.entry("zones by append", "--force", "--base", "zone:8MiB,units=4,unmap=off:"+media, "--zone-append")
	if err := b.contest(1, []*entrant{conv, zones, appends}); err != nil {
		return err
	}
	for _, e := range []*entrant{zones, appends} {
		b.table.add(b.ofOther(e, conv, "conventional", least(0.95, ""),
			"ftlperf --cache malloc:512MiB,md=64 --base zone:8MiB,units=4,unmap=off:file:F,size=2GiB --ftl-size=1280MiB --fill --rw=randwrite --bs=4k --iodepth=128"))
	}
	return nil
}

// cachedOn makes entrants that write through a cache.
type cachedOn struct {
	b     *bench
	media string
	gib   float64
	args  []string
}

func (b *bench) cachedOn(media string, gib float64, cache, size string, d time.Duration) *cachedOn {
	return &cachedOn{b, media, gib, []string{
		"--cache", cache, "--ftl-size=" + size, "--fill", "--rw=randwrite", "--bs=4k", "--iodepth=128",
		"--norandommap", "--time_based", "--ramp_time=1s", b.seconds(d),
	}}
}

func (c *cachedOn) entry(name string, more ...string) *entrant {
	args := append(slices.Clone(c.args), more...)
	return &entrant{name: "randwrite 4K QD128, cache, " + name + ", " + c.media, needGiB: c.gib, measure: func() (sample, error) {
		return c.b.load("ftlperf", args...)
	}}
}

// ofOther is the row of an entrant whose goal is a part of what another one does.
func (b *bench) ofOther(e, other *entrant, name string, g goal, command string) row {
	r := row{what: e.name, command: command, goal: g, missing: e.missing}
	if len(e.samples) == 0 || len(other.samples) == 0 {
		if r.missing == "" {
			r.missing = "no time"
		}
		return r
	}
	s, o := mid(e.samples), mid(other.samples)
	r.value, r.byCPU = s.iops/o.iops, o.cpu/s.cpu
	r.figure = fmt.Sprintf("%s; %s %s", rate(s.iops), name, rate(o.iops))
	if s.ftl != nil && o.ftl != nil {
		r.figure += fmt.Sprintf(", WAF of the base %.2f and %.2f", s.ftl.WAFBase, o.ftl.WAFBase)
	}
	r.ratio = fmt.Sprintf("%.2f (%.2f by CPU) of %s", r.value, r.byCPU, name)
	b.sharing(s.share)
	return r
}
