package main

import (
	"fmt"
	"time"
)

// floorTarget measures what everything else stands on.
func (b *bench) floorTarget() error {
	return b.parts(part{"messages", b.messages}, part{"devices", b.devices}, part{"idle", b.quiet}, part{"metadata", b.metadata})
}

// goPart is a set of benchmarks of a package. Many short runs and their median see past other processes, which take the
// core for a few milliseconds at a time.
type goPart struct {
	pkg, pattern, benchtime string
	count                   int // runs in each round
}

func (b *bench) goRounds(part float64, parts ...goPart) (goBench, error) {
	g := goBench{}
	for round := range b.rounds {
		if round > 0 && b.over(part) {
			break
		}
		for _, p := range parts {
			b.say("go test -bench %s ./%s", p.pattern, p.pkg)
			if err := b.goBenchOnce(g, p); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

// messages are measured by the benchmarks of the packages, each beside a Go channel in the same process.
func (b *bench) messages() error {
	g, err := b.goRounds(
		0.3, goPart{"thread", "SameThread", "20000x", 20}, goPart{"reactor", "AcrossReactors", "100000x", 30},
		goPart{"poller", "Poll100IdleActive", "5000x", 20}, goPart{"poller", "PollTimedNotDue", "200000x", 5},
	)
	if err != nil {
		return err
	}
	channel := g.median("SameThread/channel", "ns/op")
	for _, how := range []string{"post", "send"} {
		ns, command := g.median("SameThread/"+how, "ns/op"), "go test -bench SameThread/"+how+" ./thread"
		figure := fmt.Sprintf("%.1f ns, %.0f allocs/op", ns, g.median("SameThread/"+how, "allocs/op"))
		b.table.add(row{what: "message to the same thread, " + how, figure: figure, goal: most(20, " ns"), value: ns, command: command})
		b.table.add(row{
			what: "  against a Go channel", figure: fmt.Sprintf("channel %.1f ns", channel), ratio: fmt.Sprintf("%.1f x", channel/ns),
			goal: least(2, " x"), value: channel / ns, command: command,
		})
	}
	if g.has("AcrossReactors/send") {
		theirs := g.median("AcrossReactors/channel", "M/s")
		across := func(what, how string, rate, against goal) {
			ours, command := g.median("AcrossReactors/"+how, "M/s"), "go test -bench AcrossReactors/"+how+" ./reactor"
			b.table.add(row{what: what, figure: fmt.Sprintf("%.1f M/s", ours), goal: rate, value: ours, command: command})
			b.table.add(row{
				what: "  against a Go channel", figure: fmt.Sprintf("channel %.1f M/s", theirs), ratio: fmt.Sprintf("%.1f x", ours/theirs),
				goal: against, value: ours / theirs, command: command,
			})
		}
		across("from a thread to another core, SendTo", "sendto", least(25, " M/s"), least(2, " x"))
		across("from anywhere to another core, Send", "send", goal{}, goal{})
	}
	each := g.median("Poll100IdleActive", "ns/poller")
	b.table.add(row{
		what: "poll over 100 idle active pollers", figure: fmt.Sprintf("%.2f ns each", each), goal: most(3, " ns"), value: each,
		command: "go test -bench Poll100IdleActive ./poller",
	})
	none, many := g.median("PollTimedNotDue/timed=0", "ns/op"), g.median("PollTimedNotDue/timed=1000", "ns/op")
	b.table.add(row{
		what: "a turn with 1000 timed pollers, none due", figure: fmt.Sprintf("%.1f ns, with none %.1f ns", many, none),
		goal: most(2, " ns more"), value: many - none, command: "go test -bench PollTimedNotDue ./poller",
	})
	return nil
}

// devices are null and malloc under ftlperf, beside the yardstick.
func (b *bench) devices() error {
	seconds := b.seconds(2 * time.Second)
	y := &entrant{name: "yardstick", needGiB: 3, measure: func() (sample, error) { return b.yardstick(time.Second) }}
	on := func(name, spec, rw, depth string, extra ...string) *entrant {
		args := append([]string{spec, "--rw=" + rw, "--bs=4k", "--iodepth=" + depth, "--norandommap", "--time_based", seconds}, extra...)
		return &entrant{name: name, needGiB: 3, measure: func() (sample, error) { return b.load("ftlperf", args...) }}
	}
	const ram = "malloc:2GiB,populate=on"
	list := []*entrant{
		on("null, write 4K QD128", "null:400GiB", "randwrite", "128"),
		on("malloc, randwrite 4K QD128", ram, "randwrite", "128"),
		on("malloc, randread 4K QD128", ram, "randread", "128"),
		on("malloc, randwrite 4K QD1", ram, "randwrite", "1"),
		on("malloc, randread 4K QD1", ram, "randread", "1"),
	}
	if err := b.contest(0.7, []*entrant{y, list[0], list[1], list[2], y, list[3], list[4]}); err != nil {
		return err
	}
	if len(y.samples) > 0 {
		s := mid(y.samples)
		b.table.add(row{what: "yardstick", figure: fmt.Sprintf("%s, %.0f ns of CPU", rate(s.iops), s.cpu), ratio: "1.00", command: "ftlperf yardstick"})
	}
	goals := []goal{least(2, ""), least(0.45, ""), least(0.30, ""), {}, {}}
	commands := []string{
		"ftlperf null:400GiB --rw=randwrite --bs=4k --iodepth=128", "ftlperf " + ram + " --rw=randwrite --iodepth=128",
		"ftlperf " + ram + " --rw=randread --iodepth=128", "ftlperf " + ram + " --rw=randwrite --iodepth=1",
		"ftlperf " + ram + " --rw=randread --iodepth=1",
	}
	for i, e := range list {
		b.table.add(b.ofYardstick(e, y, goals[i], commands[i]))
	}
	return nil
}

// quiet is how little reactors take when there is nothing to do, and how they live with other goroutines.
func (b *bench) quiet() error {
	s, err := b.serve("idle", "ftlnbd", "serve", "--cache", "malloc:256MiB,md=64", "--base", "malloc:1GiB", "--shm", "off")
	if err != nil {
		return err
	}
	const settle, window = time.Second, 5 * time.Second
	time.Sleep(settle)
	before := s.cpuTimeExact()
	time.Sleep(window)
	percent := 100 * (s.cpuTimeExact() - before).Seconds() / window.Seconds()
	s.stop()
	b.table.add(row{
		what: "an idle process (ftlnbd, adaptive reactor)", figure: fmt.Sprintf("%.3f %% of a core", percent),
		goal: most(0.5, " %"), value: percent, command: "ftlnbd serve, nobody connected, 5 s",
	})
	g, err := b.goRounds(0.8, goPart{"reactor", "MessageToSleepingReactor", "1000x", 1}, goPart{"reactor", "GCBesideReactors", "200x", 1})
	if err != nil {
		return err
	}
	const wake = "MessageToSleepingReactor"
	p99 := g.median(wake, "adaptive-p99-us")
	b.table.add(row{
		what: "message to a sleeping reactor, p99", goal: most(60, " us"), value: p99,
		figure: fmt.Sprintf("%.0f us, p50 %.0f us", p99, g.median(wake, "adaptive-p50-us")),
		ratio: fmt.Sprintf("an eventfd: p99 %.0f us, p50 %.0f us; a channel: p99 %.0f us", g.median(wake, "eventfd-p99-us"),
			g.median(wake, "eventfd-p50-us"), g.median(wake, "channel-p99-us")),
		command: "go test -bench MessageToSleepingReactor ./reactor",
	})
	beside := func(what string) string {
		return fmt.Sprintf("p99 %.0f us, max %.0f us", g.median("GCBesideReactors/"+what, "p99-stop-us"), g.median("GCBesideReactors/"+what, "max-stop-us"))
	}
	for _, mode := range []string{"adaptive", "poll"} {
		b.table.add(row{
			what: "stopping for a GC beside 2 " + mode + " reactors", goal: most(2000, " us at most"), value: g.median("GCBesideReactors/"+mode, "max-stop-us"),
			figure:  beside(mode),
			ratio:   "beside 2 busy goroutines: " + beside("goroutines") + "; alone: " + beside("none"),
			command: "go test -bench GCBesideReactors ./reactor",
		})
	}
	return nil
}

// metadata is what persisting and restoring metadata objects reaches.
func (b *bench) metadata() error {
	const needGiB = 4
	if free := memoryFree(); free < needGiB {
		b.table.add(row{what: "metadata objects", missing: fmt.Sprintf("needs %d GiB of memory, %.1f are free", needGiB, free), command: "go test -bench Bulk ./ftl/md"})
		return nil
	}
	g, err := b.goRounds(0.9, goPart{"ftl/md", "Copy|Bulk", "1x", 3}, goPart{"ftl/md", "Entry", "2000x", 10}, goPart{"ftl/md", "File", "1x", 2})
	if err != nil {
		return err
	}
	bound := g.median("Copy", "GiB/s")
	for _, what := range []string{"persist", "restore"} {
		v := g.median("Bulk/"+what, "GiB/s")
		b.table.add(row{
			what: "metadata, " + what + " 1 GiB through malloc", figure: fmt.Sprintf("%.1f GiB/s", v), goal: least(5, " GiB/s"), value: v,
			ratio: fmt.Sprintf("%.2f of a plain copy (%.1f GiB/s)", v/bound, bound), command: "go test -bench 'Copy|Bulk' ./ftl/md",
		})
	}
	b.table.add(row{
		what: "metadata, persist one mirrored entry", figure: fmt.Sprintf("%.0f ns, %.0f allocs/op", g.median("Entry", "ns/op"), g.median("Entry", "allocs/op")),
		goal: most(0, " allocs/op"), value: g.median("Entry", "allocs/op"), command: "go test -bench Entry ./ftl/md",
	})
	for _, what := range []string{"persist", "restore"} {
		r := row{what: "metadata, " + what + " 512 MiB in a file by uring", goal: least(0.8, " of dd"), command: "go test -bench File ./ftl/md"}
		if g.has("File/" + what) {
			r.value = g.median("File/"+what, "of-dd")
			r.figure, r.ratio = fmt.Sprintf("%.0f MB/s", g.median("File/"+what, "own-MB/s")), fmt.Sprintf("%.2f of dd with direct IO", r.value)
		} else {
			r.missing = "no io_uring or no dd"
		}
		b.table.add(r)
	}
	return nil
}
