package target

import (
	"errors"

	"goftl/apps/ftlperf/internal/job"
	"goftl/bdev"
	"goftl/bdev/spec"
	"goftl/thread"
)

// BdevTarget is any block device.
type BdevTarget struct {
	*machine
	info Info
	desc *bdev.Desc
}

// OpenBdev makes the device that a spec names and opens it.
func OpenBdev(text string, write bool, p Placement) (*BdevTarget, error) {
	m, err := newMachine(p)
	if err != nil {
		return nil, err
	}
	b := &BdevTarget{machine: m}
	main := m.threads[0]
	var dev *bdev.Bdev
	err = m.on(main, func() (err error) {
		dev, err = spec.Create(m.manager, main, text, spec.Options{Create: true})
		return err
	})
	if err == nil && p.Prefault {
		err = m.touch(dev.Name(), main)
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	err = m.on(main, func() error {
		b.info = bdevInfo(dev.Info())
		b.info.TrimZeroes = true
		b.info.Name = text + ", " + b.info.Name
		var err error
		b.desc, err = m.manager.Open(dev.Name(), write && !dev.Info().ReadOnly, nil, nil, main)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return b, nil
}

// Info implements Target.
func (b *BdevTarget) Info() Info { return b.info }

// Lanes implements Target.
func (b *BdevTarget) Lanes() []*thread.Thread { return b.threads }

// On implements Target.
func (b *BdevTarget) On(int) job.Target { return &bdevTarget{b.desc} }

// Where implements Target.
func (b *BdevTarget) Where() string { return b.where }

// Close implements Target.
func (b *BdevTarget) Close() error {
	err := b.on(b.threads[0], func() error { b.desc.Close(); return nil })
	return errors.Join(err, b.close())
}
