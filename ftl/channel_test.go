package ftl

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/iobuf"
)

// The tests of channels carry the numbers of the behaviour that they show:
// I11 the table of channels, I12 opening, I13 registering, I14 closing, I17 the
// device's own channel, I25 channels at a stop.

// open opens a channel.
func (b *bed) open() *Channel {
	b.t.Helper()
	c, err := b.d.OpenChannel()
	require.NoError(b.t, err)
	return c
}

// closing closes a channel; the result says how often it was told and what.
func closing(c *Channel) *[]error {
	told := &[]error{}
	c.Close(func(err error) { *told = append(*told, err) })
	return told
}

// shut closes a channel and waits for the end of it.
func (b *bed) shut(c *Channel) error {
	b.t.Helper()
	told := closing(c)
	require.Empty(b.t, *told, "not from inside Close")
	b.until("close", func() bool { return len(*told) > 0 })
	return (*told)[0]
}

// on makes a request of a channel.
func (b *bed) on(c *Channel, op Op, lba, n uint64) *call {
	own := b.d.own
	b.d.own = c
	defer func() { b.d.own = own }()
	return b.submit(op, lba, n, false)
}

func TestI11TableOfChannels(t *testing.T) {
	for _, c := range []struct{ most, room int }{{0, 128}, {1, 1}, {2, 2}, {3, 4}, {100, 128}, {4096, 4096}} {
		b := newBed(t, mini)
		b.cfg.MaxIOChannels = c.most
		b.create()
		require.Len(t, b.d.channels.slots, c.room, "a power of two")
		b.stop(false)
		b.free()
	}
}

func TestI12ChannelsAreLimited(t *testing.T) {
	b := newBed(t, mini)
	b.cfg.MaxIOChannels = 3
	b.create()
	var list []*Channel
	for range 3 {
		list = append(list, b.open())
	}
	for range 5 { // refusals are not counted
		_, err := b.d.OpenChannel()
		require.ErrorIs(t, err, unix.EAGAIN)
		require.ErrorContains(t, err, "3 IO channels")
		require.ErrorContains(t, err, "MaxIOChannels")
	}
	require.EqualValues(t, 3, b.stats().Channels)
	require.NoError(t, b.shut(list[1]))
	list[1] = b.open()
	_, err := b.d.OpenChannel()
	require.ErrorIs(t, err, unix.EAGAIN)
	for _, c := range list {
		require.NoError(t, b.shut(c))
	}
	require.Zero(t, b.d.channels.count.Load())
	b.stop(false)
}

func TestI12LimitIsValidated(t *testing.T) {
	for _, n := range []int{-1, 4097} {
		b := newBed(t, mini)
		b.cfg.MaxIOChannels, b.cfg.Create = n, true
		err := b.start(b.cfg)
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "MaxIOChannels")
		b.free()
	}
}

// TestI13Registration: a channel made elsewhere is counted at once and known
// when its message arrives; places are used again.
func TestI13Registration(t *testing.T) {
	b := newBed(t, mini)
	b.cfg.MaxIOChannels = 2
	b.create()
	c, err := b.d.NewChannel()
	require.NoError(t, err)
	require.EqualValues(t, 1, b.d.channels.count.Load())
	require.Zero(t, b.stats().Channels)
	early := Request{Op: OpFlush}
	early.Done = func(*Request) {}
	c.Submit(&early)
	require.Equal(t, unix.ENODEV, early.Err, "not before it is registered")
	c.Register()
	require.EqualValues(t, 1, b.stats().Channels)
	d := b.open()
	require.Equal(t, []int{0, 1}, []int{c.index, d.index})
	require.NoError(t, b.shut(c))
	e := b.open()
	require.Equal(t, 0, e.index)
	require.NoError(t, b.shut(d))
	require.NoError(t, b.shut(e))
	b.stop(false)
}

// TestI14CloseDrains: what is under way is finished, what comes later is
// refused, and the end is told once.
func TestI14CloseDrains(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	c, other := b.open(), b.open()
	var calls []*call
	for i := range uint64(20) {
		calls = append(calls, b.on(c, OpWrite, i*8, 8))
	}
	calls = append(calls, b.on(c, OpTrim, 3, 5), b.on(c, OpRead, 0, 32), b.on(c, OpFlush, 0, 0))
	told := closing(c)
	late := b.on(c, OpWrite, 0, 1)
	require.ErrorIs(t, b.shutAgain(c), ErrChannelClosed)
	require.ErrorIs(t, b.shutAgain(c), unix.EBUSY)
	b.until("close", func() bool { return len(*told) > 0 })
	for _, x := range calls {
		require.True(t, x.done, "the end is told after the last request")
		require.NoError(t, x.req.Err)
	}
	require.Equal(t, unix.ENODEV, late.req.Err)
	require.NoError(t, (*told)[0])
	require.EqualValues(t, 1, b.stats().Channels)
	require.ErrorIs(t, b.shutAgain(c), ErrChannelClosed)
	refused := b.on(c, OpRead, 0, 1)
	b.drainAll()
	require.Equal(t, unix.ENODEV, refused.req.Err)
	b.on(other, OpWrite, 1, 1)
	b.drainAll()
	b.good()
	b.pass(1e6)
	require.Len(t, *told, 1)
	require.NoError(t, b.shut(other))
	b.stop(false)
}

// shutAgain closes a channel a second time.
func (b *bed) shutAgain(c *Channel) (err error) {
	n := 0
	c.Close(func(e error) { err = e; n++ })
	require.Equal(b.t, 1, n)
	return err
}

// TestI14CloseFromDone: a channel may be closed from the end of its last
// request, and the request used on another one.
func TestI14CloseFromDone(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	c, other := b.open(), b.open()
	var told *[]error
	ended := 0
	q := Request{Op: OpTrim, LBA: 0, Count: 4}
	q.Done = func(r *Request) {
		if ended++; ended == 1 {
			told = closing(c)
			other.Submit(r)
		}
	}
	c.Submit(&q)
	b.until("both", func() bool { return ended == 2 && len(*told) == 1 })
	require.NoError(t, q.Err)
	require.NoError(t, (*told)[0])
	b.stop(false)
}

// TestI17OwnChannel: the device's own channel serves Submit and does not count.
func TestI17OwnChannel(t *testing.T) {
	b := newBed(t, mini)
	b.cfg.MaxIOChannels = 1
	b.create()
	c := b.open()
	b.put(5, 4)
	b.good()
	require.EqualValues(t, 1, b.stats().Channels)
	require.NoError(t, b.shut(c))
	b.put(6, 1)
	b.good()
	b.stop(false)
}

// TestI25StopClosesChannels: a stop finishes requests, closes channels that are
// still open and waits for one that is on its way; nobody has to close them,
// and everybody may.
func TestI25StopClosesChannels(t *testing.T) {
	for _, fast := range []bool{false, true} {
		b := newBed(t, mini)
		b.create()
		busy, idle, mine := b.open(), b.open(), b.open()
		coming, err := b.d.NewChannel()
		require.NoError(t, err)
		var calls []*call
		for i := range uint64(10) {
			calls = append(calls, b.on(busy, OpWrite, i*8, 8))
		}
		before := closing(mine)
		stopped := []error{}
		b.d.Stop(fast, func(err error) { stopped = append(stopped, err) })
		second := 0
		b.d.Stop(fast, func(err error) { require.ErrorIs(t, err, ErrBusy); second++ })
		require.Equal(t, 1, second)
		_, err = b.d.NewChannel()
		require.ErrorIs(t, err, unix.ENODEV)
		late := b.on(busy, OpRead, 0, 1)
		b.pass(20e6)
		require.Empty(t, stopped, "one channel is on its way")
		for _, c := range calls {
			require.True(t, c.done)
			require.NoError(t, c.req.Err)
		}
		require.Equal(t, unix.ENODEV, late.req.Err)
		require.Equal(t, []error{nil}, *before)
		coming.Register()
		b.until("stop", func() bool { return len(stopped) > 0 })
		require.NoError(t, stopped[0])
		b.noChannels()
		after := []*[]error{closing(busy), closing(idle), closing(coming)}
		b.pass(1e6)
		for _, a := range after {
			require.Equal(t, []error{nil}, *a)
		}
		require.Len(t, stopped, 1)
		refused := b.on(idle, OpRead, 0, 1)
		b.drainAll()
		require.Equal(t, unix.ENODEV, refused.req.Err)
		b.load()
		b.good()
		b.stop(false)
		b.free()
	}
}

// TestChannelsDoNotAllocate: requests of channels cost as little as those of the
// device.
func TestChannelsDoNotAllocate(t *testing.T) {
	b := newBed(t, mini)
	b.create()
	b.fill()
	c := b.open()
	buf := iobuf.Alloc(4096)
	defer iobuf.Free(buf)
	under := 0
	q := Request{Op: OpWrite, Count: 1, Bufs: [][]byte{buf}, Done: func(*Request) { under-- }}
	round := func() {
		q.LBA = (q.LBA + 7) % b.d.Blocks()
		under++
		c.Submit(&q)
		for under > 0 {
			b.turn()
		}
	}
	for range 2000 {
		round()
	}
	require.Zero(t, testing.AllocsPerRun(500, round))
	b.stop(false)
}
