package spec

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Arg is key=value, or a key alone.
type Arg struct{ Key, Value string }

// Spec is a device as written, not yet made.
type Spec struct {
	Kind string
	Main string // what follows the kind: a size, a path
	// Groups are the arguments; only errinj has more than one group, which
	// are set apart by semicolons.
	Groups [][]Arg
	Base   *Spec // what a wrapper stands in front of
}

// kind says how the specs of a module are written.
type kind struct {
	name    string
	wrapper bool
	main    string // what Main is, "" when the kind has none
	mayOmit bool   // Main
	groups  bool
	keys    []string
	example string
	make    func(*maker, *Spec) error
}

const (
	maxSpecBytes = 16 << 10
	maxDepth     = 16
)

// Parse reads a spec without making anything. Its errors wrap EINVAL.
func Parse(text string) (*Spec, error) {
	if len(text) > maxSpecBytes {
		return nil, fmt.Errorf("spec of %d bytes: the longest is %d: %w", len(text), maxSpecBytes, unix.EINVAL)
	}
	s, err := parse(text, 0)
	if err != nil {
		return nil, fmt.Errorf("spec %q: %w", text, err)
	}
	return s, nil
}

func parse(text string, depth int) (*Spec, error) {
	if depth == maxDepth {
		return nil, fmt.Errorf("more than %d devices in front of each other: %w", maxDepth, unix.EINVAL)
	}
	name, rest, found := strings.Cut(text, ":")
	k := kindOf(name)
	if k == nil {
		return nil, fmt.Errorf("unknown kind %q; there are %s: %w", name, kindNames(), unix.EINVAL)
	}
	if !found {
		return nil, fmt.Errorf("%s: nothing behind the kind; write for example %s: %w", name, k.example, unix.EINVAL)
	}
	s := &Spec{Kind: k.name}
	if k.wrapper {
		own, base, ok := cutUnescaped(rest, ':')
		if kindOf(own) != nil && (k.main == "" || k.mayOmit) {
			own, base, ok = "", rest, true
		}
		if kindOf(own) != nil && k.main != "" && !k.mayOmit {
			return nil, fmt.Errorf("%s: the %s is missing; write for example %s: %w", name, k.main, k.example, unix.EINVAL)
		}
		if !ok || base == "" {
			return nil, fmt.Errorf("%s: the device behind it is missing; write for example %s: %w", name, k.example, unix.EINVAL)
		}
		b, err := parse(base, depth+1)
		if err != nil {
			return nil, err
		}
		rest, s.Base = own, b
	}
	return s, s.arguments(k, rest)
}

// arguments reads what stands between the kind and the base.
func (s *Spec) arguments(k *kind, text string) error {
	groups := []string{text}
	if k.groups {
		groups = splitUnescaped(text, ';')
	}
	for gi, g := range groups {
		var args []Arg
		for i, item := range splitUnescaped(g, ',') {
			key, value, hasValue := cutUnescaped(item, '=')
			if k.main != "" && gi == 0 && i == 0 && (!k.mayOmit || !hasValue) {
				s.Main = unescape(item)
				continue
			}
			if item == "" && (gi == 0 && i == 0) {
				continue
			}
			key = unescape(key)
			if !slices.Contains(k.keys, key) && key != "name" {
				return fmt.Errorf("%s: unknown option %q; it takes name, %s: %w", s.Kind, key, strings.Join(k.keys, ", "), unix.EINVAL)
			}
			if slices.ContainsFunc(args, func(a Arg) bool { return a.Key == key }) {
				return fmt.Errorf("%s: option %q is given twice: %w", s.Kind, key, unix.EINVAL)
			}
			args = append(args, Arg{key, unescape(value)})
		}
		s.Groups = append(s.Groups, args)
	}
	if k.main != "" && !k.mayOmit && s.Main == "" {
		return fmt.Errorf("%s: the %s is missing; write for example %s: %w", s.Kind, k.main, k.example, unix.EINVAL)
	}
	return nil
}

// String writes the spec such that Parse reads it back.
func (s *Spec) String() string {
	var out strings.Builder
	out.WriteString(s.Kind)
	out.WriteByte(':')
	k := kindOf(s.Kind)
	for gi, g := range s.Groups {
		if gi > 0 {
			out.WriteByte(';')
		}
		first := true
		if gi == 0 && s.Main != "" {
			out.WriteString(escape(s.Main, k != nil && k.wrapper || k != nil && k.mayOmit))
			first = false
		}
		for _, a := range g {
			if !first {
				out.WriteByte(',')
			}
			first = false
			out.WriteString(escape(a.Key, true))
			if a.Value != "" {
				out.WriteByte('=')
				out.WriteString(escape(a.Value, true))
			}
		}
	}
	if s.Base != nil {
		out.WriteByte(':')
		out.WriteString(s.Base.String())
	}
	return out.String()
}

const special = `,:;=\`

func escape(s string, all bool) string {
	set := special
	if !all {
		set = `,\`
	}
	if !strings.ContainsAny(s, set) {
		return s
	}
	var out strings.Builder
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) >= 0 {
			out.WriteByte('\\')
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out = append(out, s[i])
	}
	return string(out)
}

// cutUnescaped cuts s at the first sep that has no backslash before it.
func cutUnescaped(s string, sep byte) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func splitUnescaped(s string, sep byte) []string {
	var list []string
	for {
		item, rest, found := cutUnescaped(s, sep)
		list = append(list, item)
		if !found {
			return list
		}
		s = rest
	}
}
