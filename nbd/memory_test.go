package nbd

import (
	"math/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/nbd/proto"
)

// after lets virtual time pass and runs what is due.
func (r *rig) after(d time.Duration) {
	for end := r.now + int64(d); r.now < end; {
		r.now = min(end, r.now+int64(lookPeriod))
		r.poll()
	}
}

// looking says that the host has a poller that runs.
func (r *rig) looking() bool {
	_, ok := r.th.NextTimer()
	return ok
}

// TestMemoryGoesBack: what a burst took is given back although a client stays,
// and the poller that does it ends.
func TestMemoryGoesBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	stays := r.connect(false)
	var burst []*wire
	for range 4 {
		w := r.connect(false)
		w.window = 0
		for range 200 {
			w.in = append(w.in, encode(proto.CmdRead, 0, 1, 0, 128<<10, nil)...)
		}
		w.send(nil)
		burst = append(burst, w)
	}
	require.Equal(t, 4*200*128<<10, r.host.data.used)
	require.Equal(t, 50, r.host.data.mapped)
	r.after(10 * time.Second)
	require.Equal(t, 50, r.host.data.mapped, "it is in use")
	require.False(t, r.looking(), "nobody waits and nothing is spare")
	for _, w := range burst {
		w.s.Kill(unix.ECONNRESET)
		r.poll()
	}
	require.Zero(t, r.host.data.used)
	require.Equal(t, 50, r.host.data.mapped)
	require.True(t, r.looking())
	r.after(10 * time.Second)
	require.Equal(t, keepData, r.host.data.mapped)
	require.LessOrEqual(t, r.host.input.mapped, keepInput)
	require.False(t, r.looking(), "there is nothing left to give")

	e, _ := stays.call(proto.CmdRead, 0, 0, 4<<20, nil)
	require.Equal(t, proto.OK, e)
	stays.finish()
	require.Zero(t, r.host.data.mapped)
	require.Zero(t, r.host.input.mapped)
	require.Nil(t, r.host.free)
	r.idle()
}

// TestInputGoesBack: so do the buffers of sessions whose input had to wait.
func TestInputGoesBack(t *testing.T) {
	r := newRig(t, rigOptions{slow: true, limits: Limits{Requests: 1}})
	var ws []*wire
	for range 64 {
		w := r.connect(false)
		b := encode(proto.CmdRead, 0, 1, 0, 4096, nil)
		w.send(append(b, b...))
		ws = append(ws, w)
	}
	require.Equal(t, 8, r.host.input.mapped)
	for len(r.dev.pending) > 0 {
		r.dev.complete(0)
		r.poll()
	}
	require.True(t, r.looking())
	r.after(3 * time.Second)
	require.Equal(t, keepInput, r.host.input.mapped)
	require.False(t, r.looking())
	for _, w := range ws {
		w.finish()
	}
	r.idle()
}

// TestThreadExits: the poller does not keep a thread whose sessions are gone.
func TestThreadExits(t *testing.T) {
	r := newRig(t, rigOptions{})
	w := r.connect(false)
	e, _ := w.call(proto.CmdRead, 0, 0, 4<<20, nil)
	require.Equal(t, proto.OK, e)
	r.host.look()
	w.finish()
	r.desc.Close()
	r.poll()
	r.th.Exit()
	r.after(time.Second)
	require.True(t, r.th.Exited())
	require.NoError(t, r.th.ExitErr())
}

// TestSteadyMemory: a load that takes a lot of memory every second neither
// allocates nor loses a slab.
func TestSteadyMemory(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.dev.noLog = true
	w := r.connect(false)
	var batch []byte
	for i := range 20 {
		batch = append(batch, encode(proto.CmdRead, 0, uint64(i), 0, 4<<20, nil)...)
	}
	out := make([]byte, 0, 100<<20)
	serve := func() {
		r.now += int64(lookPeriod)
		r.poll()
		w.out, w.window, w.in = out, 1<<30, batch
		w.push()
		r.poll()
		if len(w.in) > 0 || len(w.out) == 0 {
			t.Fatal("not served")
		}
	}
	for range 3 {
		serve()
	}
	before := r.host.data.mapped
	require.Greater(t, before, keepData)
	require.Zero(t, testing.AllocsPerRun(10, serve))
	require.Equal(t, before, r.host.data.mapped)
	require.True(t, r.looking())
	w.finish()
}

// holdAll has a client hold all memory of the thread; another one then waits.
func holdAll(t *testing.T, o rigOptions, hold func(w *wire)) (r *rig, holder, waiter *wire) {
	t.Helper()
	o.blocks = 4096
	r = newRig(t, o)
	r.host.data.max = 4 // slabs: one request of 8 MiB
	holder, waiter = r.connect(false), r.connect(false)
	hold(holder)
	require.Equal(t, 4*slabSize, r.host.data.used)
	waiter.send(encode(proto.CmdRead, 0, 5, 0, 1<<20, nil))
	require.True(t, waiter.s.waiting)
	return r, holder, waiter
}

