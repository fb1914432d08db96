package spec

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/delay"
	"goftl/bdev/errinj"
	"goftl/bdev/volatile"
	"goftl/bdev/zone"
)

func makeZone(mk *maker, s *Spec) error {
	r := s.reader(0)
	bs := mk.base.Info().BlockSize
	blocks := func(what, v string) uint64 {
		n := r.sizeOf(what, v, uint64(bs))
		return n / uint64(bs)
	}
	o := zone.Options{
		Name: mk.name, Base: mk.base.Name(), Own: true, ZoneBlocks: blocks("size of a zone", s.Main),
		Units:   uint32(r.number("units", 1, 1, 1<<16)),
		MaxOpen: uint32(r.number("open", 0, 0, 1<<24)), MaxActive: uint32(r.number("active", 0, 0, 1<<24)),
		Persist: r.flag("persist"), ConvZones: r.number("conv", 0, 0, 1<<24), FailReset: r.number("fail-reset", 0, 0, 1<<62),
		ReadOnly: r.numbers("readonly"), Offline: r.numbers("offline"),
	}
	if v, ok := r.find("unit"); ok {
		o.WriteUnit = uint32(min(blocks("unit", v), 1<<32-1))
	}
	if v, ok := r.find("cap"); ok {
		if o.Capacity = blocks("cap", v); o.Capacity > o.ZoneBlocks {
			r.fail("cap", v, "at most the size of a zone")
		}
	}
	if v, ok := r.find("append"); ok {
		o.MaxAppend = uint32(min(blocks("append", v), 1<<32-1))
	}
	switch v, ok := r.find("init"); {
	case v == "full":
		o.InitFull = true
	case ok && v != "empty":
		r.fail("init", v, "empty or full")
	}
	switch v, ok := r.find("unmap"); {
	case !ok || v == "auto":
	case v == "on":
		o.Unmap = zone.UnmapOn
	case v == "off":
		o.Unmap = zone.UnmapOff
	default:
		r.fail("unmap", v, "auto, on or off")
	}
	if r.err != nil {
		return r.err
	}
	b, err := zone.Create(mk.m, mk.t, o)
	mk.made = b
	return err
}

func makeDelay(mk *maker, s *Spec) error {
	r := s.reader(0)
	o := delay.Options{Name: mk.name, Base: mk.base.Name(), Own: true, Seed: r.number("seed", 0, 0, 1<<64-1)}
	if s.Main != "" {
		o.Read = r.durationOf("time", s.Main)
		o.Write = o.Read
	}
	for key, to := range map[string]*int64{
		"read": (*int64)(&o.Read), "write": (*int64)(&o.Write),
		"p99-read": (*int64)(&o.ReadP99), "p99-write": (*int64)(&o.WriteP99),
	} {
		if _, ok := r.find(key); ok {
			*to = int64(r.duration(key))
		}
	}
	if r.err != nil {
		return r.err
	}
	b, err := delay.Create(mk.m, mk.t, o)
	mk.made = b
	return err
}

func makeVolatile(mk *maker, s *Spec) error {
	r := s.reader(0)
	bs := uint64(mk.base.Info().BlockSize)
	o := volatile.Options{
		Name: mk.name, Base: mk.base.Name(), Own: true, Blocks: r.size("size", bs) / bs,
		Early: r.probability("early", volatile.EarlyDefault), Seed: r.number("seed", 0, 0, 1<<64-1),
		Die: r.probability("die", 0), Lie: r.flag("lie"),
	}
	if r.err != nil {
		return r.err
	}
	b, err := volatile.Create(mk.m, mk.t, o)
	mk.made = b
	return err
}

func makeErrinj(mk *maker, s *Spec) error {
	o := errinj.Options{Name: mk.name, Base: mk.base.Name(), Own: true}
	for i, g := range s.Groups {
		if len(g) == 0 || len(g) == 1 && g[0].Key == "name" {
			continue
		}
		rule, err := readRule(s.reader(i))
		if err != nil {
			return err
		}
		o.Rules = append(o.Rules, rule)
	}
	b, err := errinj.Create(mk.m, mk.t, o)
	mk.made = b
	return err
}

// ParseRules reads errinj rules as they are written in a spec.
func ParseRules(text string) ([]errinj.Rule, error) {
	s, err := Parse("errinj:" + text + ":null:4KiB")
	if err != nil {
		return nil, err
	}
	if s.Base.Kind != "null" || s.Base.Main != "4KiB" {
		return nil, fmt.Errorf("rules %q: a colon must have a backslash before it: %w", text, unix.EINVAL)
	}
	var rules []errinj.Rule
	for i := range s.Groups {
		r, err := readRule(s.reader(i))
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func readRule(r *reader) (errinj.Rule, error) {
	from, to := r.span("lba")
	rule := errinj.Rule{
		Ops: r.ops("op"), From: from, To: to, After: r.number("after", 0, 0, 1<<62), Nth: r.number("nth", 0, 1, 1<<62),
		Every: r.number("every", 0, 1, 1<<62), Prob: r.probability("prob", 0), Seed: r.number("seed", 0, 0, 1<<64-1),
		Count: r.number("count", 0, 1, 1<<62), Sectors: r.flag("sectors"), Landed: r.flag("landed"),
	}
	if v, ok := r.find("prob"); ok && rule.Prob == 0 {
		r.fail("prob", v, "a probability above 0, at most 1")
	}
	actions := 0
	for a := errinj.Fail; a <= errinj.Hang; a++ {
		v, ok := r.find(a.String())
		if !ok {
			continue
		}
		actions++
		rule.Action = a
		switch a {
		case errinj.Fail:
			rule.Err = r.errno(a.String(), v, "EIO")
		case errinj.Tear:
			if v != "ok" {
				rule.Err = r.errno(a.String(), v, "EIO")
			}
		case errinj.Delay:
			if rule.Delay = r.durationOf(a.String(), v); rule.Delay == 0 {
				r.fail(a.String(), v, "a time above 0 such as 100us or 5ms")
			}
		case errinj.Corrupt:
			if v != "" {
				rule.Bits = int(r.number(a.String(), 1, 1, 1<<20))
			}
		default:
			if v != "" {
				r.fail(a.String(), v, "written without a value")
			}
		}
	}
	if actions != 1 && r.err == nil {
		r.err = fmt.Errorf("errinj: a rule needs one of fail, delay, corrupt, tear, drop, hang; it has %d: %w", actions, unix.EINVAL)
	}
	return rule, r.err
}

// errno reads the name of an error.
func (r *reader) errno(key, v, def string) unix.Errno {
	if v == "" {
		v = def
	}
	for e := unix.Errno(1); e < 134; e++ {
		if unix.ErrnoName(e) == v {
			return e
		}
	}
	r.fail(key, v, "an errno such as EIO, ENOMEM or ENOSPC")
	return 0
}

// ops reads operations that are joined by plus signs.
func (r *reader) ops(key string) bdev.OpSet {
	v, ok := r.find(key)
	if !ok || v == "all" {
		return 0
	}
	var set bdev.OpSet
	for name := range strings.SplitSeq(v, "+") {
		op, ok := bdev.ParseOp(name)
		if !ok {
			r.fail(key, v, "operations such as read, write, flush, unmap, write_zeroes, joined by +")
		}
		set |= bdev.Ops(op)
	}
	return set
}
