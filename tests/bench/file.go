package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// fileTarget compares ftlperf on a file through io_uring with fio's io_uring engine on the same file.
func (b *bench) fileTarget() error {
	if _, err := exec.LookPath("fio"); err != nil {
		return fmt.Errorf("fio is what ours is compared with: %w", err)
	}
	path := filepath.Join(b.temp, "file.img")
	b.say("writing the file once, so that nobody measures allocation: %s", path)
	if _, err := output("fio", "--name=fill", "--filename="+path, "--size=1g", "--rw=write", "--bs=1m", "--ioengine=io_uring",
		"--iodepth=8", "--direct=1"); err != nil {
		return err
	}
	seconds := b.seconds(2 * time.Second)
	var list []*entrant
	for _, rw := range []string{"randwrite", "randread"} {
		for _, depth := range []int{1, 32, 128} {
			args := []string{"--rw=" + rw, "--bs=4k", fmt.Sprintf("--iodepth=%d", depth), "--norandommap", "--time_based", seconds}
			name := fmt.Sprintf("%s 4K QD%d", rw, depth)
			list = append(list, &entrant{name: name + ", fio", measure: func() (sample, error) {
				return b.load("fio", append([]string{
					"--name=b", "--thread", "--filename=" + path, "--size=1g", "--ioengine=io_uring", "--direct=1",
				}, args...)...)
			}}, &entrant{name: name, measure: func() (sample, error) {
				return b.load("ftlperf", append([]string{"file:" + path + ",driver=uring"}, args...)...)
			}})
		}
	}
	if err := b.contest(0.85, list); err != nil {
		return err
	}
	for i := 0; i < len(list); i += 2 {
		theirs, ours := mid(list[i].samples), mid(list[i+1].samples)
		g := least(0.95, " of fio")
		if i%6 == 4 {
			g = goal{} // the issue names depths 1 and 32
		}
		b.table.add(row{
			what: list[i+1].name, figure: fmt.Sprintf("%s, p99 %.0f us; fio %s, p99 %.0f us", rate(ours.iops), ours.p99, rate(theirs.iops), theirs.p99),
			ratio: fmt.Sprintf("%.2f of fio", ours.iops/theirs.iops), goal: g, value: ours.iops / theirs.iops,
			command: fmt.Sprintf("ftlperf file:F,driver=uring | fio --ioengine=io_uring --direct=1, both %s", list[i+1].name),
		})
	}
	return nil
}
