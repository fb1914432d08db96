package thread

import "goftl/internal/assert"

// ChannelIter is one walk over the channels of a device.
type ChannelIter struct {
	dev     *IODevice
	origin  *Thread
	threads []*Thread // those that existed at the start
	next    int
	channel *IOChannel
	visit   func(it *ChannelIter)
	done    func(arg any, status error)
	arg     any
	status  error
	waiting bool // for Continue
	held    bool // the walk holds a reference to the device
}

// ForEachChannel visits the device's channels one after the other, each on its own thread and in the order of the
// threads' age. Each visit ends with a call of Continue on that thread, in visit or later; an error stops the walk.
// Then done(arg, status) runs on from, which is the calling thread, always in a message. Threads made after the start
// are not visited, nor are those that have exited. While the walk runs the device stays and from does not exit. A
// device that is being unregistered is not walked: the status wraps unix.ENODEV. done may be nil.
func (d *IODevice) ForEachChannel(from *Thread, visit func(it *ChannelIter), done func(arg any, status error), arg any) {
	it := &ChannelIter{dev: d, origin: from, threads: d.sys.Threads(), visit: visit, done: done, arg: arg}
	from.walks++
	it.held = d.hold()
	if !it.held {
		it.status = errGone
		it.threads = nil
	}
	it.step()
}

// Channel returns the channel being visited.
func (it *ChannelIter) Channel() *IOChannel { return it.channel }

// Device returns the device whose channels are visited.
func (it *ChannelIter) Device() *IODevice { return it.dev }

// Arg returns what was given to ForEachChannel.
func (it *ChannelIter) Arg() any { return it.arg }

// Continue ends the visit of one channel; a status other than nil ends the walk.
func (it *ChannelIter) Continue(status error) {
	assert.That(it.waiting, "thread: Continue without a visit")
	it.waiting = false
	it.channel = nil
	if status != nil {
		it.status = status
		it.threads = nil
	}
	it.step()
}

func (it *ChannelIter) step() {
	for it.next < len(it.threads) {
		t := it.threads[it.next]
		it.next++
		if t.TrySend(visitChannel, it) {
			return
		}
	}
	it.origin.Send(walked, it)
}

func visitChannel(arg any) {
	it := arg.(*ChannelIter)
	c := it.threads[it.next-1].channelOf(it.dev)
	if c == nil || c.creating {
		it.step()
		return
	}
	it.channel = c
	it.waiting = true
	it.visit(it)
}

func walked(arg any) {
	it := arg.(*ChannelIter)
	it.origin.walks--
	if it.held {
		it.dev.release()
	}
	if it.done != nil {
		it.done(it.arg, it.status)
	}
}
