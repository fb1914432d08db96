package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"goftl/nbd/client"
)

const (
	readyLimit = 2 * time.Minute // until a server answers
	stopLimit  = 2 * time.Minute // until it has stopped after SIGTERM
	waitLimit  = 2 * time.Minute // for any answer
	checkLimit = 10 * time.Minute
)

// server is a process of ftlnbd.
type server struct {
	dir string // of socket and log
	cmd *exec.Cmd
	log *os.File
	at  int64 // where its part of the log begins
	end chan struct{}
	err error // after end is closed
}

// launch starts a server; it does not wait.
func launch(bin, dir string, args []string) (*server, error) {
	s := &server{dir: dir, end: make(chan struct{})}
	log, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if s.at, err = log.Seek(0, 2); err != nil {
		return nil, err
	}
	s.log = log
	s.cmd = exec.Command(filepath.Join(bin, "ftlnbd"), append([]string{"serve", "--socket", s.socket()}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A signal to the terminal's group ends the run, not the servers under it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		log.Close()
		close(s.end)
	}()
	return s, nil
}

func (s *server) socket() string { return filepath.Join(s.dir, "s") }
func (s *server) uri() string    { return "nbd+unix:///ftl0?socket=" + s.socket() }

func (s *server) dial(depth int) (*client.Conn, error) {
	return client.DialOptions(s.uri(), client.Options{Depth: depth, Timeout: waitLimit})
}

// ready waits until the export can be opened.
func (s *server) ready() error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := s.dial(1)
		if err == nil {
			return c.Close()
		}
		if s.ended() {
			return fmt.Errorf("the server ended: %w\n%s", errOr(s.err, "exit 0"), s.output())
		}
		if time.Since(begin) > readyLimit {
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.output())
		}
	}
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

func (s *server) ended() bool {
	select {
	case <-s.end:
		return true
	default:
		return false
	}
}

// output is the end of what this server has printed.
func (s *server) output() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
	if err != nil {
		return err.Error()
	}
	text = text[min(int(s.at), len(text)):]
	return string(text[max(0, len(text)-6000):])
}

// killed says whether the server has ended, or is about to, by SIGKILL.
func (s *server) killed() bool {
	select {
	case <-s.end:
	case <-time.After(time.Second): // a connection is lost before the process is gone
		return false
	}
	var e *exec.ExitError
	return errors.As(s.err, &e) && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// kill ends the server at once. It says whether the server was still there: one that ended by itself is a finding.
func (s *server) kill() error {
	alive := !s.ended()
	_ = s.cmd.Process.Kill()
	<-s.end
	if !alive {
		return fmt.Errorf("the server died: %w\n%s", errOr(s.err, "exit 0"), s.output())
	}
	if s.killed() {
		return nil
	}
	return fmt.Errorf("the server died before it could be killed: %w\n%s", errOr(s.err, "exit 0"), s.output())
}

func (s *server) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) } // a server that is gone is noticed later

// wait waits for the end of a server that was asked to stop.
func (s *server) wait() error {
	select {
	case <-s.end:
	case <-time.After(stopLimit):
		s.signal(syscall.SIGQUIT) // a dump of the goroutines for the log
		time.Sleep(time.Second)
		out := s.output()
		_ = s.kill()
		return fmt.Errorf("the server does not stop within %v\n%s", stopLimit, out)
	}
	if s.err != nil {
		return fmt.Errorf("the server did not stop cleanly: %w\n%s", s.err, s.output())
	}
	return nil
}

// panicked says whether the log has a panic of any server of this device.
func (s *server) panicked() bool {
	text, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
	return err == nil && (bytes.Contains(text, []byte("panic:")) || bytes.Contains(text, []byte("fatal error:")))
}

// command runs ftlnbd to its end.
func command(bin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "ftlnbd"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("ftlnbd %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
