package record

// State of a segment as its descriptor says.
type State uint8

// States on media. A block of zeroes is a free segment of generation 0.
const (
	StateFree State = 0
	StateOpen State = 1
	StateFull State = 2
)

// String names the state.
func (s State) String() string {
	switch s {
	case StateFree:
		return "free"
	case StateOpen:
		return "open"
	case StateFull:
		return "full"
	}
	return "unknown"
}

// DescriptorSize is the size of an encoded descriptor; the rest of its
// metadata block belongs to the metadata object, whose checksum covers it.
const DescriptorSize = 96

const descriptorMagic = 0x43534544 // "DESC"

// Descriptor is the durable state of one segment.
type Descriptor struct {
	State  State
	Seg    uint32
	Gen    uint32
	Inc    uint32 // incarnation in which it was opened
	Slots  uint32 // slots written (full only)
	FirstU uint64 // lowest and highest user record in it (full only; 0 none)
	LastU  uint64
	MaxG   uint64
	MaxD   uint64
	Opened uint64 // G when it was opened: the order of age
	// On a zoned base: the zones that its slots go round, a bit for each, and
	// how many slots they have.
	Zones    uint64
	Capacity uint32
}

// Put encodes d.
func (d *Descriptor) Put(b []byte) {
	clear(b[:DescriptorSize])
	le.PutUint32(b[0:], descriptorMagic)
	b[4] = formatV1
	b[5] = byte(d.State)
	le.PutUint32(b[8:], d.Seg)
	le.PutUint32(b[12:], d.Gen)
	le.PutUint32(b[16:], d.Inc)
	le.PutUint32(b[20:], d.Slots)
	le.PutUint64(b[24:], d.FirstU)
	le.PutUint64(b[32:], d.LastU)
	le.PutUint64(b[40:], d.MaxG)
	le.PutUint64(b[48:], d.MaxD)
	le.PutUint64(b[56:], d.Opened)
	le.PutUint64(b[64:], d.Zones)
	le.PutUint32(b[72:], d.Capacity)
}

// Decode reads a descriptor; seg is the segment it must belong to. Zeroes are
// a free segment.
func (d *Descriptor) Decode(b []byte, seg uint32) error {
	*d = Descriptor{Seg: seg}
	if le.Uint32(b) == 0 {
		for _, x := range b[:DescriptorSize] {
			if x != 0 {
				return ErrInvalid
			}
		}
		return nil
	}
	if le.Uint32(b) != descriptorMagic || b[4] != formatV1 || State(b[5]) > StateFull || le.Uint32(b[8:]) != seg {
		return ErrInvalid
	}
	d.State = State(b[5])
	d.Gen = le.Uint32(b[12:])
	d.Inc = le.Uint32(b[16:])
	d.Slots = le.Uint32(b[20:])
	d.FirstU = le.Uint64(b[24:])
	d.LastU = le.Uint64(b[32:])
	d.MaxG = le.Uint64(b[40:])
	d.MaxD = le.Uint64(b[48:])
	d.Opened = le.Uint64(b[56:])
	d.Zones = le.Uint64(b[64:])
	d.Capacity = le.Uint32(b[72:])
	return nil
}
