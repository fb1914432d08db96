package stack

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/layout"
	"goftl/ftl/zoned"
)

// Planned is what would be made.
type Planned struct {
	Specs  Specs
	Layout *layout.Layout
	Config ftl.Config
	Cache  Found // of the metadata without a cache
	Base   Found
}

// Found is what a device is, or would be.
type Found struct {
	bdev.Info
	Bytes uint64
	Zones *layout.Zones // of a zoned one
	lay   func(l *layout.Layout) error
}

// Plan computes what Open would make. Nothing is written; files that do not
// exist are replaced by stand-ins.
func Plan(o Options) (*Planned, error) {
	specs, err := o.Place.Resolve(true, &o.Config)
	if err != nil {
		return nil, err
	}
	return planOf(specs, &o)
}

func planOf(specs Specs, o *Options) (*Planned, error) {
	texts := []string{specs.Cache, specs.Base}
	if specs.Cache == "" {
		texts = texts[1:]
	}
	var p *Planned
	err := onDevices(texts, &o.Config, func(found []Found) error {
		p = &Planned{Specs: specs, Config: o.Config, Base: found[len(found)-1]}
		params := layout.Params{
			BaseBlocks: p.Base.Blocks, Zones: p.Base.Zones, NoCache: specs.NoCache, SparePct: o.Config.SparePct,
			SizeBlocks: o.Place.UserSize() / layout.BlockSize, ChunkBlocks: o.Config.ChunkBlocks, BandBlocks: o.Config.BandBlocks,
		}
		if specs.Cache != "" {
			p.Cache = found[0]
			params.CacheBlocks, params.CacheMD = p.Cache.Blocks, p.Cache.MDSize
		}
		err := checkFound(&p.Cache, &p.Base, specs.Cache != "")
		if err != nil {
			return err
		}
		if p.Layout, err = layout.Compute(params); err != nil {
			return adviseMetadata(err, specs)
		}
		if p.Base.lay != nil {
			return p.Base.lay(p.Layout)
		}
		return nil
	})
	return p, err
}

func checkFound(cache, base *Found, two bool) error {
	if !two {
		return ftl.CheckDevices(nil, &base.Info)
	}
	return ftl.CheckDevices(&cache.Info, &base.Info)
}

// adviseMetadata says how a zoned base gets a place for its metadata.
func adviseMetadata(err error, specs Specs) error {
	if specs.NoCache && specs.Cache == "" && errors.Is(err, layout.ErrMetadata) {
		return fmt.Errorf("%w (--metadata SPEC names one; conv=N in a zone spec makes the first N zones conventional)", err)
	}
	return err
}

// probe returns what the devices of specs are.
func probe(texts []string, cfg *ftl.Config) (out []Found, err error) {
	if len(texts) == 0 {
		return nil, nil
	}
	err = onDevices(texts, cfg, func(found []Found) error { out = found; return nil })
	return out, err
}

// onDevices makes the devices of specs, looks at them, calls f, and unmakes
// them.
func onDevices(texts []string, cfg *ftl.Config, f func([]Found) error) error {
	s := &Stack{o: Options{CPU: -1, ReadOnly: true}}
	if err := s.run(); err != nil {
		return err
	}
	found := make([]Found, len(texts))
	var made []*bdev.Bdev
	var err error
	for i, text := range texts {
		var b *bdev.Bdev
		if b, err = s.standIn(text); err != nil {
			break
		}
		made = append(made, b)
		found[i] = Found{Info: *b.Info(), Bytes: b.Info().Bytes()}
		if err = fits(b.Info()); err == nil && b.Info().Zoned {
			err = s.lookAtZones(b, &found[i], cfg)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = s.OnCore(func() error { return f(found) })
	}
	for _, b := range made {
		err = errors.Join(err, s.unregister(b))
	}
	return errors.Join(err, s.Close(true))
}

// fits refuses what a layout cannot be computed for.
func fits(i *bdev.Info) error {
	if i.BlockSize != layout.BlockSize {
		return fmt.Errorf("%s has blocks of %d bytes, %d are needed: %w", i.Name, i.BlockSize, layout.BlockSize, unix.EINVAL)
	}
	return nil
}

// standIn makes the device of a spec, with something of the same size in place
// of a file; only zones that are there already have to be read.
func (s *Stack) standIn(text string) (b *bdev.Bdev, err error) {
	sp, err := spec.Parse(text)
	if err != nil {
		return nil, err
	}
	zones, leaf := false, sp
	for ; leaf.Base != nil; leaf = leaf.Base {
		zones = zones || leaf.Kind == "zone"
	}
	name := nameOf(sp, "")
	if leaf.Kind == "zbd" {
		text += ",readonly=on"
	}
	if leaf.Kind == "file" {
		st, statErr := os.Stat(leaf.Main)
		there := statErr == nil && (!st.Mode().IsRegular() || st.Size() > 0)
		if there && (zones || !st.Mode().IsRegular()) {
			text += ",readonly=on"
		} else {
			size := uint64(0)
			if there {
				size = uint64(st.Size())
			} else if size, err = sizeIn(leaf); err != nil {
				return nil, err
			}
			replaceLeaf(leaf, zones, size)
			text = sp.String()
		}
	}
	err = s.OnCore(func() error {
		b, err = spec.Create(s.Manager, s.Core, text, spec.Options{Name: name})
		return err
	})
	return b, err
}

// sizeIn is what a spec of a file that does not exist says of its size.
func sizeIn(leaf *spec.Spec) (uint64, error) {
	for _, a := range leaf.Groups[0] {
		if a.Key == "size" {
			return spec.ParseSize(a.Value)
		}
	}
	return 0, fmt.Errorf("%s does not exist: give size= to have it made: %w", leaf.Main, unix.ENOENT)
}

// replaceLeaf puts something that forgets, or memory that is not touched, in
// the place of a file.
func replaceLeaf(leaf *spec.Spec, remembers bool, size uint64) {
	leaf.Kind = "null"
	if remembers {
		leaf.Kind = "malloc"
	}
	leaf.Main = fmt.Sprint(size - size%layout.BlockSize)
	leaf.Groups = [][]spec.Arg{nil}
}

// lookAtZones learns the shape of a zoned device.
func (s *Stack) lookAtZones(b *bdev.Bdev, found *Found, cfg *ftl.Config) error {
	return s.withChannel(b, false, func(ch *bdev.Channel) error {
		var z *zoned.Base
		err := s.await(func(done func(error)) {
			var err error
			z, err = zoned.New(zoned.Config{
				Thread: s.Core, Channel: ch, Info: b.Info(), Units: cfg.ZoneUnits, Append: cfg.ZoneAppend, Stripe: cfg.ZoneStripeBlocks,
			})
			if err != nil {
				done(err)
				return
			}
			z.Discover(func(_ any, err error) { done(err) }, nil)
		})
		if err == nil {
			found.Zones, found.lay = z.Shape(), z.Lay
		}
		return err
	})
}

// withChannel opens a device, calls f in the calling goroutine, and closes it.
func (s *Stack) withChannel(b *bdev.Bdev, write bool, f func(ch *bdev.Channel) error) error {
	var desc *bdev.Desc
	var ch *bdev.Channel
	err := s.OnCore(func() (err error) {
		if desc, err = s.Manager.Open(b.Name(), write, nil, nil, s.Core); err != nil {
			return err
		}
		if ch, err = desc.Channel(s.Core); err != nil {
			desc.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	err = f(ch)
	return errors.Join(err, s.OnCore(func() error { ch.Put(); desc.Close(); return nil }))
}
