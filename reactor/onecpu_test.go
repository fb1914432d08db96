package reactor_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

const oneCPU = "GOFTL_TEST_ONE_CPU" // set in the process that has one

// TestOneCPU runs TestNobodyStarves again in a process that has one CPU.
func TestOneCPU(t *testing.T) {
	if os.Getenv(oneCPU) != "" {
		t.Skip("this is that process")
	}
	cpus, err := reactor.CPUs()
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestNobodyStarves$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), oneCPU+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: this OS thread ends with its affinity
		var one unix.CPUSet
		one.Set(cpus[len(cpus)-1])
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			started <- err
			return
		}
		started <- cmd.Start() // the child inherits it
	}()
	require.NoError(t, <-started)
	err = cmd.Wait()
	t.Logf("%s", &out)
	require.NoError(t, err)
	require.Contains(t, out.String(), "CPUs: 1\n")
}

// TestNobodyStarves has reactors of every mode, which always have work, beside goroutines that need a processor of the
// Go scheduler, with as many of these as the process may have been given.
func TestNobodyStarves(t *testing.T) {
	fmt.Printf("CPUs: %d\n", runtime.NumCPU())
	for _, procs := range []int{1, 2, 3} {
		for _, mode := range []reactor.Mode{reactor.Adaptive, reactor.Poll, reactor.Interrupt} {
			for _, n := range []int{1, 2} {
				t.Run(fmt.Sprintf("%d procs, %d %v reactors", procs, n, mode), func(t *testing.T) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					nobodyStarves(t, mode, n)
				})
			}
		}
	}
}

func nobodyStarves(t *testing.T, mode reactor.Mode, n int) {
	sys := thread.NewSystem()
	var all []*thread.Thread
	var turns, events, ticks atomic.Int64
	for range n {
		r := newReactor(t, reactor.Options{CPU: -1, Mode: mode})
		th := sys.NewThread("t")
		all = append(all, th)
		r.Add(th)
		ping(t, th, func() {
			th.RegisterPoller("busy", func(any) poller.Result { turns.Add(1); return poller.Busy }, nil, 0)
			th.RegisterPoller("tick", func(any) poller.Result { ticks.Add(1); return poller.Busy }, nil, time.Millisecond)
		})
	}
	var p [2]int
	require.NoError(t, unix.Pipe2(p[:], unix.O_NONBLOCK))
	ping(t, all[0], func() {
		_, err := all[0].WatchFD(p[0], unix.EPOLLIN, func(any, uint32) {
			var b [1]byte
			_, _ = unix.Read(p[0], b[:])
			events.Add(1)
		}, nil)
		require.NoError(t, err)
	})

	happens := func(what string, cond func() bool) {
		t.Helper()
		require.Eventually(t, cond, time.Minute, time.Millisecond, what) // needs goroutines and timers as well
	}
	for i := range int64(10) {
		for _, th := range all {
			ping(t, th, func() {})
		}
		before := turns.Load()
		_, _ = unix.Write(p[1], []byte{1})
		happens("an event", func() bool { return events.Load() > i })
		happens("polling", func() bool { return turns.Load() > before+100 })
		time.Sleep(time.Millisecond)
	}
	happens("ticks", func() bool { return ticks.Load() > 20 })
	for range 3 {
		runtime.GC()
	}
	work := make(chan int)
	go func() {
		defer close(work)
		for i := range 1000 {
			work <- i
			runtime.Gosched()
		}
	}()
	for range work {
	}
	// What sends from reactor to reactor and waits for the answer.
	hops := make(chan struct{})
	left := 100
	var hop thread.Func
	hop = func(any) {
		if left--; left == 0 {
			close(hops)
			return
		}
		all[(left+1)%n].SendTo(all[left%n], hop, nil)
	}
	all[left%n].Send(hop, nil)
	select {
	case <-hops:
	case <-time.After(time.Minute):
		require.Fail(t, "messages from reactor to reactor", "%d are left", left)
	}
	ping(t, all[0], func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) })
}
