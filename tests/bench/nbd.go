package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// nbdLoad is one load that every server gets from the same client.
type nbdLoad struct {
	rw, bs      string
	depth, conn int
	goal        goal
}

const (
	exportSize = 512 << 20
	peerName   = "nbdkit memory" // what ratios refer to
)

var nbdLoads = []nbdLoad{
	{"randwrite", "4k", 32, 1, least(2, " x nbdkit")},
	{"randread", "4k", 32, 1, least(2, " x nbdkit")},
	{"randwrite", "4k", 128, 1, least(2, " x nbdkit")},
	{"randread", "4k", 128, 1, least(2, " x nbdkit")},
	{"randwrite", "4k", 1, 1, goal{}},
	{"randread", "4k", 1, 1, goal{}},
	{"randwrite", "4k", 32, 4, goal{}},
	{"randread", "4k", 32, 4, goal{}},
	{"write", "128k", 16, 1, goal{}},
	{"read", "128k", 16, 1, goal{}},
}

func (l nbdLoad) String() string {
	text := fmt.Sprintf("%s %s QD%d", l.rw, strings.ToUpper(l.bs), l.depth)
	if l.conn > 1 {
		text += fmt.Sprintf(", %d connections", l.conn)
	}
	return text
}

// nbdTarget has ftlnbd and nbdkit's memory plugin take turns under every load, then the other servers once.
func (b *bench) nbdTarget() error {
	ours, err := b.serve("ftlnbd", "ftlnbd", "serve", "--cache", "malloc:1GiB,md=64,populate=on", "--base", "malloc:2GiB,populate=on",
		"--size", fmt.Sprint(exportSize), "--shm", "off")
	if err != nil {
		return err
	}
	peer, err := b.serve(peerName, "nbdkit", "-f", "-U", "SOCK", "memory", fmt.Sprint(exportSize))
	if err != nil {
		return fmt.Errorf("nbdkit is what ours is compared with: %w", err)
	}
	for _, s := range []*server{ours, peer} {
		if err := b.fillExport(s); err != nil {
			return err
		}
	}
	pairs := make([][]*entrant, len(nbdLoads))
	var all []*entrant
	for i, l := range nbdLoads {
		pairs[i] = []*entrant{b.underLoad(ours, l), b.underLoad(peer, l)}
		all = append(all, pairs[i]...)
	}
	if err := b.contest(0.6, all); err != nil {
		return err
	}
	if b.fio {
		if err := b.fioClients(ours, peer); err != nil {
			return err
		}
	}
	ours.stop()
	peer.stop()
	others := b.otherServers()
	for i, l := range nbdLoads {
		b.table.add(nbdRow(l, mid(pairs[i][0].samples), mid(pairs[i][1].samples), others[i]))
	}
	b.table.note("client: ftlperf --nbd URI --rw=... --bs=... --iodepth=... --norandommap --time_based; server: CPU time of the server for a request;\n" +
		"ftlnbd serve --cache malloc:1GiB,md=64 --base malloc:2GiB --size 512MiB against nbdkit memory 512M; the others (on a file in /dev/shm) had one round")
	return nil
}

func nbdRow(l nbdLoad, ours, theirs sample, others string) row {
	r := row{what: l.String(), goal: l.goal, value: ours.iops / theirs.iops, command: others}
	if theirs.server > 0 && ours.server > 0 {
		r.ratio = fmt.Sprintf("%.2f x %s (server: %.1f and %.1f us)", r.value, peerName, ours.server/1000, theirs.server/1000)
	} else {
		r.ratio = fmt.Sprintf("%.2f x %s", r.value, peerName)
	}
	r.figure = fmt.Sprintf("%s, p99 %.0f us; %s %s, p99 %.0f us", rate(ours.iops), ours.p99, peerName, rate(theirs.iops), theirs.p99)
	if l.bs == "128k" {
		r.figure = fmt.Sprintf("%.2f GB/s; %s %.2f GB/s", ours.bytes/1e9, peerName, theirs.bytes/1e9)
	}
	return r
}

