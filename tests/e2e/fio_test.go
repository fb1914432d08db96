//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim/model"
)

// fioArgs are the arguments of a verified fio run over the export.
func fioArgs(s *server, name string, more ...string) []string {
	return append([]string{
		"--name=" + name, "--thread", "--group_reporting", "--ioengine=nbd", "--uri=" + s.uri(), "--output-format=terse",
		"--verify_fatal=1", "--verify_dump=0", "--verify_state_save=0",
	}, more...)
}

func needFio(t *testing.T) {
	t.Helper()
	need(t, "fio")
	out, err := exec.Command("fio", "--enghelp").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nbd") {
		missing(t, "fio has no nbd engine")
	}
}

func TestFioVerify(t *testing.T) {
	needFio(t)
	s := serve(t, "512MiB")
	for _, depth := range []int{1, 8, 32, 128} {
		for _, k := range []struct{ name, rw, bs, size string }{
			{"random 4k", "randwrite", "4k", "64m"},
			{"sequential 128k", "write", "128k", "128m"},
		} {
			if depth == 1 {
				k.size = "16m"
			}
			t.Run(fmt.Sprintf("%s depth %d", k.name, depth), func(t *testing.T) {
				run(t, "fio", fioArgs(s, "verify", "--rw="+k.rw, "--bs="+k.bs, "--size="+k.size,
					fmt.Sprintf("--iodepth=%d", depth), "--verify=crc32c", "--do_verify=1", "--verify_backlog=1024")...)
			})
		}
	}
	t.Run("mixed sizes down to 512 bytes, with flushes", func(t *testing.T) {
		run(t, "fio", fioArgs(s, "mixed", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--size=64m", "--io_size=64m",
			"--iodepth=16", "--fsync=32", "--verify=xxhash", "--do_verify=1", "--verify_backlog=512")...)
	})
	t.Run("reads and writes", func(t *testing.T) {
		run(t, "fio", fioArgs(s, "rw", "--rw=randrw", "--rwmixread=70", "--bs=4k", "--size=64m", "--iodepth=64", "--verify=crc32c", "--do_verify=1")...)
	})
	t.Run("trims", func(t *testing.T) {
		run(t, "fio", fioArgs(s, "trim", "--rw=randtrimwrite", "--bs=16k", "--size=64m", "--iodepth=16", "--verify=0")...)
	})
	s.stop()
	s.check()
	require.NotContains(t, s.output(), "panic")
}

// TestFioKinds is the same for the other types of device, shorter.
func TestFioKinds(t *testing.T) {
	needOurs(t)
	needFio(t)
	for _, k := range others {
		t.Run(k.slug(), func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			s := serveIn(t, dir, smallSize, k.small(dir, "")...)
			run(t, "fio", fioArgs(s, "random", "--rw=randwrite", "--bs=4k", "--size=64m", "--iodepth=32", "--verify=crc32c",
				"--do_verify=1", "--verify_backlog=1024")...)
			run(t, "fio", fioArgs(s, "sequential", "--rw=write", "--bs=128k", "--size=128m", "--iodepth=8", "--verify=crc32c",
				"--do_verify=1", "--verify_backlog=256")...)
			run(t, "fio", fioArgs(s, "mixed", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--size=32m", "--io_size=32m",
				"--iodepth=16", "--fsync=32", "--verify=xxhash", "--do_verify=1", "--verify_backlog=512")...)
			s.stop()
			s.check()
		})
	}
}

// TestFioVSS runs fio on a device in memory whose cache has metadata for each block, so that records need no header.
func TestFioVSS(t *testing.T) {
	needOurs(t)
	needFio(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, "--cache", "malloc:64MiB,md=64", "--base", "malloc:256MiB")
	for _, bs := range []string{"4k", "64k"} {
		run(t, "fio", fioArgs(s, "vss", "--rw=randwrite", "--bs="+bs, "--size="+smallSize[:3]+"m", "--io_size=384m", "--iodepth=64",
			"--verify=crc32c", "--do_verify=1", "--verify_backlog=1024")...)
	}
	w := newWriter(t, seedOf(t), 0, smallBytes/model.BlockSize)
	c := s.dial(64)
	w.sweep(c, 32)
	_, gone := w.run(c, 64, 20_000)
	require.False(t, gone)
	w.drain(c)
	w.verify(c)
	c.Close()
	s.stop()
}
