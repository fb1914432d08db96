package tune

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"goftl/bdev/spec"
	"goftl/ftl"
	"goftl/ftl/layout"
)

// Flags are the values of the flags. The zero value is the defaults.
type Flags struct {
	set *pflag.FlagSet

	units      uint64
	zoneAppend bool
	stripe     string
	chunk      string
	band       string
	bandPct    int
	limits     ftl.Limits
	user       string
	policy     string
	redo       string
	sums       string
	channels   int
	moveDepth  int
	moveSegs   int
	ioPool     int
}

// fields are the fields of the config and their flags. Those about what is
// promised, and --spare, are declared by the commands.
var fields = []struct{ field, flag string }{
	{"SparePct", "spare"},
	{"VolatileWriteCache", "volatile-write-cache"},
	{"WriteBufferBytes", "write-buffer"},
	{"ZoneUnits", "zone-units"},
	{"ZoneAppend", "zone-append"},
	{"ZoneStripeBlocks", "zone-stripe"},
	{"ChunkBlocks", "chunk-size"},
	{"BandBlocks", "band-size"},
	{"BandThresholdPct", "band-threshold"},
	{"Limits.ThrottlePct", "limit-throttle"},
	{"Limits.CheckpointPct", "limit-checkpoint"},
	{"Limits.CriticalPct", "limit-critical"},
	{"Limits.CompactPct", "limit-compact"},
	{"Limits.RelocatePct", "limit-relocate"},
	{"Limits.InvalidPct", "limit-invalid"},
	{"Limits.User", "limit-user"},
	{"Policy", "policy"},
	{"RedoLimitBytes", "redo-limit"},
	{"SumCacheBytes", "checksum-memory"},
	{"MaxIOChannels", "max-channels"},
	{"MoveDepth", "move-depth"},
	{"MoveSegments", "move-segments"},
	{"UserIOPool", "io-pool"},
}

// flagOf returns the flag of a field, or of the field that it is part of.
func flagOf(field string) string {
	for _, f := range fields {
		if field == f.field || strings.HasPrefix(field, f.field+".") {
			return f.flag
		}
	}
	return ""
}

// Names are the names of the flags that Register declares.
func Names() []string {
	var out []string
	for _, f := range fields[3:] {
		out = append(out, f.flag)
	}
	return out
}

// Register declares the flags.
func (f *Flags) Register(s *pflag.FlagSet) {
	f.set = s
	def, _ := ftl.Config{}.Tuned() // the defaults are valid
	l := &def.Limits
	s.Uint64Var(&f.units, "zone-units", 0, "zones that make a band of a new device on a zoned base (default: the base's parallel units)")
	s.BoolVar(&f.zoneAppend, "zone-append", false, "write zones by append and not at their write pointers")
	s.StringVar(&f.stripe, "zone-stripe", "", "`SIZE` of what stands side by side in a zone of a new device, up to 4MiB; small ones keep all zones of a band busy, large ones make large writes (default: chosen, 64KiB to 512KiB)")
	s.StringVar(&f.chunk, "chunk-size", "", "`SIZE` of the chunks of a new device's cache, a power of two (default: chosen, 1MiB to 64MiB)")
	s.StringVar(&f.band, "band-size", "", "`SIZE` of the bands of a new device, a power of two; zones say it themselves (default: chosen, 2MiB to 256MiB)")
	s.IntVar(&f.bandPct, "band-threshold", def.BandThresholdPct, "without a cache: `PERCENT` of a band after which the next one is opened ahead of need")
	s.StringVar(&f.user, "limit-user", l.User.String(), "without a cache: share of users in what is written, at four numbers of free bands, as `BANDS:PERCENT,...`; scaled to the device")
	s.IntVar(&f.limits.ThrottlePct, "limit-throttle", l.ThrottlePct, "`PERCENT` of free chunks below which users are paced by compaction")
	s.IntVar(&f.limits.CheckpointPct, "limit-checkpoint", l.CheckpointPct, "`PERCENT` of free chunks below which a checkpoint may be made to free those that wait for one")
	s.IntVar(&f.limits.CriticalPct, "limit-critical", l.CriticalPct, "`PERCENT` of free chunks below which it must")
	s.IntVar(&f.limits.CompactPct, "limit-compact", l.CompactPct, "`PERCENT` of chunks that compaction keeps free")
	s.IntVar(&f.limits.RelocatePct, "limit-relocate", l.RelocatePct, "`PERCENT` of bands that relocation keeps free")
	s.IntVar(&f.limits.InvalidPct, "limit-invalid", l.InvalidPct, "`PERCENT` of garbage below which a band is left alone while bands are not short")
	s.StringVar(&f.policy, "policy", def.Policy.String(), "how relocation chooses bands: cost-benefit (by garbage and age) or greedy (by garbage)")
	s.StringVar(&f.redo, "redo-limit", spec.FormatSize(def.RedoLimitBytes), "`SIZE` of log between two checkpoints, which a start after a crash has to read; at most half of the cache")
	s.StringVar(&f.sums, "checksum-memory", spec.FormatSize(def.SumCacheBytes), "`SIZE` of memory for checksums of the base")
	s.IntVar(&f.channels, "max-channels", def.MaxIOChannels, "threads that can use the device at a time, up to 4096")
	s.IntVar(&f.moveDepth, "move-depth", def.MoveDepth, "records that compaction and relocation each have on their way, 1 to 64; more for devices that answer late, at 512KiB of memory each")
	s.IntVar(&f.moveSegs, "move-segments", def.MoveSegments, "segments that each of them empties at a time, 1 to 16")
	s.IntVar(&f.ioPool, "io-pool", def.UserIOPool, "IOs that a thread can have in flight on the device, 1 to 65536; more wait")
}

