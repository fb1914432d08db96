package ftl

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"goftl/ftl/layout"
)

// String writes the points as ParseUserLimits reads them.
func (u UserLimits) String() string {
	var out []string
	for _, p := range u.points() {
		out = append(out, fmt.Sprintf("%d:%d", p.Bands, p.Pct))
	}
	return strings.Join(out, ",")
}

// ParseUserLimits reads four points BANDS:PERCENT that are joined by commas,
// from the fewest free bands to the most. Whether they make sense is found out
// by Config.Tuned. The error wraps EINVAL.
func ParseUserLimits(text string) (u UserLimits, err error) {
	parts := strings.Split(text, ",")
	to := []*UserLimit{&u.Critical, &u.High, &u.Low, &u.Start}
	if len(parts) != len(to) {
		return u, fmt.Errorf("%q has %d points, four are needed, such as %s: %w", text, len(parts), defaultUser, unix.EINVAL)
	}
	for i, part := range parts {
		bands, pct, _ := strings.Cut(part, ":")
		b, err := strconv.Atoi(bands)
		p, err2 := strconv.Atoi(pct)
		if err != nil || err2 != nil {
			return u, fmt.Errorf("%q is not BANDS:PERCENT; write four of them, such as %s: %w", part, defaultUser, unix.EINVAL)
		}
		*to[i] = UserLimit{b, p}
	}
	return u, nil
}

// Setting is what a field of a Config comes to on a layout, for a person.
type Setting struct {
	Field   string // as in FieldError
	Value   string
	Meaning string
}

// Settings says what the fields of c that tune a device come to on layout l.
func (c Config) Settings(l *layout.Layout) ([]Setting, error) {
	c, err := c.Tuned()
	if err != nil {
		return nil, err
	}
	lim := limitsFor(l, &c.Limits)
	var out []Setting
	add := func(field, value, meaning string, args ...any) {
		out = append(out, Setting{field, value, fmt.Sprintf(meaning, args...)})
	}
	pct := func(n int) string { return strconv.Itoa(n) + " %" }
	add("SparePct", pct(int(l.SparePct)), "of the base is kept from users; more of it means less write amplification")
	if !l.NoCache {
		add("Limits.ThrottlePct", pct(c.Limits.ThrottlePct), "with %d free chunks or fewer, users are paced by compaction", lim.throttle)
		add("Limits.CheckpointPct", pct(c.Limits.CheckpointPct), "with %d free chunks or fewer, a checkpoint frees those that wait for one", lim.ckptChunks)
		add("Limits.CriticalPct", pct(c.Limits.CriticalPct), "with %d free chunks or fewer, it must", lim.critical)
		add("Limits.CompactPct", pct(c.Limits.CompactPct), "compaction keeps %d chunks free", lim.compactKeep)
	}
	add("Limits.RelocatePct", pct(c.Limits.RelocatePct), "relocation keeps %d bands free", lim.gcStart)
	add("Limits.InvalidPct", pct(c.Limits.InvalidPct), "with less garbage (here %d %%), a band is left alone while bands are not short", lim.garbage)
	if l.NoCache {
		var shares []string
		for _, p := range lim.user {
			shares = append(shares, fmt.Sprintf("%d: %d %%", p.Bands, p.Pct))
		}
		add("Limits.User", c.Limits.User.String(), "share of users in what is written, by free bands; here %s", strings.Join(shares, ", "))
		add("BandThresholdPct", pct(c.BandThresholdPct), "of a band are used when the next one is opened")
	}
	if l.Zoned() {
		add("ZoneUnits", strconv.FormatUint(l.Zones.Units, 10), "zones make a band")
		add("ZoneStripeBlocks", sizeText(l.Zones.Stripe*blockSize), "stand side by side in a zone before the next one's turn")
		how := "zones are written at their write pointers"
		if c.ZoneAppend {
			how = "zones are written by append"
		}
		add("ZoneAppend", onOff(c.ZoneAppend), "%s", how)
	}
	add("Policy", c.Policy.String(), "how relocation chooses bands")
	add("MoveDepth", strconv.Itoa(c.MoveDepth), "records at most are on their way in compaction, and as many in relocation")
	add("MoveSegments", strconv.Itoa(c.MoveSegments), "segments at most are emptied at a time by each of them")
	add("RedoLimitBytes", sizeText(c.RedoLimitBytes), "of log at most lie between two checkpoints, at most half of where it goes")
	add("SumCacheBytes", sizeText(c.SumCacheBytes), "of memory at most for checksums of the base")
	add("MaxIOChannels", strconv.Itoa(c.MaxIOChannels), "threads at most can use the device at a time")
	add("UserIOPool", strconv.Itoa(c.UserIOPool), "IOs at most can each of them have in flight")
	add("VolatileWriteCache", onOff(c.VolatileWriteCache), "writes are answered once they are in memory; flushes are the barrier")
	if c.VolatileWriteCache {
		add("WriteBufferBytes", sizeText(c.WriteBufferBytes), "of writes at most are in memory only, for each of these threads")
	}
	return out, nil
}

// String names the policy.
func (p Policy) String() string {
	switch p {
	case PolicyCostBenefit:
		return "cost-benefit"
	case PolicyGreedy:
		return "greedy"
	}
	return "unknown"
}

func onOff(yes bool) string {
	if yes {
		return "on"
	}
	return "off"
}

func sizeText(n uint64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n != 0 && n%(1<<u.shift) == 0 {
			return fmt.Sprintf("%d %s", n>>u.shift, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