func neverReads(w *wire) {
	w.window = 1000
	w.send(encode(proto.CmdRead, 0, 1, 0, 8<<20, nil))
}

func neverSends(w *wire) {
	w.send(encode(proto.CmdWrite, 0, 1, 0, 8<<20, make([]byte, 3<<20)))
}

// halfClosed does not read either, and said that it will send no more.
func halfClosed(w *wire) {
	neverReads(w)
	w.s.EOF()
}

// TestStalledIsCut: who holds memory and does not move is cut off when another
// one has waited for memory and the time is over; that one is served then.
func TestStalledIsCut(t *testing.T) {
	for name, hold := range map[string]func(*wire){"unread": neverReads, "unsent": neverSends, "half-closed": halfClosed} {
		t.Run(name, func(t *testing.T) {
			r, holder, waiter := holdAll(t, rigOptions{}, hold)
			r.after(29 * time.Second)
			require.False(t, holder.closed)
			r.after(2 * time.Second)
			require.True(t, holder.closed)
			require.ErrorIs(t, holder.s.Why(), errStalled)
			require.ErrorIs(t, holder.s.Why(), unix.ETIMEDOUT)
			e, cookie, _ := waiter.reply(1 << 20)
			require.Equal(t, proto.OK, e)
			require.EqualValues(t, 5, cookie)
			r.after(2 * time.Second)
			require.False(t, r.looking())
			waiter.finish()
			r.idle()
		})
	}
}

// TestStallLimit: the time is configurable, and what went by before the other
// one came counts.
func TestStallLimit(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4096, limits: Limits{Stall: 5 * time.Second}})
	r.host.data.max = 4
	holder, waiter := r.connect(false), r.connect(false)
	neverReads(holder)
	r.after(time.Hour)
	require.False(t, holder.closed, "it is in nobody's way")
	waiter.send(encode(proto.CmdFlush, 0, 4, 0, 0, nil))
	r.after(time.Hour)
	require.False(t, holder.closed, "nor now: a flush needs no memory")
	waiter.send(encode(proto.CmdRead, 0, 5, 0, 4096, nil))
	require.True(t, waiter.s.waiting)
	r.after(time.Second)
	require.True(t, holder.closed)
	require.False(t, waiter.s.waiting)

	for _, bad := range []time.Duration{time.Millisecond, -1, 1001 * time.Hour} {
		_, err := NewHost(r.th, Limits{Stall: bad})
		require.ErrorIs(t, err, unix.EINVAL)
	}
	waiter.finish()
	r.idle()
}

// TestOwnWaitIsNoReason: one that waits for memory itself is cut for others
// only, and of two that stall only as many go as have to.
func TestOwnWaitIsNoReason(t *testing.T) {
	r := newRig(t, rigOptions{blocks: 4096})
	r.host.data.max = 4
	a, b := r.connect(false), r.connect(false)
	for _, w := range []*wire{a, b} {
		w.window = 0
		w.send(encode(proto.CmdRead, 0, 1, 0, 4<<20, nil))
	}
	a.send(encode(proto.CmdRead, 0, 2, 0, 4<<20, nil))
	require.True(t, a.s.waiting)
	r.after(29 * time.Second)
	b.window = 1 << 30
	b.push()
	b.window = 0
	r.poll() // b's memory goes to a
	require.False(t, a.s.waiting)
	a.send(encode(proto.CmdRead, 0, 3, 0, 4<<20, nil))
	require.True(t, a.s.waiting)
	r.after(time.Hour)
	require.False(t, a.closed, "nobody else waits")

	b.send(encode(proto.CmdRead, 0, 2, 0, 4<<20, nil))
	require.True(t, b.s.waiting)
	r.after(2 * time.Second)
	require.True(t, a.closed)
	require.False(t, b.closed)
	b.window = 1 << 30
	b.push()
	b.finish()
	r.idle()
}

// TestSlowDeviceIsNoStall: a client does not answer for the time that the
// device takes, and gets its own from when the reply is there.
func TestSlowDeviceIsNoStall(t *testing.T) {
	r, holder, waiter := holdAll(t, rigOptions{slow: true}, func(w *wire) {
		w.window = 0
		w.send(encode(proto.CmdRead, 0, 1, 0, 8<<20, nil))
	})
	r.after(time.Hour)
	require.False(t, holder.closed)
	r.dev.complete(0)
	r.poll()
	r.after(29 * time.Second)
	require.False(t, holder.closed)
	r.after(2 * time.Second)
	require.True(t, holder.closed)
	r.dev.complete(0)
	r.poll()
	_, cookie, _ := waiter.reply(1 << 20)
	require.EqualValues(t, 5, cookie)
	waiter.finish()
	r.idle()
}

