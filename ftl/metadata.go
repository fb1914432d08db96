package ftl

import (
	"goftl/ftl/layout"
	"goftl/ftl/md"
)

// buildMetadata makes the metadata objects of the segment descriptors. Both
// copies lie on the device of the metadata.
func (d *Device) buildMetadata() error {
	var err error
	if d.lay.Chunks > 0 {
		if d.mdChunks, err = d.newMetadata(layout.RegionChunkMD); err != nil {
			return err
		}
	}
	d.mdBands, err = d.newMetadata(layout.RegionBandMD)
	return err
}

func (d *Device) newMetadata(t layout.RegionType) (*md.Object, error) {
	r := d.lay.Region(t)
	target := md.Target{Desc: d.meta.desc, Ch: d.meta.ch, Stats: &d.mdStats}
	return md.New(md.Config{
		Thread: d.th, Region: r, Mirror: d.lay.Region(r.Mirror), Target: target, MirrorTarget: target,
		UUID: d.sb.UUID, ReadOnly: d.cfg.ReadOnly, Logger: d.log, Clean: func() bool { return d.sb.Clean },
	})
}

func (d *Device) freeMetadata() {
	for _, o := range []*md.Object{d.mdChunks, d.mdBands} {
		if o != nil {
			o.Destroy(false)
		}
	}
	d.mdChunks, d.mdBands = nil, nil
}
