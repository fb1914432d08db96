package ftlsim

import (
	"bytes"
	"encoding/json"
	"fmt"

	"goftl/ftl"
	"goftl/tests/sim"
)

// Plan is everything about a run that is drawn before it begins; the run is a pure function of it. A new kind of world
// is described here, drawn in draw.go, and named in kinds.go. Whatever is zero is left out of a printed plan, and the
// shrinker tries to make everything zero: so zero is the simplest value of each field.
type Plan struct {
	Kind     string // name of its Kind
	Seed     uint64 `shrink:"-"` // of the schedule, the load, what survives, ...
	Geometry Geometry
	Config   Config
	Disks    [2]sim.DiskOptions // cache and base; their names and sizes follow from the rest
	World    sim.WorldOptions
	Lives    []Life
}

// The disks of a plan, in the order of Plan.Disks.
const (
	Cache = iota
	Base
	numDisks
)

var diskNames = [numDisks]string{"cache", "base"}

// Geometry is the shape of the device that is made.
type Geometry struct {
	ChunkBlocks, Chunks uint64
	BandBlocks, Bands   uint64
	CacheRest, BaseRest uint64 // blocks of the disks beyond what the segments and their metadata need
	SparePct            uint32
	SizeBlocks          uint64 // of the device; 0: as large as it can be

	NoCache bool  // users write to the bands, and what is called cache holds metadata
	Alone   bool  // or nothing: the base holds that too
	Zones   Zones // of the base, if it has any
}

// Zones are the zones of a base; without a size it has none. They make as many bands as the geometry says.
type Zones struct {
	Blocks, Capacity uint64
	Units            uint64
	WriteUnit        uint32
	MaxOpen          uint32
	Append           bool
	Conv             uint64   // conventional zones in front
	ReadOnly         []uint64 // zones that cannot be written from the beginning
	Offline          []uint64
}

// CacheBlocks is the size of the cache: chunks, two copies of a descriptor for each segment, two slots for each page
// of the mapping, directories.
func (g *Geometry) CacheBlocks() uint64 {
	return g.Chunks*g.ChunkBlocks + 2*(g.Chunks+g.Bands) + 128 + g.CacheRest
}

// BaseBlocks is the size of the base.
func (g *Geometry) BaseBlocks() uint64 {
	if z := &g.Zones; z.Blocks > 0 {
		// The device cuts off what is no whole group.
		zones := (z.Conv + g.Bands*z.Units + z.Units - 1) / z.Units * z.Units
		return zones*(z.Blocks+2) + zones*z.Blocks/64 + 64 // with the tables that the zones keep
	}
	n := g.Bands*g.BandBlocks + 256 + g.BaseRest
	if g.Alone {
		n += 2*g.Bands + 256
	}
	return n
}

// Config is how the device is run.
type Config struct {
	SumCacheBytes uint64
	RedoBytes     uint64
	Limits        ftl.Limits
	Greedy        bool
	NoVerify      bool
	DetourEvery   int
	Shm           bool
	WriteBuffer   uint64 // blocks of the volatile write cache of each IO channel; 0: there is none
	Channels      int    // IO channels that operations come on, by turns; 0: the device's own
}

// Life is one process: it starts the device, verifies it, works and stops, unless a fuse ends it before.
type Life struct {
	Seed   uint64        `shrink:"-"`
	Calm   bool          // nothing fails, all must come good
	Look   bool          // the device is started read-only and looked at before
	Clock  int64         // where the clock begins; 0: it goes on
	Faults [2]sim.Faults // of cache and base
	// Of the zones: one that turns read-only in the middle of the work, and the reset that fails, counted from the
	// beginning of the life; 0: none.
	ZoneTurns uint64
	ZoneGone  bool // it turns offline, and what it held is lost
	FailReset uint64
	// FreeGone is how many free bands lose all their zones: whenever there are few enough of them, all do, but some where
	// there is no cache.
	FreeGone int
	Strays   int             // writes that land elsewhere while it works
	Loss     *Loss           // a device is lost while it works
	Gone     [2]bool         // devices that are not there
	Full     []Full          // times in which a device is full
	Rot      int             // blocks that rot before the life, if the one before had come to rest
	RotLog   bool            // it is the metadata of one of the records written last that rots
	Start    Fuse            // when creating or loading is cut short
	Phases   []Phase         // of load
	Work     Fuse            // when they are
	Hasty    bool            // where Work has burnt the device is stopped, with requests under way
	Lull     bool            // where Work has burnt users fall silent, and the device comes to rest with what it is at
	Stop     Fuse            // when the stop is
	Fast     bool            // the stop is a fast one
	Check    bool            // the device checks itself once it has come to rest
	Fill     bool            // everything is written twice in the end: the space of what was replaced comes back
	Kill     bool            // the process ends, the power stays
	Inside   bool            // a fuse ends the life in the middle of a poll, and not behind it
	Keep     [2]sim.Survival // what a power loss leaves
}