// Apply puts the flags into a config. An error names the flag, its value and
// what would do; it wraps EINVAL.
func (f *Flags) Apply(c *ftl.Config) error {
	var errs []error
	c.ZoneUnits, c.ZoneAppend = f.units, f.zoneAppend
	c.BandThresholdPct, c.MaxIOChannels = f.bandPct, f.channels
	c.MoveDepth, c.MoveSegments, c.UserIOPool = f.moveDepth, f.moveSegs, f.ioPool
	user := c.Limits.User
	c.Limits = f.limits
	c.Limits.User = user
	size := func(flag, text string, to *uint64, unit uint64) {
		if text == "" {
			return
		}
		n, err := spec.ParseSize(text)
		if err == nil && (n == 0 || n%unit != 0) {
			err = fmt.Errorf("%s must be a positive multiple of %s: %w", text, spec.FormatSize(unit), unix.EINVAL)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		*to = n / unit
	}
	size("chunk-size", f.chunk, &c.ChunkBlocks, layout.BlockSize)
	size("zone-stripe", f.stripe, &c.ZoneStripeBlocks, layout.BlockSize)
	size("band-size", f.band, &c.BandBlocks, layout.BlockSize)
	size("redo-limit", f.redo, &c.RedoLimitBytes, 1)
	size("checksum-memory", f.sums, &c.SumCacheBytes, 1)
	var err error
	if c.Limits.User, err = ftl.ParseUserLimits(f.user); err != nil {
		errs = append(errs, fmt.Errorf("--limit-user: %w", err))
		c.Limits.User = ftl.UserLimits{}
	}
	switch f.policy {
	case ftl.PolicyCostBenefit.String():
		c.Policy = ftl.PolicyCostBenefit
	case ftl.PolicyGreedy.String():
		c.Policy = ftl.PolicyGreedy
	default:
		errs = append(errs, fmt.Errorf("--policy %s: use cost-benefit or greedy: %w", f.policy, unix.EINVAL))
	}
	// In a config 0 stands for the default; on a command line it is a value.
	for _, flag := range Names() {
		if v := f.set.Lookup(flag); v.Changed && v.Value.String() == "0" && v.Value.Type() != "string" {
			errs = append(errs, fmt.Errorf("--%s 0: must be positive; leave it out for the default: %w", flag, unix.EINVAL))
		}
	}
	if _, err := c.Tuned(); err != nil {
		errs = append(errs, f.named(err)...)
	}
	return errors.Join(errs...)
}

// otherFlags replaces fields in what would do.
var otherFlags = strings.NewReplacer("CheckpointPct", "--limit-checkpoint", "CompactPct", "--limit-compact")

// named replaces the fields in errors of a config by the flags.
func (f *Flags) named(err error) (out []error) {
	list := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // a list of errors, and not one in particular
		list = j.Unwrap()
	}
	for _, e := range list {
		var fe *ftl.FieldError
		if !errors.As(e, &fe) || flagOf(fe.Field) == "" {
			out = append(out, e)
			continue
		}
		flag := flagOf(fe.Field)
		what := "--" + flag
		if v := f.set.Lookup(flag); v != nil {
			what += " " + v.Value.String()
		}
		remedy := otherFlags.Replace(fe.Remedy)
		if rest := strings.TrimPrefix(fe.Field, "Limits.User."); rest != fe.Field {
			remedy = strings.ToLower(strings.ReplaceAll(rest, ".", " ")) + " " + remedy
		}
		out = append(out, fmt.Errorf("%s: %s: %w", what, remedy, unix.EINVAL))
	}
	return out
}

// Text says what a config comes to on a layout, a line for each flag.
func Text(c *ftl.Config, l *layout.Layout) (string, error) {
	list, err := c.Settings(l)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, s := range list {
		name := flagOf(s.Field)
		if name == "" {
			name = s.Field
		}
		fmt.Fprintf(&b, "%-21s %-12s %s\n", name, s.Value, s.Meaning)
	}
	return b.String(), nil
}
