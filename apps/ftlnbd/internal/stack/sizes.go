package stack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/ftl"
	"goftl/ftl/layout"
)

const (
	defaultSize  = 8 << 30
	minCacheFile = 64 << 20
	maxCacheFile = 5 << 30
	fileRound    = 1 << 20

	// zonesTrial is the size of the stand-in on which the shape of zones is
	// learnt. It is memory that is never touched.
	zonesTrial = 64 << 30
	// A file takes more than its zones: what they are remembered by.
	zonesExtra = 4 << 20
	zonesShare = 128
)

// UserSize is the size to make a new device with: what was asked for, or the
// default when the base is a file of ours.
func (p *Place) UserSize() uint64 {
	if p.SizeBytes == 0 && p.Base == "" {
		return defaultSize
	}
	return p.SizeBytes
}

// fileSizes chooses the sizes of the files in Dir for the user-visible size.
func (p *Place) fileSizes(parts []part, cfg *ftl.Config) (cache, base uint64, err error) {
	size := p.UserSize()
	if size%layout.BlockSize != 0 {
		return 0, 0, fmt.Errorf("--size %d is not a multiple of 4096: %w", size, unix.EINVAL)
	}
	params := layout.Params{
		SparePct: cfg.SparePct, SizeBlocks: size / layout.BlockSize, NoCache: p.NoCache,
		ChunkBlocks: cfg.ChunkBlocks, BandBlocks: cfg.BandBlocks,
	}
	var given []string
	for _, x := range parts {
		if x.path == "" {
			given = append(given, x.text)
		}
	}
	found, err := probe(given, cfg)
	if err != nil {
		return 0, 0, err
	}
	for _, x := range parts {
		switch {
		case x.path != "":
		case x.role == "base":
			base, params.BaseBlocks, params.Zones = found[0].Bytes, found[0].Blocks, found[0].Zones
		default:
			cache, params.CacheBlocks, params.CacheMD = found[0].Bytes, found[0].Blocks, found[0].MDSize
		}
		if x.path == "" {
			found = found[1:]
		}
	}
	if parts[0].role == "cache" && parts[0].path != "" {
		cache = p.cacheFile(max(size, base))
		params.CacheBlocks = cache / layout.BlockSize
	}
	if p.Base != "" {
		return cache, base, nil
	}
	if p.Zones != "" {
		base, err = p.zonedFile(parts[len(parts)-1].front, params, cfg)
	} else {
		base, err = baseFile(params)
	}
	return cache, base, err
}

// cacheFile is the size of a cache file for so many bytes.
func (p *Place) cacheFile(size uint64) uint64 {
	cache := p.CacheSize
	if cache == 0 {
		// The mapping takes 8 bytes a block in two slots: 1/512 of the size; twice
		// that when block numbers do not fit in 32 bits.
		mapping := size / 500
		if size/layout.BlockSize > 1<<31 {
			mapping = size / 240
		}
		cache = min(max(size/8, minCacheFile), maxCacheFile) + mapping
	}
	return roundUp(cache, fileRound)
}

// baseFile is the size of a conventional base file.
func baseFile(params layout.Params) (uint64, error) {
	size := params.SizeBlocks * layout.BlockSize
	base := roundUp(max(size/(100-spareOf(&params))*100, 256<<20), fileRound)
	var err error
	for range 200 {
		params.BaseBlocks = base / layout.BlockSize
		if _, err = layout.Compute(params); err == nil || !errors.Is(err, layout.ErrNoSpace) {
			break
		}
		base = roundUp(base+base/64+fileRound, fileRound)
	}
	return base, err
}

// zonedFile is the size of a base file with zones over it.
func (p *Place) zonedFile(front string, params layout.Params, cfg *ftl.Config) (uint64, error) {
	found, err := probe([]string{front + fmt.Sprintf("malloc:%d", uint64(zonesTrial))}, cfg)
	if err != nil {
		return 0, fmt.Errorf("--zones %s: %w", p.Zones, err)
	}
	trial := found[0].Zones
	if trial.BandSlots == 0 {
		return 0, fmt.Errorf("--zones %s: none of the zones can be written: %w", p.Zones, unix.EINVAL)
	}
	bands := (found[0].Blocks/trial.ZoneBlocks - trial.First) / trial.Units
	unusable := bands*trial.BandSlots - trial.Usable // what is offline or read-only from the beginning
	n := max(params.SizeBlocks*100/(100-spareOf(&params))/trial.BandSlots+unusable/trial.BandSlots+1, layout.ReserveBands+4)
	for range 400 {
		z := *trial
		z.Usable = n*z.BandSlots - min(unusable, n*z.BandSlots)
		// A device has as many zones in each unit as in the others.
		params.Zones, params.BaseBlocks = &z, roundUp(z.First+n*z.Units, uint64(max(found[0].ParallelUnits, 1)))*z.ZoneBlocks
		if _, err = layout.Compute(params); err == nil || !errors.Is(err, layout.ErrNoSpace) {
			break
		}
		n += n/64 + 1
	}
	if err != nil {
		return 0, adviseMetadata(err, Specs{NoCache: p.NoCache, Cache: p.Metadata})
	}
	base := params.BaseBlocks * layout.BlockSize
	return roundUp(base+base/zonesShare+zonesExtra, fileRound), nil
}

func spareOf(p *layout.Params) uint64 {
	if p.SparePct == 0 {
		return layout.DefaultSparePct
	}
	return uint64(p.SparePct)
}

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }
