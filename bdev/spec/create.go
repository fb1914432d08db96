package spec

import (
	"fmt"
	"path/filepath"
	"strings"

	"goftl/bdev"
	"goftl/bdev/file"
	"goftl/bdev/malloc"
	"goftl/bdev/null"
	"goftl/bdev/passthru"
	"goftl/bdev/zbd"
	"goftl/thread"
)

// Options say how Create makes a device.
type Options struct {
	Create bool   // make files that do not exist, with the size that is given
	Name   string // of the device; default: from name=, else derived from the kind or the path
	// Populate has malloc devices take their memory at once unless their spec
	// says populate=off, if the system has that much; for programs that measure.
	Populate bool
	// Pinned promises that threads with channels do not move to another OS
	// thread. No module needs the promise at present.
}

// maker is one Create.
type maker struct {
	m    *bdev.Manager
	t    *thread.Thread
	o    Options
	name string
	base *bdev.Bdev // what the wrapper being made stands on
	made *bdev.Bdev
}

// Create makes the device that a spec describes, with all that it stands on,
// and registers it. It must be called on t, which is the thread that wrappers
// open their base on. Unregistering the device ends all of them. Errors say
// what is wrong with which part; they wrap EINVAL for a spec that is wrong in
// itself, else the reason.
func Create(m *bdev.Manager, t *thread.Thread, text string, o Options) (*bdev.Bdev, error) {
	s, err := Parse(text)
	if err != nil {
		return nil, err
	}
	b, err := create(m, t, s, o)
	if err != nil {
		return nil, fmt.Errorf("spec %q: %w", text, err)
	}
	return b, nil
}

func create(m *bdev.Manager, t *thread.Thread, s *Spec, o Options) (*bdev.Bdev, error) {
	mk := &maker{m: m, t: t, o: o, name: o.Name}
	if mk.name == "" {
		mk.name = s.reader(0).text("name")
	}
	if s.Base != nil {
		base, err := create(m, t, s.Base, Options{Create: o.Create, Populate: o.Populate})
		if err != nil {
			return nil, err
		}
		mk.base = base
	}
	if mk.name == "" {
		mk.name = mk.derive(s)
	}
	if err := kindOf(s.Kind).make(mk, s); err != nil {
		if mk.base != nil {
			mk.base.Unregister(t, nil, nil)
		}
		return nil, err
	}
	return mk.made, nil
}

// derive makes a name that is not in use.
func (mk *maker) derive(s *Spec) string {
	name := s.Kind
	switch {
	case mk.base != nil:
		name += "_" + mk.base.Name()
	case s.Kind == "file", s.Kind == "zbd":
		name = filepath.Base(s.Main)
	default:
		name += "0"
	}
	if mk.m.Lookup(name) == nil {
		return name
	}
	stem := strings.TrimSuffix(name, "0")
	for i := 1; ; i++ {
		if name = fmt.Sprint(stem, i); mk.m.Lookup(name) == nil {
			return name
		}
	}
}

// register registers a driver that stands on nothing.
func (mk *maker) register(d bdev.Driver) error {
	b, err := mk.m.Register(d)
	if err != nil {
		_ = d.Close() // the first error counts
		return err
	}
	mk.made = b
	return nil
}

func makeMalloc(mk *maker, s *Spec) error {
	r := s.reader(0)
	bs := r.blockSize()
	o := malloc.Options{
		Name: mk.name, BlockSize: bs, UUID: r.uuid("uuid"), MDSize: uint32(r.number("md", 0, 0, 4096)),
		Blocks: r.sizeOf("size", s.Main, uint64(bs)) / uint64(bs), Populate: r.flag("populate"),
	}
	if r.err != nil {
		return r.err
	}
	_, said := r.find("populate")
	mayPopulate := mk.o.Populate && !said
	o.Populate = o.Populate || mayPopulate
	d, err := malloc.New(o)
	if err != nil && mayPopulate {
		o.Populate = false
		d, err = malloc.New(o)
	}
	if err != nil {
		return err
	}
	return mk.register(d)
}

func makeNull(mk *maker, s *Spec) error {
	r := s.reader(0)
	bs := r.blockSize()
	o := null.Options{
		Name: mk.name, BlockSize: bs, MDSize: uint32(r.number("md", 0, 0, 4096)),
		Blocks: r.sizeOf("size", s.Main, uint64(bs)) / uint64(bs),
	}
	if r.err != nil {
		return r.err
	}
	return mk.register(null.New(o))
}

func makeFile(mk *maker, s *Spec) error {
	r := s.reader(0)
	o := file.Options{
		Name: mk.name, Create: mk.o.Create, Driver: r.text("driver"),
		ReadOnly: r.flag("readonly"), Size: r.size("size", 4096), Depth: int(r.number("depth", 0, 1, 1<<16)),
	}
	direct, err := file.ParseDirect(r.text("direct"))
	if err != nil {
		r.fail("direct", r.text("direct"), "auto, on or off")
	}
	o.Direct = direct
	if o.Driver != "" && o.Driver != "uring" && o.Driver != "aio" {
		r.fail("driver", o.Driver, "uring or aio")
	}
	if r.err != nil {
		return r.err
	}
	d, err := file.New(s.Main, o)
	if err != nil {
		return err
	}
	return mk.register(d)
}

func makeZbd(mk *maker, s *Spec) error {
	r := s.reader(0)
	o := zbd.Options{
		Name: mk.name, Driver: r.text("driver"), ReadOnly: r.flag("readonly"), Depth: int(r.number("depth", 0, 1, 1<<16)),
		Units: uint32(r.number("units", 1, 1, 1<<16)),
	}
	if o.Driver != "" && o.Driver != "uring" && o.Driver != "aio" {
		r.fail("driver", o.Driver, "uring or aio")
	}
	if r.err != nil {
		return r.err
	}
	b, err := zbd.Create(mk.m, mk.t, s.Main, o)
	mk.made = b
	return err
}

func makePassthru(mk *maker, _ *Spec) error {
	b, err := passthru.Create(mk.m, mk.t, passthru.Options{Name: mk.name, Base: mk.base.Name(), Own: true})
	mk.made = b
	return err
}
