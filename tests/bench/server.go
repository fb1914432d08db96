package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"goftl/nbd/client"
)

// server is an NBD server in a process of its own.
type server struct {
	name string
	uri  string
	cmd  *exec.Cmd
	dir  string        // of socket and log
	up   time.Duration // from exec to the first answer

	ended chan struct{} // closed when it has
	words string        // what it said, once dir is gone
}

const (
	upLimit   = 120 * time.Second // the memory of RAM devices comes slowly on some machines
	downLimit = 60 * time.Second
)

// serve starts ftlnbd with --socket, or another server whose arguments name SOCK, and waits until it answers.
func (b *bench) serve(name, program string, args ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "nbd") // a socket's path is short
	if err != nil {
		return nil, err
	}
	sock := filepath.Join(dir, "s")
	if program == "ftlnbd" {
		program = filepath.Join(b.bin, program)
		args = append(args, "--socket", "SOCK")
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "SOCK", sock)
	}
	s := &server{name: name, uri: "nbd+unix:///?socket=" + sock, dir: dir}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(program, args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	b.servers = append(b.servers, s)
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended was our doing
		close(s.ended)
	}()
	for time.Since(began) < upLimit && s.alive() {
		if _, err := os.Stat(sock); err == nil {
			if conn, err := client.Dial(s.uri); err == nil {
				s.up = time.Since(began)
				_ = conn.Close() // it was only to see that somebody answers
				return s, nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	s.kill()
	return nil, fmt.Errorf("%s %s does not answer:\n%s", program, strings.Join(args, " "), tail(s.said()))
}

// alive reports whether the process has not ended.
func (s *server) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// said is what the server printed.
func (s *server) said() string {
	if s.dir == "" {
		return s.words
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

var tookLine = regexp.MustCompile(`(?:created|loaded) \S+ \(\S+\) in (\S+)`)

// took is the time that ftlnbd says it took to create or load the device.
func (s *server) took() (time.Duration, error) {
	m := tookLine.FindStringSubmatch(s.said())
	if m == nil {
		return 0, errors.New("ftlnbd did not say how long it took: " + tail(s.said()))
	}
	return time.ParseDuration(m[1])
}

// replayed is the number of log records that ftlnbd applied when it loaded the device, and whether it had the mapping
// from shared memory.
func (s *server) replayed() (records uint64, fromMemory bool) {
	for line := range strings.Lines(s.said()) {
		if !strings.Contains(line, "device ready") {
			continue
		}
		for _, f := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(f, "redone="); ok {
				records, _ = strconv.ParseUint(v, 10, 64) // 0 is what there is to say otherwise
			}
			fromMemory = fromMemory || f == "shm=true"
		}
	}
	return records, fromMemory
}

// cpuTime is what the process has used, threads that ended included.
func (s *server) cpuTime() time.Duration {
	base := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	text, err := os.ReadFile(base + "stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	ticks := time.Duration(0)
	for i, f := range strings.Fields(rest) {
		if i == 11 || i == 12 { // utime and stime of proc(5)
			n, _ := strconv.ParseUint(f, 10, 63) // the kernel writes numbers
			ticks += time.Duration(n)
		}
	}
	return ticks * 10 * time.Millisecond
}

// cpuTimeExact is the sum over the threads that live now, to the nanosecond.
func (s *server) cpuTimeExact() time.Duration {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid)) // the pattern is right
	total := time.Duration(0)
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if f := strings.Fields(string(text)); err == nil && len(f) > 0 {
			n, _ := strconv.ParseInt(f[0], 10, 64) // the kernel writes numbers
			total += time.Duration(n)
		}
	}
	return total
}

// resident returns the bytes of memory of the process that belong to it or are shared memory; not those of files.
func (s *server) resident() uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid)) // 0 when it ended
	total := uint64(0)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "RssAnon:" || f[0] == "RssShmem:") {
			kib, _ := strconv.ParseUint(f[1], 10, 64) // the kernel writes numbers
			total += kib << 10
		}
	}
	return total
}

// stop ends the server as a person would.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.ended:
		s.forget()
	case <-time.After(downLimit):
		s.kill()
	}
}

// kill ends it as the OOM killer would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
	s.forget()
}

// forget removes its socket; what it said is kept in memory.
func (s *server) forget() {
	if s.dir != "" {
		s.words = s.said()
		_ = os.RemoveAll(s.dir) // a temporary folder
		s.dir = ""
	}
}
