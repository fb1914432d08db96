package bdev

import (
	"slices"

	"goftl/internal/assert"
)

// Event is something that happens to a device.
type Event uint8

// The events.
const (
	Remove          Event = iota // put the channels and close the descriptor
	Resize                       // Info has the new size
	MediaManagement              // Desc.MediaEvents has extents that should be relocated
	ZoneChange                   // the zones at the extents turned read-only or offline: ask for their ZoneInfo
)

func (e Event) String() string {
	switch e {
	case Remove:
		return "remove"
	case Resize:
		return "resize"
	case ZoneChange:
		return "zone_change"
	default:
		return "media_management"
	}
}

// EventFunc is told of an event, on the descriptor's thread. Only ZoneChange
// comes with extents: one for each zone.
type EventFunc func(arg any, ev Event, b *Bdev, extents []MediaExtent)

// Limits of media management events.
const (
	MediaQueue = 1024 // extents that a descriptor holds until they are taken
	MediaBatch = 128  // extents that are best taken at a time
)

// NotifyMedia tells all descriptors that have an EventFunc that the device
// wants extents relocated, and returns how many of them it took: fewer than
// all when a descriptor has no room. The rest is for the caller to repeat.
func (b *Bdev) NotifyMedia(extents []MediaExtent) int {
	descs := b.state.Load().descs
	n := int64(len(extents))
	took := make([]int64, len(descs))
	for i, d := range descs {
		if d.ev != nil {
			took[i] = d.takeRoom(n)
			n = min(n, took[i])
		}
	}
	for i, d := range descs {
		if d.ev == nil {
			continue
		}
		d.mediaRoom.Add(took[i] - n)
		if n > 0 {
			d.th.Send(deliver, &eventMsg{d, MediaManagement, slices.Clone(extents[:n])})
		}
	}
	return int(n)
}

func (d *Desc) takeRoom(most int64) int64 {
	for {
		room := d.mediaRoom.Load()
		n := min(room, most)
		if d.mediaRoom.CompareAndSwap(room, room-n) {
			return n
		}
	}
}

// MediaEvents takes extents that the device wants relocated, oldest first, as
// many as out holds, and returns how many these were. It is called on the
// descriptor's thread.
func (d *Desc) MediaEvents(out []MediaExtent) int {
	n := copy(out, d.media)
	d.dropMedia(n)
	return n
}

func (d *Desc) dropMedia(n int) {
	if n == 0 {
		return
	}
	if d.media = d.media[n:]; len(d.media) == 0 {
		d.media = nil
	}
	room := d.mediaRoom.Add(int64(n))
	assert.That(room <= MediaQueue, "bdev: more room for media events than there is")
	if b := d.b.below.Load(); b != nil && b.holdsMedia.Load() {
		b.th.Send(forwardMedia, b)
	}
}

// NotifyZones tells all descriptors that zones turned read-only or offline.
// Each extent is a whole zone.
func (b *Bdev) NotifyZones(zones []MediaExtent) { b.tell(ZoneChange, slices.Clone(zones)) }

type eventMsg struct {
	d       *Desc
	ev      Event
	extents []MediaExtent
}

func (b *Bdev) tell(ev Event, extents []MediaExtent) {
	for _, d := range b.state.Load().descs {
		d.th.Send(deliver, &eventMsg{d, ev, extents})
	}
}

func deliver(arg any) {
	m := arg.(*eventMsg)
	d := m.d
	if d.closed || d.ev == nil {
		return
	}
	if m.ev == MediaManagement {
		d.media = append(d.media, m.extents...)
		m.extents = nil
	}
	d.ev(d.arg, m.ev, d.b, m.extents)
}
