package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"goftl/apps/ftlnbd/internal/stack"
	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/layout"
	"goftl/ftl/md"
)

// openOffline loads the device without writing anything to it.
func (a *app) openOffline() (*stack.Stack, error) {
	bar := newProgress(a.err)
	defer bar.end()
	st, err := stack.Open(stack.Options{
		Place: a.place, Config: a.config, ReadOnly: true, Shm: "off", CPU: -1, Logger: a.quietLogger(), Progress: bar.update,
	})
	return st, explain(err)
}

func (a *app) inspect() *cobra.Command {
	var asJSON, segments bool
	c := &cobra.Command{
		Use: "inspect", Short: "Show superblock, regions, segments and checkpoint of a device", Args: noArgs,
		Long: "inspect loads the device offline, as after a crash, and shows what it holds, with\n--segments every chunk and band, and of a zoned base the zones of every band with\ntheir states and write pointers. It writes nothing.",
		RunE: func(c *cobra.Command, _ []string) error { return a.runInspect(c, asJSON, segments) },
	}
	a.placeFlags(c, false)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&segments, "segments", false, "list every chunk and band")
	return c
}

// inspection is what inspect shows.
type inspection struct {
	Name       string
	UUID       string
	Created    time.Time
	Clean      bool
	Inc        uint32
	Sequence   uint64
	Checkpoint struct {
		K       uint64
		DirSlot uint32
		CU, CM  uint64
		Durable uint64 // user records that were durable when it was committed
	}
	Size     uint64
	Layout   *layout.Layout
	Load     ftl.LoadReport
	Mapped   uint64
	States   map[string]map[string]int
	Zones    map[string]int    `json:",omitempty"` // by state, of the zones in bands
	Segments []ftl.SegmentInfo `json:",omitempty"`
}

func (a *app) runInspect(c *cobra.Command, asJSON, segments bool) error {
	if err := a.settle(c); err != nil {
		return err
	}
	st, err := a.openOffline()
	if err != nil {
		return err
	}
	var in inspection
	_ = st.OnCore(func() error { in = describe(st.Device); return nil })
	if err := st.Close(true); err != nil {
		return err
	}
	if asJSON {
		if !segments {
			in.Segments = nil
		}
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(in)
	}
	a.printInspection(&in, segments)
	return nil
}

func describe(d *ftl.Device) inspection {
	sb := d.Superblock()
	in := inspection{
		Name: sb.Name, UUID: sb.UUID.String(), Created: time.Unix(0, sb.Created).UTC(), Clean: sb.Clean, Inc: sb.Inc,
		Sequence: sb.Seq, Size: d.Blocks() * layout.BlockSize, Layout: d.Layout(), Load: d.LoadReport(),
		Segments: d.Segments(), States: map[string]map[string]int{"chunk": {}, "band": {}},
	}
	in.Checkpoint.K, in.Checkpoint.DirSlot, in.Checkpoint.CU, in.Checkpoint.CM = sb.CkptK, sb.DirSlot, sb.CU, sb.CM
	in.Checkpoint.Durable = sb.Durable
	for _, s := range in.Segments {
		in.States[s.Kind][s.State]++
		in.Mapped += uint64(s.Valid)
		for i := range s.Zones {
			if in.Zones == nil {
				in.Zones = map[string]int{}
			}
			in.Zones[s.Zones[i].State]++
		}
	}
	return in
}

func (a *app) printInspection(in *inspection, segments bool) {
	w := a.out
	fmt.Fprintf(w, "name         %s\nuuid         %s\ncreated      %s\nsize         %s\n", in.Name, in.UUID,
		in.Created.Format(time.RFC3339), spec.FormatSize(in.Size))
	state := "was not stopped cleanly: the next start replays the log"
	if in.Clean {
		state = "clean"
	}
	fmt.Fprintf(w, "state        %s\nincarnation  %d\nsuperblock   sequence %d\n", state, in.Inc, in.Sequence)
	fmt.Fprintf(w, "checkpoint   %d, directory slot %d, covers user records up to %d, records up to %d",
		in.Checkpoint.K, in.Checkpoint.DirSlot, in.Checkpoint.CU, in.Checkpoint.CM)
	if in.Checkpoint.Durable > in.Checkpoint.CU {
		fmt.Fprintf(w, "; user records up to %d were durable", in.Checkpoint.Durable)
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "log          %d user records behind the checkpoint", in.Load.Redone)
	if in.Load.Gaps > 0 || in.Load.RottenPages > 0 {
		fmt.Fprintf(w, "; DAMAGED: %d records missing, %d pages rotten", in.Load.Gaps, in.Load.RottenPages)
	}
	fmt.Fprintf(w, "\nmapped       %d of %d blocks\n", in.Mapped, in.Layout.LBAs)
	for _, k := range []string{"chunk", "band"} {
		fmt.Fprintf(w, "%-12s %s\n", k+"s", counts(in.States[k], segmentStates))
	}
	if len(in.Zones) > 0 {
		fmt.Fprintf(w, "%-12s %s; one zone of each of %d units makes a band\n", "zones", counts(in.Zones, zoneStates), in.Layout.Zones.Units)
	}
	fmt.Fprintf(w, "\n%s", in.Layout.Plan())
	if !segments {
		return
	}
	fmt.Fprintf(w, "\n%-5s %6s %-10s %5s %4s %7s %7s %7s %10s %10s\n", "kind", "id", "state", "gen", "inc", "slots", "used", "valid", "first u", "last u")
	for _, s := range in.Segments {
		fmt.Fprintf(w, "%-5s %6d %-10s %5d %4d %7d %7d %7d %10d %10d\n", s.Kind, s.ID, s.State, s.Gen, s.Inc, s.Slots, s.Used, s.Valid, s.FirstU, s.LastU)
		for _, z := range s.Zones {
			without := ""
			if !z.InUse {
				without = ", the band does without it"
			}
			fmt.Fprintf(w, "%15s %-6d %s, %d of %d blocks written%s\n", "zone", z.Zone, z.State, z.Written, z.Capacity, without)
		}
	}
}