// Phase is one phase of load, and what follows it.
type Phase struct {
	Seed    uint64 `shrink:"-"`
	Ops     int    // operations
	Only    []int  // if set, which of them are submitted
	Depth   int    // of them under way
	LowPct  int    // where the used part of the device begins
	Span    uint64 // blocks used; 0: all from there on
	Most    int64  // blocks of an operation
	Mode    Mode
	Weights [NumKinds]int // of reads, writes, ...
	FUA     int           // one write of so many has FUA; 0: none
	Again   bool          // operations are submitted from inside Done of others
	Rest    int64         // ns of rest afterwards
	Verify  bool          // all blocks are read afterwards
	All     bool          // it ends when all blocks were written once, in order
}

// Mode is how a load chooses its blocks.
type Mode uint8

// Modes.
const (
	Uniform    Mode = iota
	Sequential      // one behind the other
	Zipf            // block n with a chance of 1/n
	Hot             // nine of ten operations on the first tenth
	numModes
)

// Loss is the loss of a device.
type Loss struct {
	Disk  int
	After uint64       // boundaries of IOs after the beginning of the work
	Told  bool         // the device layer hears of it; else its IOs just fail
	Keep  sim.Survival // what is left on it
}

// Full is a time in which a device has no space for what it is to write.
type Full struct {
	Disk  int
	After uint64 // boundaries of IOs after the beginning of the work, or the end of the one before
	For   uint64 // so many boundaries
}

// Fuse cuts a phase short.
type Fuse struct {
	After uint64 // so many boundaries of IOs after its beginning; 0: never
	First bool   // so many writes to the first blocks of the devices, where a superblock is
	Meta  bool   // so many writes of metadata, which are few, but around them most can go wrong
	Pages bool   // so many writes of pages of the mapping: in the middle of a checkpoint
}

func (f Fuse) lit() bool { return f.After > 0 }

// kind is the kind of the plan.
func (p *Plan) kind() *Kind {
	for i := range Kinds {
		if Kinds[i].Name == p.Kind {
			return &Kinds[i]
		}
	}
	return &Kind{Name: p.Kind}
}

// disk is the description of one of the disks.
func (p *Plan) disk(i int) sim.DiskOptions {
	o := p.Disks[i]
	o.Name, o.Blocks = diskNames[i], p.Geometry.CacheBlocks()
	if i == Base {
		o.Blocks = p.Geometry.BaseBlocks()
	}
	return o
}

// String is the plan as -plan takes it.
func (p *Plan) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return err.Error()
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // seeds have 64 bits
	if err := d.Decode(&v); err != nil {
		return err.Error()
	}
	prune(v)
	if text, err = json.Marshal(v); err != nil {
		return err.Error()
	}
	return string(text)
}

// prune takes zeroes out of objects, and says whether nothing is left of v.
func prune(v any) (zero bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if prune(x) {
				delete(v, k)
			}
		}
		return len(v) == 0
	case []any:
		zero = true
		for _, x := range v {
			zero = prune(x) && zero
		}
		return zero && len(v) != 1 // arrays; a list of one may well be one of a zero
	case nil:
		return true
	case bool:
		return !v
	case json.Number:
		return v == "0"
	case string:
		return v == ""
	}
	return false
}

// ParsePlan reads what String has written.
func ParsePlan(text string) (*Plan, error) {
	p := &Plan{}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return p, nil
}
