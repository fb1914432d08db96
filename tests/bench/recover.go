package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// redoGiB is the amount of log between two checkpoints of a device whose cache is large enough, from ftl.Config.
const redoGiB = 4

// ftlStarts is create, load after a clean stop, and recovery after kill -9, on files.
func (b *bench) ftlStarts() error {
	s := b.newStarts("small", 5, 20)
	srv, err := s.start("create on files of 5 + 20 GiB", most(1, " s"), "off")
	if err != nil {
		return err
	}
	srv.stop()
	if srv, err = s.start("load after a clean stop, empty", most(0.1, " s"), "off"); err != nil {
		return err
	}
	if err := s.write(srv, 0, 0.25); err != nil {
		return err
	}
	srv.stop()
	if srv, err = s.start("load after a clean stop, 0.25 GiB written", most(0.1, " s"), "off"); err != nil {
		return err
	}
	srv.stop()
	s.remove()
	// What is written is a bit less than a multiple of redoGiB, so that nearly that much lies behind the last checkpoint.
	amounts := []float64{redoGiB}
	if b.big {
		amounts = []float64{4 * redoGiB, 10 * redoGiB}
	}
	for _, gib := range amounts {
		if err := b.killed(gib); err != nil {
			return err
		}
	}
	return nil
}

// killed writes until, at best, nearly redoGiB lie behind a checkpoint (less where a full cache has had checkpoints
// started early; the records redone are in the row), kills the server, and times two starts: without shared
// memory and, after as much again of the log, with it.
func (b *bench) killed(gib float64) error {
	const slack = 0.2
	if need := 1.2*gib + 10; !b.roomFor(need) {
		b.table.add(row{what: fmt.Sprintf("recovery after %.0f GiB", gib), missing: fmt.Sprintf("needs %.0f GiB of disk", need)})
		return nil
	}
	s := b.newStarts(fmt.Sprintf("kill%.0f", gib), 2*redoGiB+1, 64)
	defer s.remove()
	srv, err := b.serve("to be killed", "ftlnbd", append(append([]string{}, s.specs...), "--shm", "off")...)
	if err != nil {
		return err
	}
	if err := s.write(srv, gib, gib-slack); err != nil {
		return err
	}
	srv.kill()
	what := fmt.Sprintf("recovery after kill -9, %.1f GiB written", gib-slack)
	if srv, err = s.start(what, most(0.5, " s"), "off"); err != nil {
		return err
	}
	srv.stop()
	// With shared memory: the mapping survives the process.
	if srv, err = b.serve("to be killed", "ftlnbd", append(append([]string{}, s.specs...), "--shm", "auto")...); err != nil {
		return err
	}
	if err := s.write(srv, gib, 1); err != nil {
		return err
	}
	srv.kill()
	if srv, err = s.start(fmt.Sprintf("the same with shared memory, %.1f GiB written", gib-slack+1), most(0.5, " s"), "auto"); err != nil {
		return err
	}
	srv.stop()
	return nil
}

// write writes 4 KiB blocks at random.
func (s *starts) write(srv *server, total, gib float64) error {
	s.b.say("writing %.2f GiB of random 4 KiB blocks", gib)
	m, err := s.b.load("ftlperf", "--nbd", srv.uri, "--rw=randwrite", "--bs=4k", "--iodepth=128", "--norandommap",
		fmt.Sprintf("--number_ios=%d", uint64(gib*(1<<18))), fmt.Sprintf("--randseed=%d", int(total)+1))
	if err == nil {
		s.b.say("wrote at %.0f MB/s", m.bytes/1e6)
	}
	return err
}

func (s *starts) remove() {
	_ = os.Remove(s.cache) // a temporary folder takes the rest along
	_ = os.Remove(s.base)
}

// roomFor reports whether the disk has so many GiB free.
func (b *bench) roomFor(gib float64) bool {
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(b.temp), &st); err != nil {
		return false
	}
	return float64(st.Bavail)*float64(st.Bsize) > gib*(1<<30)
}
