package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"goftl/apps/ftlnbd/internal/stack"
	"goftl/apps/internal/tune"
	"goftl/bdev/spec"
	"goftl/ftl"
)

const planLong = `plan computes the layout of a new device: capacity, regions, memory, expected
write amplification, and what every setting comes to on it. It takes the flags of
serve and writes nothing; files that do not exist are imagined.

  ftlnbd plan --size 100GiB                                  files in a directory
  ftlnbd plan --size 100GiB --zones 256MiB,units=4,open=16   a zoned base
  ftlnbd plan --cache file:/nvme/c.img,size=10GiB --base file:/dev/sdb`

func (a *app) plan() *cobra.Command {
	c := &cobra.Command{
		Use: "plan", Short: "Show what would be made; writes nothing", Args: noArgs, Long: planLong,
		RunE: func(c *cobra.Command, _ []string) error { return a.runPlan(c) },
	}
	a.placeFlags(c, true)
	a.bufferFlags(c)
	return c
}

func (a *app) runPlan(c *cobra.Command) error {
	if err := a.settle(c); err != nil {
		return err
	}
	p, err := stack.Plan(stack.Options{Place: a.place, Config: a.config})
	if err != nil {
		return explain(err)
	}
	if s := &p.Specs; s.CacheBytes+s.BaseBytes > 0 {
		files := ""
		if s.CacheBytes > 0 {
			files = "cache file " + spec.FormatSize(s.CacheBytes) + ", "
		}
		if s.BaseBytes > 0 {
			files += "base file " + spec.FormatSize(s.BaseBytes) + ", "
		}
		fmt.Fprintf(a.out, "%s (sparse)\n", files[:len(files)-2])
	}
	l := p.Layout
	fmt.Fprint(a.out, l.Plan())
	m := ftl.MemoryNeed(l, &a.config)
	fmt.Fprintf(a.out, "\nmemory                mapping %.1f MiB (%d bytes a block) + %.1f MiB, and up to %.1f MiB of checksums\n"+
		"                      of the base as it is read\n", mib(m.Table), l.L2PEntryBytes, mib(m.Fixed), mib(m.Checksums))
	if a.config.VolatileWriteCache {
		fmt.Fprintf(a.out, "write buffer          %.1f MiB for each thread that uses the device, once it was full\n",
			mib(ftl.ChannelMemory(a.config.WriteBufferBytes)))
	}
	settings, err := tune.Text(&a.config, l)
	if err != nil {
		return usageError{err}
	}
	fmt.Fprintf(a.out, "\nsettings (flags of serve; %s in the device's directory keeps those that it was made with)\n%s", stack.ConfFile, settings)
	if p.Base.Zoned {
		fmt.Fprintf(a.out, "\n%s", zonesText(&p.Base))
	}
	return nil
}

// zonesText says what a zoned base is.
func zonesText(b *stack.Found) string {
	limit := func(n uint32) string {
		if n == 0 {
			return "as many as wanted"
		}
		return fmt.Sprint(n)
	}
	size := func(blocks uint64) string { return spec.FormatSize(blocks * uint64(b.BlockSize)) }
	text := fmt.Sprintf("zoned base            %d zones of %s, %s of each usable, %d in parallel; the first %d are conventional\n",
		b.Blocks/b.ZoneBlocks, size(b.ZoneBlocks), size(b.ZoneCapacity), b.ParallelUnits, b.Zones.First)
	return text + fmt.Sprintf("                      open at a time: %s; active: %s; written in units of %s\n",
		limit(b.MaxOpenZones), limit(b.MaxActiveZones), size(uint64(max(b.WriteUnit, 1))))
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
