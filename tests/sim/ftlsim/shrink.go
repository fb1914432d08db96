package ftlsim

import (
	"encoding/json"
	"reflect"
	"strings"

	"goftl/internal/assert"
)

// Shrinker makes a plan that fails smaller, while it fails in the same way: lives, phases and operations are left out,
// and every other part of the plan is made as simple as it can be, whatever a plan consists of. A change of the plan
// changes the schedule, so each smaller plan is tried with a few seeds.
type Shrinker struct {
	// Try plays plans in order, up to the first that ends with the sign, and returns its index; -1: none does.
	Try func(plans []*Plan, sign string) int
	// Most is how many plans may be played.
	Most int
	// Log hears of progress.
	Log func(format string, args ...any)

	played int
}

const (
	shrinkBatch = 24 // plans that are tried in one go
	shrinkSeeds = 3  // seeds with which each is tried
	shrinkOnly  = 128
)

// Sign is what stays the same of an error when the plan gets smaller: its beginning, up to the first number.
func Sign(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	if strings.HasPrefix(line, "panic: ") {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return '#'
			}
			return r
		}, line)
	}
	if i := strings.IndexAny(line, "0123456789"); i >= 0 {
		line = line[:i]
	}
	return line
}

// Shrink returns the smallest plan that it finds, which ends with the sign like p.
func (s *Shrinker) Shrink(p *Plan, sign string) *Plan {
	for {
		smaller := s.pass(p, sign)
		if smaller == p || s.played >= s.Most {
			return smaller
		}
		p = smaller
	}
}

// pass tries every edit once.
func (s *Shrinker) pass(p *Plan, sign string) *Plan {
	list := edits(p)
	for i := 0; i < len(list) && s.played < s.Most; {
		n := min(len(list)-i, shrinkBatch/shrinkSeeds)
		var plans []*Plan
		for _, e := range list[i : i+n] {
			for seed := range uint64(shrinkSeeds) {
				c := clone(p)
				e.apply(c)
				c.Seed += seed
				plans = append(plans, c)
			}
		}
		at := s.Try(plans, sign)
		if at < 0 {
			s.played += len(plans)
			i += n
			continue
		}
		s.played += at + 1
		s.Log("%d lives, %d operations: %s", len(plans[at].Lives), plans[at].Ops(), list[i+at/shrinkSeeds].what)
		p = plans[at]
		list = edits(p)
	}
	return p
}

// Ops is the number of operations of all loads of the plan.
func (p *Plan) Ops() (n int) {
	for i := range p.Lives {
		for _, ph := range p.Lives[i].Phases {
			if ph.Only != nil {
				n += len(ph.Only)
			} else {
				n += ph.Ops
			}
		}
	}
	return n
}

func clone(p *Plan) *Plan {
	text, err := json.Marshal(p)
	assert.That(err == nil, "a plan can be written")
	c := &Plan{}
	assert.That(json.Unmarshal(text, c) == nil, "a plan can be read")
	return c
}

// edit is one way to make a plan simpler.
type edit struct {
	what  string
	path  []int // fields and elements on the way to what is changed
	apply func(p *Plan)
}

// edits lists the ways, the boldest first.
func edits(p *Plan) []edit {
	w := &walker{}
	w.walk(reflect.ValueOf(p).Elem(), "", nil)
	return append(w.bold, w.fine...)
}

type walker struct {
	bold []edit // leave out elements, make whole structures zero
	fine []edit // make numbers smaller
}

// at returns what a path leads to.
func at(p *Plan, path []int) reflect.Value {
	v := reflect.ValueOf(p).Elem()
	for _, i := range path {
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() == reflect.Struct {
			v = v.Field(i)
		} else {
			v = v.Index(i)
		}
	}
	return v
}

func (w *walker) add(list *[]edit, what string, path []int, change func(v reflect.Value)) {
	path = append([]int(nil), path...)
	*list = append(*list, edit{what, path, func(p *Plan) { change(at(p, path)) }})
}

func (w *walker) walk(v reflect.Value, name string, path []int) {
	if v.IsZero() {
		return
	}
	if len(path) > 0 && v.Kind() != reflect.Slice {
		list := &w.fine
		if v.Kind() == reflect.Struct || v.Kind() == reflect.Pointer || v.Kind() == reflect.Array {
			list = &w.bold
		}
		w.add(list, name+": none", path, func(v reflect.Value) { v.SetZero() })
	}
	switch v.Kind() {
	case reflect.Pointer:
		w.fields(v.Elem(), name, path)
	case reflect.Struct:
		w.fields(v, name, path)
	case reflect.Array:
		for i := range v.Len() {
			w.walk(v.Index(i), name, append(path, i))
		}
	case reflect.Slice:
		w.slice(v, name, path)
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint32, reflect.Uint64:
		w.number(v, name, path)
	default: // zero is all that can be tried
	}
}

func (w *walker) fields(v reflect.Value, name string, path []int) {
	t := v.Type()
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("shrink") == "-" || t.Field(i).Name == "Kind" {
			continue
		}
		w.walk(v.Field(i), strings.TrimPrefix(name+"."+t.Field(i).Name, "."), append(path, i))
	}
	if ph, ok := v.Addr().Interface().(*Phase); ok && ph.Only == nil && ph.Ops > 1 && ph.Ops <= shrinkOnly {
		w.add(&w.bold, name+": operations one by one", path, func(v reflect.Value) {
			ph := v.Addr().Interface().(*Phase)
			for i := range ph.Ops {
				ph.Only = append(ph.Only, i)
			}
		})
	}
}

// slice leaves out halves, quarters, ... and single elements.
func (w *walker) slice(v reflect.Value, name string, path []int) {
	n := v.Len()
	for size := (n + 1) / 2; size > 0; size /= 2 {
		for to := n; to > 0; to -= size {
			from := max(0, to-size)
			if from == 0 && to == n && n > 1 {
				continue
			}
			w.add(&w.bold, name+": fewer", path, func(v reflect.Value) {
				rest := reflect.MakeSlice(v.Type(), 0, n)
				rest = reflect.AppendSlice(rest, v.Slice(0, from))
				v.Set(reflect.AppendSlice(rest, v.Slice(to, n)))
			})
		}
	}
	if v.Type().Elem().Kind() == reflect.Int {
		return // which operations: their numbers mean nothing
	}
	for i := n - 1; i >= 0; i-- {
		w.walk(v.Index(i), name, append(path, i))
	}
}

func (w *walker) number(v reflect.Value, name string, path []int) {
	signed := v.CanInt()
	x := uint64(0)
	if signed {
		x = uint64(v.Int())
	} else {
		x = v.Uint()
	}
	smaller := func(y uint64, what string) {
		w.add(&w.fine, name+what, path, func(v reflect.Value) {
			if signed {
				v.SetInt(int64(y))
			} else {
				v.SetUint(y)
			}
		})
	}
	if x > 2 {
		smaller(x/2, ": half")
	}
	if x > 1 && x <= 32 {
		smaller(x-1, ": one less")
	}
}
