package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// sense says which side of a goal is the good one.
type sense uint8

const (
	noGoal sense = iota
	atLeast
	atMost
)

// goal is what an issue asks for.
type goal struct {
	sense sense
	value float64
	unit  string
}

func least(v float64, unit string) goal { return goal{atLeast, v, unit} }
func most(v float64, unit string) goal  { return goal{atMost, v, unit} }

func (g goal) String() string {
	switch g.sense {
	case atLeast:
		return ">= " + trim(g.value) + g.unit
	case atMost:
		return "<= " + trim(g.value) + g.unit
	default:
		return "-"
	}
}

func (g goal) met(v float64) bool {
	if g.sense == atLeast {
		return v >= g.value
	}
	return v <= g.value
}

// row is a line of the table.
type row struct {
	what    string
	figure  string
	ratio   string
	goal    goal
	value   float64 // what is compared with the goal
	byCPU   float64 // the same by CPU time; 0: not known
	command string
	missing string // why it was not measured
}

// verdict says whether the goal was met. A figure that misses it by the clock and meets it by CPU time, on a machine
// that others use too, is "by CPU".
func (r *row) verdict() string {
	switch {
	case r.missing != "":
		return "?"
	case r.goal.sense == noGoal:
		return ""
	case r.goal.met(r.value):
		return "yes"
	case r.byCPU > 0 && r.goal.met(r.byCPU):
		return "by CPU"
	default:
		return "NO"
	}
}

// table collects rows and prints them aligned; commands come last because they are long.
type table struct {
	title string
	rows  []row
	notes []string
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

func (t *table) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(t.notes, n) {
		t.notes = append(t.notes, n)
	}
}

func (t *table) print(w io.Writer) {
	cells := [][]string{{"what", "figure", "ratio", "target", "met", "command"}}
	for i := range t.rows {
		r := &t.rows[i]
		if r.missing != "" {
			cells = append(cells, []string{r.what, "not measured: " + r.missing, "", r.goal.String(), r.verdict(), r.command})
			continue
		}
		cells = append(cells, []string{r.what, r.figure, r.ratio, r.goal.String(), r.verdict(), r.command})
	}
	width := make([]int, len(cells[0]))
	for _, c := range cells {
		for i := range c {
			width[i] = max(width[i], len([]rune(c[i])))
		}
	}
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	for n, c := range cells {
		var b strings.Builder
		for i := range c {
			b.WriteString(c[i])
			if i < len(c)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len([]rune(c[i]))+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
		if n == 0 {
			total := 2 * (len(width) - 2)
			for _, x := range width[:len(width)-1] {
				total += x
			}
			fmt.Fprintln(w, strings.Repeat("-", total+8))
		}
	}
	for _, n := range t.notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}

// trim writes a number without needless digits.
func trim(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case v >= 1:
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// rate writes operations a second.
func rate(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M/s", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.1f k/s", v/1e3)
	default:
		return fmt.Sprintf("%.0f /s", v)
	}
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