var (
	segmentStates = []string{"free", "opening", "open", "closing", "full", "quarantine", "bad"}
	zoneStates    = []string{"empty", "implicit_open", "explicit_open", "closed", "full", "read_only", "offline", "not_write_pointer"}
)

// counts says how often each of the states occurs.
func counts(m map[string]int, states []string) string {
	var out []string
	for _, k := range states {
		if m[k] > 0 {
			out = append(out, fmt.Sprintf("%d %s", m[k], k))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func (a *app) check() *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Verify a device offline: mapping, records, checksums, counts", Args: noArgs,
		Long: "check loads the device as a start would, without writing anything, then reads\nevery mapped block and compares it with its checksum, the mapping with what the\nsegments say of themselves, and the valid counts with the mapping. Exit code 3 when\nsomething is wrong.",
		RunE: func(c *cobra.Command, _ []string) error { return a.runCheck(c) },
	}
	a.placeFlags(c, false)
	return c
}

func (a *app) runCheck(c *cobra.Command) error {
	if err := a.settle(c); err != nil {
		return err
	}
	began := time.Now()
	bar := newProgress(a.err)
	st, err := stack.Open(stack.Options{
		Place: a.place, Config: a.config, ReadOnly: true, Shm: "off", CPU: -1, Logger: a.quietLogger(), Progress: bar.update,
	})
	if err != nil {
		bar.end()
		return explain(err)
	}
	var rep *ftl.CheckReport
	ch := make(chan struct{})
	_ = st.OnCore(func() error {
		st.Device.Check(func(r *ftl.CheckReport, _ error) { rep = r; close(ch) })
		return nil
	})
	<-ch
	bar.end()
	load := st.Device.LoadReport()
	if err := st.Close(true); err != nil {
		return err
	}
	for _, p := range rep.Problems {
		fmt.Fprintf(a.out, "problem: %s\n", p)
	}
	fmt.Fprintf(a.out, "%d blocks mapped, %d verified, %d log records replayed, in %s\n",
		rep.Mapped, rep.Verified, load.Redone, time.Since(began).Round(time.Millisecond))
	if rep.OK() {
		fmt.Fprintln(a.out, "clean: nothing is wrong")
		return nil
	}
	fmt.Fprintf(a.out, "DAMAGED: %d checksum or read errors, %d lost blocks, %d undescribed, %d wrong counts, %d missing records, %d rotten pages\n",
		rep.BadSums, rep.Lost, rep.Orphans, rep.BadCounts, rep.Gaps, rep.Rotten)
	return errDamaged
}

func (a *app) destroy() *cobra.Command {
	var yes bool
	var shm string
	c := &cobra.Command{
		Use: "destroy", Short: "Remove a device and everything on it, after asking", Args: noArgs,
		Long: "destroy wipes both superblocks and, with --dir, removes the files. All data is gone.\nIt asks for the word yes first, unless --yes is given. A device that is being served\nis refused.",
		RunE: func(c *cobra.Command, _ []string) error { return a.runDestroy(c, yes, shm) },
	}
	a.placeFlags(c, false)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().StringVar(&shm, "shm", "", "directory of shared memory, when serve was given one")
	return c
}

func (a *app) runDestroy(c *cobra.Command, yes bool, shm string) error {
	// Files in the directory go when the directory says that they are the device's.
	byFlags := c.Flags().Changed("cache") || c.Flags().Changed("base") || c.Flags().Changed("metadata")
	if err := a.settle(c); err != nil {
		return err
	}
	specs, err := a.place.Resolve(false, &a.config)
	half := errors.Is(err, stack.ErrHalf) && a.place.Dir != ""
	if err != nil && !half {
		return err
	}
	what := "base " + specs.Base
	switch {
	case a.place.Dir != "" && !byFlags:
		what = "the files in " + a.place.Dir
	case specs.Cache != "":
		what = fmt.Sprintf("cache %s and base %s", specs.Cache, specs.Base)
	}
	if !yes {
		fmt.Fprintf(a.out, "This destroys all data on %s. Type yes to go on: ", what)
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if strings.TrimSpace(line) != "yes" {
			return errors.New("not destroyed")
		}
	}
	if !half {
		a.forgetShm(shm)
		if err := stack.Wipe(stack.Options{Place: a.place, Config: a.config, CPU: -1, Logger: a.quietLogger()}); err != nil {
			return explain(err)
		}
	}
	if !byFlags && a.place.Dir != "" {
		for _, name := range a.filesInDir() {
			if err := os.Remove(filepath.Join(a.place.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		_ = os.Remove(a.place.Dir) // only if nothing else is in it
	}
	fmt.Fprintf(a.out, "destroyed %s\n", what)
	return nil
}

// forgetShm removes what a killed process left in shared memory, if the device
// can still be loaded to learn its identity.
func (a *app) forgetShm(dir string) {
	st, err := a.openOffline()
	if err != nil {
		return
	}
	id := st.Device.UUID()
	if st.Close(true) == nil {
		_ = md.UnlinkShm(md.ShmDir(dir, 0), id, "l2p")
	}
}
