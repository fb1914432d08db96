package ftl

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"goftl/internal/assert"
)

// IO channels. A Channel is one user's way into a device: it counts the
// requests of that user, so that the user can leave while others go on. There
// are at most Config.MaxIOChannels of them. The device's own channel, which
// Device.Submit uses, is not among them.

const (
	defaultChannels = 128
	maxChannels     = 4096
)

// ErrChannelClosed answers a second Close of a channel.
var ErrChannelClosed = fmt.Errorf("ftl: the channel is closing already: %w", unix.EBUSY)

type channelState uint8

const (
	channelNew     channelState = iota // counted; unknown to the core thread
	channelOpen                        // takes requests
	channelClosing                     // takes no more; those under way end
	channelClosed                      // forgotten by the device
)

// Channel is a user's IO channel. But for NewChannel, which makes it, everything
// happens on the core thread.
type Channel struct {
	d      *Device
	state  channelState
	index  int // in Device.channels.slots
	under  int // requests under way
	ending bool
	failed error // why blocks that were acknowledged could not be written

	wb      *writeBuffer // with a volatile write cache
	waiting queue        // writes and trims in line for it
	listed  bool         // in channelSet.waiting

	asked  bool // Close was called
	closed func(err error)
}

// stopMark is set in channelSet.count when the device stops: no channel is
// made from then on.
const stopMark = 1 << 32

// channelSet is what a device knows of its channels.
type channelSet struct {
	// count is the number of channels that exist, registered or on their way
	// to the core thread. It is the one field that other threads touch.
	count atomic.Int64
	slots []*Channel // registered ones, by index; a power of two
	open  int
	// waiting are the channels in which something waits for the write buffer.
	waiting []*Channel
	gone    func(d *Device) // while stopping: called when count is zero
}

// initChannels makes the table of channels and the device's own channel.
func (d *Device) initChannels() error {
	n := 1
	for n < d.cfg.MaxIOChannels {
		n *= 2
	}
	d.channels.slots = make([]*Channel, n)
	own, err := d.makeChannel()
	if err != nil {
		return err
	}
	d.own = own
	own.state = channelOpen
	own.grow()
	return nil
}

// freeChannels gives the memory of the device's own channel back.
func (d *Device) freeChannels() {
	if d.own != nil {
		d.own.release()
	}
}

// OpenChannel makes a channel and registers it. It is called on the core
// thread; the error is as of NewChannel.
func (d *Device) OpenChannel() (*Channel, error) {
	c, err := d.NewChannel()
	if err != nil {
		return nil, err
	}
	c.Register()
	return c, nil
}

// NewChannel makes a channel. Any thread may call it while the device runs; the
// channel is used once Register was called on the core thread, which must
// follow. Errors: EAGAIN when there are Config.MaxIOChannels already, ENOMEM,
// ENODEV when the device is stopping.
func (d *Device) NewChannel() (*Channel, error) {
	if err := d.channels.reserve(d.cfg.MaxIOChannels); err != nil {
		return nil, err
	}
	c, err := d.makeChannel()
	if err != nil {
		// The stop of the device may be waiting for this one already.
		if d.channels.count.Add(-1) == stopMark {
			d.th.Send(channelsGone, d)
		}
		return nil, err
	}
	return c, nil
}

func (d *Device) makeChannel() (*Channel, error) {
	c := &Channel{d: d, index: -1}
	if !d.buffers() {
		return c, nil
	}
	var err error
	c.wb, err = newWriteBuffer(d.cfg.WriteBufferBytes, d.cfg.alloc)
	return c, err
}

// grow makes room for the blocks of the channel's buffer among those under way.
func (c *Channel) grow() {
	if c.wb != nil {
		c.d.log_.inflight.grow(int(c.wb.n))
	}
}

// release gives the channel's memory back.
func (c *Channel) release() {
	if c.wb != nil {
		c.d.log_.inflight.shrink(int(c.wb.n))
		c.wb.free()
		c.wb = nil
	}
}

