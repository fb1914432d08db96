package cli

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/layout"
)

func (a *app) plan() *cobra.Command {
	c := &cobra.Command{
		Use: "plan", Short: "Show what would be made; writes nothing", Args: noArgs,
		Long: "plan computes the layout of a new device from --size (files) or from --cache and\n--base: capacity, regions, memory, expected write amplification.",
		RunE: func(*cobra.Command, []string) error { return a.runPlan() },
	}
	a.placeFlags(c, true)
	a.bufferFlags(c)
	return c
}

func (a *app) runPlan() error {
	if err := a.sizes(); err != nil {
		return err
	}
	p := layout.Params{SparePct: a.place.SparePct, SizeBlocks: a.place.UserSize() / layout.BlockSize}
	if a.place.Cache == "" && a.place.Base == "" {
		cache, base, err := a.place.FileSizes()
		if err != nil {
			return err
		}
		p.CacheBlocks, p.BaseBlocks = cache/layout.BlockSize, base/layout.BlockSize
		fmt.Fprintf(a.out, "cache file %s, base file %s (sparse)\n", spec.FormatSize(cache), spec.FormatSize(base))
	} else {
		for i, text := range []string{a.place.Cache, a.place.Base} {
			bytes, md, err := specSize(text)
			if err != nil {
				return fmt.Errorf("%s %q: %w", [2]string{"--cache", "--base"}[i], text, err)
			}
			if i == 0 {
				p.CacheBlocks, p.CacheMD = bytes/layout.BlockSize, md
			} else {
				p.BaseBlocks = bytes / layout.BlockSize
			}
		}
	}
	l, err := layout.Compute(p)
	if err != nil {
		return err
	}
	fmt.Fprint(a.out, l.Plan())
	m := ftl.MemoryNeed(l, 0)
	fmt.Fprintf(a.out, "\nmemory                mapping %.1f MiB (%d bytes a block) + %.1f MiB, and up to %.1f MiB of checksums\n"+
		"                      of the base as it is read\n", mib(m.Table), l.L2PEntryBytes, mib(m.Fixed), mib(m.Checksums))
	if a.buffer.On {
		fmt.Fprintf(a.out, "write buffer          %.1f MiB for each thread that uses the device, once it was full\n",
			mib(ftl.ChannelMemory(a.buffer.Bytes)))
	}
	return nil
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// specSize returns the size of the device that a spec describes, and its
// metadata per block, without making it.
func specSize(text string) (bytes uint64, md uint32, err error) {
	s, err := spec.Parse(text)
	if err != nil {
		return 0, 0, err
	}
	for s.Base != nil {
		s = s.Base
	}
	onHost := s.Kind == "file" || s.Kind == "zbd"
	if !onHost {
		bytes, err = spec.ParseSize(s.Main)
	}
	for _, g := range s.Groups {
		for _, arg := range g {
			switch arg.Key {
			case "size":
				bytes, err = spec.ParseSize(arg.Value)
			case "md":
				n, e := strconv.ParseUint(arg.Value, 10, 32)
				md, err = uint32(n), e
			}
			if err != nil {
				return 0, 0, err
			}
		}
	}
	if onHost && bytes == 0 {
		st, e := os.Stat(s.Main)
		if e != nil {
			return 0, 0, fmt.Errorf("%w (give size= to plan a file that does not exist)", e)
		}
		bytes = uint64(st.Size())
	}
	if err == nil && bytes == 0 {
		err = fmt.Errorf("the size cannot be told: %w", unix.EINVAL)
	}
	return bytes, md, err
}
