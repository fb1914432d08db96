package layout

import (
	"fmt"
	"math"
	"strings"
)

// Figures is what a person wants to know before anything is written.
type Figures struct {
	UsableBlocks   uint64  // logical blocks
	CacheMDBlocks  uint64  // metadata on the cache
	BaseMDBlocks   uint64  // metadata on the base, with gap and summaries of bands
	CacheDataSlots uint64  // slots for records in chunks
	BaseDataSlots  uint64  // data blocks in bands
	Alpha          float64 // data blocks of bands to logical blocks
	WAUniform      float64 // write amplification of relocation alone, uniform random writes
	CacheShare     float64 // share of uniform user writes that still reach the base
	WABase         float64 // base blocks written for a user block, uniform random writes
}

// Figures returns the layout's figures.
func (l *Layout) Figures() Figures {
	f := Figures{
		UsableBlocks:   l.LBAs,
		CacheMDBlocks:  l.cacheMetaBlocks(),
		BaseMDBlocks:   l.Region(RegionBands).Offset + l.Bands*SummaryBlocks(l.BandSlots),
		CacheDataSlots: l.Chunks * Body(l.ChunkBlocks),
		BaseDataSlots:  l.UsableBands * DataBlocks(l.BandSlots),
	}
	f.Alpha = float64(f.BaseDataSlots) / float64(l.LBAs)
	f.WAUniform = WAUniform(float64(l.UsableBands-ReserveBands/2) * float64(DataBlocks(l.BandSlots)) / float64(l.LBAs))
	f.CacheShare = math.Exp(-float64(f.CacheDataSlots) / float64(l.LBAs))
	f.WABase = f.CacheShare * f.WAUniform
	return f
}

// cacheMetaBlocks is what the cache device holds beside records.
func (l *Layout) cacheMetaBlocks() uint64 {
	if l.MetaDev() == DevBase {
		return 0
	}
	return l.Region(RegionChunks).Offset + l.Chunks*SummaryBlocks(l.ChunkBlocks)
}

// WAUniform returns the write amplification of uniform random writes with
// FIFO or greedy relocation, in the limit of large bands, where alpha is
// physical to logical capacity: it solves L/(1-exp(-L)) = alpha and returns
// 1/(1-exp(-L)) (Desnoyers). It is infinite when alpha is 1 or less.
func WAUniform(alpha float64) float64 {
	if !(alpha > 1) {
		return math.Inf(1)
	}
	lo, hi := 0.0, alpha // L/(1-exp(-L)) grows, from 1 at 0, and is above L
	for range 200 {
		mid := (lo + hi) / 2
		if mid/-math.Expm1(-mid) < alpha {
			lo = mid
		} else {
			hi = mid
		}
	}
	return 1 / -math.Expm1(-hi)
}

// Plan describes the layout for a person.
func (l *Layout) Plan() string {
	var b strings.Builder
	f := l.Figures()
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-22s"+format+"\n", append([]any{what}, args...)...)
	}
	line("usable capacity", "%s (%d blocks of %d B), %d %% of the base", size(l.LBAs), l.LBAs, BlockSize, l.LBAs*100/l.BaseBlocks)
	switch {
	case l.CacheBlocks == 0:
		line("cache", "none: records of users go to the bands, metadata to the base")
	case l.NoCache:
		line("cache", "none: records of users go to the bands; a device of %s holds metadata, %s", size(l.CacheBlocks), size(f.CacheMDBlocks))
	default:
		line("cache", "%s: %d chunks of %s, metadata %s", size(l.CacheBlocks), l.Chunks, size(l.ChunkBlocks), size(f.CacheMDBlocks))
	}
	line("base", "%s: %d bands of %s, metadata %s", size(l.BaseBlocks), l.Bands, size(l.BandSlots), size(f.BaseMDBlocks))
	if z := &l.Zones; l.Zoned() {
		line("zones", "of %s; one zone of each of %d units makes a band, written in stripes of %s; zone %d is the first",
			size(z.ZoneBlocks), z.Units, size(z.Stripe), l.Region(RegionBands).Offset/z.ZoneBlocks)
		if l.UsableBands < l.Bands {
			line("", "%d bands' worth of them can be written", l.UsableBands)
		}
	}
	line("spare", "%d %% asked for, %.1f %% of the data blocks in bands", l.SparePct, 100*(1-1/f.Alpha))
	line("records", "%s", map[bool]string{true: "in the cache's block metadata", false: "with a header block each"}[l.VSS])
	line("L2P", "%d-byte entries, %d pages, directory of %d blocks", l.L2PEntryBytes, l.L2PPages, l.DirBlocks)
	line("write amplification", "%.2f of the base for uniform random writes (relocation %.2f, %.0f %% of the writes reach it)",
		f.WABase, f.WAUniform, 100*f.CacheShare)
	b.WriteString("\nregion             device     offset       blocks        size  version\n")
	for t := RegionSB; t < NumRegions; t++ {
		r := l.Region(t)
		fmt.Fprintf(&b, "%-18s %-6s %10d %12d %11s  %d\n", r.Name, r.Dev, r.Offset, l.takes(r), size(l.takes(r)), r.Version)
	}
	return b.String()
}

func size(blocks uint64) string { return sizeBytes(blocks * BlockSize) }

func sizeBytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if v == math.Trunc(v) {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.2f %s", v, units[i])
}