// reserve counts one more channel, unless that would be too many.
func (s *channelSet) reserve(most int) error {
	for {
		n := s.count.Load()
		if n&stopMark != 0 {
			return fmt.Errorf("ftl: no IO channel on a device that is stopping: %w", unix.ENODEV)
		}
		if n >= int64(most) {
			return fmt.Errorf("ftl: all %d IO channels are taken, as many as config field MaxIOChannels allows: %w", most, unix.EAGAIN)
		}
		if s.count.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

// Register makes the device know the channel. On a device that is stopping the
// channel is closed at once: its requests fail with ENODEV.
func (c *Channel) Register() {
	d := c.d
	assert.That(c.state == channelNew, "a channel is registered once")
	for i, x := range d.channels.slots {
		if x == nil {
			c.index = i
			break
		}
	}
	assert.That(c.index >= 0, "counted channels have room")
	d.channels.slots[c.index] = c
	d.channels.open++
	c.state = channelOpen
	c.grow()
	if d.stopping {
		c.shut()
	}
}

// Device is the device that the channel belongs to.
func (c *Channel) Device() *Device { return c.d }

// Close ends the channel. Requests that come later fail with ENODEV; those
// under way are finished, and what stands in the write buffer is written to the
// log, however long there is no space for it. Then the channel is unregistered
// and done is called, once, never from inside Close. Its error says that writes
// that were acknowledged on this channel could not be written. A second Close
// gets ErrChannelClosed at once.
//
// A device that stops closes its channels itself; Close is allowed all the same.
func (c *Channel) Close(done func(err error)) {
	if c.asked {
		done(ErrChannelClosed)
		return
	}
	c.asked, c.closed = true, done
	switch c.state {
	case channelOpen:
		c.shut()
	case channelClosed:
		c.d.th.Post(channelGone, c)
	case channelNew:
		assert.That(false, "a channel is registered before it is closed")
	case channelClosing:
	}
}

// shut takes no more requests.
func (c *Channel) shut() {
	c.state = channelClosing
	c.endIfIdle()
}

// endIfIdle unregisters a closing channel once nothing of it is under way.
func (c *Channel) endIfIdle() {
	if c.state != channelClosing || c.under != 0 || c.ending || c.wb != nil && c.wb.used() != 0 {
		return
	}
	c.ending = true
	c.d.th.Post(channelEnded, c)
}

func channelEnded(arg any) {
	c := arg.(*Channel)
	s := &c.d.channels
	assert.That(c.under == 0 && s.slots[c.index] == c, "a channel that ends is registered and at rest")
	c.state = channelClosed
	c.release()
	s.slots[c.index] = nil
	s.open--
	left := s.count.Add(-1)
	assert.That(left&(stopMark-1) >= 0, "channels are counted")
	channelGone(c)
	if left == stopMark {
		channelsGone(c.d)
	}
}

// channelsGone goes on with a stop that waited for the last channel.
func channelsGone(arg any) {
	d := arg.(*Device)
	if f := d.channels.gone; f != nil {
		d.channels.gone = nil
		f(d)
	}
}

// channelGone tells the user.
func channelGone(arg any) {
	c := arg.(*Channel)
	if done := c.closed; done != nil {
		c.closed = nil
		done(c.failed)
	}
}

// stepCloseChannels puts every channel that is still open, and waits for those
// that are on their way from other threads as well.
func stepCloseChannels(p *process) {
	d := enter(p)
	s := &d.channels
	if err := d.log_.lossErr; err != nil {
		d.life.stopErr = err
	}
	for _, c := range s.slots {
		if c != nil && c.state == channelOpen {
			c.shut()
		}
	}
	if s.count.Load() == stopMark {
		p.Next()
		return
	}
	s.gone = func(d *Device) { d.life.proc.Next() }
}

// Submit starts a request of the channel's user. It never completes it inline. A
// request that is wrong or cannot be served completes with an error like any
// other.
func (c *Channel) Submit(r *Request) {
	d := c.d
	r.Err = nil
	r.off, r.buf, r.bufo = 0, 0, 0
	if err := c.admit(r); err != nil {
		d.completeLater(r, err)
		return
	}
	r.ch = c
	c.under++
	d.start(r)
}

func (c *Channel) admit(r *Request) error {
	if c.state != channelOpen {
		return unix.ENODEV
	}
	return c.d.admit(r)
}