// fillExport writes an export once, so that its pages exist.
func (b *bench) fillExport(s *server) error {
	b.say("filling %s", s.name)
	_, err := b.load("ftlperf", "--nbd", s.uri, "--rw=write", "--bs=1m", "--iodepth=4")
	return err
}

func (b *bench) underLoad(s *server, l nbdLoad) *entrant {
	args := []string{
		"--nbd", s.uri, fmt.Sprintf("--connections=%d", l.conn), "--rw=" + l.rw, "--bs=" + l.bs,
		fmt.Sprintf("--iodepth=%d", l.depth), "--norandommap", "--time_based", b.seconds(time.Second),
	}
	return &entrant{name: l.String() + ", " + s.name, measure: func() (sample, error) {
		before := s.cpuTime()
		m, err := b.load("ftlperf", args...)
		m.server = (s.cpuTime() - before).Seconds() * 1e9 / (m.iops * m.elapsed.Seconds())
		return m, err
	}}
}

// fioClients measures the first loads with fio as the client, which is the bottleneck at depth.
func (b *bench) fioClients(servers ...*server) error {
	for _, l := range nbdLoads[:6] {
		var iops []float64
		for _, s := range servers {
			m, err := b.load("fio", "--name=j", "--thread", "--ioengine=nbd", "--uri="+s.uri, "--rw="+l.rw, "--bs=4k",
				fmt.Sprintf("--iodepth=%d", l.depth), "--size=512m", "--norandommap", "--time_based", b.seconds(time.Second))
			if err != nil {
				return err
			}
			b.say("fio, %s, %s: %s", l, s.name, rate(m.iops))
			iops = append(iops, m.iops)
		}
		b.table.add(row{
			what: l.String() + ", fio's client", figure: fmt.Sprintf("%s; %s %s", rate(iops[0]), peerName, rate(iops[1])),
			ratio: fmt.Sprintf("%.2f x %s", iops[0]/iops[1], peerName), command: "fio --ioengine=nbd",
		})
	}
	return nil
}

// otherServers measures those that are installed once, and returns a text for each load.
func (b *bench) otherServers() []string {
	out := make([]string, len(nbdLoads))
	file, err := ramFile()
	if err != nil {
		return out
	}
	defer os.Remove(file)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"nbdkit file", []string{"nbdkit", "-f", "-U", "SOCK", "file", file}},
		{"qemu-nbd", []string{"qemu-nbd", "-t", "-f", "raw", "-e", "16", "-k", "SOCK", file}},
		{"nbd-server", []string{
			"sh", "-c", `printf '[generic]\nunixsock = SOCK\n[ram]\nexportname = %s\n' ` + file + ` >SOCK.conf && exec nbd-server -n -C SOCK.conf`,
		}},
	} {
		if _, err := exec.LookPath(strings.Fields(c.name)[0]); err != nil || b.over(0.95) {
			continue
		}
		s, err := b.serve(c.name, c.args[0], c.args[1:]...)
		if err != nil {
			b.say("%s: %v", c.name, err)
			continue
		}
		if err := b.fillExport(s); err == nil {
			for i, l := range nbdLoads {
				if b.over(1) {
					break
				}
				if m, err := b.underLoad(s, l).measure(); err == nil {
					b.say("%-44s %s", l.String()+", "+c.name, rate(m.iops))
					out[i] += fmt.Sprintf("%s %s  ", c.name, rate(m.iops))
				}
			}
		}
		s.stop()
	}
	return out
}

// ramFile makes a sparse file in memory.
func ramFile() (string, error) {
	f, err := os.CreateTemp("/dev/shm", "goftl-bench-")
	if err != nil {
		return "", err
	}
	defer f.Close()
	return f.Name(), f.Truncate(exportSize)
}