// TestCutWhileTheDeviceWorks: buffers of a session that was cut live until the
// device is done with them.
func TestCutWhileTheDeviceWorks(t *testing.T) {
	r, holder, waiter := holdAll(t, rigOptions{slow: true}, func(w *wire) {
		w.send(encode(proto.CmdWrite, 0, 1, 0, 4<<20, make([]byte, 4<<20)))
		w.send(encode(proto.CmdWrite, 0, 2, 4<<20, 4<<20, make([]byte, 100)))
	})
	r.after(31 * time.Second)
	require.False(t, holder.closed)
	require.Equal(t, 4<<20+1<<20, r.host.data.used, "the data that was not sent is free, and the other client has some of it")
	r.after(time.Minute)
	for len(r.dev.pending) > 0 {
		r.dev.complete(0)
		r.poll()
	}
	require.True(t, holder.closed)
	require.ErrorIs(t, holder.s.Why(), errStalled)
	_, cookie, _ := waiter.reply(1 << 20)
	require.EqualValues(t, 5, cookie)
	waiter.finish()
	r.idle()
}

// TestSlowIsNoStall: a client that moves slowly stays; one that only makes
// believe does not.
func TestSlowIsNoStall(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int
		cut   bool
	}{"slow": {(8 << 20) / 40, false}, "drop by drop": {1000, true}} {
		t.Run(name+" reader", func(t *testing.T) {
			r, holder, waiter := holdAll(t, rigOptions{}, neverReads)
			for i := 0; i < 40 && !holder.closed; i++ {
				r.after(10 * time.Second)
				holder.window += c.bytes
				holder.send(nil)
			}
			checkSlow(t, r, holder, waiter, c.cut)
		})
		t.Run(name+" writer", func(t *testing.T) {
			r, holder, waiter := holdAll(t, rigOptions{}, neverSends)
			for i := 0; i < 40 && !holder.closed; i++ {
				r.after(10 * time.Second)
				holder.send(make([]byte, min(c.bytes, int(holder.missing()))))
			}
			checkSlow(t, r, holder, waiter, c.cut)
		})
	}
}

// missing returns how much data the session waits for.
func (w *wire) missing() uint32 {
	if w.s.cur == nil {
		return 0
	}
	return w.s.cur.length - uint32(w.s.cur.got)
}

func checkSlow(t *testing.T, r *rig, holder, waiter *wire, cut bool) {
	t.Helper()
	require.Equal(t, cut, holder.closed)
	if !cut {
		holder.window = 1 << 30
		holder.push()
		r.poll()
		require.GreaterOrEqual(t, len(holder.out), proto.SimpleReplySize)
		holder.finish()
	}
	_, cookie, _ := waiter.reply(1 << 20)
	require.EqualValues(t, 5, cookie)
	waiter.finish()
	r.idle()
}

// TestManyStalled has clients of all kinds at random: all of those that behave
// are served however many do not, and none of them is cut.
func TestManyStalled(t *testing.T) {
	for seed := range int64(20) {
		rnd := rand.New(rand.NewSource(seed))
		r := newRig(t, rigOptions{blocks: 4096})
		r.host.data.max = 8
		var good, bad []*wire
		for range 30 {
			w := r.connect(false)
			n := 4096 << rnd.Intn(10)
			switch rnd.Intn(3) {
			case 0:
				w.window = 0
				for range 10 {
					w.send(encode(proto.CmdRead, 0, 1, 0, uint32(n), nil))
				}
				bad = append(bad, w)
			case 1:
				w.send(encode(proto.CmdWrite, 0, 1, 0, uint32(n), make([]byte, n/2)))
				bad = append(bad, w)
			default:
				w.send(encode(proto.CmdRead, 0, 9, 0, uint32(n), nil))
				good = append(good, w)
			}
		}
		// What was cut makes way for others that stall: every round needs its time.
		for range 30 {
			r.after(35 * time.Second)
		}
		for _, w := range good {
			require.False(t, w.closed)
			_, cookie, _ := w.reply(0)
			require.EqualValues(t, 9, cookie, "seed %d", seed)
			w.finish()
		}
		for _, w := range bad {
			if w.closed {
				require.ErrorIs(t, w.s.Why(), errStalled)
			} else {
				w.s.Kill(unix.ECONNRESET)
				r.poll()
			}
		}
		r.idle()
	}
}
