package target

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"goftl/apps/ftlperf/internal/job"
	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/reactor"
	"goftl/thread"
)

// NBDTarget is an export of an NBD server, reached by several connections. A
// connection is a lane: its OS thread polls the thread of its jobs, sends what
// they submitted in one system call, and sleeps in the kernel until replies come.
type NBDTarget struct {
	info  Info
	uri   string
	lanes []*nbdLane
}

// nbdLane hosts one thread.
type nbdLane struct {
	th    *thread.Thread
	conn  *client.Conn
	ops   []nbdOp
	free  []*nbdOp
	done  []*client.Op
	err   error // the connection is broken
	ended chan struct{}
	awake chan struct{} // rung by senders while the lane has nothing in flight
	fn    func(arg any)
	arg   any
	armed bool
}

type nbdOp struct {
	op client.Op
	io *job.IO
}

// idleWait bounds how long a lane without IOs sleeps before it looks at its timers.
const idleWait = 50 * time.Millisecond

// OpenNBD connects. depth is how many IOs a connection must carry.
func OpenNBD(uri string, connections, depth int) (*NBDTarget, error) {
	n := &NBDTarget{uri: uri}
	system := thread.NewSystem()
	for i := range connections {
		conn, err := client.DialOptions(uri, client.Options{Depth: depth})
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
		lane := &nbdLane{
			th: system.NewThread(fmt.Sprintf("nbd%d", i)), conn: conn, ops: make([]nbdOp, depth),
			done: make([]*client.Op, depth), ended: make(chan struct{}), awake: make(chan struct{}, 1),
		}
		for k := range lane.ops {
			lane.ops[k].op.Ctx = &lane.ops[k]
			lane.free = append(lane.free, &lane.ops[k])
		}
		lane.th.SetHost(lane)
		n.lanes = append(n.lanes, lane)
	}
	n.info = nbdInfo(uri, n.lanes[0].conn.Info())
	if connections > 1 && n.lanes[0].conn.Info().Flags&proto.FlagMultiConn == 0 {
		n.info.Name += ", which does not advertise multi-conn"
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), reactor.Procs(connections)))
	for _, lane := range n.lanes {
		go lane.run()
	}
	return n, nil
}

func nbdInfo(uri string, i *client.Info) Info {
	block := uint64(max(i.Sizes.Min, 512))
	return Info{
		Name: "NBD " + uri, Bytes: i.SizeBytes, BlockSize: block,
		Trims: i.Flags&proto.FlagSendTrim != 0, Flushes: i.Flags&proto.FlagSendFlush != 0,
		FUA: i.Flags&proto.FlagSendFUA != 0, ReadOnly: i.Flags&proto.FlagReadOnly != 0,
	}
}

// Info implements Target.
func (n *NBDTarget) Info() Info { return n.info }

// Lanes implements Target.
func (n *NBDTarget) Lanes() []*thread.Thread {
	threads := make([]*thread.Thread, len(n.lanes))
	for i, l := range n.lanes {
		threads[i] = l.th
	}
	return threads
}

// On implements Target.
func (n *NBDTarget) On(lane int) job.Target { return n.lanes[lane] }

// Where implements Target.
func (n *NBDTarget) Where() string {
	if len(n.lanes) == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", len(n.lanes))
}

// Close implements Target.
func (n *NBDTarget) Close() error {
	var errs []error
	for _, l := range n.lanes {
		l.th.Send(exitThread, l.th)
		<-l.ended
		errs = append(errs, l.conn.Close())
	}
	n.lanes = nil
	return errors.Join(errs...)
}

func exitThread(arg any) { arg.(*thread.Thread).Exit() }

// run is the loop of a lane.
func (l *nbdLane) run() {
	runtime.LockOSThread()
	defer close(l.ended)
	for !l.th.Exited() {
		l.th.Poll(0, reactor.Now())
		switch {
		case len(l.free) < len(l.ops) && l.err == nil:
			l.receive()
		case !l.th.HasWork():
			l.sleep()
		}
	}
}

// receive waits for replies and completes what they answer.
func (l *nbdLane) receive() {
	n, err := l.conn.Wait(l.done)
	if err != nil {
		l.broken(err)
		return
	}
	// The replies came while this thread slept: what they complete is measured by the time of now.
	l.th.Poll(0, reactor.Now())
	for _, op := range l.done[:n] {
		o := op.Ctx.(*nbdOp)
		io := o.io
		o.io = nil
		l.free = append(l.free, o)
		io.Complete(replyError(op.Err))
	}
	if l.armed && len(l.free) > 0 {
		l.armed = false
		l.fn(l.arg)
	}
}

// replyError makes sure that errors carry an errno.
func replyError(err error) error {
	if err == nil {
		return nil
	}
	var no unix.Errno
	if errors.As(err, &no) {
		return err
	}
	return fmt.Errorf("%w: %w", err, unix.EIO)
}

// broken fails everything in flight: the connection hands nothing back.
func (l *nbdLane) broken(err error) {
	l.err = fmt.Errorf("the NBD connection is lost: %w", err)
	for i := range l.ops {
		o := &l.ops[i]
		if io := o.io; io != nil {
			o.io = nil
			l.free = append(l.free, o)
			io.Complete(l.err)
		}
	}
}

// sleep waits for a message or the next look at the timers.
func (l *nbdLane) sleep() {
	l.th.SetAsleep(true)
	if l.th.HasMessages() {
		l.th.SetAsleep(false)
		return
	}
	select {
	case <-l.awake:
	case <-time.After(idleWait):
	}
	l.th.SetAsleep(false)
}

// Wake implements thread.Host.
func (l *nbdLane) Wake() {
	select {
	case l.awake <- struct{}{}:
	default:
	}
}

// WatchFD implements thread.Host: a lane only has its socket.
func (l *nbdLane) WatchFD(int, uint32, thread.FDFunc, any) (thread.FDWatch, error) {
	return nil, unix.ENOTSUP
}

// Open implements job.Target.
func (l *nbdLane) Open(t *thread.Thread) (job.Channel, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l, nil
}

// Submit implements job.Channel. What is submitted leaves with the next Wait.
func (l *nbdLane) Submit(io *job.IO) error {
	if l.err != nil {
		return l.err
	}
	n := len(l.free)
	if n == 0 {
		return job.ErrAgain
	}
	o := l.free[n-1]
	op := &o.op
	op.Flags, op.Offset, op.Length, op.Buf = 0, io.Offset, uint32(io.Length), nil
	switch io.Op {
	case job.OpRead:
		op.Command, op.Buf = proto.CmdRead, io.Buf
	case job.OpWriteFUA:
		op.Command, op.Buf, op.Flags = proto.CmdWrite, io.Buf, proto.CmdFlagFUA
	case job.OpWrite:
		op.Command, op.Buf = proto.CmdWrite, io.Buf
	case job.OpTrim:
		op.Command = proto.CmdTrim
	case job.OpFlush:
		op.Command, op.Length = proto.CmdFlush, 0
	}
	if err := l.conn.Submit(op); err != nil {
		if errors.Is(err, unix.EAGAIN) {
			return job.ErrAgain
		}
		return err
	}
	o.io = io
	l.free = l.free[:n-1]
	return nil
}

// AwaitFree implements job.Channel.
func (l *nbdLane) AwaitFree(fn func(arg any), arg any) { l.fn, l.arg, l.armed = fn, arg, true }

// Close implements job.Channel; the connection stays for the next job.
func (l *nbdLane) Close() {}
